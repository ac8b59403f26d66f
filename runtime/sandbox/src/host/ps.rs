//! A container's processes as ps(1) of the host tells them.

use std::ffi::OsString;
use std::io;
use std::process::{Command, ExitStatus, Stdio};

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub(super) enum PsError {
    #[error("cannot run ps")]
    Run(#[source] io::Error),
    #[error("ps failed ({status}): {words}")]
    Failed { status: ExitStatus, words: String },
    #[error("ps prints no column PID")]
    NoPids,
    #[error("ps prints no pid in {0:?}")]
    NoPid(String),
}

/// The head line of ps's table, and the lines about `pids`.
pub(super) fn table(pids: &[u32], args: &[OsString]) -> Result<String, PsError> {
    lines_about(pids, &run(args)?)
}

fn run(args: &[OsString]) -> Result<String, PsError> {
    let mut ps = Command::new("ps");
    if args.is_empty() {
        ps.arg("-ef");
    }
    let output = ps
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(PsError::Run)?;
    if !output.status.success() {
        return Err(PsError::Failed {
            status: output.status,
            words: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The head line, and the lines whose `PID` is one of `pids`.
fn lines_about(pids: &[u32], table: &str) -> Result<String, PsError> {
    let mut lines = table.lines();
    let head = lines.next().unwrap_or_default();
    let column = head
        .split_whitespace()
        .position(|title| title == "PID")
        .ok_or(PsError::NoPids)?;
    let mut about = format!("{head}\n");
    for line in lines.filter(|line| !line.is_empty()) {
        let pid = line.split_whitespace().nth(column);
        let pid = pid.and_then(|pid| pid.parse::<u32>().ok());
        let pid = pid.ok_or_else(|| PsError::NoPid(line.to_owned()))?;
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
