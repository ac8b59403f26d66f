//! Descriptors that came with execve: the one place where a number becomes an owner.

#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

/// Numbers already taken, so that no two owners can arise for one descriptor.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Becomes the owner of the descriptor `number` that this process was started with, and sets its
/// close-on-exec flag. Fails for the standard streams, for one that is not open, and the second
/// time for the same number.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut taken = TAKEN.lock().map_err(|_| io::ErrorKind::Other)?;
    if !taken.insert(number) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: only the flags of the number are touched; an unused number gives EBADF.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the number is open (just checked) and, by `TAKEN`, is given out once; callers pass
    // numbers that their parent named to them, which no other code of this process opened.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The first of the `count` numbers from 3 on under which no descriptor is open; `None` when all are.
///
/// It is asked before this process opens anything: later, what answers may be its own.
pub fn first_missing(count: u32) -> Option<u32> {
    first_closed(3..3_u32.saturating_add(count))
}

fn first_closed(mut numbers: Range<u32>) -> Option<u32> {
    numbers.find(|&number| !RawFd::try_from(number).is_ok_and(is_open))
}

/// Whether a descriptor is open under `number`. To be asked, too, before this process opens any.
pub fn is_open(number: RawFd) -> bool {
    // SAFETY: F_GETFD changes nothing; an unused number gives EBADF.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

/// Sets close-on-exec on every descriptor from `first` on. See close_range(2).
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: CLOSE_RANGE_CLOEXEC closes nothing now, so every owner keeps its descriptor.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Takes close-on-exec from the `count` descriptors from 3 on.
pub fn keep_over_exec(count: u32) -> io::Result<()> {
    for number in 3..3_u32.saturating_add(count) {
        // SAFETY: only the flags of the number are touched; an unused number gives EBADF.
        if unsafe { libc::fcntl(number.cast_signed(), libc::F_SETFD, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Duplicates the descriptor with number `number` to one at or above `at_least`, close-on-exec.
pub fn duplicate(number: RawFd, at_least: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the borrow lasts for the one call; a number that is not open gives EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(rustix::io::fcntl_dupfd_cloexec(borrowed, at_least)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    #[test]
    fn a_number_is_given_out_once() {
        let number = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        let owned = take(number).unwrap();
        assert!(take(number).is_err());
        drop(owned);
    }

    #[test]
    fn the_first_number_that_is_not_open_is_found() {
        assert_eq!(first_missing(0), None);
        assert!(first_missing(u32::MAX).is_some());
        // Numbers the kernel gives to no test that runs beside this one: it always takes the lowest.
        let held: Vec<_> = (700..708)
            .filter(|&number| number != 705)
            .map(|number| duplicate(0, number).unwrap())
            .collect();
        assert_eq!(first_closed(700..705), None);
        assert_eq!(first_closed(700..708), Some(705));
        drop(held);
    }

    #[test]
    fn the_standard_streams_and_closed_numbers_are_refused() {
        assert!(take(1).is_err());
        assert!(take(1_000_000).is_err());
    }
}
