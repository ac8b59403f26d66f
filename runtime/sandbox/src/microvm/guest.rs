//! The way to the agent, for every process of the host that can reach the machine's directory.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use runvm_proto::{
    Answer, CONTROL_PORT, FrameError, Hello, MessageError, Process, Remote, Request, STREAM_PORT,
    Stream, StreamHeader, frame,
};
use runvm_sys::unix_socket::connect_in;
use rustix::fs::{Mode, OFlags, mkdirat, openat};

/// The directory, in the container's, of the VMM process: it can write there, and has no way to the
/// container's record. What is in there may be anything.
const MACHINE: &str = "vm";

/// Makes the machine's directory in the `container`'s.
pub(super) fn make_machine(container: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    mkdirat(container, MACHINE, Mode::RWXU)?;
    open_machine(container)
}

/// Opens the machine's directory in the `container`'s.
pub(super) fn open_machine(container: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(container, MACHINE, flags, Mode::empty())?)
}

/// The VM's socket in the machine's directory.
pub(super) const SOCKET: &str = "vm.sock";

/// Why the agent could not be asked, or what it answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum GuestError {
    /// Nobody, or somebody too busy, behind the VM's socket.
    #[error("cannot connect to the microVM's socket")]
    Connect(#[source] io::Error),
    /// The VMM does not answer.
    #[error("cannot connect to port {port} of the guest")]
    Port {
        /// The vsock port.
        port: u32,
        /// What went wrong with the socket.
        source: io::Error,
    },
    /// The guest, or the VMM, is hung or frozen.
    #[error("the guest does not answer")]
    Silent,
    /// The guest does not listen.
    #[error("nobody listens on port {0} of the guest")]
    Refused(u32),
    /// The conversation broke.
    #[error("cannot talk to the agent in the guest")]
    Talk(#[source] MessageError),
    /// The agent could not do it, in its own words.
    #[error(transparent)]
    Remote(#[from] Remote),
    /// An answer to another question.
    #[error("the agent in the guest gave an answer to another question: {0:?}")]
    Unexpected(Answer),
}

impl From<FrameError> for GuestError {
    fn from(error: FrameError) -> Self {
        match error {
            // What a socket's timeout gives (socket(7), SO_RCVTIMEO).
            FrameError::Read(error) | FrameError::Write(error)
                if error.kind() == ErrorKind::WouldBlock =>
            {
                Self::Silent
            }
            error => Self::Talk(error.into()),
        }
    }
}

impl From<MessageError> for GuestError {
    fn from(error: MessageError) -> Self {
        match error {
            MessageError::Frame(error) => error.into(),
            error => Self::Talk(error),
        }
    }
}

/// Connects to `port` of the guest; `patience` bounds each wait for it.
fn dial(
    directory: BorrowedFd<'_>,
    port: u32,
    patience: Option<Duration>,
) -> Result<UnixStream, GuestError> {
    let mut connection = connect_in(directory, SOCKET).map_err(GuestError::Connect)?;
    let failed = |source: io::Error| match source.kind() {
        ErrorKind::WouldBlock => GuestError::Silent,
        _ => GuestError::Port { port, source },
    };
    connection.set_read_timeout(patience).map_err(failed)?;
    connection.set_write_timeout(patience).map_err(failed)?;
    connection
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .map_err(failed)?;
    // The line and not a byte more: what follows it is the stream's.
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') && line.len() < 32 {
        let mut byte = [0];
        if connection.read(&mut byte).map_err(failed)? == 0 {
            return Err(GuestError::Refused(port));
        }
        line.push(byte[0]);
    }
    if !line.starts_with(b"OK ") {
        return Err(GuestError::Refused(port));
    }
    Ok(connection)
}

/// A control connection.
pub(super) struct Control(UnixStream);

impl Control {
    /// Connects. With `patience`, each answer must come within that.
    pub(super) fn open(
        directory: BorrowedFd<'_>,
        patience: Option<Duration>,
    ) -> Result<Self, GuestError> {
        let mut connection = dial(directory, CONTROL_PORT, patience)?;
        Hello::send(&mut connection)?;
        Hello::expect(&mut connection)?;
        Ok(Self(connection))
    }

    /// Asks, and waits for the answer.
    pub(super) fn ask(&mut self, request: &Request, payload: &[u8]) -> Result<Answer, GuestError> {
        frame::write(&mut self.0, request, payload)?;
        match Answer::receive(&mut self.0)? {
            Answer::Failed(remote) => Err(remote.into()),
            answer => Ok(answer),
        }
    }

    /// Waits for what the agent says unasked; `None` when it has ended the conversation.
    pub(super) fn hear(&mut self) -> Result<Option<Answer>, GuestError> {
        Ok(frame::read(&mut self.0)?.map(|(answer, _)| answer))
    }

    /// Asks for what has no other answer than that it is done.
    pub(super) fn demand(&mut self, request: &Request, payload: &[u8]) -> Result<(), GuestError> {
        match self.ask(request, payload)? {
            Answer::Done => Ok(()),
            answer => Err(GuestError::Unexpected(answer)),
        }
    }

    /// Lets later answers take as long as they take.
    pub(super) fn wait_for_ever(&self) -> Result<(), GuestError> {
        wait_for_ever(&self.0)
    }

    /// Says something whose answer nobody waits for.
    pub(super) fn tell(&mut self, request: &Request) -> Result<(), GuestError> {
        Ok(frame::write(&mut self.0, request, b"")?)
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn wait_for_ever(connection: &UnixStream) -> Result<(), GuestError> {
    connection
        .set_read_timeout(None)
        .and_then(|()| connection.set_write_timeout(None))
        .map_err(GuestError::Connect)
}

/// How long a guest that works may take to answer, on a busy machine and without KVM.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Connects a stream of `process`, which need not exist yet.
pub(super) fn open_stream(
    directory: BorrowedFd<'_>,
    process: &Process,
    stream: Stream,
) -> Result<UnixStream, GuestError> {
    let mut connection = dial(directory, STREAM_PORT, Some(PATIENCE))?;
    let header = StreamHeader {
        hello: Hello::ours(),
        process: process.clone(),
        stream,
    };
    frame::write(&mut connection, &header, b"")?;
    wait_for_ever(&connection)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixListener;
    use std::thread;
    use std::time::Duration;

    use runvm_proto::{Answer, Hello, Remote, Request, frame};

    use super::{Control, GuestError};

    /// Plays the VMM and the agent for one control connection.
    fn with_agent(
        name: &str,
        port_line: &'static [u8],
        answers: Vec<Answer>,
        test: impl FnOnce(&File),
    ) {
        let directory = std::env::temp_dir().join(format!("runvm-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let listener = UnixListener::bind(directory.join("vm.sock")).unwrap();
        let agent = thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut asked = [0; 13];
            connection.read_exact(&mut asked).unwrap();
            assert_eq!(&asked, b"CONNECT 1024\n");
            connection.write_all(port_line).unwrap();
            if port_line.is_empty() {
                return;
            }
            Hello::send(&mut connection).unwrap();
            Hello::expect(&mut connection).unwrap();
            for answer in answers {
                frame::read::<Request>(&mut connection).unwrap().unwrap();
                frame::write(&mut connection, &answer, b"").unwrap();
            }
        });
        test(&File::open(&directory).unwrap());
        agent.join().unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn the_agents_own_words_come_back() {
        let remote = Remote {
            errno: Some(2),
            chain: vec!["no".into(), "because".into()],
        };
        let answers = vec![Answer::Done, Answer::Failed(remote)];
        with_agent("words", b"OK 1\n", answers, |directory| {
            let mut control = Control::open(directory.as_fd(), None).unwrap();
            let start = Request::Start {
                container: "c".into(),
            };
            control.demand(&start, b"").unwrap();
            let error = control.demand(&start, b"").unwrap_err();
            assert_eq!(error.to_string(), "no: because");
            let error = control.demand(&start, b"").unwrap_err();
            assert!(matches!(error, GuestError::Talk(_)), "{error}");
        });
    }

    #[test]
    fn a_guest_that_hangs_is_not_waited_for_longer_than_asked() {
        let directory = std::env::temp_dir().join(format!("runvm-hung-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let _listener = UnixListener::bind(directory.join("vm.sock")).unwrap();
        let patience = Some(Duration::from_millis(20));
        let opened = Control::open(File::open(&directory).unwrap().as_fd(), patience);
        assert!(matches!(opened, Err(GuestError::Silent)));
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_guest_that_does_not_listen_is_told_from_a_vmm_that_is_gone() {
        with_agent("deaf", b"", Vec::new(), |directory| {
            assert!(matches!(
                Control::open(directory.as_fd(), None),
                Err(GuestError::Refused(1024))
            ));
        });
        let empty = File::open(std::env::temp_dir()).unwrap();
        assert!(matches!(
            Control::open(empty.as_fd(), None),
            Err(GuestError::Connect(_))
        ));
    }
}
