//! Names and numbers of system calls, and the ABIs that number them.

use oci_spec::runtime::Arch;

use super::table::TABLE;

/// One system call: its name, and its number in each [`Abi`].
pub(super) type Row = (&'static str, [u32; 5]);

/// The number of a system call that an ABI does not have.
pub(super) const NONE: u32 = u32::MAX;

/// Marks x32's numbers (`__X32_SYSCALL_BIT`, asm/unistd.h).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// A way to call the kernel, with numbers of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

impl Abi {
    /// `AUDIT_ARCH_*` (linux/audit.h), which a filter reads beside the number. x32 shares x86-64's.
    pub(super) fn audit_arch(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Whether arguments are compared whole: of those of 32-bit ABIs only the lower half counts.
    pub(super) fn is_64_bit(self) -> bool {
        matches!(self, Self::X86_64 | Self::Aarch64)
    }

    /// The number of the system call in this ABI.
    pub(super) fn number(self, row: &Row) -> Option<u32> {
        let (column, mark) = match self {
            Self::X86_64 => (0, 0),
            Self::X86 => (1, 0),
            Self::X32 => (2, X32_BIT),
            Self::Aarch64 => (3, 0),
            Self::Arm => (4, 0),
        };
        let number = row.1[column];
        (number != NONE).then_some(number | mark)
    }
}

/// The system call of that name; `None` for one that none of the tables has.
pub(super) fn find(name: &str) -> Option<&'static Row> {
    let found = TABLE.binary_search_by(|row| row.0.cmp(name));
    found.ok().map(|index| &TABLE[index])
}

/// The processor filters are made for: which ABIs can reach its kernel, the own one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Machine {
    X86_64,
    Aarch64,
}

impl Machine {
    pub(super) const NATIVE: Self = match cfg!(target_arch = "aarch64") {
        true => Self::Aarch64,
        false => Self::X86_64,
    };

    pub(super) fn own_abi(self) -> Abi {
        match self {
            Self::X86_64 => Abi::X86_64,
            Self::Aarch64 => Abi::Aarch64,
        }
    }

    /// What an entry of `linux.seccomp.architectures` means here.
    pub(super) fn understand(self, arch: Arch) -> Understood {
        use Understood::{Foreign, Here, OtherByteOrder};
        match (self, arch) {
            (_, Arch::ScmpArchNative) => Here(self.own_abi()),
            (Self::X86_64, Arch::ScmpArchX86_64) => Here(Abi::X86_64),
            (Self::X86_64, Arch::ScmpArchX86) => Here(Abi::X86),
            (Self::X86_64, Arch::ScmpArchX32) => Here(Abi::X32),
            (Self::Aarch64, Arch::ScmpArchAarch64) => Here(Abi::Aarch64),
            (Self::Aarch64, Arch::ScmpArchArm) => Here(Abi::Arm),
            _ if is_big_endian(arch) => OtherByteOrder,
            _ => Foreign,
        }
    }
}

/// See [`Machine::understand`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Understood {
    /// An ABI of this machine.
    Here(Abi),
    /// Of a processor this kernel is not for: it never calls, so it needs no rules.
    Foreign,
    /// As `Foreign`, and no filter of this machine could hold it (libseccomp refuses it too).
    OtherByteOrder,
}

fn is_big_endian(arch: Arch) -> bool {
    matches!(
        arch,
        Arch::ScmpArchMips
            | Arch::ScmpArchMips64
            | Arch::ScmpArchMips64n32
            | Arch::ScmpArchPpc
            | Arch::ScmpArchPpc64
            | Arch::ScmpArchS390
            | Arch::ScmpArchS390x
            | Arch::ScmpArchParisc
            | Arch::ScmpArchParisc64
            | Arch::ScmpArchM68k
            | Arch::ScmpArchSheb
    )
}

/// The number i386's `socketcall` or `ipc` gets for a call that it also, or only, makes
/// (linux/net.h, linux/ipc.h).
pub(super) fn multiplexed(name: &str) -> Option<(&'static str, u64)> {
    let of_socketcall = match name {
        "socket" => 1,
        "bind" => 2,
        "connect" => 3,
        "listen" => 4,
        "accept" => 5,
        "getsockname" => 6,
        "getpeername" => 7,
        "socketpair" => 8,
        "send" => 9,
        "recv" => 10,
        "sendto" => 11,
        "recvfrom" => 12,
        "shutdown" => 13,
        "setsockopt" => 14,
        "getsockopt" => 15,
        "sendmsg" => 16,
        "recvmsg" => 17,
        "accept4" => 18,
        "recvmmsg" => 19,
        "sendmmsg" => 20,
        _ => return of_ipc(name).map(|call| ("ipc", call)),
    };
    Some(("socketcall", of_socketcall))
}

fn of_ipc(name: &str) -> Option<u64> {
    Some(match name {
        "semop" => 1,
        "semget" => 2,
        "semctl" => 3,
        "semtimedop" => 4,
        "msgsnd" => 11,
        "msgrcv" => 12,
        "msgget" => 13,
        "msgctl" => 14,
        "shmat" => 21,
        "shmdt" => 22,
        "shmget" => 23,
        "shmctl" => 24,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_so_that_each_name_is_found() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0));
        for row in TABLE {
            assert_eq!(find(row.0), Some(row));
        }
        assert_eq!(find("no_such_call"), None);
    }

    #[test]
    fn numbers_are_the_kernels() {
        let number = |name, abi: Abi| abi.number(find(name).unwrap());
        assert_eq!(number("execve", Abi::X86_64), Some(59));
        assert_eq!(number("execve", Abi::X86), Some(11));
        assert_eq!(number("execve", Abi::X32), Some(X32_BIT + 520));
        assert_eq!(number("execve", Abi::Aarch64), Some(221));
        assert_eq!(number("cacheflush", Abi::Arm), Some(0xf_0002));
        assert_eq!(number("socketcall", Abi::X86_64), None);
    }

    #[test]
    fn the_calls_of_socketcall_and_ipc_are_those_of_the_headers() {
        assert_eq!(multiplexed("socket"), Some(("socketcall", 1)));
        assert_eq!(multiplexed("sendmmsg"), Some(("socketcall", 20)));
        assert_eq!(multiplexed("shmctl"), Some(("ipc", 24)));
        assert_eq!(multiplexed("read"), None);
    }
}
