use std::io::Write;

use runvm_sandbox::StoreError;
use runvm_sandbox::lifecycle::Container;

use super::Session;
use super::state::State;
use crate::cli::{List, ListFormat};

/// `runvm list`: prints the containers. One whose state cannot be read is told of, and the
/// others are shown.
pub(super) fn list(session: &Session<'_>, args: &List) -> anyhow::Result<u8> {
    let ids = session.store.ids()?;
    let mut out = std::io::stdout().lock();
    if args.quiet {
        for id in ids {
            writeln!(out, "{id}")?;
        }
        return Ok(0);
    }
    let mut containers = Vec::with_capacity(ids.len());
    for id in ids {
        match Container::open(&session.store, &id) {
            Ok(container) => containers.push(container),
            Err(StoreError::Missing(_)) if is_in_hand(session, &id) => {}
            Err(error) => warn(session, error),
        }
    }
    let mut states = Vec::with_capacity(containers.len());
    for container in &containers {
        match State::of(container) {
            Ok(state) => states.push(state),
            Err(error) => warn(session, error),
        }
    }
    match args.format {
        ListFormat::Json => writeln!(out, "{}", serde_json::to_string(&states)?)?,
        ListFormat::Table => write_table(&mut out, &states)?,
    }
    Ok(0)
}

/// Whether a container without a record is being made, or has just been deleted.
fn is_in_hand(session: &Session<'_>, id: &str) -> bool {
    let directory = session.store.find(id);
    directory
        .and_then(|directory| directory.is_locked())
        .unwrap_or(true)
}

fn warn(session: &Session<'_>, error: impl Into<anyhow::Error>) {
    session.logger.warn(&crate::logger::one_line(&error.into()));
}

fn write_table(out: &mut impl Write, states: &[State<'_>]) -> std::io::Result<()> {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(states.iter().map(|state| {
        [
            state.id.to_owned(),
            state.pid.to_string(),
            state.status.to_string(),
            crate::logger::escape_control(&state.bundle.display().to_string()),
            state.created.to_owned(),
            state.owner.clone(),
        ]
    }));
    let widths: Vec<usize> = (0..6)
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    for row in rows {
        for (cell, width) in row.iter().zip(&widths).take(5) {
            write!(out, "{cell:width$}   ")?;
        }
        writeln!(out, "{}", row[5])?;
    }
    Ok(())
}
