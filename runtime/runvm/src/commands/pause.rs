use runvm_sandbox::lifecycle::Container;

use super::Session;
use crate::cli::Id;

/// `runvm pause`: stops all processes of a container.
pub(super) fn pause(session: &Session<'_>, args: &Id) -> anyhow::Result<u8> {
    Container::open(&session.store, &args.id)?.pause()?;
    Ok(0)
}

/// `runvm resume`: lets them go on.
pub(super) fn resume(session: &Session<'_>, args: &Id) -> anyhow::Result<u8> {
    Container::open(&session.store, &args.id)?.resume()?;
    Ok(0)
}
