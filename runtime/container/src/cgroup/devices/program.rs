//! A device policy as an eBPF program (`BPF_PROG_TYPE_CGROUP_DEVICE`), for cgroup v2.

use runvm_sys::bpf::Instruction;

use super::Policy;

// Instruction codes, from linux/bpf_common.h and linux/bpf.h: class, operation and operand.
const LOAD_WORD: u8 = 0x61;
const MOVE_IMMEDIATE: u8 = 0xb7;
const MOVE_32: u8 = 0xbc;
const AND_IMMEDIATE_32: u8 = 0x54;
const SHIFT_RIGHT_IMMEDIATE_32: u8 = 0x74;
const JUMP_NOT_EQUAL_IMMEDIATE_32: u8 = 0x56;
const JUMP_NOT_EQUAL_32: u8 = 0x5e;
const JUMP_EQUAL_IMMEDIATE_32: u8 = 0x16;
const EXIT: u8 = 0x95;

// Registers. The first argument comes in 1, the result goes into 0.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const SCRATCH: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// The program that decides as `policy` says.
pub(in crate::cgroup) fn of(policy: &Policy) -> Vec<Instruction> {
    let mut program = prologue();
    for (devices, access) in &policy.exceptions {
        let mut conditions = vec![differs(KIND, devices.kind as u32)];
        conditions.extend(outside(*access, policy.is_allowed));
        conditions.extend(devices.major.map(|major| differs(MAJOR, major)));
        conditions.extend(devices.minor.map(|minor| differs(MINOR, minor)));
        append_exception(&mut program, conditions, !policy.is_allowed);
    }
    program.extend(decide(policy.is_allowed));
    program
}

/// Takes `struct bpf_cgroup_dev_ctx` {access_type, major, minor} apart.
fn prologue() -> Vec<Instruction> {
    vec![
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(MOVE_32, ACCESS, KIND, 0, 0),
        instruction(SHIFT_RIGHT_IMMEDIATE_32, ACCESS, 0, 0, 16),
        instruction(AND_IMMEDIATE_32, KIND, 0, 0, 0xffff),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ]
}

/// Jumps on if the register has another value. The offset is filled in later.
fn differs(register: u8, value: u32) -> Instruction {
    instruction(
        JUMP_NOT_EQUAL_IMMEDIATE_32,
        register,
        0,
        0,
        value.cast_signed(),
    )
}

/// Jumps on if the access is not what the exception is about: an access must be allowed in all
/// its ways, and is denied for any one of them.
fn outside(access: u8, is_denial: bool) -> Vec<Instruction> {
    let is_any_access = access == super::ALL;
    if is_any_access {
        return Vec::new();
    }
    let jump = if is_denial {
        instruction(JUMP_EQUAL_IMMEDIATE_32, SCRATCH, 0, 0, 0)
    } else {
        instruction(JUMP_NOT_EQUAL_32, SCRATCH, ACCESS, 0, 0)
    };
    vec![
        instruction(MOVE_32, SCRATCH, ACCESS, 0, 0),
        instruction(AND_IMMEDIATE_32, SCRATCH, 0, 0, access.into()),
        jump,
    ]
}

fn append_exception(
    program: &mut Vec<Instruction>,
    mut conditions: Vec<Instruction>,
    verdict: bool,
) {
    let verdict = decide(verdict);
    let length = conditions.len() + verdict.len();
    for (at, condition) in conditions.iter_mut().enumerate() {
        let is_jump = !matches!(condition.code, MOVE_32 | AND_IMMEDIATE_32);
        if is_jump {
            // To behind the exception, which is some eight instructions long.
            condition.offset = i16::try_from(length - at - 1).unwrap_or(i16::MAX);
        }
    }
    program.extend(conditions);
    program.extend(verdict);
}

fn decide(is_allowed: bool) -> [Instruction; 2] {
    [
        instruction(MOVE_IMMEDIATE, RESULT, 0, 0, is_allowed.into()),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: source << 4 | destination,
        offset,
        immediate,
    }
}
