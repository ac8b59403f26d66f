use runvm_sandbox::lifecycle::Container;

use super::Session;
use crate::cli::Id;

/// `runvm start`: runs the program of a created container.
pub(super) fn start(session: &Session<'_>, args: &Id) -> anyhow::Result<u8> {
    Container::open(&session.store, &args.id)?.start()?;
    Ok(0)
}
