//! The wire format of virtio-net: what stands before each frame, and the features that it depends
//! on (virtio 1.2, section 5.1).

use runvm_sys::tap;
use virtio_bindings::virtio_net as bit;
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The longest frame that passes, in bytes: what the largest IP packet makes with its Ethernet
/// header (section 5.1.6.3).
pub(super) const MOST_FRAME_BYTES: usize = 65_550;

/// The shortest: an Ethernet header.
const LEAST_FRAME_BYTES: usize = 14;

/// The bit in `gso_type` that says that the segments are TCP's with ECN.
const GSO_ECN: u8 = 0x80;

/// `struct virtio_net_hdr_v1`, on the rings and, by the tap's settings, before its frames.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(super) struct Header {
    pub(super) flags: u8,
    pub(super) gso_type: u8,
    pub(super) header_len: U16,
    pub(super) gso_size: U16,
    pub(super) checksum_start: U16,
    pub(super) checksum_offset: U16,
    /// To the driver: over how many buffers the frame lies.
    pub(super) buffers: U16,
}

const _: () = assert!(size_of::<Header>() == tap::HEADER_BYTES);

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum is still to be computed.
pub(super) const NEEDS_CHECKSUM: u8 = 1;

/// Feature bits, as the driver acknowledged them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features(pub(super) u64);

impl Features {
    /// Whether the feature with this number is among them.
    pub(super) fn has(self, number: u32) -> bool {
        self.0 & 1 << number != 0
    }

    /// What the tap may give this driver: `OFFLOAD_*` of [`tap`].
    pub(super) fn offloads(self) -> u32 {
        // Without the first the others mean nothing (section 5.1.3.1).
        if !self.has(bit::VIRTIO_NET_F_GUEST_CSUM) {
            return 0;
        }
        let wanted = |(number, offload)| if self.has(number) { offload } else { 0 };
        let both = self.has(bit::VIRTIO_NET_F_GUEST_USO4) && self.has(bit::VIRTIO_NET_F_GUEST_USO6);
        let segments = [
            (bit::VIRTIO_NET_F_GUEST_TSO4, tap::OFFLOAD_TSO4),
            (bit::VIRTIO_NET_F_GUEST_TSO6, tap::OFFLOAD_TSO6),
            (bit::VIRTIO_NET_F_GUEST_ECN, tap::OFFLOAD_TSO_ECN),
        ];
        let segments = segments
            .into_iter()
            .map(wanted)
            .fold(0, |all, one| all | one);
        let datagrams = if both { USO } else { 0 };
        tap::OFFLOAD_CHECKSUM | segments | datagrams
    }
}

/// The offloads of UDP, which the kernel takes together.
pub(super) const USO: u32 = tap::OFFLOAD_USO4 | tap::OFFLOAD_USO6;

impl Header {
    /// What of this header, which came from the guest before a frame of `frame_bytes`, the tap is
    /// given; `None` for a frame that a driver with these features must not send.
    pub(super) fn checked(self, frame_bytes: usize, features: Features) -> Option<Self> {
        if !(LEAST_FRAME_BYTES..=MOST_FRAME_BYTES).contains(&frame_bytes) {
            return None;
        }
        let mut checked = Self::default();
        if self.flags & NEEDS_CHECKSUM != 0 {
            let sum_at =
                usize::from(self.checksum_start.get()) + usize::from(self.checksum_offset.get());
            if !features.has(bit::VIRTIO_NET_F_CSUM) || sum_at + 2 > frame_bytes {
                return None;
            }
            checked.flags = NEEDS_CHECKSUM;
            checked.checksum_start = self.checksum_start;
            checked.checksum_offset = self.checksum_offset;
        }
        if self.gso_type == 0 {
            return Some(checked);
        }
        let whole_header = usize::from(self.header_len.get()) <= frame_bytes;
        if !self.may_be_segmented(features) || checked.flags == 0 || !whole_header {
            return None;
        }
        checked.gso_type = self.gso_type;
        checked.gso_size = self.gso_size;
        checked.header_len = self.header_len;
        Some(checked)
    }

    fn may_be_segmented(self, features: Features) -> bool {
        let (kind, ecn) = (self.gso_type & !GSO_ECN, self.gso_type & GSO_ECN != 0);
        let of_kind = match u32::from(kind) {
            bit::VIRTIO_NET_HDR_GSO_TCPV4 => features.has(bit::VIRTIO_NET_F_HOST_TSO4),
            bit::VIRTIO_NET_HDR_GSO_TCPV6 => features.has(bit::VIRTIO_NET_F_HOST_TSO6),
            bit::VIRTIO_NET_HDR_GSO_UDP_L4 => !ecn && features.has(bit::VIRTIO_NET_F_HOST_USO),
            _ => false,
        };
        of_kind && self.gso_size.get() > 0 && (!ecn || features.has(bit::VIRTIO_NET_F_HOST_ECN))
    }

