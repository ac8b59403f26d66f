//! Runs a filter as the kernel would, for the instructions filters have, and checks it as the
//! kernel does when it is loaded (net/core/filter.c, kernel/seccomp.c).

use runvm_sys::seccomp::Instruction;

/// `struct seccomp_data`, but for the instruction pointer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) arch: u32,
    pub(super) number: u32,
    pub(super) args: [u64; 6],
}

/// What the filter answers, and after how many instructions.
pub(super) fn run(program: &[Instruction], call: &Call) -> (u32, usize) {
    let (mut at, mut accumulator, mut steps) = (0, 0_u32, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        let branch = |taken: bool| usize::from(if taken { jt } else { jf });
        steps += 1;
        at += 1;
        match code {
            0x20 => accumulator = word(call, k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += branch(accumulator == k),
            0x25 => at += branch(accumulator > k),
            0x35 => at += branch(accumulator >= k),
            0x45 => at += branch(accumulator & k != 0),
            0x06 => return (k, steps),
            _ => panic!("instruction {code:#x} is not one of a filter's"),
        }
    }
}

fn word(call: &Call, offset: u32) -> u32 {
    let half = |value: u64, upper: bool| {
        let half = if upper {
            value >> 32
        } else {
            value & 0xffff_ffff
        };
        u32::try_from(half).unwrap()
    };
    match offset {
        0 => call.number,
        4 => call.arch,
        16..64 if offset.is_multiple_of(4) => {
            let argument = (offset as usize - 16) / 8;
            half(call.args[argument], offset % 8 == 4)
        }
        _ => panic!("offset {offset} is not read by filters"),
    }
}

/// Every jump stays inside, every path ends, and the length is the kernel's.
pub(super) fn check(program: &[Instruction]) {
    assert!((1..=super::super::INSTRUCTIONS_MAX).contains(&program.len()));
    for (at, instruction) in program.iter().enumerate() {
        let Instruction { code, jt, jf, k } = *instruction;
        let farthest = match code {
            0x05 => k as usize,
            0x15 | 0x25 | 0x35 | 0x45 => usize::from(jt.max(jf)),
            0x06 => continue,
            _ => 0,
        };
        assert!(at + 1 + farthest < program.len(), "{at}: {instruction:?}");
    }
    assert_eq!(program.last().map(|last| last.code), Some(0x06));
}
