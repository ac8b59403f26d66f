//! What is legal when.

use runvm_oci::Status;

/// What can be asked of a container that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `start`.
    Start,
    /// `kill`.
    Kill,
    /// `exec`.
    Exec,
    /// `delete`, without force.
    Delete,
}

impl Operation {
    /// Whether the specification lets it go ahead from `status`. `exec` and `paused` are not the
    /// specification's: they go as runc has them.
    pub fn is_legal_from(self, status: Status) -> bool {
        matches!(
            (self, status),
            (Self::Start, Status::Created)
                | (
                    Self::Kill,
                    Status::Created | Status::Running | Status::Paused
                )
                | (Self::Exec, Status::Created | Status::Running)
                | (Self::Delete, Status::Stopped)
        )
    }
}

#[cfg(test)]
mod tests {
    use runvm_oci::Status::{Created, Creating, Paused, Running, Stopped};

    use super::Operation::{Delete, Exec, Kill, Start};

    #[test]
    fn a_status_allows_what_the_specification_says() {
        // OCI runtime specification, "Operations": start, kill and delete each MUST refuse elsewhere.
        let operations = [Start, Kill, Delete, Exec];
        let table = [
            (Creating, [false, false, false, false]),
            (Created, [true, true, false, true]),
            (Running, [false, true, false, true]),
            (Paused, [false, true, false, false]),
            (Stopped, [false, false, true, false]),
        ];
        for (status, row) in table {
            for (operation, legal) in operations.into_iter().zip(row) {
                assert_eq!(
                    operation.is_legal_from(status),
                    legal,
                    "{operation:?} of {status}"
                );
            }
        }
    }
}
