//! Where messages go: standard error for people, and the log file for engines.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::SystemTime;

use anyhow::Context;

use crate::cli::{Global, LogFormat};

/// Writes messages in the format the caller asked for.
pub(crate) struct Logger {
    file: Option<File>,
    format: LogFormat,
    debug: bool,
}

impl Logger {
    pub(crate) fn open(global: &Global) -> anyhow::Result<Self> {
        let file = global
            .log
            .as_ref()
            .map(|path| {
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .mode(0o644)
                    .open(path)
                    .with_context(|| format!("cannot open the log file {}", path.display()))
            })
            .transpose()?;
        Ok(Self {
            file,
            format: global.log_format,
            debug: global.debug,
        })
    }

    /// Tells the user, and the engine by the log file, why the command failed.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        let message = one_line(error);
        if self.file.is_some() {
            self.write("error", &message);
        }
        // One write, as below. Standard error may be closed or full, and there is no one else to tell.
        let _ = std::io::stderr().write_all(format!("runvm: {message}\n").as_bytes());
    }

    /// Tells what is odd and goes on.
    pub(crate) fn warn(&self, message: &str) {
        self.write("warning", &escape_control(message));
    }

    /// Tells what is done, where asked to.
    pub(crate) fn debug(&self, message: impl FnOnce() -> String) {
        if self.debug {
            self.write("debug", &escape_control(&message()));
        }
    }

    fn write(&self, level: &str, message: &str) {
        let time = humantime::format_rfc3339_seconds(SystemTime::now());
        let line = match self.format {
            LogFormat::Json => serde_json::json!({
                "level": level, "msg": message, "time": time.to_string(),
            })
            .to_string(),
            LogFormat::Text => format!("time=\"{time}\" level={level} msg={message:?}"),
        };
        // One write a line, so that the lines of several processes do not mix. A log that cannot be
        // written must not stop a container.
        let line = line + "\n";
        let _ = match &self.file {
            Some(file) => (&*file).write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}

/// The chain of an error on one line, its control characters escaped: parts of it come from
/// bundles and containers.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        append_cause(&mut line, cause);
    }
    escape_control(&line)
}

fn append_cause(line: &mut String, cause: &(dyn Error + 'static)) {
    if !line.is_empty() {
        line.push_str(": ");
    }
    line.push_str(&cause.to_string());
}

/// `text` with its control characters escaped, so that it stays one line.
pub(crate) fn escape_control(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn a_chain_is_one_line_whatever_it_holds() {
        let error = anyhow::anyhow!("no file \"a\nlevel=info\u{1b}[2J\"").context("cannot mount");
        assert_eq!(
            one_line(&error),
            "cannot mount: no file \"a\\nlevel=info\\u{1b}[2J\""
        );
    }
}
