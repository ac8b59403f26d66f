//! set_mempolicy(2), which no safe crate has.

#![allow(unsafe_code)]

use std::io;
use std::ptr;

/// Sets where the calling thread, and what it executes or forks, gets its memory: `mode` is a
/// `MPOL_*` number with its `MPOL_F_*` flags; `nodes` are numbers of NUMA nodes.
pub fn set(mode: i32, nodes: &[u32]) -> io::Result<()> {
    let mask = mask(nodes);
    // The kernel takes one off the number of bits (get_nodes() in mm/mempolicy.c).
    let (pointer, bits) = match mask.len() {
        0 => (ptr::null(), 0),
        words => (mask.as_ptr(), words * 64 + 1),
    };
    // SAFETY: the mask has as many bits as are named, and outlives the call, which only reads it.
    let answer = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A bit for each node, in words as the kernel's on 64-bit machines.
fn mask(nodes: &[u32]) -> Vec<u64> {
    let mut mask = Vec::new();
    for node in nodes {
        let word = (node / 64) as usize;
        if mask.len() <= word {
            mask.resize(word + 1, 0);
        }
        mask[word] |= 1_u64 << (node % 64);
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_a_bit() {
        assert_eq!(mask(&[]), Vec::<u64>::new());
        assert_eq!(mask(&[0, 3, 65]), [0b1001, 0b10]);
    }

    #[test]
    fn a_mode_the_kernel_does_not_know_is_refused() {
        let error = set(999, &[0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
