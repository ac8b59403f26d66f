//! The wire format of virtio-vsock: the packet header and its numbers (virtio 1.2, section 5.10.6).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The address of the host as the guest sees it: `VMADDR_CID_HOST`.
pub(super) const HOST_CID: u64 = 2;

/// `VIRTIO_VSOCK_TYPE_STREAM`, the one socket type offered.
pub(super) const TYPE_STREAM: u16 = 1;

/// `struct virtio_vsock_hdr`: what every packet starts with.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(super) struct Header {
    pub(super) src_cid: U64,
    pub(super) dst_cid: U64,
    pub(super) src_port: U32,
    pub(super) dst_port: U32,
    /// The payload's length in bytes.
    pub(super) len: U32,
    /// The socket type, `TYPE_STREAM`.
    pub(super) kind: U16,
    /// An [`Op`], or what a broken driver wrote.
    pub(super) op: U16,
    pub(super) flags: U32,
    /// The size of the sender's receive buffer for this connection, in bytes.
    pub(super) buf_alloc: U32,
    /// How many bytes the sender has taken out of that buffer since the start, modulo 2^32.
    pub(super) fwd_cnt: U32,
}

/// The size of a packet's header in bytes.
pub(super) const HEADER_BYTES: usize = size_of::<Header>();

/// `enum virtio_vsock_op`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Op {
    Request = 1,
    Response = 2,
    Rst = 3,
    Shutdown = 4,
    /// Payload.
    Rw = 5,
    CreditUpdate = 6,
    CreditRequest = 7,
}

impl Op {
    /// The operation of a header, unless it is one that the specification does not know.
    pub(super) fn of(header: &Header) -> Option<Self> {
        Some(match header.op.get() {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Rst,
            4 => Self::Shutdown,
            5 => Self::Rw,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// The halves of a connection that one side has ended: the flags of a SHUTDOWN packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    /// It receives no more: `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`.
    pub(super) receive: bool,
    /// It sends no more: `VIRTIO_VSOCK_SHUTDOWN_F_SEND`.
    pub(super) send: bool,
}

impl Ended {
    pub(super) const NEITHER: Self = Self {
        receive: false,
        send: false,
    };
    pub(super) const BOTH: Self = Self {
        receive: true,
        send: true,
    };

    /// The halves that a SHUTDOWN packet's flags name; unknown flags mean nothing.
    pub(super) fn from_flags(flags: u32) -> Self {
        Self {
            receive: flags & 1 != 0,
            send: flags & 2 != 0,
        }
    }

    pub(super) fn flags(self) -> u32 {
        u32::from(self.receive) | u32::from(self.send) << 1
    }

    /// The halves that either of the two has ended. An ended half never opens again.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            receive: self.receive || other.receive,
            send: self.send || other.send,
        }
    }
}

/// The two ports that, within one virtual machine, name a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) host: u32,
    pub(super) guest: u32,
}

impl Header {
    /// The ports of a packet that came from the guest.
    pub(super) fn ports_from_guest(&self) -> Ports {
        Ports {
            host: self.dst_port.get(),
            guest: self.src_port.get(),
        }
    }

    /// The RST that answers this packet of the guest's.
    pub(super) fn reset(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: U16::new(Op::Rst as u16),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_44_bytes_in_the_order_of_the_specification() {
        let header = Header {
            src_cid: 3.into(),
            dst_cid: 2.into(),
            src_port: 0x0403_0201.into(),
            dst_port: 1024.into(),
            len: 5.into(),
            kind: 1.into(),
            op: 5.into(),
            flags: 7.into(),
            buf_alloc: 8.into(),
            fwd_cnt: 9.into(),
        };
        let bytes = header.as_bytes();
        assert_eq!(bytes.len(), 44);
        assert_eq!(bytes[16..20], [1, 2, 3, 4]);
        assert_eq!((bytes[24], bytes[28], bytes[30], bytes[32]), (5, 1, 5, 7));
        assert_eq!((bytes[36], bytes[40]), (8, 9));
    }

    #[test]
    fn the_flags_of_a_shutdown_survive_a_round_trip_and_unknown_ones_do_not() {
        for flags in 0..4 {
            assert_eq!(Ended::from_flags(flags).flags(), flags);
        }
        assert_eq!(Ended::from_flags(0xffff_fffc), Ended::NEITHER);
    }
}
