//! What is left of a machine that has ended: its console, and the VMM process's own word.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{Mode, OFlags, openat};

/// The guest's serial console, in the machine's directory.
pub(super) const CONSOLE: &str = "console.log";
/// Why the machine ended, when its container's end was not the reason.
pub(super) const LOG: &str = "vm.log";
/// How much of either is told with an error.
const LAST_WORDS_BYTES: u64 = 2048;

/// Opens `name` in the machine's `directory`, to be written at its end.
pub(super) fn open(directory: BorrowedFd<'_>, name: &str) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// What the VMM process of the machine in `directory` left word of, as far as it can be shown: the process
/// may have been the guest's when it wrote.
pub(super) fn of_the_end(directory: BorrowedFd<'_>) -> Option<String> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let log = File::from(openat(directory, LOG, flags, Mode::empty()).ok()?);
    // To open anything else may have effects.
    log.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let log = File::open(format!("/proc/self/fd/{}", log.as_raw_fd())).ok()?;
    let mut text = Vec::new();
    log.take(LAST_WORDS_BYTES).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.chars().filter(|c| !c.is_control()).collect())
        .filter(|line: &String| !line.is_empty())
        .collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}

/// The end of what the guest's kernel or agent said on the console.
#[derive(Debug)]
pub(super) struct LastWords(String);

impl LastWords {
    /// Reads them.
    pub(super) fn of(mut console: &File) -> Self {
        let mut text = Vec::new();
        let end = console.seek(SeekFrom::End(0)).unwrap_or(0);
        let read = console
            .seek(SeekFrom::Start(end.saturating_sub(LAST_WORDS_BYTES)))
            .and_then(|_| console.take(LAST_WORDS_BYTES).read_to_end(&mut text));
        // Without its last words the guest's end is told all the same.
        Self(
            read.map(|_| String::from_utf8_lossy(&text).trim().to_owned())
                .unwrap_or_default(),
        )
    }
}

impl std::fmt::Display for LastWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut lines: Vec<&str> = self.0.lines().rev().take(5).map(str::trim).collect();
        lines.reverse();
        if lines.is_empty() {
            Ok(())
        } else {
            write!(f, "; its console says: {}", lines.join(" | "))
        }
    }
}
