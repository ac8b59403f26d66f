//! The device from the guest's side: a fake driver sends FUSE requests through real queues, and a
//! temporary directory shows what they did.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::wire::{
    self, AttrOut, CreateIn, EntryOut, ForgetIn, GetattrIn, IN_HEADER_BYTES, InHeader, InitIn,
    InitOut, MkdirIn, MknodIn, OUT_HEADER_BYTES, OpenIn, OpenOut, OutHeader, ROOT_ID, ReadIn,
    ReleaseIn, SetattrIn, WriteIn, WriteOut, init, opcode,
};
use super::{Exports, FsDevice};
use crate::devices::VirtioDevice;
use crate::devices::fake_driver::FakeDriver;

mod attributes;
mod credentials;
mod data;
mod directories;
mod exports;
mod hostile;
mod names;
mod nodes;
mod races;
mod readonly;
mod session;
mod xattrs;

const HIPRIO: usize = 0;
const REQUESTS: usize = 1;
/// The export that every test has.
const SHARE: &str = "share";

/// A directory that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("runvm-fs-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(path.join(SHARE)).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A guest's kernel that has mounted the file system.
struct Guest {
    device: FsDevice,
    driver: FakeDriver,
    exports: Exports,
    folder: Folder,
    unique: u64,
    /// The id of the process in whose name requests are sent.
    uid: u32,
    gid: u32,
    /// The root of [`SHARE`].
    share: u64,
}

/// A file the guest has open.
#[derive(Clone, Copy, Debug)]
struct Open {
    node: u64,
    fh: u64,
    flags: u32,
}

impl Guest {
    /// Mounts a writable [`SHARE`]; `None`, with a word why, where the test cannot run.
    fn mounted() -> Option<Self> {
        Self::mounted_with(false)
    }

