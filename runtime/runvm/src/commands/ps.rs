use std::io::Write;

use runvm_sandbox::lifecycle::Container;

use super::Session;
use crate::cli::{ListFormat, Ps};

/// `runvm ps`: lists the processes of a container: their pids as JSON, or a table.
pub(super) fn ps(session: &Session<'_>, args: &Ps) -> anyhow::Result<u8> {
    let container = Container::open(&session.store, &args.id)?;
    let text = match args.format {
        ListFormat::Table => container.process_table(&args.ps_args)?,
        ListFormat::Json => serde_json::to_string(&container.pids()?)? + "\n",
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(0)
}
