#!/bin/sh
# Writes table.rs, the numbers of all system calls, from the kernel's headers as Debian packs them
# (linux-libc-dev of trixie or of bookworm-backports holds those of every architecture):
#
#   apt-get download linux-libc-dev/bookworm-backports && dpkg-deb -x linux-libc-dev_*.deb headers
#   sh table.sh headers/usr/lib/linux/uapi > table.rs
set -eu
uapi=$1

# Lines of "NAME COLUMN NUMBER". x32's are without their marking bit.
numbers() {
    awk -v column="$2" '/^#define __NR_[a-z_0-9]+ / {
        number = $NF
        sub(/\)$/, "", number)
        print substr($2, 6), column, number
    }' "$1"
}

# Those of the processor itself, from 0xf0000 on.
arm_private() {
    awk '/^#define __ARM_NR_[a-z]/ {
        number = $3
        sub(/^.*\+/, "", number)
        sub(/\)$/, "", number)
        print substr($2, 10), 5, 983040 + number
    }' "$1"
}

cat <<'HEAD'
//! The numbers of all system calls; written by table.sh, not by hand.

use super::syscalls::{NONE, Row};

/// Sorted by name. Columns: x86-64, i386, x32 (without its marking bit), arm64, arm (EABI).
#[rustfmt::skip]
pub(super) const TABLE: &[Row] = &[
HEAD
{
    numbers "$uapi/x86/asm/unistd_64.h" 1
    numbers "$uapi/x86/asm/unistd_32.h" 2
    numbers "$uapi/x86/asm/unistd_x32.h" 3
    numbers "$uapi/arm64/asm/unistd_64.h" 4
    numbers "$uapi/arm/asm/unistd-eabi.h" 5
    arm_private "$uapi/arm/asm/unistd.h"
} | awk '
    { names[$1]; number[$1, $2] = $3 }
    END {
        for (name in names) {
            row = "    (\"" name "\", ["
            for (column = 1; column <= 5; column++) {
                value = (name, column) in number ? number[name, column] : "NONE"
                row = row value (column < 5 ? ", " : "]),")
            }
            print row
        }
    }' | LC_ALL=C sort
echo '];'
