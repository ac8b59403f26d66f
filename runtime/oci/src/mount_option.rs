//! The words of a mount's options, in one table: what each does, and what `features` lists.

use crate::{Propagation, PropagationKind};

/// `MOUNT_ATTR_*` of mount_setattr(2), from linux/mount.h.
pub mod mount_attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x01;
    /// Set-user-ID and set-group-ID bits have no effect.
    pub const NOSUID: u64 = 0x02;
    /// Device nodes cannot be opened.
    pub const NODEV: u64 = 0x04;
    /// Nothing can be executed.
    pub const NOEXEC: u64 = 0x08;
    /// The field of bits that holds one of the three below.
    pub const ATIME: u64 = 0x70;
    /// Access times are kept loosely.
    pub const RELATIME: u64 = 0x00;
    /// Access times are not kept.
    pub const NOATIME: u64 = 0x10;
    /// Access times are kept always.
    pub const STRICTATIME: u64 = 0x20;
    /// Access times of directories are not kept.
    pub const NODIRATIME: u64 = 0x80;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = 0x0020_0000;
}

use mount_attr as attr;

/// What an option means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Sets an attribute of the mount.
    Set(u64),
    /// Clears an attribute of the mount.
    Clear(u64),
    /// Chooses how access times are kept, a value of the field [`mount_attr::ATIME`].
    Atime(u64),
    /// Takes back the choice of that value, for the kernel's default.
    NotAtime(u64),
    /// As [`Effect::Set`], for the mounts below too.
    SetRecursive(u64),
    /// As [`Effect::Clear`], for the mounts below too.
    ClearRecursive(u64),
    /// As [`Effect::Atime`], for the mounts below too.
    AtimeRecursive(u64),
    /// As [`Effect::NotAtime`], for the mounts below too.
    NotAtimeRecursive(u64),
    /// Sets or takes back a superblock flag, by its name in fsconfig(2).
    Superblock(&'static str, bool),
    /// Sets or clears `ro`, which both the mount and the superblock have.
    ReadOnly(bool),
    /// How mount events cross.
    Propagation(PropagationKind, bool),
    /// A bind mount, with the mounts below or without.
    Bind { recursive: bool },
    /// Copies what the destination held into the new tmpfs.
    CopyUp,
    /// Maps the ids of the mount, with the mounts below or without.
    Idmap { recursive: bool },
    /// Nothing: the default, or what a mount made anew cannot mean.
    Nothing,
}

use Effect::{
    Atime, AtimeRecursive, Bind, Clear, ClearRecursive, CopyUp, Idmap, NotAtime, NotAtimeRecursive,
    Nothing, ReadOnly, Set, SetRecursive, Superblock,
};
use PropagationKind::{Private, Shared, Slave, Unbindable};

