//! The arguments of a request, taken in order from the local copy of its body.

use std::ffi::CStr;

use rustix::fs::Gid;
use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::wire::{self, ExtHeader};

/// The longest name of a directory entry, `NAME_MAX`.
const NAME_MAX: usize = 255;

/// The body of a request, shrinking as arguments are taken.
pub(super) struct Args<'a>(&'a [u8]);

impl<'a> Args<'a> {
    /// Splits a body into its arguments and the extensions behind them.
    pub(super) fn new(body: &'a [u8], extension_bytes: usize) -> Result<(Self, &'a [u8]), Errno> {
        let arguments = body
            .len()
            .checked_sub(extension_bytes)
            .ok_or(Errno::INVAL)?;
        let (arguments, extensions) = body.split_at(arguments);
        Ok((Self(arguments), extensions))
    }

    /// Takes a structure.
    pub(super) fn take<T: FromBytes + KnownLayout + Immutable>(&mut self) -> Result<T, Errno> {
        let (value, rest) = T::read_from_prefix(self.0).map_err(|_| Errno::INVAL)?;
        self.0 = rest;
        Ok(value)
    }

    /// Takes a string that ends in NUL.
    pub(super) fn string(&mut self) -> Result<&'a CStr, Errno> {
        let string = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::INVAL)?;
        self.0 = &self.0[string.count_bytes() + 1..];
        Ok(string)
    }

    /// Takes the name of a directory entry. It is one component, and never one that leads
    /// somewhere else than to an entry of its directory.
    pub(super) fn name(&mut self) -> Result<&'a CStr, Errno> {
        let name = self.string()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno::INVAL),
            bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
            bytes if bytes.len() > NAME_MAX => Err(Errno::NAMETOOLONG),
            _ => Ok(name),
        }
    }

    /// Takes the next `len` bytes.
    pub(super) fn bytes(&mut self, len: u32) -> Result<&'a [u8], Errno> {
        let len = usize::try_from(len).map_err(|_| Errno::INVAL)?;
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(bytes)
    }
}

/// Finds the supplementary group that the caller shares with the parent directory
/// (`FUSE_CREATE_SUPP_GROUP`; the kernel sends none or one).
pub(super) fn supplementary_group(mut extensions: &[u8]) -> Result<Option<Gid>, Errno> {
    while !extensions.is_empty() {
        let header = ExtHeader::read_from_prefix(extensions)
            .map_err(|_| Errno::INVAL)?
            .0;
        let size = usize::try_from(header.size).map_err(|_| Errno::INVAL)?;
        let padded = size.checked_next_multiple_of(8).ok_or(Errno::INVAL)?;
        if size < size_of::<ExtHeader>() || padded > extensions.len() {
            return Err(Errno::INVAL);
        }
        let body = &extensions[size_of::<ExtHeader>()..size];
        if header.kind == wire::EXT_GROUPS {
            let (count, groups) = u32::read_from_prefix(body).map_err(|_| Errno::INVAL)?;
            return match count {
                0 => Ok(None),
                1 => gid(u32::read_from_prefix(groups).map_err(|_| Errno::INVAL)?.0).map(Some),
                _ => Err(Errno::INVAL),
            };
        }
        extensions = &extensions[padded..];
    }
    Ok(None)
}

/// Checks a group id from the guest; the kernel takes -1 to mean "unchanged".
pub(super) fn gid(raw: u32) -> Result<Gid, Errno> {
    if raw == u32::MAX {
        Err(Errno::INVAL)
    } else {
        Ok(Gid::from_raw(raw))
    }
}

/// Checks a user id from the guest.
pub(super) fn uid(raw: u32) -> Result<rustix::fs::Uid, Errno> {
    if raw == u32::MAX {
        Err(Errno::INVAL)
    } else {
        Ok(rustix::fs::Uid::from_raw(raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(body: &[u8]) -> Result<&CStr, Errno> {
        Args(body).name()
    }

    #[test]
    fn a_name_is_one_component_that_stays_in_its_directory() {
        assert_eq!(name_of(b"file\0rest").unwrap(), c"file");
        assert_eq!(name_of(b"..file\0").unwrap(), c"..file");
        for refused in [
            &b"\0"[..],
            b".\0",
            b"..\0",
            b"a/b\0",
            b"/\0",
            b"../a\0",
            b"open ended",
            b"",
        ] {
            assert_eq!(name_of(refused).unwrap_err(), Errno::INVAL, "{refused:?}");
        }
        let mut long = [b'x'; 257];
        long[256] = 0;
        assert_eq!(name_of(&long).unwrap_err(), Errno::NAMETOOLONG);
    }

    #[test]
    fn extensions_of_any_shape_are_read_within_their_bounds() {
        let groups = |size: u32, kind: u32, count: u32, group: u32| {
            [size, kind, count, group].map(u32::to_le_bytes).concat()
        };
        let found = supplementary_group(&groups(16, wire::EXT_GROUPS, 1, 7)).unwrap();
        assert_eq!(found, Some(Gid::from_raw(7)));
        assert_eq!(supplementary_group(&groups(16, 1, 1, 7)).unwrap(), None);
        for bad in [
            groups(0, wire::EXT_GROUPS, 1, 7),
            groups(17, wire::EXT_GROUPS, 1, 7),
            groups(u32::MAX, wire::EXT_GROUPS, 1, 7),
            groups(12, wire::EXT_GROUPS, 1, 7),
            groups(16, wire::EXT_GROUPS, 2, 7),
            groups(16, wire::EXT_GROUPS, 1, u32::MAX),
            vec![1, 2, 3],
        ] {
            assert_eq!(
                supplementary_group(&bad).unwrap_err(),
                Errno::INVAL,
                "{bad:?}"
            );
        }
    }
}
