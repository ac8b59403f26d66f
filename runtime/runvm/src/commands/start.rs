use runvm_sandbox::lifecycle::Container;

use super::Session;
use crate::cli::Id;
use crate::notify;

/// `runvm start`: runs the program of a created container.
pub(super) fn start(session: &Session<'_>, args: &Id) -> anyhow::Result<u8> {
    let container = Container::open(&session.store, &args.id)?;
    notify::start(session, &container, None)?;
    Ok(0)
}