/// Sorted by name, so that a look-up is a search.
const OPTIONS: [(&str, Effect); 62] = [
    ("async", Superblock("sync", false)),
    ("atime", NotAtime(attr::NOATIME)),
    ("bind", Bind { recursive: false }),
    ("defaults", Nothing),
    ("dev", Clear(attr::NODEV)),
    ("diratime", Clear(attr::NODIRATIME)),
    ("dirsync", Superblock("dirsync", true)),
    ("exec", Clear(attr::NOEXEC)),
    ("idmap", Idmap { recursive: false }),
    // fsconfig(2) has no such flag: file systems that count versions now always do.
    ("iversion", Nothing),
    ("lazytime", Superblock("lazytime", true)),
    ("loud", Nothing),
    ("mand", Superblock("mand", true)),
    ("noatime", Atime(attr::NOATIME)),
    ("nodev", Set(attr::NODEV)),
    ("nodiratime", Set(attr::NODIRATIME)),
    ("noexec", Set(attr::NOEXEC)),
    ("noiversion", Nothing),
    ("nolazytime", Superblock("lazytime", false)),
    ("nomand", Superblock("mand", false)),
    // Without relatime the kernel's default holds, which is relatime.
    ("norelatime", NotAtime(attr::RELATIME)),
    ("nostrictatime", NotAtime(attr::STRICTATIME)),
    ("nosuid", Set(attr::NOSUID)),
    ("nosymfollow", Set(attr::NOSYMFOLLOW)),
    ("private", Effect::Propagation(Private, false)),
    ("ratime", NotAtimeRecursive(attr::NOATIME)),
    ("rbind", Bind { recursive: true }),
    ("rdev", ClearRecursive(attr::NODEV)),
    ("rdiratime", ClearRecursive(attr::NODIRATIME)),
    ("relatime", Atime(attr::RELATIME)),
    // Every mount of a container is made anew, with these options from the start.
    ("remount", Nothing),
    ("rexec", ClearRecursive(attr::NOEXEC)),
    ("ridmap", Idmap { recursive: true }),
    ("rnoatime", AtimeRecursive(attr::NOATIME)),
    ("rnodev", SetRecursive(attr::NODEV)),
    ("rnodiratime", SetRecursive(attr::NODIRATIME)),
    ("rnoexec", SetRecursive(attr::NOEXEC)),
    ("rnorelatime", NotAtimeRecursive(attr::RELATIME)),
    ("rnostrictatime", NotAtimeRecursive(attr::STRICTATIME)),
    ("rnosuid", SetRecursive(attr::NOSUID)),
    ("rnosymfollow", SetRecursive(attr::NOSYMFOLLOW)),
    ("ro", ReadOnly(true)),
    ("rprivate", Effect::Propagation(Private, true)),
    ("rrelatime", AtimeRecursive(attr::RELATIME)),
    ("rro", SetRecursive(attr::RDONLY)),
    ("rrw", ClearRecursive(attr::RDONLY)),
    ("rshared", Effect::Propagation(Shared, true)),
    ("rslave", Effect::Propagation(Slave, true)),
    ("rstrictatime", AtimeRecursive(attr::STRICTATIME)),
    ("rsuid", ClearRecursive(attr::NOSUID)),
    ("rsymfollow", ClearRecursive(attr::NOSYMFOLLOW)),
    ("runbindable", Effect::Propagation(Unbindable, true)),
    ("rw", ReadOnly(false)),
    ("shared", Effect::Propagation(Shared, false)),
    // The kernel's own log messages about a mount are no concern of a container's.
    ("silent", Nothing),
    ("slave", Effect::Propagation(Slave, false)),
    ("strictatime", Atime(attr::STRICTATIME)),
    ("suid", Clear(attr::NOSUID)),
    ("symfollow", Clear(attr::NOSYMFOLLOW)),
    ("sync", Superblock("sync", true)),
    ("tmpcopyup", CopyUp),
    ("unbindable", Effect::Propagation(Unbindable, false)),
];

/// The options that are not left to the file system, sorted.
pub fn known() -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().map(|(name, _)| *name)
}

/// What `option` means; `None` for one that is the file system's.
pub(crate) fn effect(option: &str) -> Option<Effect> {
    let at = OPTIONS
        .binary_search_by_key(&option, |(name, _)| name)
        .ok()?;
    Some(OPTIONS[at].1)
}

/// The propagation that `word` names, as an option or in `linux.rootfsPropagation`.
pub(crate) fn propagation(word: &str) -> Option<Propagation> {
    match effect(word) {
        Some(Effect::Propagation(kind, recursive)) => Some(Propagation { kind, recursive }),
        _ => None,
    }
}

/// The attributes that a list of options leaves to set and to clear on a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) set: u64,
    pub(crate) clear: u64,
}

impl Attributes {
    /// The last word wins.
    pub(crate) fn set(&mut self, bits: u64) {
        self.set |= bits;
        self.clear &= !bits;
    }

    pub(crate) fn clear(&mut self, bits: u64) {
        self.clear |= bits;
        self.set &= !bits;
    }

    /// Chooses how access times are kept. mount_setattr(2) wants the whole field cleared for that.
    pub(crate) fn atime(&mut self, value: u64) {
        self.set = self.set & !attr::ATIME | value;
        self.clear |= attr::ATIME;
    }

    /// Takes back `value` unless another was chosen, so that the default, relatime, holds.
    pub(crate) fn not_atime(&mut self, value: u64) {
        let is_chosen = self.clear & attr::ATIME != 0;
        if !is_chosen || self.set & attr::ATIME == value {
            self.atime(attr::RELATIME);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_so_that_each_option_is_found() {
        assert!(OPTIONS.is_sorted_by(|a, b| a.0 < b.0));
        for (name, expected) in OPTIONS {
            assert_eq!(effect(name), Some(expected), "{name}");
        }
        assert_eq!(effect("size=64k"), None);
    }

    #[test]
    fn every_option_of_runc_is_known() {
        // runc 1.2, `runc features`, mountOptions.
        let runc = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud \
            mand noatime nodev nodiratime noexec noiversion nolazytime nomand norelatime \
            nostrictatime nosuid nosymfollow private ratime rbind rdev rdiratime relatime remount \
            rexec rnoatime rnodev rnodiratime rnoexec rnorelatime rnostrictatime rnosuid \
            rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid \
            rsymfollow runbindable rw shared silent slave strictatime suid symfollow sync \
            tmpcopyup unbindable";
        for option in runc.split_whitespace() {
            assert!(effect(option).is_some(), "{option}");
        }
    }
}
