//! The device from a driver's side, well-behaved and not.

use vm_memory::{Bytes, GuestAddressSpace};

use super::*;
use crate::devices::broken_chains::{NEXT, WRITE, broken_chains, descriptor};
use crate::devices::fake_driver::FakeDriver;

const DEFLATE: u16 = 1;
const PAGE: u64 = 1 << PAGE_SHIFT;
/// Where a test has pages to give up, apart from rings and buffers.
const PAGES: u64 = 16 << 20;

fn device() -> (BalloonDevice, Target) {
    let target = Target::default();
    (BalloonDevice::new(target.clone()).unwrap(), target)
}

/// Fills `count` pages.
fn fill(driver: &FakeDriver, count: u64) {
    let bytes = vec![7; usize::try_from(count * PAGE).unwrap()];
    let memory = driver.memory().memory();
    memory.write_slice(&bytes, GuestAddress(PAGES)).unwrap();
}

/// Whether page number `page` of those that were filled still is what it was.
fn stays(driver: &FakeDriver, page: u64) -> bool {
    let mut bytes = [0; 1 << PAGE_SHIFT];
    let memory = driver.memory().memory();
    memory
        .read_slice(&mut bytes, GuestAddress(PAGES + page * PAGE))
        .unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    bytes[0] == 7
}

fn numbers(pages: &[u64]) -> Vec<u8> {
    let number = |page: &u64| u32::try_from((PAGES + page * PAGE) >> PAGE_SHIFT).unwrap();
    pages
        .iter()
        .flat_map(|page| number(page).to_le_bytes())
        .collect()
}

#[test]
fn pages_that_are_given_up_are_the_hosts_and_no_others() {
    let (mut device, _) = device();
    let mut driver = FakeDriver::start(&mut device).unwrap();
    fill(&driver, 10);
    // Upwards, downwards and apart, in two buffers with a number across both.
    let given = numbers(&[1, 2, 3, 8, 7, 5]);
    let used = driver.call(INFLATE.into(), &[&given[..6], &given[6..]], &[]);
    assert_eq!(used.len, 0);
    let left: Vec<_> = (0..10).filter(|page| stays(&driver, *page)).collect();
    assert_eq!(left, [0, 4, 6, 9]);
    // The guest has them back as soon as it writes.
    driver.call(DEFLATE.into(), &[&numbers(&[1])], &[]);
    fill(&driver, 2);
    assert!(stays(&driver, 1));
}

#[test]
fn free_pages_that_are_reported_are_the_hosts() {
    let (mut device, _) = device();
    let mut driver = FakeDriver::start(&mut device).unwrap();
    fill(&driver, 8);
    let pages = |number: u64, flags| descriptor(PAGES + number * PAGE, 2 << PAGE_SHIFT, flags, 1);
    let reported = [pages(1, WRITE | NEXT), pages(5, WRITE)];
    driver.post_raw(REPORTING.into(), 0, &reported);
    driver.kick_always(REPORTING.into());
    assert_eq!(driver.wait_used(REPORTING.into()).len, 0);
    let left: Vec<_> = (0..8).filter(|page| stays(&driver, *page)).collect();
    assert_eq!(left, [0, 3, 4, 7]);
}

#[test]
fn the_target_is_for_the_driver_to_read_and_what_it_reached_to_write() {
    let (mut device, target) = device();
    let mut read = [9; 12];
    target.set(3);
    device.read_config(0, &mut read);
    assert_eq!(read, [0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    device.write_config(4, &[1, 2, 0, 0]);
    for (offset, data) in [(0, &[1; 4][..]), (5, &[1]), (4, &[1; 8]), (u64::MAX, &[1])] {
        device.write_config(offset, data);
    }
    let mut read = [0; 2];
    device.read_config(4, &mut read);
    assert_eq!(read, [1, 2]);
    device.read_config(u64::MAX, &mut read);
    assert_eq!(read, [0, 0]);
    target.set(u32::MAX);
    device.read_config(0, &mut read);
    assert_eq!(read, [0xff, 0xff]);
}

#[test]
fn what_is_no_page_of_the_guests_is_passed_over() {
    let too_many = ("too many numbers", vec![descriptor(PAGES, 64 << 10, 0, 0)]);
    let chains: Vec<_> = broken_chains(PAGES).into_iter().chain([too_many]).collect();
    let (mut device, _) = device();
    for queue in [INFLATE, DEFLATE, REPORTING] {
        for (what, descriptors) in &chains {
            let mut driver = FakeDriver::start(&mut device).unwrap();
            // Page numbers up to the largest, were they taken for that.
            let memory = driver.memory().memory();
            memory
                .write_slice(&[0xff; 64 << 10], GuestAddress(PAGES))
                .unwrap();
            drop(memory);
            driver.post_raw(queue.into(), 0, descriptors);
            driver.kick_always(queue.into());
            assert_eq!(driver.wait_used(queue.into()).len, 0, "{what}");
        }
        let mut driver = FakeDriver::start(&mut device).unwrap();
        fill(&driver, 2);
        driver.call(INFLATE.into(), &[&numbers(&[0])], &[]);
        assert!(!stays(&driver, 0) && stays(&driver, 1));
    }
}

#[test]
fn a_driver_that_leaves_in_the_middle_can_begin_again() {
    let (mut device, target) = device();
    let mut driver = FakeDriver::start(&mut device).unwrap();
    for page in 0..100 {
        driver.post(INFLATE.into(), &[&numbers(&[page])], &[]);
    }
    driver.kick_always(INFLATE.into());
    driver.skip_available_raw(REPORTING.into(), 1000);
    driver.kick_always(REPORTING.into());
    device.reset();
    target.set(1);
    let mut driver = FakeDriver::start(&mut device).unwrap();
    target.set(2);
    fill(&driver, 1);
    driver.call(INFLATE.into(), &[&numbers(&[0])], &[]);
    assert!(!stays(&driver, 0));
}
