use std::ffi::OsString;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use runvm_sandbox::IsolationKind;
use runvm_sandbox::lifecycle::Container;

use super::Session;
use crate::cli::{ListFormat, Ps};

/// `runvm ps`: lists the processes of a container: their pids as JSON, or the lines that ps(1)
/// has about them.
pub(super) fn ps(session: &Session<'_>, args: &Ps) -> anyhow::Result<u8> {
    let container = Container::open(&session.store, &args.id)?;
    let is_table = args.format == ListFormat::Table;
    if is_table && container.record().isolation == IsolationKind::Vm {
        bail!(
            "ps has no table in vm isolation, as the processes are the guest's; --format json gives \
             their pids there"
        );
    }
    let pids = container.pids()?;
    let mut out = std::io::stdout().lock();
    if is_table {
        out.write_all(lines_about(&pids, &run_ps(&args.ps_args)?)?.as_bytes())?;
    } else {
        writeln!(out, "{}", serde_json::to_string(&pids)?)?;
    }
    Ok(0)
}

fn run_ps(args: &[OsString]) -> anyhow::Result<String> {
    let mut ps = Command::new("ps");
    if args.is_empty() {
        ps.arg("-ef");
    }
    let output = ps
        .args(args)
        .stdin(Stdio::null())
        .output()
        .context("cannot run ps")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("ps failed ({}): {}", output.status, words.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The head line of ps's table, and the lines whose `PID` is one of `pids`.
fn lines_about(pids: &[u32], table: &str) -> anyhow::Result<String> {
    let mut lines = table.lines();
    let head = lines.next().unwrap_or_default();
    let column = head
        .split_whitespace()
        .position(|title| title == "PID")
        .context("ps prints no column PID")?;
    let mut about = format!("{head}\n");
    for line in lines.filter(|line| !line.is_empty()) {
        let pid = line.split_whitespace().nth(column);
        let pid = pid.and_then(|pid| pid.parse::<u32>().ok());
        let pid = pid.with_context(|| format!("ps prints no pid in {line:?}"))?;
        if pids.contains(&pid) {
            about.push_str(line);
            about.push('\n');
        }
    }
    Ok(about)
}

#[cfg(test)]
mod tests {
    use super::lines_about;

    #[test]
    fn the_lines_of_other_processes_are_left_out() {
        let table =
            "UID        PID  PPID CMD\nroot         1     0 init\nroot        22     1 sh 1\n\n";
        assert_eq!(
            lines_about(&[22], table).unwrap(),
            "UID        PID  PPID CMD\nroot        22     1 sh 1\n"
        );
        assert_eq!(lines_about(&[], "PID CMD\n1 a\n").unwrap(), "PID CMD\n");
        assert!(lines_about(&[1], "CMD\na\n").is_err());
        assert!(lines_about(&[1], "CMD PID\na b c\n").is_err());
        assert!(lines_about(&[1], "").is_err());
    }
}
