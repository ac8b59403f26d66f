//! [`ChildError`]: an error on its way out of the process it happened in.

use std::error::Error;
use std::io;

use serde::{Deserialize, Serialize};

/// What went wrong in the container's own process, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}", chain.join(": "))]
pub struct ChildError {
    /// For callers that act on it.
    pub errno: Option<i32>,
    /// Outermost first, each without its source.
    pub chain: Vec<String>,
}

impl ChildError {
    /// Takes an error and its sources apart.
    pub(crate) fn new(error: &(dyn Error + 'static)) -> Self {
        let mut child = Self {
            errno: None,
            chain: Vec::new(),
        };
        let mut next = Some(error);
        while let Some(error) = next {
            let kernel = error
                .downcast_ref::<io::Error>()
                .and_then(io::Error::raw_os_error);
            match kernel {
                Some(errno) => {
                    child.errno = Some(errno);
                    child.chain.push(errno_text(errno));
                }
                None => child.chain.push(error.to_string()),
            }
            next = error.source();
        }
        child
    }
}

/// The kernel's answer as engines look for it in messages: "permission denied", without the
/// capital and the number that [`io::Error`] prints.
fn errno_text(errno: i32) -> String {
    let printed = io::Error::from_raw_os_error(errno).to_string();
    let text = printed.split(" (os error").next().unwrap_or(&printed);
    let mut letters = text.chars();
    match letters.next() {
        // Not for one such as "RPC failed".
        Some(first) if !letters.as_str().starts_with(char::is_uppercase) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot mount proc")]
    struct Outer(#[source] io::Error);

    #[test]
    fn a_chain_keeps_each_message_once_and_the_errno_last() {
        let child = ChildError::new(&Outer(io::Error::from_raw_os_error(13)));
        assert_eq!(child.errno, Some(13));
        assert_eq!(child.to_string(), "cannot mount proc: permission denied");
    }
}
