//! Taps: Ethernet interfaces whose wire is a descriptor (linux/if_tun.h).

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use libc::{
    Ioctl, TUNGETIFF, TUNSETIFF, TUNSETOFFLOAD, TUNSETQUEUE, TUNSETVNETHDRSZ, c_char, c_int,
    c_short,
};
use rustix::fs::{CWD, Mode, OFlags, openat};

/// Frames are given and taken with their checksum still to be computed.
pub const OFFLOAD_CHECKSUM: u32 = libc::TUN_F_CSUM;
/// Frames of TCP over IPv4 that are longer than the link takes.
pub const OFFLOAD_TSO4: u32 = libc::TUN_F_TSO4;
/// The same over IPv6.
pub const OFFLOAD_TSO6: u32 = libc::TUN_F_TSO6;
/// Such frames of TCP with ECN.
pub const OFFLOAD_TSO_ECN: u32 = libc::TUN_F_TSO_ECN;
/// Datagrams of UDP over IPv4, many of one size in one frame; together with [`OFFLOAD_USO6`]. Linux 6.2.
pub const OFFLOAD_USO4: u32 = libc::TUN_F_USO4;
/// The same over IPv6.
pub const OFFLOAD_USO6: u32 = libc::TUN_F_USO6;

/// `struct virtio_net_hdr_mrg_rxbuf`, which stands before each frame.
pub const HEADER_BYTES: usize = 12;

/// A tap that was just made.
#[derive(Debug)]
pub struct NewTap {
    /// Its queues.
    pub queues: Vec<Tap>,
    /// Its number among the interfaces of its namespace.
    pub index: u32,
}

/// One queue of a tap. The interface is gone when the last of its queues is closed.
#[derive(Debug)]
pub struct Tap(OwnedFd);

impl Tap {
    /// Makes a tap in the calling thread's network namespace, with this many queues; gives it the first
    /// free name for `pattern`, in which `%d` stands for a number.
    pub fn create(pattern: &str, queues: usize) -> io::Result<NewTap> {
        let mut name = pattern.to_owned();
        let mut taps = Vec::with_capacity(queues);
        for _ in 0..queues {
            let tap = Self::open(&name, queues > 1)?;
            name = tap.name()?;
            taps.push(tap);
        }
        let index = index_of(&name)?;
        Ok(NewTap {
            queues: taps,
            index,
        })
    }

    fn open(name: &str, multi_queue: bool) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let tap = Self(openat(CWD, "/dev/net/tun", flags, Mode::empty())?);
        let mut request = named(name)?;
        let several = if multi_queue {
            libc::IFF_MULTI_QUEUE
        } else {
            0
        };
        request.ifr_ifru.ifru_flags =
            short(libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several);
        tap.request(TUNSETIFF, &mut request)?;
        let bytes = c_int::try_from(HEADER_BYTES).unwrap_or(c_int::MAX);
        // SAFETY: this request reads one integer, which outlives the call.
        let answer = unsafe { libc::ioctl(tap.0.as_raw_fd(), TUNSETVNETHDRSZ, &raw const bytes) };
        checked(answer)?;
        Ok(tap)
    }

    /// Takes over a queue that [`create`](Self::create) made in another process.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The interface's name.
    pub fn name(&self) -> io::Result<String> {
        let mut request = named("")?;
        self.request(TUNGETIFF, &mut request)?;
        let bytes = request.ifr_name.map(c_char::cast_unsigned);
        let name = CStr::from_bytes_until_nul(&bytes).map_err(io::Error::other)?;
        Ok(name.to_string_lossy().into_owned())
    }

    /// Says which frames the reader takes that no real link would: `OFFLOAD_*`. For all queues.
    pub fn set_offload(&self, offloads: u32) -> io::Result<()> {
        // SAFETY: the argument of this request is a number, not an address.
        checked(unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                TUNSETOFFLOAD,
                libc::c_ulong::from(offloads),
            )
        })
    }

    /// Whether frames come to this queue, of several. One that has it already is left as it is.
    pub fn set_attached(&self, attached: bool) -> io::Result<()> {
        let mut request = named("")?;
        request.ifr_ifru.ifru_flags = short(if attached {
            libc::IFF_ATTACH_QUEUE
        } else {
            libc::IFF_DETACH_QUEUE
        });
        match self.request(TUNSETQUEUE, &mut request) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            answer => answer,
        }
    }

    /// Takes the next frame with its header; what does not fit is lost.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, buffer)?)
    }

    /// Sends a frame with its header.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        rustix::io::write(&self.0, frame)?;
        Ok(())
    }

    fn request(&self, request: Ioctl, argument: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: the requests that come here read and write one `struct ifreq`, which is valid and
        // outlives the call.
        checked(unsafe { libc::ioctl(self.0.as_raw_fd(), request, &raw mut *argument) })
    }
}

impl From<Tap> for OwnedFd {
    fn from(tap: Tap) -> Self {
        tap.0
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn index_of(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: `name` is a terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(index)
}

fn named(name: &str) -> io::Result<libc::ifreq> {
    let mut ifr_name: [c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
    // The last byte stays zero.
    if name.len() >= ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(libc::ifreq {
        ifr_name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    })
}

/// Flags as `struct ifreq` has them: of 16 bits.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the flags of taps lie below 2^16"
)]
fn short(flags: c_int) -> c_short {
    flags as c_short
}

fn checked(answer: c_int) -> io::Result<()> {
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
