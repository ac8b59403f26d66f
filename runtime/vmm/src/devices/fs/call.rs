//! One request and its reply, between the chain and the server.

use rustix::fs::Gid;
use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::args::{self, Args};
use super::thread::{Caller, ServingThread};
use super::wire::{self, IN_HEADER_BYTES, InHeader, OUT_HEADER_BYTES, OutHeader, WriteIn, opcode};
use crate::devices::chain::{Readable, Writable};

/// The most data one `READ` or `WRITE` moves: what `FUSE_INIT` promises as `max_write`.
pub(super) const MAX_WRITE: u32 = 1 << 20;
/// The same, as a length.
const MAX_DATA_BYTES: usize = MAX_WRITE as usize;
/// The most that the arguments of any other request take: the largest extended attribute
/// (`XATTR_SIZE_MAX`, 64 KiB), names and paths.
const MAX_ARGUMENT_BYTES: usize = 80 << 10;

/// What one worker thread has to serve requests with.
pub(super) struct Worker {
    pub(super) thread: ServingThread,
    arguments: Vec<u8>,
    data: Vec<u8>,
}

/// A request, read once from guest memory and checked as far as all requests are alike.
pub(super) struct Call<'w, 'm> {
    pub(super) header: InHeader,
    pub(super) args: Args<'w>,
    pub(super) thread: &'w ServingThread,
    /// For the data of `READ` and `WRITE` on its way between guest memory and a file.
    pub(super) buffer: &'w mut [u8],
    /// What follows the arguments of `WRITE`.
    pub(super) payload: &'w mut Readable<'m>,
    /// Where the body of the reply goes.
    pub(super) reply: &'w mut Writable<'m>,
    group: Option<Gid>,
}

/// What a request is answered with, unless it fails.
pub(super) enum Reply {
    /// Nothing at all: not even an error would be heard.
    Silence,
    /// Success, and no more.
    Done,
    /// Success, and these bytes.
    Body(Vec<u8>),
    /// Success, and this many bytes that are already in [`Call::reply`].
    Data(usize),
}

impl Worker {
    pub(super) fn new(thread: ServingThread) -> Self {
        Self {
            thread,
            arguments: vec![0; MAX_ARGUMENT_BYTES],
            data: vec![0; MAX_DATA_BYTES],
        }
    }

    /// Reads the request of a chain, has it answered, and writes the reply. Returns how many
    /// bytes were written: zero when there is no reply, or no room for one.
    pub(super) fn serve<'m>(
        &mut self,
        mut request: Readable<'m>,
        mut reply: Writable<'m>,
        answer: impl FnOnce(&mut Call<'_, '_>) -> Result<Reply, Errno>,
    ) -> u32 {
        let mut header = [0; IN_HEADER_BYTES];
        if request.read(&mut header) < IN_HEADER_BYTES {
            return 0;
        }
        let Ok(header) = InHeader::read_from_bytes(&header) else {
            return 0;
        };
        let mut head = match reply.take(OUT_HEADER_BYTES) {
            Some(head) => Some(head),
            None if is_silent(header.opcode) => None,
            None => return 0,
        };
        let answered = self
            .call(header, &mut request, &mut reply)
            .and_then(|mut call| answer(&mut call));
        let body = match answered {
            Ok(Reply::Silence) => return 0,
            Ok(Reply::Done) => Ok(0),
            Ok(Reply::Data(len)) => Ok(len),
            Ok(Reply::Body(bytes)) if bytes.len() > reply.len() => Err(Errno::INVAL),
            Ok(Reply::Body(bytes)) => Ok(reply.write(&bytes)),
            Err(errno) => Err(errno),
        };
        head.as_mut()
            .map_or(0, |head| write_header(head, header.unique, body))
    }

    /// Copies the arguments of a request out of guest memory.
    fn call<'w, 'm>(
        &'w mut self,
        header: InHeader,
        payload: &'w mut Readable<'m>,
        reply: &'w mut Writable<'m>,
    ) -> Result<Call<'w, 'm>, Errno> {
        let length = usize::try_from(header.len).map_err(|_| Errno::INVAL)?;
        let length = length.checked_sub(IN_HEADER_BYTES).ok_or(Errno::INVAL)?;
        if length > payload.len() {
            return Err(Errno::INVAL);
        }
        payload.truncate(length);
        let copied = match header.opcode {
            opcode::WRITE => length.min(size_of::<WriteIn>()),
            _ => length,
        };
        let arguments = self.arguments.get_mut(..copied).ok_or(Errno::TOOBIG)?;
        if payload.read(arguments) < copied {
            return Err(Errno::INVAL);
        }
        let (args, extensions) = Args::new(arguments, usize::from(header.total_extlen) * 8)?;
        let group = args::supplementary_group(extensions)?;
        let (thread, buffer) = (&self.thread, &mut *self.data);
        Ok(Call {
            header,
            args,
            thread,
            buffer,
            payload,
            reply,
            group,
        })
    }
}

impl Call<'_, '_> {
    /// The caller, as a maker of files.
    pub(super) fn caller(&self, umask: u32) -> Result<Caller, Errno> {
        Ok(Caller {
            uid: args::uid(self.header.uid)?,
            gid: args::gid(self.header.gid)?,
            group: self.group,
            umask: rustix::fs::Mode::from_bits_truncate(umask & 0o777),
        })
    }
}

impl Reply {
    /// A reply that is one structure.
    pub(super) fn of(value: &(impl IntoBytes + Immutable)) -> Self {
        Self::Body(value.as_bytes().to_vec())
    }
}

/// Requests that are never answered, and so need no room for an answer.
fn is_silent(code: u32) -> bool {
    matches!(
        code,
        opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT
    )
}

/// Writes the header of a reply with `body` bytes behind it, and returns the reply's length.
fn write_header(head: &mut Writable<'_>, unique: u64, body: Result<usize, Errno>) -> u32 {
    let (body, error) = match body {
        Ok(len) => (len, 0),
        Err(errno) => (0, -errno.raw_os_error()),
    };
    let Ok(len) = u32::try_from(wire::OUT_HEADER_BYTES + body) else {
        return 0;
    };
    head.write(OutHeader { len, error, unique }.as_bytes());
    len
}