    /// This header, which came from the tap, for a driver with these features and a frame that lies
    /// over `buffers` buffers.
    pub(super) fn for_driver(self, features: Features, buffers: u16) -> Self {
        let flags = if features.has(bit::VIRTIO_NET_F_GUEST_CSUM) {
            self.flags
        } else {
            0
        };
        Self {
            flags,
            buffers: buffers.into(),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Features = Features(u64::MAX);

    fn segments(kind: u32) -> Header {
        Header {
            flags: NEEDS_CHECKSUM,
            gso_type: u8::try_from(kind).unwrap(),
            header_len: 54.into(),
            gso_size: 1448.into(),
            checksum_start: 34.into(),
            checksum_offset: 16.into(),
            buffers: 7.into(),
        }
    }

    #[test]
    fn what_the_features_allow_passes_without_what_is_the_drivers() {
        let tcp = segments(bit::VIRTIO_NET_HDR_GSO_TCPV4);
        let passed = tcp.checked(9000, ALL).unwrap();
        assert_eq!(
            passed,
            Header {
                buffers: 0.into(),
                ..tcp
            }
        );
        assert_eq!(
            Header::default().checked(14, Features(0)),
            Some(Header::default())
        );
    }

    #[test]
    fn what_no_driver_may_send_is_refused() {
        let tcp = segments(bit::VIRTIO_NET_HDR_GSO_TCPV4);
        let plain = Header::default();
        let without = |number: u32| Features(!(1 << number));
        let cases = [
            ("too short", plain, 13, ALL),
            ("too long", plain, MOST_FRAME_BYTES + 1, ALL),
            (
                "checksum not negotiated",
                tcp,
                9000,
                without(bit::VIRTIO_NET_F_CSUM),
            ),
            ("checksum behind the end", tcp, 51, ALL),
            (
                "headers behind the end",
                Header {
                    header_len: 9001.into(),
                    ..tcp
                },
                9000,
                ALL,
            ),
            (
                "segments not negotiated",
                tcp,
                9000,
                without(bit::VIRTIO_NET_F_HOST_TSO4),
            ),
            (
                "segments of nothing",
                Header {
                    gso_size: 0.into(),
                    ..tcp
                },
                9000,
                ALL,
            ),
            (
                "segments without checksum",
                Header { flags: 0, ..tcp },
                9000,
                ALL,
            ),
            (
                "an old kind",
                segments(bit::VIRTIO_NET_HDR_GSO_UDP),
                9000,
                ALL,
            ),
            ("an unknown kind", segments(0x42), 9000, ALL),
            (
                "ECN of datagrams",
                segments(bit::VIRTIO_NET_HDR_GSO_UDP_L4 | 0x80),
                9000,
                ALL,
            ),
            ("ECN of nothing", segments(0x80), 9000, ALL),
            (
                "ECN not negotiated",
                segments(bit::VIRTIO_NET_HDR_GSO_TCPV6 | 0x80),
                9000,
                without(bit::VIRTIO_NET_F_HOST_ECN),
            ),
        ];
        for (name, header, frame_bytes, features) in cases {
            assert_eq!(header.checked(frame_bytes, features), None, "{name}");
        }
    }

    #[test]
    fn the_tap_offloads_what_the_driver_takes() {
        let checksum = 1 << bit::VIRTIO_NET_F_GUEST_CSUM;
        let tso4 = 1 << bit::VIRTIO_NET_F_GUEST_TSO4;
        let uso4 = 1 << bit::VIRTIO_NET_F_GUEST_USO4;
        let uso6 = 1 << bit::VIRTIO_NET_F_GUEST_USO6;
        assert_eq!(Features(tso4).offloads(), 0);
        assert_eq!(Features(checksum).offloads(), tap::OFFLOAD_CHECKSUM);
        let some = Features(checksum | tso4 | uso4).offloads();
        assert_eq!(some, tap::OFFLOAD_CHECKSUM | tap::OFFLOAD_TSO4);
        assert_eq!(
            Features(checksum | uso4 | uso6).offloads(),
            tap::OFFLOAD_CHECKSUM | USO
        );
    }
}
