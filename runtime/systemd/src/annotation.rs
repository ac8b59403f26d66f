//! `org.systemd.property.NAME` annotations: properties of the container's scope.

use std::collections::BTreeMap;

use crate::{Property, Value, text};

const PREFIX: &str = "org.systemd.property.";

/// What the runtime sets itself: other values would put the container elsewhere.
const OWN: [&str; 3] = ["Delegate", "PIDs", "Slice"];

/// An annotation that is no property.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotations: {PREFIX}{name} is refused: {why}")]
pub struct AnnotationError {
    name: String,
    why: String,
}

/// The properties that the annotations of a config.json ask for.
///
/// A value is in the text format of GVariant. `NAMESec` is seconds, for `NAMEUSec` of D-Bus.
pub fn from_annotations(
    annotations: &BTreeMap<String, String>,
) -> Result<Vec<Property>, AnnotationError> {
    let properties = annotations.iter().filter_map(|(key, text)| {
        let name = key.strip_prefix(PREFIX)?;
        Some(property(name, text).map_err(|why| AnnotationError {
            name: name.to_owned(),
            why,
        }))
    });
    properties.collect()
}

fn property(name: &str, text: &str) -> Result<Property, String> {
    if name.len() < 3 || !name.chars().all(|c| c.is_ascii_alphabetic()) {
        return Err("the name of a property is three letters or more".into());
    }
    if OWN.contains(&name) {
        return Err("the runtime sets it".into());
    }
    let value = text::parse(text)?;
    match name.strip_suffix("Sec") {
        Some(stem) if stem.ends_with(|c: char| c.is_ascii_lowercase()) => {
            Ok(Property::new(&format!("{stem}USec"), microseconds(&value)?))
        }
        _ => Ok(Property {
            name: name.to_owned(),
            value,
        }),
    }
}

fn microseconds(seconds: &Value) -> Result<u64, String> {
    const US_A_SECOND: u64 = 1_000_000;
    let whole = match *seconds {
        Value::Byte(seconds) => Some(seconds.into()),
        Value::Int16(seconds) => u64::try_from(seconds).ok(),
        Value::Uint16(seconds) => Some(seconds.into()),
        Value::Int32(seconds) => u64::try_from(seconds).ok(),
        Value::Uint32(seconds) => Some(seconds.into()),
        Value::Int64(seconds) => u64::try_from(seconds).ok(),
        Value::Uint64(seconds) => Some(seconds),
        Value::Double(seconds) if seconds >= 0.0 => {
            // A length of time, to the microsecond.
            let time = std::time::Duration::try_from_secs_f64(seconds);
            let us = time
                .ok()
                .and_then(|time| u64::try_from(time.as_micros()).ok());
            return us.ok_or_else(|| "it is too long".into());
        }
        _ => None,
    };
    whole
        .and_then(|seconds| seconds.checked_mul(US_A_SECOND))
        .ok_or_else(|| "it is no number of seconds".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, text: &str) -> Result<Vec<Property>, AnnotationError> {
        let other = ("org.example".to_owned(), "x".to_owned());
        from_annotations(&BTreeMap::from([(name.into(), text.into()), other]))
    }

    #[test]
    fn annotations_become_properties_and_seconds_microseconds() {
        for (name, text, property) in [
            (
                "CollectMode",
                "'inactive'",
                Property::new("CollectMode", "inactive"),
            ),
            (
                "TimeoutStopUSec",
                "uint64 5",
                Property::new("TimeoutStopUSec", 5),
            ),
            (
                "TimeoutStopSec",
                "uint64 5",
                Property::new("TimeoutStopUSec", 5_000_000),
            ),
            (
                "RuntimeMaxSec",
                "1.25",
                Property::new("RuntimeMaxUSec", 1_250_000),
            ),
            (
                "RuntimeMaxSec",
                "7",
                Property::new("RuntimeMaxUSec", 7_000_000),
            ),
        ] {
            let key = format!("{PREFIX}{name}");
            assert_eq!(of(&key, text), Ok(vec![property]), "{name}");
        }
    }

    #[test]
    fn an_annotation_that_is_no_property_is_refused_by_its_name() {
        for (name, text) in [
            ("", "1"),
            ("ab", "1"),
            ("A b", "1"),
            ("Delegate", "false"),
            ("Slice", "'x.slice'"),
            ("CollectMode", "inactive"),
            ("TimeoutStopSec", "'a'"),
            ("TimeoutStopSec", "-1"),
            ("TimeoutStopSec", "uint64 18446744073709551615"),
            ("TimeoutStopSec", "-1.5"),
            ("TimeoutStopSec", "@d 1e300"),
        ] {
            let key = format!("{PREFIX}{name}");
            let error = of(&key, text).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("annotations: {key} ")),
                "{error}"
            );
        }
    }
}
