//! From answers to instructions of classic BPF, as linux/filter.h and linux/seccomp.h define them.
//!
//! Jumps go forwards only, so a program is written from its end: what is jumped to is there
//! already. Offsets of conditional jumps have eight bits; where they do not suffice, a `JA`, or
//! another copy of the `RET`, stands nearer.

use runvm_sys::seccomp::Instruction;

use super::action::Action;
use super::profile::Answers;
use super::rules::{Condition, Node, Operator, Rules};
use super::syscalls::{Abi, X32_BIT};

const LD_WORD: u16 = 0x20;
const ALU_AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// `offsetof(struct seccomp_data, nr)`.
const NUMBER_AT: u32 = 0;
/// `offsetof(struct seccomp_data, arch)`.
const ARCH_AT: u32 = 4;
/// `offsetof(struct seccomp_data, args)`; each has eight bytes, the lower half first.
const ARGUMENTS_AT: u32 = 16;

/// A tracer that has a call skipped sets this number (seccomp(2)): no bad architecture.
const SKIPPED: u32 = u32::MAX;

/// The part of a program for one of the architectures that the kernel tells apart.
#[derive(Debug)]
pub(super) struct Section {
    audit_arch: u32,
    /// In ascending order, from 0 on.
    ranges: Vec<Range>,
}

/// What is answered to the numbers from `from` on, up to those of the next range.
#[derive(Debug)]
struct Range {
    from: u32,
    answer: Rules,
}

impl Section {
    /// All of `abi`'s architecture is answered `default`.
    pub(super) fn new(abi: Abi, default: Action) -> Self {
        let first = Range {
            from: 0,
            answer: Rules::Always(default),
        };
        Self {
            audit_arch: abi.audit_arch(),
            ranges: vec![first],
        }
    }

    /// Adds an ABI, whose numbers lie above those that are there. `unknown` is for those above
    /// all that the profile names.
    pub(super) fn add(&mut self, answers: Answers, default: Action, unknown: Action) {
        for (number, rules) in answers.by_number {
            self.from(number, rules);
            self.from(number + 1, Rules::Always(default));
        }
        if let Some(last) = answers.last {
            self.from(last + 1, Rules::Always(unknown));
        }
    }

    /// Ends x86-64's numbers where x32's begin.
    pub(super) fn end_before_x32(&mut self, then: Action) {
        self.from(X32_BIT, Rules::Always(then));
    }

    /// Answers a call that a tracer has skipped.
    pub(super) fn answer_skipped(&mut self, action: Action) {
        self.from(SKIPPED, Rules::Always(action));
    }

    /// From `from` on another answer holds. Ranges come in ascending order.
    fn from(&mut self, from: u32, answer: Rules) {
        self.ranges.pop_if(|last| last.from == from);
        if self.ranges.last().is_none_or(|last| last.answer != answer) {
            self.ranges.push(Range { from, answer });
        }
    }
}

/// The whole program. An architecture without a section is answered `bad_arch`.
pub(super) fn assemble(
    sections: &[Section],
    default: Action,
    bad_arch: Action,
) -> Vec<Instruction> {
    let mut writer = Writer {
        reversed: Vec::new(),
        answers: Vec::new(),
        default: Target::Answer(default),
    };
    // The kernel wants a `RET` as the last instruction.
    writer.answer(bad_arch);
    let mut heads = Vec::new();
    for section in sections.iter().rev() {
        let head = match writer.search(&section.ranges) {
            Target::Line(_) => writer.load(NUMBER_AT),
            answer => answer,
        };
        heads.push((section.audit_arch, head));
    }
    let bad = Target::Answer(bad_arch);
    let dispatch = heads.into_iter().fold(bad, |next, (audit_arch, head)| {
        writer.branch(JUMP_EQUAL, audit_arch, head, next)
    });
    if let Target::Line(_) = dispatch {
        writer.load(ARCH_AT);
    }
    writer.reversed.reverse();
    writer.reversed
}

/// Where a jump goes.
#[derive(Debug, Clone, Copy)]
enum Target {
    /// To the instruction at this index, from the end.
    Line(usize),
    /// To some `RET`.
    Answer(Action),
}

struct Writer {
    /// The program so far, the last instruction first.
    reversed: Vec<Instruction>,
    /// The nearest `RET` of each kind.
    answers: Vec<(Action, usize)>,
    /// Where a call goes for which no rule holds.
    default: Target,
}

impl Writer {
    /// A balanced search for the range that the number in the accumulator is in. If it gives a
    /// line, that is the one written last.
    fn search(&mut self, ranges: &[Range]) -> Target {
        match ranges {
            [] => self.default,
            [only] => self.rules(&only.answer),
            _ => {
                let (left, right) = ranges.split_at(ranges.len() / 2);
                let above = self.search(right);
                let below = self.search(left);
                self.branch(JUMP_GREATER_OR_EQUAL, right[0].from, above, below)
            }
        }
    }

