//! Pieces of guest memory that a descriptor chain names.
//!
//! A driver may cut what it sends into descriptors as it likes (virtio 1.2, section 2.7.4), so
//! nothing here relies on a header having a descriptor of its own.

use std::io;

use virtio_queue::desc::split::Descriptor;
use vm_memory::{
    GuestMemory as _, GuestMemoryMmap, Permissions, ReadVolatile, VolatileMemoryError,
    VolatileSlice, WriteVolatile,
};

/// The longest chain of descriptors that is looked at. A driver must not make one longer than its
/// queue, and no transport gives a device a longer queue; an indirect table could hold 65,535.
const MOST_SLICES: usize = 1024;

/// Pieces of guest memory, in order, every byte of which exists.
#[derive(Debug, Default)]
pub(super) struct Span<'m> {
    slices: Vec<VolatileSlice<'m>>,
    len: usize,
}

impl<'m> Span<'m> {
    /// The memory that descriptors name, or `None` where some of it is not there.
    pub(super) fn gather(
        memory: &'m GuestMemoryMmap,
        descriptors: impl Iterator<Item = Descriptor>,
        access: Permissions,
    ) -> Option<Self> {
        let mut span = Self::default();
        for descriptor in descriptors {
            span.extend(memory, &descriptor, access)?;
        }
        Some(span)
    }

    /// Adds the memory that a descriptor names; `None` where some of it is not there.
    pub(super) fn extend(
        &mut self,
        memory: &'m GuestMemoryMmap,
        descriptor: &Descriptor,
        access: Permissions,
    ) -> Option<()> {
        let len = usize::try_from(descriptor.len()).ok()?;
        for slice in memory.get_slices(descriptor.addr(), len, access).ok()? {
            self.push(slice.ok()?)?;
        }
        Some(())
    }

    fn push(&mut self, slice: VolatileSlice<'m>) -> Option<()> {
        if self.slices.len() == MOST_SLICES {
            return None;
        }
        self.len = self.len.checked_add(slice.len())?;
        self.slices.push(slice);
        Some(())
    }

    /// The length in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Cuts the span in two behind `at` bytes, or gives `None` where it is shorter.
    pub(super) fn split_at(self, at: usize) -> Option<(Self, Self)> {
        let (mut front, mut back) = (Self::default(), Self::default());
        let mut missing = at;
        for slice in self.slices {
            let (before, behind) = slice.split_at(missing.min(slice.len())).ok()?;
            missing -= before.len();
            for (half, part) in [(&mut front, before), (&mut back, behind)] {
                if !part.is_empty() {
                    half.push(part)?;
                }
            }
        }
        (missing == 0).then_some((front, back))
    }

    pub(super) fn copy_to(&self, mut bytes: &mut [u8]) {
        for slice in &self.slices {
            let copied = slice.copy_to(bytes);
            bytes = &mut bytes[copied..];
        }
    }

    pub(super) fn copy_from(&self, mut bytes: &[u8]) {
        for slice in &self.slices {
            let len = slice.len().min(bytes.len());
            slice.copy_from(&bytes[..len]);
            bytes = &bytes[len..];
        }
    }

    /// Reads from `source` straight into the span, at most `most` bytes. An error counts only
    /// where nothing came before it: the next call meets it again.
    pub(super) fn fill(&self, source: &mut impl ReadVolatile, most: usize) -> io::Result<usize> {
        let mut filled = 0;
        for slice in &self.slices {
            let wanted = slice.len().min(most - filled);
            // Reading nothing would look like the end of the stream.
            if wanted == 0 {
                break;
            }
            let Ok(mut target) = slice.subslice(0, wanted) else {
                break;
            };
            match retried(|| source.read_volatile(&mut target)) {
                Ok(read) if read < wanted => return Ok(filled + read),
                Ok(read) => filled += read,
                Err(error) if filled == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(filled)
    }

    /// Writes from the span straight into `sink` until that takes no more; says how much it took.
    /// An error counts only where nothing was taken before it.
    pub(super) fn drain(&self, sink: &mut impl WriteVolatile) -> io::Result<usize> {
        let mut drained = 0;
        for slice in &self.slices {
            match retried(|| sink.write_volatile(slice)) {
                Ok(written) if written < slice.len() => return Ok(drained + written),
                Ok(written) => drained += written,
                Err(error) if drained == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(drained)
    }

    /// A copy of what lies behind the first `from` bytes.
    pub(super) fn copy_behind(self, from: usize) -> Vec<u8> {
        let Some((_, rest)) = self.split_at(from) else {
            return Vec::new();
        };
        let mut bytes = vec![0; rest.len];
        rest.copy_to(&mut bytes);
        bytes
    }
}

/// Repeats an I/O call that a signal interrupts, and unwraps the kernel's own error.
fn retried(mut call: impl FnMut() -> Result<usize, VolatileMemoryError>) -> io::Result<usize> {
    loop {
        match call() {
            Ok(count) => return Ok(count),
            Err(VolatileMemoryError::IOError(error)) => {
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            Err(other) => return Err(io::Error::other(other)),
        }
    }
}
