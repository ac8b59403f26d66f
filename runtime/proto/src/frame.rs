//! The unit of every conversation: a JSON header and raw bytes.
//!
//! ```text
//! u32 little endian  length of the header, at most HEADER_LIMIT
//! u32 little endian  length of the payload, at most PAYLOAD_LIMIT
//! header             one JSON value
//! payload            bytes
//! ```

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest header, in bytes.
pub const HEADER_LIMIT: u32 = 1 << 20;
/// The longest payload, in bytes: a config.json is the largest thing that travels.
pub const PAYLOAD_LIMIT: u32 = 16 << 20;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A part of the frame is longer than the protocol allows.
    #[error("frame {part} of {length} bytes is longer than the limit of {limit}")]
    TooLong {
        /// "header" or "payload".
        part: &'static str,
        /// Its length.
        length: u64,
        /// The longest allowed.
        limit: u32,
    },
    /// The other side ended the connection within a frame.
    #[error("connection ended within a frame: {missing} bytes missing of its {part}")]
    Truncated {
        /// "length", "header" or "payload".
        part: &'static str,
        /// How much more was announced.
        missing: u64,
    },
    /// The header is not the JSON expected.
    #[error("cannot decode the header of a frame")]
    Decode(#[source] serde_json::Error),
    /// The header cannot be put as JSON.
    #[error("cannot encode the header of a frame")]
    Encode(#[source] serde_json::Error),
    /// The connection fails.
    #[error("cannot read a frame")]
    Read(#[source] io::Error),
    /// The connection fails.
    #[error("cannot write a frame")]
    Write(#[source] io::Error),
}

/// Writes one frame.
///
/// It goes out in one call where the writer takes it whole, so that the other side wakes once.
pub fn write(
    to: &mut impl Write,
    header: &impl Serialize,
    payload: &[u8],
) -> Result<(), FrameError> {
    let header = serde_json::to_vec(header).map_err(FrameError::Encode)?;
    let header_length = checked_length("header", header.len(), HEADER_LIMIT)?;
    let payload_length = checked_length("payload", payload.len(), PAYLOAD_LIMIT)?;
    let mut frame = Vec::with_capacity(8 + header.len() + payload.len());
    frame.extend_from_slice(&header_length.to_le_bytes());
    frame.extend_from_slice(&payload_length.to_le_bytes());
    frame.extend_from_slice(&header);
    frame.extend_from_slice(payload);
    to.write_all(&frame)
        .and_then(|()| to.flush())
        .map_err(FrameError::Write)
}

/// Reads one frame and not a byte more; `None` when the connection ended before one began.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> Result<Option<(T, Vec<u8>)>, FrameError> {
    let lengths = read_up_to(from, 8)?;
    if lengths.is_empty() {
        return Ok(None);
    }
    let [h0, h1, h2, h3, p0, p1, p2, p3] = lengths[..] else {
        return Err(FrameError::Truncated {
            part: "length",
            missing: missing(8, &lengths),
        });
    };
    let header_length = u32::from_le_bytes([h0, h1, h2, h3]);
    let payload_length = u32::from_le_bytes([p0, p1, p2, p3]);
    // Both are checked before anything is read, and so before anything is allocated.
    check_limit("header", u64::from(header_length), HEADER_LIMIT)?;
    check_limit("payload", u64::from(payload_length), PAYLOAD_LIMIT)?;
    let header = read_part(from, "header", header_length)?;
    let payload = read_part(from, "payload", payload_length)?;
    let header = serde_json::from_slice(&header).map_err(FrameError::Decode)?;
    Ok(Some((header, payload)))
}

fn read_part(from: &mut impl Read, part: &'static str, length: u32) -> Result<Vec<u8>, FrameError> {
    let bytes = read_up_to(from, length)?;
    match missing(length, &bytes) {
        0 => Ok(bytes),
        missing => Err(FrameError::Truncated { part, missing }),
    }
}

/// Reads `length` bytes, or fewer where the connection ends. Memory grows with what arrives, not
/// with what was announced.
fn read_up_to(from: &mut impl Read, length: u32) -> Result<Vec<u8>, FrameError> {
    let mut bytes = Vec::new();
    from.take(u64::from(length))
        .read_to_end(&mut bytes)
        .map_err(FrameError::Read)?;
    Ok(bytes)
}

fn missing(length: u32, bytes: &[u8]) -> u64 {
    u64::from(length).saturating_sub(bytes.len() as u64)
}

fn checked_length(part: &'static str, length: usize, limit: u32) -> Result<u32, FrameError> {
    check_limit(part, length as u64, limit)?;
    // Cannot fail: it is within a u32 limit.
    u32::try_from(length).map_err(|_| FrameError::TooLong {
        part,
        length: length as u64,
        limit,
    })
}

fn check_limit(part: &'static str, length: u64, limit: u32) -> Result<(), FrameError> {
    if length > u64::from(limit) {
        return Err(FrameError::TooLong {
            part,
            length,
            limit,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{FrameError, HEADER_LIMIT, PAYLOAD_LIMIT, read, write};
    use crate::{Answer, Process, Request, StreamHeader};

    fn frame(header: u32, payload: u32, rest: &[u8]) -> Vec<u8> {
        [&header.to_le_bytes()[..], &payload.to_le_bytes()[..], rest].concat()
    }

    fn a_create() -> Vec<u8> {
        let request = Request::Create {
            container: "web".into(),
            streams: vec![crate::Stream::Stdout],
            no_new_keyring: true,
        };
        let mut bytes = Vec::new();
        write(&mut bytes, &request, br#"{"ociVersion":"1.0.2"}"#).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read_and_nothing_behind_it() {
        let mut bytes = a_create();
        bytes.extend_from_slice(b"more");
        let mut rest = &bytes[..];
        let (request, payload) = read::<Request>(&mut rest).unwrap().expect("a frame");
        assert!(matches!(request, Request::Create { container, .. } if container == "web"));
        assert_eq!(payload, br#"{"ociVersion":"1.0.2"}"#);
        assert_eq!(rest, b"more");
    }

    #[test]
    fn an_end_between_frames_is_no_error() {
        assert!(read::<Request>(&mut &b""[..]).unwrap().is_none());
    }

    #[test]
    fn every_truncation_is_told_from_an_end() {
        let bytes = a_create();
        for length in 1..bytes.len() {
            let error = read::<Request>(&mut &bytes[..length]).unwrap_err();
            assert!(
                matches!(error, FrameError::Truncated { .. }),
                "{length} bytes: {error}"
            );
        }
    }

    /// A reader that must not be read: announces lengths and nothing else.
    struct LengthsOnly(Vec<u8>);

    impl std::io::Read for LengthsOnly {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            assert!(!self.0.is_empty(), "read on after hostile lengths");
            let count = buffer.len().min(self.0.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0.drain(..count);
            Ok(count)
        }
    }

    #[test]
    fn hostile_lengths_are_refused_before_anything_is_read_for_them() {
        for (header, payload, part) in [
            (HEADER_LIMIT + 1, 0, "header"),
            (u32::MAX, u32::MAX, "header"),
            (2, PAYLOAD_LIMIT + 1, "payload"),
            (2, u32::MAX, "payload"),
        ] {
            let error = read::<Request>(&mut LengthsOnly(frame(header, payload, b""))).unwrap_err();
            assert!(
                matches!(error, FrameError::TooLong { part: p, .. } if p == part),
                "{error}"
            );
        }
    }

    #[test]
    fn a_payload_above_the_limit_is_not_sent() {
        let payload = vec![0; PAYLOAD_LIMIT as usize + 1];
        let mut sent = Vec::new();
        assert!(matches!(
            write(&mut sent, &Request::Shutdown, &payload),
            Err(FrameError::TooLong {
                part: "payload",
                ..
            })
        ));
        assert!(sent.is_empty());
    }

    #[test]
    fn a_header_that_is_not_the_message_is_refused() {
        let bytes = frame(9, 0, br#""Sh0tdown"#);
        assert!(matches!(
            read::<Request>(&mut &bytes[..]),
            Err(FrameError::Decode(_))
        ));
    }

    /// Marsaglia's xorshift: the same mutations on every run.
    struct Xorshift(u64);

    impl Xorshift {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 % limit as u64).unwrap()
        }
    }

    #[test]
    fn no_mutation_of_a_frame_does_more_than_fail() {
        let process = Process {
            container: "web".into(),
            exec: Some("e1".into()),
        };
        let mut seeds = vec![a_create()];
        for request in [
            Request::Wait {
                process: process.clone(),
            },
            Request::Shutdown,
        ] {
            let mut bytes = Vec::new();
            write(&mut bytes, &request, b"payload").unwrap();
            seeds.push(bytes);
        }
        let mut random = Xorshift(0x9e37_79b9_7f4a_7c15);
        for round in 0..30_000 {
            let mut bytes = seeds[round % seeds.len()].clone();
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len());
                match random.below(4) {
                    0 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                    1 => bytes[at] ^= 1 << random.below(8),
                    2 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, u8::try_from(random.below(256)).unwrap()),
                }
            }
            // Whatever it decodes to, it must not panic, nor hold more than arrived.
            if let Ok(Some((_, payload))) = read::<Request>(&mut &bytes[..]) {
                assert!(payload.len() <= bytes.len());
            }
            let _ = read::<Answer>(&mut &bytes[..]);
            let _ = read::<StreamHeader>(&mut &bytes[..]);
        }
    }
}
