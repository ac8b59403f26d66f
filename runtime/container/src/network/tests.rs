use runvm_sys::netlink::attribute;

use super::read::{SeenLink, entry};
use super::*;

/// Attributes after a head of zeros but for these bytes.
fn message(head: usize, bytes: &[(usize, u8)], attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut message = vec![0; head];
    for &(at, byte) in bytes {
        message[at] = byte;
    }
    for (kind, value) in attributes {
        attribute(&mut message, *kind, value);
    }
    message
}

fn is_two(index: u32) -> bool {
    index == 2
}

const TWO: [u8; 4] = 2_u32.to_ne_bytes();
const THREE: [u8; 4] = 3_u32.to_ne_bytes();

#[test]
fn an_address_comes_without_a_route_and_without_a_question_to_others() {
    let of_two = [(0, 10), (1, 64), (2, 0x80), (4, 2)];
    let seen = message(
        8,
        &of_two,
        &[(1, &[9; 16]), (6, &[0; 16]), (8, &0x80_u32.to_ne_bytes())],
    );
    let kept = message(
        8,
        &[(0, 10), (1, 64), (4, 2)],
        &[(1, &[9; 16]), (8, &0x202_u32.to_ne_bytes())],
    );
    assert_eq!(entry(RTM_GETADDR, &seen, is_two), Some(kept));
    let from_router = message(8, &[(0, 10), (1, 64), (4, 2)], &[(1, &[9; 16])]);
    assert_eq!(entry(RTM_GETADDR, &from_router, is_two), None);
    let of_three = message(8, &[(0, 2), (1, 24), (2, 0x80), (4, 3)], &[(1, &[9; 4])]);
    assert_eq!(entry(RTM_GETADDR, &of_three, is_two), None);
}

#[test]
fn routes_over_our_interfaces_are_kept_and_the_kernels_own_are_not() {
    let unicast = [(0, 2), (4, 254), (7, 1)];
    let kept = |bytes: &[(usize, u8)], attributes: &[(u16, &[u8])]| {
        let message = message(12, &[&unicast[..], bytes].concat(), attributes);
        entry(RTM_GETROUTE, &message, is_two).is_some()
    };
    let hop = |index: u8| [8, 0, 0, 0, index, 0, 0, 0];
    assert!(kept(&[], &[(4, &TWO)]));
    assert!(kept(&[(7, 6)], &[]), "a route to nowhere");
    assert!(kept(&[], &[(9, &[hop(2), hop(2)].concat())]));
    assert!(!kept(&[], &[(4, &THREE)]));
    assert!(!kept(&[], &[(9, &[hop(2), hop(3)].concat())]));
    assert!(!kept(&[(4, 255)], &[(4, &TWO)]));
    assert!(!kept(&[], &[(4, &TWO), (15, &255_u32.to_ne_bytes())]));
    assert!(!kept(&[(5, 9)], &[(4, &TWO)]), "a router's");
    assert!(!kept(&[(0, 7)], &[(4, &TWO)]), "of another protocol");
}

#[test]
fn what_is_cut_short_is_no_entry_and_no_panic() {
    let whole = message(
        16,
        &[(0, 10), (2, 0x80), (4, 2), (8, 0x80)],
        &[(1, &[2; 6]), (9, &[1, 0, 0, 0])],
    );
    for length in 0..whole.len() {
        let _ = SeenLink::parse(&whole[..length]);
        for table in [RTM_GETADDR, RTM_GETROUTE, RTM_GETRULE, RTM_GETNEIGH] {
            let _ = entry(table, &whole[..length], is_two);
        }
    }
}