    fn mounted_with(readonly: bool) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root, to act as other users");
            return None;
        }
        let folder = Folder::new();
        let exports = Exports::new();
        exports
            .add(SHARE, path_fd(&folder.0.join(SHARE)), readonly)
            .unwrap();
        let mut device = FsDevice::new(exports.clone(), "runvm").unwrap();
        let driver = FakeDriver::start(&mut device).unwrap();
        let mut guest = Self {
            device,
            driver,
            exports,
            folder,
            unique: 0,
            uid: 0,
            gid: 0,
            share: 0,
        };
        guest.init();
        guest.share = guest.lookup(ROOT_ID, SHARE).unwrap().nodeid;
        Some(guest)
    }

    /// A path on the host.
    fn host(&self, name: &str) -> PathBuf {
        self.folder.0.join(SHARE).join(name)
    }

    fn init(&mut self) -> InitOut {
        let low = u32::MAX;
        let init = InitIn {
            major: 7,
            minor: 41,
            max_readahead: 1 << 17,
            flags: low,
        };
        let mut rest = [0_u32; 12];
        rest[0] = u32::MAX;
        assert_eq!(u64::from(low) & init::INIT_EXT, init::INIT_EXT);
        self.get(opcode::INIT, 0, &[init.as_bytes(), rest.as_bytes()])
            .unwrap()
    }

    /// Sends a request and returns the reply's body.
    fn request(
        &mut self,
        code: u32,
        node: u64,
        args: &[&[u8]],
        room: usize,
    ) -> Result<Vec<u8>, Errno> {
        self.request_with(code, node, args, &[], room)
    }

    fn request_with(
        &mut self,
        code: u32,
        node: u64,
        args: &[&[u8]],
        extensions: &[u8],
        room: usize,
    ) -> Result<Vec<u8>, Errno> {
        let args = [args.concat(), extensions.to_vec()].concat();
        let header = self.header(code, node, args.len(), extensions.len());
        let used = self.driver.call(
            REQUESTS,
            &[header.as_bytes(), &args],
            &[OUT_HEADER_BYTES, room.max(1)],
        );
        let (out, body) = OutHeader::read_from_prefix(&used.bytes).expect("a reply");
        assert_eq!(out.unique, header.unique);
        assert_eq!(out.len as usize, used.bytes.len());
        match out.error {
            0 => Ok(body.to_vec()),
            error => {
                assert!(body.is_empty(), "an error has no body");
                Err(Errno::from_raw_os_error(-error))
            }
        }
    }

    fn header(&mut self, code: u32, node: u64, args: usize, extensions: usize) -> InHeader {
        self.unique += 2;
        InHeader {
            len: u32::try_from(IN_HEADER_BYTES + args).unwrap(),
            opcode: code,
            unique: self.unique,
            nodeid: node,
            uid: self.uid,
            gid: self.gid,
            pid: 1,
            total_extlen: u16::try_from(extensions / 8).unwrap(),
            padding: 0,
        }
    }

    /// Sends a request that is answered by one structure.
    fn get<T: FromBytes + KnownLayout + Immutable>(
        &mut self,
        code: u32,
        node: u64,
        args: &[&[u8]],
    ) -> Result<T, Errno> {
        let body = self.request(code, node, args, size_of::<T>())?;
        Ok(T::read_from_bytes(&body).expect("a reply of the right size"))
    }

    /// Sends a request that is answered by success alone.
    fn done(&mut self, code: u32, node: u64, args: &[&[u8]]) -> Result<(), Errno> {
        self.request(code, node, args, 0)
            .map(|body| assert!(body.is_empty()))
    }

    fn lookup(&mut self, parent: u64, name: &str) -> Result<EntryOut, Errno> {
        self.get(opcode::LOOKUP, parent, &[&nul(name)])
    }

    /// Looks a name in [`SHARE`] up.
    fn find(&mut self, name: &str) -> EntryOut {
        self.lookup(self.share, name).unwrap()
    }

    fn forget(&mut self, node: u64, nlookup: u64) {
        let args = ForgetIn { nlookup };
        let header = self.header(opcode::FORGET, node, args.as_bytes().len(), 0);
        let used = self
            .driver
            .call(HIPRIO, &[header.as_bytes(), args.as_bytes()], &[]);
        assert_eq!(used.len, 0);
    }

    fn getattr(&mut self, node: u64) -> Result<wire::Attr, Errno> {
        let args = GetattrIn::default();
        self.get::<AttrOut>(opcode::GETATTR, node, &[args.as_bytes()])
            .map(|out| out.attr)
    }

    fn setattr(&mut self, node: u64, args: SetattrIn) -> Result<wire::Attr, Errno> {
        self.get::<AttrOut>(opcode::SETATTR, node, &[args.as_bytes()])
            .map(|out| out.attr)
    }

    fn mkdir(&mut self, parent: u64, name: &str, mode: u32, umask: u32) -> Result<EntryOut, Errno> {
        self.get(
            opcode::MKDIR,
            parent,
            &[MkdirIn { mode, umask }.as_bytes(), &nul(name)],
        )
    }

    fn mknod(&mut self, parent: u64, name: &str, mode: u32, rdev: u32) -> Result<EntryOut, Errno> {
        let args = MknodIn {
            mode,
            rdev,
            umask: 0,
            padding: 0,
        };
        self.get(opcode::MKNOD, parent, &[args.as_bytes(), &nul(name)])
    }

    fn symlink(&mut self, parent: u64, name: &str, target: &str) -> Result<EntryOut, Errno> {
        self.get(opcode::SYMLINK, parent, &[&nul(name), &nul(target)])
    }

    fn create(
        &mut self,
        parent: u64,
        name: &str,
        flags: i32,
        mode: u32,
    ) -> Result<(EntryOut, Open), Errno> {
        self.create_with(opcode::CREATE, parent, name, flags, mode, 0)
    }

    fn create_with(
        &mut self,
        code: u32,
        parent: u64,
        name: &str,
        flags: i32,
        mode: u32,
        umask: u32,
    ) -> Result<(EntryOut, Open), Errno> {
        let flags = flags.cast_unsigned();
        let args = CreateIn {
            flags,
            mode: mode | libc::S_IFREG,
            umask,
            open_flags: 0,
        };
        let room = size_of::<EntryOut>() + size_of::<OpenOut>();
        let body = self.request(code, parent, &[args.as_bytes(), &nul(name)], room)?;
        let (entry, rest) = EntryOut::read_from_prefix(&body).unwrap();
        let opened = OpenOut::read_from_bytes(rest).unwrap();
        Ok((
            entry,
            Open {
                node: entry.nodeid,
                fh: opened.fh,
                flags,
            },
        ))
    }

    fn open(&mut self, node: u64, flags: i32) -> Result<Open, Errno> {
        self.open_out(node, flags, 0).map(|(open, _)| open)
    }

    fn open_out(
        &mut self,
        node: u64,
        flags: i32,
        open_flags: u32,
    ) -> Result<(Open, OpenOut), Errno> {
        let flags = flags.cast_unsigned();
        let out: OpenOut = self.get(
            opcode::OPEN,
            node,
            &[OpenIn { flags, open_flags }.as_bytes()],
        )?;
        Ok((
            Open {
                node,
                fh: out.fh,
                flags,
            },
            out,
        ))
    }

    fn opendir(&mut self, node: u64) -> Result<Open, Errno> {
        let out: OpenOut = self.get(opcode::OPENDIR, node, &[OpenIn::default().as_bytes()])?;
        Ok(Open {
            node,
            fh: out.fh,
            flags: 0,
        })
    }

    fn release(&mut self, open: Open) -> Result<(), Errno> {
        let args = ReleaseIn {
            fh: open.fh,
            ..ReleaseIn::default()
        };
        self.done(opcode::RELEASE, open.node, &[args.as_bytes()])
    }

    fn read(&mut self, open: Open, offset: u64, size: usize) -> Result<Vec<u8>, Errno> {
        let size_field = u32::try_from(size).unwrap();
        let args = ReadIn {
            fh: open.fh,
            offset,
            size: size_field,
            ..ReadIn::default()
        };
        self.request(opcode::READ, open.node, &[args.as_bytes()], size)
    }

    fn write(&mut self, open: Open, offset: u64, bytes: &[u8]) -> Result<u32, Errno> {
        self.write_with(open, offset, bytes, 0)
    }

    fn write_with(
        &mut self,
        open: Open,
        offset: u64,
        bytes: &[u8],
        write_flags: u32,
    ) -> Result<u32, Errno> {
        let size = u32::try_from(bytes.len()).unwrap();
        let args = WriteIn {
            fh: open.fh,
            offset,
            size,
            write_flags,
            flags: open.flags,
            ..WriteIn::default()
        };
        let out: WriteOut = self.get(opcode::WRITE, open.node, &[args.as_bytes(), bytes])?;
        Ok(out.size)
    }
}

/// An `O_PATH` descriptor, as exports are handed in.
fn path_fd(path: &Path) -> OwnedFd {
    use rustix::fs::{CWD, Mode, OFlags};
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// A name as it travels.
fn nul(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

/// How many descriptors this process has of files below `folder`.
fn descriptors_below(folder: &Path) -> usize {
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter(|target| target.starts_with(folder))
        .count()
}

/// Whether the file system below `folder` has handles for this process.
fn has_handles(folder: &Path) -> bool {
    use std::os::fd::AsFd;
    let Ok(file) = File::open(folder) else {
        return false;
    };
    let handle = runvm_sys::file_handle::FileHandle::of(file.as_fd());
    handle.is_ok_and(|handle| handle.open(file.as_fd(), rustix::fs::OFlags::PATH).is_ok())
}
