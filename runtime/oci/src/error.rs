//! Why a configuration is refused: always one field, in config.json's own words.

use std::io;
use std::path::PathBuf;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The bundle is not there, or no directory.
    #[error("cannot use bundle {}", path.display())]
    Bundle {
        /// The bundle, as given.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file of the bundle could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// What should be a file is a directory, a FIFO or a device.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// The file is larger than any configuration is.
    #[error("{} is larger than {max_bytes} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        max_bytes: u64,
    },
    /// The text is not JSON.
    #[error("{document} is not valid JSON: {what} (line {line}, column {column})")]
    Syntax {
        /// Which document.
        document: &'static str,
        /// What the parser met.
        what: String,
        /// Counted from one.
        line: usize,
        /// Counted from one.
        column: usize,
    },
    /// A field has another JSON type, or a word that the field does not know.
    #[error("{field}: {what} (line {line}, column {column})")]
    Type {
        /// The field's path, or the document's name.
        field: String,
        /// What was found and what was expected.
        what: String,
        /// Counted from one.
        line: usize,
        /// Counted from one.
        column: usize,
    },
    /// A field that must be there is not.
    #[error("{field} is missing: expected {expected}")]
    Missing {
        /// The field's path.
        field: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// A field's value is refused.
    #[error("{field}: {value} is refused: expected {expected}")]
    Value {
        /// The field's path.
        field: String,
        /// The value, escaped and shortened.
        value: String,
        /// What belongs there.
        expected: String,
    },
    /// A value that may occur once occurs again.
    #[error("{field}: {value} occurs twice")]
    Duplicate {
        /// The path of the second occurrence.
        field: String,
        /// The value, escaped and shortened.
        value: String,
    },
    /// A field that only means something together with another.
    #[error("{field} needs {needs}")]
    Needs {
        /// The field's path.
        field: String,
        /// What it needs.
        needs: &'static str,
    },
}
