//! What may be the name of a container. It becomes the name of directories and cgroups.

/// The longest name of a file (NAME_MAX).
const ID_MAX: usize = 255;

/// Why an id is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// There is nothing.
    #[error("container id is empty")]
    Empty,
    /// It does not fit a file name.
    #[error("container id of {length} bytes is too long: at most {ID_MAX}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// It has a character that ids do not have, or begins with a dot.
    #[error(
        "container id {id} is refused: letters, digits and _ + - . only, and no . at its start"
    )]
    Character {
        /// The id, escaped.
        id: String,
    },
}

/// Checks a container's id: `[A-Za-z0-9_+-][A-Za-z0-9_+.-]*`.
pub fn check(id: &str) -> Result<(), IdError> {
    if id.is_empty() {
        return Err(IdError::Empty);
    }
    if id.len() > ID_MAX {
        return Err(IdError::TooLong { length: id.len() });
    }
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"_+-.".contains(&b);
    if id.starts_with('.') || !id.bytes().all(is_allowed) {
        return Err(IdError::Character {
            id: crate::check::quote(id),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_plain_file_name() {
        for id in ["a", "A.b-c_d+1", "-x", "+", "0..", &"x".repeat(255)] {
            assert_eq!(check(id), Ok(()), "{id}");
        }
        for id in [
            "",
            ".",
            "..",
            ".a",
            "a/b",
            "../x",
            "a b",
            "a\n",
            "ä",
            "a\0",
            &"x".repeat(256),
        ] {
            assert!(check(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn a_refused_id_is_shown_escaped() {
        let error = check("a\x1b[31m\n").unwrap_err().to_string();
        assert!(error.contains(r#""a\u{1b}[31m\n""#), "{error}");
    }
}
