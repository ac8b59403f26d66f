//! One descriptor chain, walked once: what the driver sent, and where the reply goes.

use std::collections::VecDeque;

use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

/// The readable part of a chain, from its start on. Every byte is read at most once.
pub(crate) struct Readable<'m> {
    slices: VecDeque<VolatileSlice<'m>>,
    len: usize,
}

/// The writable part of a chain, from its start on.
pub(crate) struct Writable<'m> {
    slices: VecDeque<VolatileSlice<'m>>,
    len: usize,
}

/// Walks a chain, or returns `None` for one that no driver may make (virtio 1.2, section 2.7.4.2):
/// cut off or endless, with a buffer outside of memory, or readable after writable.
pub(crate) fn split<'m>(
    chain: DescriptorChain<&'m GuestMemoryMmap>,
    memory: &'m GuestMemoryMmap,
) -> Option<(Readable<'m>, Writable<'m>)> {
    let mut readable = VecDeque::new();
    let mut writable = VecDeque::new();
    let mut complete = false;
    for descriptor in chain {
        // The iterator ends without a word on a loop, a bad index or a bad table.
        complete = !descriptor.has_next();
        let (part, access) = match descriptor.is_write_only() {
            true => (&mut writable, Permissions::Write),
            false if writable.is_empty() => (&mut readable, Permissions::Read),
            false => return None,
        };
        let len = usize::try_from(descriptor.len()).ok()?;
        for slice in GuestMemory::get_slices(memory, descriptor.addr(), len, access).ok()? {
            part.push_back(slice.ok()?);
        }
    }
    complete.then(|| (Readable::new(readable), Writable::new(writable)))
}

impl<'m> Readable<'m> {
    pub(crate) fn new(slices: VecDeque<VolatileSlice<'m>>) -> Self {
        let len = total(&slices);
        Self { slices, len }
    }

    /// How many bytes are left.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Forgets what lies beyond the next `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Copies the next bytes, as many as there are, and returns how many those were.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> usize {
        let wanted = buffer.len().min(self.len);
        let mut done = 0;
        while done < wanted {
            let Some(slice) = self.slices.pop_front() else {
                break;
            };
            let now = slice.copy_to(&mut buffer[done..wanted]);
            done += now;
            if let Ok(rest) = slice.offset(now)
                && !rest.is_empty()
            {
                self.slices.push_front(rest);
            }
        }
        self.len -= done;
        done
    }
}

impl<'m> Writable<'m> {
    pub(crate) fn new(slices: VecDeque<VolatileSlice<'m>>) -> Self {
        let len = total(&slices);
        Self { slices, len }
    }

    /// How many bytes there is room for.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Takes the next `len` bytes away, to be written later; `None` when there are fewer.
    pub(crate) fn take(&mut self, len: usize) -> Option<Self> {
        if len > self.len {
            return None;
        }
        let mut taken = VecDeque::new();
        let mut left = len;
        while left > 0 {
            let slice = self.slices.pop_front()?;
            if slice.len() > left {
                self.slices.push_front(slice.offset(left).ok()?);
                taken.push_back(slice.subslice(0, left).ok()?);
                left = 0;
            } else {
                left -= slice.len();
                taken.push_back(slice);
            }
        }
        self.len -= len;
        Some(Self { slices: taken, len })
    }

    /// Writes as many of `bytes` as there is room for, and returns how many those were.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> usize {
        let wanted = bytes.len().min(self.len);
        let mut done = 0;
        while done < wanted {
            let Some(slice) = self.slices.pop_front() else {
                break;
            };
            let now = slice.len().min(wanted - done);
            slice.copy_from(&bytes[done..done + now]);
            done += now;
            if let Ok(rest) = slice.offset(now)
                && !rest.is_empty()
            {
                self.slices.push_front(rest);
            }
        }
        self.len -= done;
        done
    }
}

/// The length of a chain's part; no chain has 2^32 bytes, so this cannot overflow.
fn total(slices: &VecDeque<VolatileSlice<'_>>) -> usize {
    slices.iter().map(VolatileSlice::len).sum()
}
