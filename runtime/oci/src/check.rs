//! Checks that many fields share. Each takes the field's path as `format_args!`, which costs
//! nothing until there is an error to report.

use std::fmt;
use std::path::PathBuf;

use crate::ConfigError;

/// How much of a refused value an error quotes, in characters.
const QUOTE_MAX: usize = 128;

/// A value as errors show it: quoted, escaped, shortened.
pub(crate) fn quote(value: &str) -> String {
    match value.char_indices().nth(QUOTE_MAX) {
        Some((end, _)) => format!("{:?}...", &value[..end]),
        None => format!("{value:?}"),
    }
}

/// Refuses `value`.
pub(crate) fn refuse<T>(
    field: fmt::Arguments<'_>,
    value: &str,
    expected: impl Into<String>,
) -> Result<T, ConfigError> {
    Err(ConfigError::Value {
        field: field.to_string(),
        value: quote(value),
        expected: expected.into(),
    })
}

/// Refuses the number `value`.
pub(crate) fn refuse_number<T>(
    field: fmt::Arguments<'_>,
    value: impl fmt::Display,
    expected: impl Into<String>,
) -> Result<T, ConfigError> {
    Err(ConfigError::Value {
        field: field.to_string(),
        value: value.to_string(),
        expected: expected.into(),
    })
}

/// Refuses text the kernel would take to end early.
pub(crate) fn no_nul(field: fmt::Arguments<'_>, value: &str) -> Result<(), ConfigError> {
    if value.contains('\0') {
        return refuse(field, value, "text without a NUL");
    }
    Ok(())
}

/// As [`no_nul`], for a field that may be absent.
pub(crate) fn optional_text(
    field: fmt::Arguments<'_>,
    value: Option<String>,
) -> Result<Option<String>, ConfigError> {
    if let Some(value) = &value {
        no_nul(field, value)?;
    }
    Ok(value.filter(|value| !value.is_empty()))
}

/// Checks a list of plain texts, such as arguments.
pub(crate) fn texts(field: &str, values: &[String]) -> Result<(), ConfigError> {
    for (i, value) in values.iter().enumerate() {
        no_nul(format_args!("{field}[{i}]"), value)?;
    }
    Ok(())
}

/// Checks a path that must be absolute, and is otherwise left as written.
pub(crate) fn absolute(field: fmt::Arguments<'_>, value: String) -> Result<PathBuf, ConfigError> {
    no_nul(field, &value)?;
    if !value.starts_with('/') {
        return refuse(field, &value, "an absolute path");
    }
    Ok(value.into())
}

/// Takes `path` from `/`, and resolves its `.` and `..` by the letter, so that it cannot lead
/// above its root.
pub(crate) fn cleaned(path: &str) -> PathBuf {
    let mut kept: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            name => kept.push(name),
        }
    }
    PathBuf::from(format!("/{}", kept.join("/")))
}

/// Numbers below `max` of a list as in cpuset(7), "List format", without strides.
pub(crate) fn number_list(list: &str, max: u32) -> Option<Vec<u32>> {
    let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number < max);
    // Marked, not collected: a long list of wide ranges must not take memory.
    let mut named = vec![false; max as usize];
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return None;
        }
        named[first as usize..=last as usize].fill(true);
    }
    let numbers = (0..).zip(named);
    Some(
        numbers
            .filter_map(|(number, named)| named.then_some(number))
            .collect(),
    )
}

/// Checks entries of an environment: `NAME=value`.
pub(crate) fn environment(field: &str, values: &[String]) -> Result<(), ConfigError> {
    for (i, value) in values.iter().enumerate() {
        no_nul(format_args!("{field}[{i}]"), value)?;
        if value.find('=').is_none_or(|at| at == 0) {
            return refuse(format_args!("{field}[{i}]"), value, "NAME=value");
        }
    }
    Ok(())
}

/// Checks a path of a list of absolute paths inside the container.
pub(crate) fn absolute_paths(
    field: &str,
    values: Vec<String>,
) -> Result<Vec<PathBuf>, ConfigError> {
    let mut paths = Vec::with_capacity(values.len());
    for (i, value) in values.into_iter().enumerate() {
        let path = absolute(format_args!("{field}[{i}]"), value)?;
        paths.push(cleaned(&path.to_string_lossy()));
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cleaned_path_stays_below_its_root() {
        for (path, expected) in [
            ("/", "/"),
            ("", "/"),
            ("a", "/a"),
            ("/a//b/./c/", "/a/b/c"),
            ("/a/../../../b", "/b"),
            ("../..", "/"),
        ] {
            assert_eq!(cleaned(path), PathBuf::from(expected), "{path}");
        }
    }

    #[test]
    fn a_number_list_is_numbers_and_ranges() {
        assert_eq!(number_list("0-2,7,1", 8), Some(vec![0, 1, 2, 7]));
        for list in ["", "a", "1-", "-1", "3-1", "1,,2", "8", "0-99999999"] {
            assert_eq!(number_list(list, 8), None, "{list}");
        }
    }

    #[test]
    fn a_quoted_value_is_short_and_escaped() {
        assert_eq!(quote("a\nb\0"), r#""a\nb\0""#);
        assert_eq!(quote(&"é".repeat(500)).chars().count(), QUOTE_MAX + 5);
    }
}
