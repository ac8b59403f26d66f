//! The messages, and the rule by which two versions of them refuse each other.

use std::io::{Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{FrameError, Remote, frame};

/// What each side is. It is the first thing said on a control connection, by both sides, and part of the
/// first message of the others. Its form never changes, so that any two
/// versions can tell that they differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the messages.
    pub protocol: u32,
    /// The version of the program, for people.
    pub program: String,
}

impl Hello {
    /// The version of the messages of this crate. A change of any of them is a new one.
    pub const PROTOCOL: u32 = 3;

    /// What this side says.
    pub fn ours() -> Self {
        Self {
            protocol: Self::PROTOCOL,
            program: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Refuses the other side's when its messages are not ours.
    pub fn check(&self) -> Result<(), VersionMismatch> {
        if self.protocol == Self::PROTOCOL {
            return Ok(());
        }
        Err(VersionMismatch {
            theirs: self.clone(),
            ours: Self::ours(),
        })
    }

    /// Says ours. The answer is read with [`expect`](Self::expect), after whatever else can be
    /// said before it.
    pub fn send(to: &mut impl Write) -> Result<(), FrameError> {
        frame::write(to, &Self::ours(), b"")
    }

    /// Reads the other side's and checks it.
    pub fn expect(from: &mut impl Read) -> Result<(), MessageError> {
        Ok(receive::<Self>(from)?.0.check()?)
    }
}

/// Two sides that would misunderstand each other.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "runvm {} speaks version {} of the agent protocol, but the other side is runvm {} and speaks \
     version {}: the initramfs and runvm must come from the same release",
    ours.program, ours.protocol, theirs.program, theirs.protocol
)]
pub struct VersionMismatch {
    /// What the other side said.
    pub theirs: Hello,
    /// What this side says.
    pub ours: Hello,
}

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// A frame did not come through.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The other side ended the connection where a message was due.
    #[error("the other side ended the connection")]
    Ended,
    /// The other side is of another release.
    #[error(transparent)]
    Version(#[from] VersionMismatch),
}

/// Reads a message that must come.
pub(crate) fn receive<T: DeserializeOwned>(
    from: &mut impl Read,
) -> Result<(T, Vec<u8>), MessageError> {
    frame::read(from)?.ok_or(MessageError::Ended)
}

/// What the agent says on the doorbell, once; then the connection stays as a life line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The agent's versions.
    pub hello: Hello,
    /// When the agent's first instruction ran: the guest's CLOCK_MONOTONIC, nanoseconds.
    pub began_ns: u64,
    /// When it was ready, by the same clock.
    pub ready_ns: u64,
}

impl Ready {
    /// Reads it and checks the version.
    pub fn receive(from: &mut impl Read) -> Result<Self, MessageError> {
        let (ready, _) = receive::<Self>(from)?;
        ready.hello.check()?;
        Ok(ready)
    }
}

/// A process in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    /// The container's id.
    pub container: String,
    /// The exec id; `None` is the container's first process.
    pub exec: Option<String>,
}

impl Process {
    /// The first process of `container`.
    pub fn first(container: impl Into<String>) -> Self {
        Self {
            container: container.into(),
            exec: None,
        }
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.exec {
            None => write!(f, "container {:?}", self.container),
            Some(exec) => write!(f, "process {exec:?} of container {:?}", self.container),
        }
    }
}

/// A stream of a process's stdio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Host to guest.
    Stdin,
    /// Guest to host.
    Stdout,
    /// Guest to host.
    Stderr,
    /// Both ways, all three in one. The host's half-close hangs the terminal up.
    Terminal,
}

/// What the host says first on a stream's connection; the bytes of the stream follow. The agent
/// says nothing first, so that it is ready for the bytes at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamHeader {
    /// The host's versions.
    pub hello: Hello,
    /// Whose it is. The connection may come before the request that makes the process.
    pub process: Process,
    /// Which it is.
    pub stream: Stream,
}

impl StreamHeader {
    /// Reads it and checks the version.
    pub fn receive(from: &mut impl Read) -> Result<Self, MessageError> {
        let (header, _) = receive::<Self>(from)?;
        header.hello.check()?;
        Ok(header)
    }
}

/// What the host asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Makes a container, up to OCI status `created`. Payload: config.json with the guest's paths.
    /// Answered by [`Answer::Created`].
    Create {
        /// Its id, unused so far.
        container: String,
        /// The streams that the host connects; the others are /dev/null.
        streams: Vec<Stream>,
        /// Keep the agent's session keyring.
        no_new_keyring: bool,
    },
    /// Lets a created container's program run. Payload: the network to make of the guest's network
    /// cards before. Answered by [`Answer::Done`] when it runs.
    Start {
        /// The container.
        container: String,
    },
    /// Runs one more process. Payload: the OCI process object. Answered by [`Answer::Running`]
    /// when its program runs. The connection is its life line: when that ends first, the
    /// process is killed.
    Exec {
        /// The container, and an exec id unused so far.
        process: Process,
        /// The streams that the host connects; the others are /dev/null.
        streams: Vec<Stream>,
        /// Cgroups below the container's to run in, as `--cgroup` names them.
        sub_cgroups: Vec<String>,
    },
    /// Sends a signal. Answered by [`Answer::Done`].
    Kill {
        /// To whom.
        process: Process,
        /// The signal's number.
        signal: i32,
        /// To every process of the container instead.
        all: bool,
    },
    /// Waits for the end of a process. Answered by [`Answer::Exited`], also when it ended before;
    /// an exec'ed process is then forgotten.
    Wait {
        /// For whom.
        process: Process,
    },
    /// Sets the size of a process's terminal. Answered by [`Answer::Done`].
    Resize {
        /// Whose.
        process: Process,
        /// Rows.
        height: u16,
        /// Columns.
        width: u16,
    },
    /// Lists a container's processes. Answered by [`Answer::Pids`].
    Pids {
        /// The container.
        container: String,
    },
    /// Describes a container's processes. Answered by [`Answer::Processes`].
    Processes {
        /// The container.
        container: String,
    },
    /// Asks what a container has used. Answered by [`Answer::Stats`].
    Stats {
        /// The container.
        container: String,
    },
    /// Watches a container's memory. Answered by [`Answer::Done`] when the watch has begun, then by
    /// [`Answer::Oom`] each time the container has run out of memory. The watch ends with the
    /// connection, which the agent ends when the container is deleted.
    WatchOom {
        /// The container.
        container: String,
    },
    /// Freezes a container. Answered by [`Answer::Done`] when all of it stands still.
    Pause {
        /// The container.
        container: String,
    },
    /// Thaws a container. Answered by [`Answer::Done`].
    Resume {
        /// The container.
        container: String,
    },
    /// Sets a container's limits. Payload: OCI `linux.resources`. Answered by [`Answer::Done`].
    Update {
        /// The container.
        container: String,
    },
    /// Kills what is left of a container and forgets it. Answered by [`Answer::Done`].
    Delete {
        /// The container.
        container: String,
    },
    /// Ends the virtual machine. The answer is its end.
    Shutdown,
}

