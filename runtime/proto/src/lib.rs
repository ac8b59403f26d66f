//! What the host and the agent in the guest say to each other.
//!
//! Everything travels in [frames](frame): a JSON header and raw bytes. The agent dials
//! [`DOORBELL_PORT`] on the host when it is ready ([`Ready`]) and keeps that connection as a life
//! line. A host process dials [`CONTROL_PORT`] in the guest to ask ([`Request`], [`Answer`]), one
//! question after the other, and [`STREAM_PORT`] once for each stream of a process's stdio
//! ([`StreamHeader`], then raw bytes; half-close is end of file). Each conversation begins with
//! a [`Hello`], by which two releases that would misunderstand each other refuse to talk.
#![forbid(unsafe_code)]

pub mod frame;
mod message;
mod remote;

pub use frame::{FrameError, read, write};
pub use message::{
    Answer, ExitStatus, Hello, MessageError, Process, ProcessEntry, Ready, Request, Stream,
    StreamHeader, VersionMismatch,
};
pub use remote::Remote;

/// The context id under which a guest reaches its host (vsock(7), `VMADDR_CID_HOST`).
pub const HOST_CID: u32 = 2;
/// The host's port that the agent rings when it is ready.
pub const DOORBELL_PORT: u32 = 1024;
/// The guest's port for requests.
pub const CONTROL_PORT: u32 = 1024;
/// The guest's port for the streams of processes.
pub const STREAM_PORT: u32 = 1025;

/// The tag of the virtio-fs device that holds the exports.
pub const SHARE_TAG: &str = "runvm";
/// Where the agent mounts the exports; an export `NAME` is the directory or file `NAME` below.
pub const SHARE_PATH: &str = "/run/runvm/share";
