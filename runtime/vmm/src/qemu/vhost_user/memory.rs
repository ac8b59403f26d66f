//! The guest's memory as the front end describes it.

use std::fs::File;
use std::io;

use vhost::vhost_user::message::VhostUserMemoryRegion;
use vhost::vhost_user::{Error, Result};
use vm_memory::{GuestAddress, GuestMemoryAtomic, GuestMemoryMmap, GuestRegionMmap};

use crate::devices::GuestMemory;

/// The memory mapped here, and where the front end has it mapped itself: it names rings by its
/// own addresses.
#[derive(Debug, Default)]
pub(super) struct MemoryTable {
    shared: Option<GuestMemory>,
    ranges: Vec<Range>,
}

#[derive(Debug)]
struct Range {
    front_end: u64,
    guest: u64,
    bytes: u64,
}

impl MemoryTable {
    /// Maps a new table in the place of the old one; a device that runs sees the new one.
    pub(super) fn replace(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
    ) -> Result<()> {
        if regions.len() != files.len() {
            return Err(Error::IncorrectFds);
        }
        let mapped: Vec<_> = regions
            .iter()
            .zip(files)
            .map(|(region, file)| map(region, file))
            .collect::<Result<_>>()?;
        // This refuses regions that overlap.
        let memory = GuestMemoryMmap::from_regions(mapped)
            .map_err(|error| Error::ReqHandlerError(io::Error::other(error)))?;
        match &self.shared {
            None => self.shared = Some(GuestMemoryAtomic::new(memory)),
            Some(shared) => {
                shared
                    .lock()
                    .map_err(|_| Error::BackendInternalError)?
                    .replace(memory);
            }
        }
        self.ranges = regions.iter().map(Range::of).collect();
        Ok(())
    }

    /// The memory, once the front end has described it.
    pub(super) fn shared(&self) -> Option<GuestMemory> {
        self.shared.clone()
    }

    /// The guest's address of what the front end has at `at`.
    pub(super) fn guest_address(&self, at: u64) -> Result<GuestAddress> {
        let found = self.ranges.iter().find_map(|range| range.guest_address(at));
        found.ok_or(Error::InvalidParam)
    }
}

impl Range {
    fn of(region: &VhostUserMemoryRegion) -> Self {
        Self {
            front_end: region.user_addr,
            guest: region.guest_phys_addr,
            bytes: region.memory_size,
        }
    }

    fn guest_address(&self, at: u64) -> Option<GuestAddress> {
        let offset = at
            .checked_sub(self.front_end)
            .filter(|&offset| offset < self.bytes)?;
        self.guest.checked_add(offset).map(GuestAddress)
    }
}

fn map(region: &VhostUserMemoryRegion, file: File) -> Result<GuestRegionMmap> {
    // Beyond the end of its file a mapping is a trap (SIGBUS), and mmap(2) does not say so.
    let bytes = file.metadata().map_err(Error::ReqHandlerError)?.len();
    let end = region.mmap_offset.checked_add(region.memory_size);
    if end.is_none_or(|end| end > bytes) {
        return Err(Error::InvalidParam);
    }
    let at = GuestAddress(region.guest_phys_addr);
    GuestRegionMmap::new(region.mmap_region(file)?, at).ok_or(Error::InvalidParam)
}