/// A process in the guest, as ps(1) tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessEntry {
    /// Its pid in the guest.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// The effective user id, by the guest's kernel.
    pub uid: u32,
    /// When it was started, by the guest's clock: seconds since 1970.
    pub started_s: u64,
    /// How long it has lived, in seconds.
    pub age_s: u64,
    /// The CPU time it has used, in seconds.
    pub cpu_s: u64,
    /// Its controlling terminal's device number; 0 is none.
    pub terminal: u32,
    /// Its command line, its arguments parted by spaces; the program's name in brackets where it has none.
    pub command: String,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// The container is at OCI status `created`.
    Created {
        /// When code ran behind the container's wall: the guest's CLOCK_MONOTONIC, nanoseconds.
        isolated_ns: u64,
        /// When all was set up, by the same clock.
        ready_ns: u64,
        /// What is odd, a line each.
        warnings: Vec<String>,
    },
    /// The exec'ed program runs.
    Running,
    /// The process has ended.
    Exited(ExitStatus),
    /// The processes, by their pids in the guest.
    Pids(Vec<u32>),
    /// The processes, described.
    Processes(Vec<ProcessEntry>),
    /// What the container has used since it was made, by the guest's kernel: the `container` crate's
    /// `Stats`.
    Stats(serde_json::Value),
    /// The container has run out of memory.
    Oom,
    /// It could not be done.
    Failed(Remote),
}

impl Answer {
    /// Reads an answer.
    pub fn receive(from: &mut impl Read) -> Result<Self, MessageError> {
        Ok(receive(from)?.0)
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(u8),
    /// This signal ended it.
    Signal(i32),
}

impl ExitStatus {
    /// The shell's number for it: a signal is 128 and its number.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => i32::from(code),
            Self::Signal(signal) => 128 + signal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, ExitStatus, Hello, MessageError, Process, Ready};
    use crate::frame;

    #[test]
    fn the_same_version_is_taken() {
        let mut said = Vec::new();
        Hello::send(&mut said).unwrap();
        Hello::expect(&mut &said[..]).unwrap();
    }

    #[test]
    fn another_version_is_refused_and_both_are_named() {
        let mut said = Vec::new();
        let newer = Hello {
            protocol: Hello::PROTOCOL + 1,
            program: "9.8.7".into(),
        };
        frame::write(&mut said, &newer, b"").unwrap();
        let error = Hello::expect(&mut &said[..]).unwrap_err();
        assert!(matches!(error, MessageError::Version(_)));
        let words = error.to_string();
        assert!(
            words.contains("9.8.7") && words.contains(env!("CARGO_PKG_VERSION")),
            "{words}"
        );
    }

    #[test]
    fn a_later_version_may_say_more_in_its_hello() {
        let mut said = Vec::new();
        let later = serde_json::json!({"protocol": 4, "program": "4.0", "extra": [1, 2]});
        frame::write(&mut said, &later, b"").unwrap();
        assert!(matches!(
            Hello::expect(&mut &said[..]),
            Err(MessageError::Version(_))
        ));
    }

    #[test]
    fn an_agent_of_another_version_is_refused_at_the_doorbell() {
        let mut said = Vec::new();
        let hello = Hello {
            protocol: 99,
            program: "9.9".into(),
        };
        frame::write(
            &mut said,
            &Ready {
                hello,
                began_ns: 1,
                ready_ns: 2,
            },
            b"",
        )
        .unwrap();
        assert!(matches!(
            Ready::receive(&mut &said[..]),
            Err(MessageError::Version(_))
        ));
    }

    #[test]
    fn an_end_where_an_answer_is_due_is_an_error() {
        assert!(matches!(
            Answer::receive(&mut &b""[..]),
            Err(MessageError::Ended)
        ));
    }

    #[test]
    fn an_end_by_a_signal_counts_from_128() {
        assert_eq!(ExitStatus::Signal(9).code(), 137);
        assert_eq!(ExitStatus::Code(3).code(), 3);
    }

    #[test]
    fn a_process_is_named_for_people() {
        let exec = Process {
            container: "web".into(),
            exec: Some("e1".into()),
        };
        assert_eq!(exec.to_string(), r#"process "e1" of container "web""#);
        assert_eq!(Process::first("web").to_string(), r#"container "web""#);
    }
}
