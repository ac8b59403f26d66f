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
    /// `pause`.
    Pause,
    /// `resume`.
    Resume,
    /// `update`.
    Update,
    /// `checkpoint`.
    Checkpoint,
}

impl Operation {
    /// Whether the specification lets it go ahead from `status`. What is not the
    /// specification's goes as runc has it: `exec` and what has to do with `paused`, `update`
    /// and `checkpoint`.
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
                | (Self::Pause, Status::Created | Status::Running)
                | (Self::Resume, Status::Paused)
                | (Self::Checkpoint, Status::Running | Status::Paused)
                | (
                    Self::Update,
                    Status::Created | Status::Running | Status::Paused
                )
        )
    }
}

#[cfg(test)]
mod tests {
    use runvm_oci::Status::{Created, Creating, Paused, Running, Stopped};

    use super::Operation::{Checkpoint, Delete, Exec, Kill, Pause, Resume, Start, Update};

    #[test]
    fn a_status_allows_what_the_specification_says() {
        // OCI runtime specification, "Operations": start, kill and delete each MUST refuse elsewhere.
        let operations = [Start, Kill, Delete, Exec, Pause, Resume, Update, Checkpoint];
        let table = [
            (
                Creating,
                [false, false, false, false, false, false, false, false],
            ),
            (Created, [true, true, false, true, true, false, true, false]),
            (Running, [false, true, false, true, true, false, true, true]),
            (Paused, [false, true, false, false, false, true, true, true]),
            (
                Stopped,
                [false, false, true, false, false, false, false, false],
            ),
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
