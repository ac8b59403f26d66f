use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Stdio, exit};

use runvm_oci::{State, Status};
use runvm_sys::PidFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use super::super::listener::{ContainerProcessState, ListenerError, forward, load_and_offer};
use super::kernel::{again, case};
use super::{compile, profile};

/// Does nothing unless it is asked for by name: the confined process, with its socket as stdin.
#[test]
fn a_confined_process() {
    let Some(case) = case() else { return };
    if case == "allowed" {
        rustix::thread::set_no_new_privs(true).unwrap();
    } else {
        let none = rustix::thread::CapabilitySets {
            effective: rustix::thread::CapabilitySet::empty(),
            permitted: rustix::thread::CapabilitySet::empty(),
            inheritable: rustix::thread::CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, none).unwrap();
    }
    let filter = compile(&profile(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": "/agent.sock",
        "syscalls": [{"names": ["getcwd"], "action": "SCMP_ACT_NOTIFY"}],
    })));
    let loaded = load_and_offer(&filter.unwrap(), rustix::stdio::stdin());
    match loaded {
        Ok(()) => {
            let _ = rustix::process::getcwd(Vec::new());
            exit(42)
        }
        Err(ListenerError::Load(_)) => exit(43),
        Err(_) => exit(44),
    }
}

fn spawn(case: &str) -> (Child, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let child = again("seccomp::tests::listener::a_confined_process", case)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .unwrap();
    (child, ours)
}

fn state(child: &Child) -> ContainerProcessState {
    let state = State {
        oci_version: State::OCI_VERSION.into(),
        id: "c1".into(),
        status: Status::Creating,
        pid: child.id(),
        bundle: "/bundle".into(),
        annotations: Default::default(),
    };
    ContainerProcessState::new(state, child.id(), Some("who".into()))
}

/// All bytes until the end of the stream, and the descriptor that came with them.
fn receive(mut agent: UnixStream) -> (Value, OwnedFd) {
    let mut bytes = vec![0; 100];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(&mut bytes)];
    let got = recvmsg(&agent, parts, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    bytes.truncate(got.bytes);
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    agent.read_to_end(&mut bytes).unwrap();
    (serde_json::from_slice(&bytes).unwrap(), fd.unwrap())
}

fn socket(name: &str) -> (std::path::PathBuf, UnixListener) {
    let dir = std::env::temp_dir().join(format!("runvm-seccomp-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&dir);
    let listener = UnixListener::bind(&dir).unwrap();
    (dir, listener)
}

#[test]
fn the_agent_gets_the_state_and_a_listener_that_is_notified() {
    let (path, agent) = socket("agent");
    let (mut child, channel) = spawn("allowed");
    let pidfd = PidFd::open(child.id()).unwrap();
    assert!(forward(channel.as_fd(), &pidfd, &path, &state(&child)).unwrap());
    let (received, listener) = receive(agent.accept().unwrap().0);
    assert_eq!(
        received,
        json!({
            "ociVersion": State::OCI_VERSION,
            "fds": ["seccompFd"],
            "pid": child.id(),
            "metadata": "who",
            "state": {
                "ociVersion": State::OCI_VERSION,
                "id": "c1",
                "status": "creating",
                "pid": child.id(),
                "bundle": "/bundle",
            },
        })
    );
    let mut polled = [PollFd::new(&listener, PollFlags::IN)];
    assert_eq!(poll(&mut polled, None).unwrap(), 1);
    assert!(polled[0].revents().contains(PollFlags::IN));
    // Nobody listens any more: the call that waits fails, and the process goes on.
    drop(listener);
    assert_eq!(child.wait().unwrap().code(), Some(42));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_filter_that_is_not_loaded_gives_no_listener_and_its_process_knows_why() {
    let (mut child, channel) = spawn("not allowed");
    let pidfd = PidFd::open(child.id()).unwrap();
    let nowhere = Path::new("/nowhere");
    assert!(!forward(channel.as_fd(), &pidfd, nowhere, &state(&child)).unwrap());
    assert_eq!(child.wait().unwrap().code(), Some(43));
}

#[test]
fn an_agent_that_is_not_there_is_named() {
    let (mut child, channel) = spawn("allowed");
    let pidfd = PidFd::open(child.id()).unwrap();
    let nowhere = Path::new("/nowhere/agent.sock");
    let error = forward(channel.as_fd(), &pidfd, nowhere, &state(&child)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot connect to linux.seccomp.listenerPath /nowhere/agent.sock"
    );
    // The process waits for an answer that never comes.
    drop(channel);
    assert_eq!(child.wait().unwrap().code(), Some(44));
}