    fn rules(&mut self, rules: &Rules) -> Target {
        match rules {
            Rules::Always(action) => Target::Answer(*action),
            Rules::When(nodes) => self.nodes(nodes, self.default),
        }
    }

    /// The first of `nodes` that holds whole, or else `otherwise`.
    fn nodes(&mut self, nodes: &[Node], otherwise: Target) -> Target {
        nodes.iter().rev().fold(otherwise, |next, node| {
            let then = node.then.map_or(next, Target::Answer);
            let holds = self.nodes(&node.and, then);
            self.condition(&node.condition, holds, next)
        })
    }

    fn condition(&mut self, condition: &Condition, yes: Target, no: Target) -> Target {
        match condition.operator {
            Operator::Equal | Operator::MaskedEqual => self.equal(condition, yes, no),
            Operator::NotEqual => self.equal(condition, no, yes),
            Operator::Greater => self.greater(condition, JUMP_GREATER, yes, no),
            Operator::GreaterOrEqual => self.greater(condition, JUMP_GREATER_OR_EQUAL, yes, no),
            Operator::Less => self.greater(condition, JUMP_GREATER_OR_EQUAL, no, yes),
            Operator::LessOrEqual => self.greater(condition, JUMP_GREATER, no, yes),
        }
    }

    fn equal(&mut self, condition: &Condition, yes: Target, no: Target) -> Target {
        let mut yes = yes;
        if low(condition.mask) != 0 {
            self.branch(JUMP_EQUAL, low(condition.value), yes, no);
            self.mask(low(condition.mask));
            yes = self.load(low_at(condition.argument));
        }
        if condition.whole && high(condition.mask) != 0 {
            self.branch(JUMP_EQUAL, high(condition.value), yes, no);
            self.mask(high(condition.mask));
            yes = self.load(high_at(condition.argument));
        }
        yes
    }

    /// `compare` is for the lower halves; the upper ones decide where they differ.
    fn greater(&mut self, condition: &Condition, compare: u16, yes: Target, no: Target) -> Target {
        self.branch(compare, low(condition.value), yes, no);
        let lower = self.load(low_at(condition.argument));
        if !condition.whole {
            return lower;
        }
        let not_above = self.branch(JUMP_EQUAL, high(condition.value), lower, no);
        self.branch(JUMP_GREATER, high(condition.value), yes, not_above);
        self.load(high_at(condition.argument))
    }

    fn mask(&mut self, mask: u32) {
        if mask != u32::MAX {
            self.push(ALU_AND, 0, 0, mask);
        }
    }

    /// Comes before the instruction that was written last.
    fn load(&mut self, offset: u32) -> Target {
        Target::Line(self.push(LD_WORD, 0, 0, offset))
    }

    fn answer(&mut self, action: Action) -> usize {
        let line = self.push(RETURN, 0, 0, action.0);
        self.answers.retain(|(other, _)| *other != action);
        self.answers.push((action, line));
        line
    }

    fn branch(&mut self, code: u16, k: u32, yes: Target, no: Target) -> Target {
        // The other one's may come between.
        let no = self.bring_near(no, 1);
        let yes = self.bring_near(yes, 0);
        let (yes, no) = (self.distance(yes), self.distance(no));
        match (u8::try_from(yes), u8::try_from(no)) {
            (Ok(jt), Ok(jf)) => Target::Line(self.push(code, jt, jf, k)),
            _ => unreachable!("both targets have been brought near"),
        }
    }

    /// An instruction that leads to `target` and that the next but `between` to be written
    /// reaches.
    fn bring_near(&mut self, target: Target, between: usize) -> usize {
        let limit = usize::from(u8::MAX) - between;
        match target {
            Target::Line(line) if self.distance(line) <= limit => line,
            Target::Line(line) => {
                let distance = self.distance(line);
                // Programs end long before four thousand millions; see `INSTRUCTIONS_MAX`.
                self.push(JUMP, 0, 0, u32::try_from(distance).unwrap_or(u32::MAX))
            }
            Target::Answer(action) => {
                let mut nearest = self.answers.iter().filter(|(known, _)| *known == action);
                match nearest.next() {
                    Some((_, line)) if self.distance(*line) <= limit => *line,
                    _ => self.answer(action),
                }
            }
        }
    }

    /// How many instructions the next to be written skips to reach `line`.
    fn distance(&self, line: usize) -> usize {
        self.reversed.len() - line - 1
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> usize {
        self.reversed.push(Instruction { code, jt, jf, k });
        self.reversed.len() - 1
    }
}

fn low_at(argument: u8) -> u32 {
    ARGUMENTS_AT + 8 * u32::from(argument)
}

fn high_at(argument: u8) -> u32 {
    low_at(argument) + 4
}

#[expect(clippy::cast_possible_truncation, reason = "that is what is asked for")]
fn low(value: u64) -> u32 {
    value as u32
}

fn high(value: u64) -> u32 {
    low(value >> 32)
}
