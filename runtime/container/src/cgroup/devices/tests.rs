use super::program;
use super::*;
use runvm_sys::bpf::Instruction;
use serde_json::{Value, json};

fn policy(rules: Value) -> Result<Policy, CgroupError> {
    Policy::of(&serde_json::from_value(json!({ "devices": rules })).unwrap())
}

fn lines(policy: &Policy) -> Vec<String> {
    let mut lines: Vec<String> = policy
        .exceptions
        .iter()
        .map(|(devices, access)| set::line(*devices, *access))
        .collect();
    lines.sort();
    lines
}

const ALWAYS_LINES: [&str; 10] = [
    "b *:* m",
    "c *:* m",
    "c 136:* rwm",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
];

#[test]
fn without_rules_only_the_usual_devices_are_allowed() {
    for rules in [
        json!(null),
        json!([]),
        json!([{"allow": false, "access": "rwm"}]),
        json!([{"allow": false, "type": "a"}]),
    ] {
        let policy = policy(rules).unwrap();
        assert!(!policy.is_allowed);
        assert_eq!(lines(&policy), ALWAYS_LINES);
    }
}

#[test]
fn rules_add_to_and_take_from_the_default_in_order() {
    let policy = policy(json!([
        {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rwm"},
        {"allow": false},
        {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "m"},
        {"allow": true, "type": "b", "major": 8, "access": "r"},
        {"allow": true, "type": "b", "major": 9, "minor": -1, "access": "rw"},
        {"allow": false, "type": "b", "major": 9, "minor": -1, "access": "w"},
        {"allow": false, "type": "c", "major": 77, "minor": 1, "access": "w"},
    ]))
    .unwrap();
    let mut expected = ALWAYS_LINES.to_vec();
    expected.extend(["b 8:* r", "b 9:* r", "c 10:229 rwm"]);
    expected.sort_unstable();
    assert_eq!(lines(&policy), expected);
}

#[test]
fn an_allowing_default_has_denials_as_exceptions() {
    let some =
        policy(json!([{"allow": true}, {"allow": false, "type": "b", "major": 8, "access": "w"}]))
            .unwrap();
    assert!(some.is_allowed && !some.allows_all());
    assert_eq!(lines(&some), ["b 8:* w"]);
    assert!(
        policy(json!([{"allow": true, "type": "a", "access": "rwm"}]))
            .unwrap()
            .allows_all()
    );
}

#[test]
fn a_rule_that_cannot_hold_is_refused() {
    for rules in [
        json!([{"allow": true, "type": "c", "major": 10, "access": "rwm"}, {"allow": false, "type": "c", "major": 10, "minor": 1, "access": "w"}]),
        json!([{"allow": true, "type": "p", "access": "rwm"}]),
        json!([{"allow": true, "type": "c", "access": ""}]),
        json!([{"allow": true, "type": "c", "access": "x"}]),
        json!([{"allow": true, "type": "c", "major": -3, "access": "r"}]),
    ] {
        let error = policy(rules).unwrap_err().to_string();
        assert!(error.starts_with("linux.resources.devices: "), "{error}");
    }
}

/// Runs a program as the kernel would, on a machine of just these instructions.
fn decide(program: &[Instruction], kind: Kind, major: u32, minor: u32, access: u8) -> bool {
    let context = [u32::from(access) << 16 | kind as u32, major, minor];
    let mut registers = [0_u32; 16];
    let mut at = 0_usize;
    for _ in 0..10_000 {
        let Instruction {
            code,
            registers: pair,
            offset,
            immediate,
        } = program[at];
        let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
        let immediate = immediate.cast_unsigned();
        let jump = match code {
            0x61 => {
                registers[to] = context[usize::try_from(offset).unwrap() / 4];
                false
            }
            0xb7 => {
                registers[to] = immediate;
                false
            }
            0xbc => {
                registers[to] = registers[from];
                false
            }
            0x54 => {
                registers[to] &= immediate;
                false
            }
            0x74 => {
                registers[to] >>= immediate;
                false
            }
            0x56 => registers[to] != immediate,
            0x5e => registers[to] != registers[from],
            0x16 => registers[to] == immediate,
            0x95 => return registers[0] == 1,
            code => panic!("instruction {code:#x}"),
        };
        at += 1;
        if jump {
            at += usize::try_from(offset).unwrap();
        }
    }
    panic!("the program does not end");
}

/// What cgroup v1 answers (device_cgroup.c): an exception allows an access it has in all ways,
/// and denies one it has in any.
fn decided_by_v1(policy: &Policy, kind: Kind, major: u32, minor: u32, access: u8) -> bool {
    let is_exception = policy.exceptions.iter().any(|(devices, had)| {
        devices.kind == kind
            && devices.major.is_none_or(|m| m == major)
            && devices.minor.is_none_or(|m| m == minor)
            && if policy.is_allowed {
                had & access != 0
            } else {
                access & !had == 0
            }
    });
    is_exception != policy.is_allowed
}

#[test]
fn the_program_decides_as_v1_would() {
    for rules in [
        json!([]),
        json!([{"allow": true}]),
        json!([{"allow": true}, {"allow": false, "type": "b", "major": 8, "access": "w"}, {"allow": false, "type": "c", "major": 1, "minor": 11, "access": "rwm"}]),
        json!([{"allow": true, "type": "c", "access": "r"}, {"allow": true, "type": "b", "major": 8, "minor": 4294967295_u32, "access": "rw"}]),
    ] {
        let policy = policy(rules).unwrap();
        let program = program::of(&policy);
        for kind in [Kind::Block, Kind::Char] {
            for major in [0, 1, 5, 8, 136, u32::MAX] {
                for minor in [0, 2, 3, 11, u32::MAX] {
                    for access in 1..=7 {
                        assert_eq!(
                            decide(&program, kind, major, minor, access),
                            decided_by_v1(&policy, kind, major, minor, access),
                            "{kind:?} {major}:{minor} {access} of {policy:?}"
                        );
                    }
                }
            }
        }
    }
}
