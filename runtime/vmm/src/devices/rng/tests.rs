//! The device from a driver's side, well-behaved and not.

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;

use super::*;
use crate::devices::broken_chains::{WRITE, broken_chains, descriptor};
use crate::devices::fake_driver::FakeDriver;

const REQUESTS: usize = 0;

fn device() -> RngDevice {
    RngDevice::new().unwrap()
}

/// Whether `bytes` look random: a byte of value 0 is one in 256.
fn is_filled(bytes: &[u8]) -> bool {
    bytes.iter().filter(|&&byte| byte == 0).count() <= bytes.len() / 16
}

#[test]
fn a_request_is_filled_with_other_bytes_each_time() {
    let mut device = device();
    let mut driver = FakeDriver::start(&mut device).unwrap();
    for indirect in [false, true] {
        driver.indirect = indirect;
        let first = driver.call(REQUESTS, &[], &[64, 1000]);
        assert_eq!(first.len, 1064);
        assert!(is_filled(&first.bytes[..64]) && is_filled(&first.bytes[64..]));
        let second = driver.call(REQUESTS, &[], &[64, 1000]);
        assert_ne!(first.bytes, second.bytes);
    }
}

#[test]
fn a_driver_without_any_feature_is_served() {
    let mut device = device();
    let mut driver = FakeDriver::start_with(&mut device, 1 << VIRTIO_F_VERSION_1).unwrap();
    assert_eq!(driver.call(REQUESTS, &[], &[64]).len, 64);
}

#[test]
fn a_large_request_gets_a_part() {
    let mut device = device();
    let mut driver = FakeDriver::start(&mut device).unwrap();
    let used = driver.call(REQUESTS, &[], &[1 << 20, 1 << 20]);
    assert_eq!(used.bytes.len(), MOST_BYTES);
    assert!(is_filled(&used.bytes));
}

#[test]
fn malformed_requests_come_back_empty_and_the_next_one_is_served() {
    let at = 8 << 20;
    let mut device = device();
    let without_room = ("nothing to fill", vec![descriptor(at, 64, 0, 0)]);
    for (what, descriptors) in broken_chains(at).into_iter().chain([without_room]) {
        let mut driver = FakeDriver::start(&mut device).unwrap();
        driver.post_raw(REQUESTS, 0, &descriptors);
        driver.kick_always(REQUESTS);
        assert_eq!(driver.wait_used(REQUESTS).len, 0, "{what}");
        driver.post_raw(REQUESTS, 0, &[descriptor(at, 64, WRITE, 0)]);
        driver.kick_always(REQUESTS);
        assert_eq!(driver.wait_used(REQUESTS).len, 64, "after {what}");
    }
}

#[test]
fn a_driver_that_breaks_the_ring_can_begin_again() {
    let mut device = device();
    let mut driver = FakeDriver::start(&mut device).unwrap();
    // More chains than the ring can hold.
    driver.skip_available_raw(REQUESTS, 1000);
    driver.kick_always(REQUESTS);
    device.reset();
    let mut driver = FakeDriver::start(&mut device).unwrap();
    assert_eq!(driver.call(REQUESTS, &[], &[64]).len, 64);
    // In the middle of many requests, too.
    for _ in 0..60 {
        driver.post(REQUESTS, &[], &[4096]);
    }
    driver.kick_always(REQUESTS);
    device.reset();
    device.reset();
}
