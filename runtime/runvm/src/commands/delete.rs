use runvm_sandbox::lifecycle;

use super::Session;
use crate::cli::Delete;

/// `runvm delete`: removes a container and all it holds.
pub(super) fn delete(session: &Session<'_>, args: &Delete) -> anyhow::Result<u8> {
    for warning in lifecycle::delete(&session.store, &args.id, args.force)? {
        session.logger.warn(&warning);
    }
    Ok(0)
}
