use std::str::FromStr;

use anyhow::bail;
use nix::libc;
use nix::sys::signal::Signal;
use runvm_sandbox::lifecycle::Container;

use super::Session;
use crate::cli::Kill;

/// `runvm kill`: sends a signal.
pub(super) fn kill(session: &Session<'_>, args: &Kill) -> anyhow::Result<u8> {
    let signal = signal(&args.signal)?;
    Container::open(&session.store, &args.id)?.kill(signal, args.all)?;
    Ok(0)
}

/// Reads a signal as kill(1) does: a number, or a name with or without `SIG`, in any case;
/// `RTMIN+n` and `RTMAX-n` for the real-time ones.
fn signal(word: &str) -> anyhow::Result<i32> {
    if let Ok(number) = word.parse::<i32>() {
        if (1..=libc::SIGRTMAX()).contains(&number) {
            return Ok(number);
        }
        bail!("unknown signal {word:?}");
    }
    let name = word.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Ok(signal) = Signal::from_str(&format!("SIG{name}")) {
        return Ok(signal as i32);
    }
    match real_time_signal(name) {
        Some(number) => Ok(number),
        None => bail!("unknown signal {word:?}"),
    }
}

fn real_time_signal(name: &str) -> Option<i32> {
    let number = if let Some(offset) = name.strip_prefix("RTMIN") {
        libc::SIGRTMIN() + offset_of(offset, '+')?
    } else {
        libc::SIGRTMAX() - offset_of(name.strip_prefix("RTMAX")?, '-')?
    };
    (libc::SIGRTMIN()..=libc::SIGRTMAX())
        .contains(&number)
        .then_some(number)
}

fn offset_of(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        Some(0)
    } else {
        text.strip_prefix(sign)?.parse::<u8>().ok().map(i32::from)
    }
}

#[cfg(test)]
mod tests {
    use super::signal;

    #[test]
    fn signals_are_read_as_kill_reads_them() {
        let rows = [
            ("9", Some(9)),
            ("KILL", Some(9)),
            ("SIGKILL", Some(9)),
            ("sigterm", Some(15)),
            ("hup", Some(1)),
            ("RTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("RTMIN+99", None),
            ("0", None),
            ("-1", None),
            ("65", None),
            ("SIGSIGTERM", None),
            ("", None),
            ("SIG", None),
        ];
        for (word, expected) in rows {
            assert_eq!(signal(word).ok(), expected, "{word:?}");
        }
    }
}
