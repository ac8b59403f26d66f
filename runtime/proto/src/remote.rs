//! An error that has crossed from the guest to the host.

use std::error::Error;
use std::io;

use serde::{Deserialize, Serialize};

/// An error from the far side, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}", chain.join(": "))]
pub struct Remote {
    /// The kernel's answer at the bottom of it, where there was one.
    pub errno: Option<i32>,
    /// Outermost first, each without its source.
    pub chain: Vec<String>,
}

impl Remote {
    /// An error that starts here.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            errno: None,
            chain: vec![message.into()],
        }
    }

    /// Takes `error` and its sources apart.
    pub fn from_error(error: &(dyn Error + 'static)) -> Self {
        let mut chain = Vec::new();
        let mut errno = None;
        let mut next = Some(error);
        while let Some(error) = next {
            let message = error.to_string();
            // An error that only passes its source on says the same words.
            if chain.last() != Some(&message) {
                chain.push(message);
            }
            errno = errno.or_else(|| error.downcast_ref::<io::Error>()?.raw_os_error());
            next = error.source();
        }
        Self { errno, chain }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::Remote;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot mount proc at /proc")]
    struct Mount(#[source] io::Error);

    #[test]
    fn an_error_keeps_its_chain_and_its_errno() {
        let remote = Remote::from_error(&Mount(io::Error::from_raw_os_error(1)));
        assert_eq!(remote.errno, Some(1));
        assert_eq!(
            remote.to_string(),
            "cannot mount proc at /proc: Operation not permitted (os error 1)"
        );
    }
}
