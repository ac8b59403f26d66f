//! bpf(2) as far as device control of a cgroup needs it: programs of the type
//! `BPF_PROG_TYPE_CGROUP_DEVICE`, loaded, attached and detached.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

// enum bpf_cmd, bpf_prog_type, bpf_attach_type and flags of linux/bpf.h.
const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_DETACH: i32 = 9;
const BPF_PROG_GET_FD_BY_ID: i32 = 13;
const BPF_PROG_QUERY: i32 = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;

/// More programs than this a cgroup cannot have (BPF_CGROUP_MAX_PROGS).
const PROGRAMS_MAX: u8 = 64;

/// One eBPF instruction. Layout: `struct bpf_insn` (linux/bpf.h).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u8,
    /// The destination register in the low four bits, the source register in the high four.
    pub registers: u8,
    /// For a jump: how many instructions to skip.
    pub offset: i16,
    /// The constant operand.
    pub immediate: i32,
}

/// The members of `union bpf_attr` that BPF_PROG_LOAD reads; the kernel takes what is beyond its
/// end as zero.
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The members that BPF_PROG_ATTACH and BPF_PROG_DETACH read.
#[repr(C)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// The members that BPF_PROG_QUERY reads and writes.
#[repr(C)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

/// The members that BPF_PROG_GET_FD_BY_ID reads.
#[repr(C)]
struct IdAttr {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

/// A loaded program that decides about the devices of a cgroup.
#[derive(Debug)]
pub struct DeviceProgram(OwnedFd);

impl DeviceProgram {
    /// Has the kernel verify and load a program. It gets a `struct bpf_cgroup_dev_ctx` and
    /// returns 1 to allow the access, 0 to deny it.
    pub fn load(program: &[Instruction]) -> io::Result<Self> {
        let mut attr = LoadAttr {
            prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
            insn_cnt: u32::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
            insns: program.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buf: 0,
            kern_version: 0,
            prog_flags: 0,
        };
        // SAFETY: LoadAttr begins as the union's member for this command; `insns` and `license`
        // point to memory that outlives the call, of the length told, which is only read.
        let fd = unsafe { bpf_open(BPF_PROG_LOAD, &mut attr) }?;
        Ok(Self(fd))
    }

    /// Opens each program attached to the cgroup itself.
    pub fn attached_to(cgroup: BorrowedFd<'_>) -> io::Result<Vec<Self>> {
        let mut ids = [0_u32; PROGRAMS_MAX as usize];
        let mut attr = QueryAttr {
            target_fd: number(cgroup),
            attach_type: BPF_CGROUP_DEVICE,
            query_flags: 0,
            attach_flags: 0,
            prog_ids: ids.as_mut_ptr() as u64,
            prog_cnt: PROGRAMS_MAX.into(),
            padding: 0,
        };
        // SAFETY: QueryAttr begins as the union's member for this command; `prog_ids` points to
        // room for `prog_cnt` ids, which lives until after the call.
        unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
        let attached = ids.iter().zip(0..attr.prog_cnt);
        attached.map(|(id, _)| Self::with_id(*id)).collect()
    }

    fn with_id(prog_id: u32) -> io::Result<Self> {
        let mut attr = IdAttr {
            prog_id,
            next_id: 0,
            open_flags: 0,
        };
        // SAFETY: IdAttr begins as the union's member for this command and has no pointers.
        let fd = unsafe { bpf_open(BPF_PROG_GET_FD_BY_ID, &mut attr) }?;
        Ok(Self(fd))
    }

    /// Attaches the program to the cgroup beside those that are there: all must allow an access.
    pub fn attach(&self, cgroup: BorrowedFd<'_>) -> io::Result<()> {
        self.change(BPF_PROG_ATTACH, cgroup, BPF_F_ALLOW_MULTI)
    }

    /// Takes the program off the cgroup.
    pub fn detach(&self, cgroup: BorrowedFd<'_>) -> io::Result<()> {
        self.change(BPF_PROG_DETACH, cgroup, 0)
    }

    fn change(&self, command: i32, cgroup: BorrowedFd<'_>, flags: u32) -> io::Result<()> {
        let mut attr = AttachAttr {
            target_fd: number(cgroup),
            attach_bpf_fd: number(self.0.as_fd()),
            attach_type: BPF_CGROUP_DEVICE,
            attach_flags: flags,
        };
        // SAFETY: AttachAttr begins as the union's member for both commands, without pointers.
        unsafe { bpf(command, &mut attr) }?;
        Ok(())
    }
}

/// # Safety
///
/// `attr` must begin as `union bpf_attr` does for `command`, and its pointers be good for it.
unsafe fn bpf<T>(command: i32, attr: &mut T) -> io::Result<i32> {
    let attr: *mut T = attr;
    // SAFETY: `attr` is `size_of::<T>()` bytes that may be written; for the rest, see above.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// As [`bpf`], for a command that returns a new descriptor, which is close-on-exec.
///
/// # Safety
///
/// As for [`bpf`], and `command` must be such a one.
unsafe fn bpf_open<T>(command: i32, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: the kernel has just returned this descriptor, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor's number; one that is open is not negative.
fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}
