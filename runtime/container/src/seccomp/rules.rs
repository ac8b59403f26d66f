//! The rules of one system call, and which of them comes first.

use std::cmp::Ordering;

use oci_spec::runtime::LinuxSeccompOperator;

use super::action::Action;

/// A comparison of one argument; all are unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// From 0 to 5.
    pub(super) argument: u8,
    pub(super) operator: Operator,
    /// What of the argument is compared; all of it but for `MaskedEqual`.
    pub(super) mask: u64,
    pub(super) value: u64,
    /// Whether the argument has 64 bits; else its upper half is not looked at.
    pub(super) whole: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    MaskedEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Condition {
    /// `value` and `value_two` as the specification has them: for `MASKED_EQ` the first is the mask.
    pub(super) fn new(argument: u8, op: LinuxSeccompOperator, value: u64, value_two: u64) -> Self {
        let operator = match op {
            LinuxSeccompOperator::ScmpCmpEq => Operator::Equal,
            LinuxSeccompOperator::ScmpCmpNe => Operator::NotEqual,
            LinuxSeccompOperator::ScmpCmpLt => Operator::Less,
            LinuxSeccompOperator::ScmpCmpLe => Operator::LessOrEqual,
            LinuxSeccompOperator::ScmpCmpGt => Operator::Greater,
            LinuxSeccompOperator::ScmpCmpGe => Operator::GreaterOrEqual,
            LinuxSeccompOperator::ScmpCmpMaskedEq => Operator::MaskedEqual,
        };
        let (mask, value) = match operator {
            Operator::MaskedEqual => (value, value_two & value),
            _ => (u64::MAX, value),
        };
        Self {
            argument,
            operator,
            mask,
            value,
            whole: true,
        }
    }

    /// The same for an ABI of 32-bit arguments.
    pub(super) fn lower_half(self) -> Self {
        let half = u64::from(u32::MAX);
        Self {
            mask: match self.operator {
                Operator::MaskedEqual => self.mask & half,
                _ => self.mask,
            },
            value: self.value & half,
            whole: false,
            ..self
        }
    }

    /// Whether it holds for every value.
    pub(super) fn always_holds(self) -> bool {
        self.mask == 0
    }

    /// Greater comes first. It is libseccomp's order: later arguments first, equality before
    /// less before greater, then the greater value, or the smaller where less is asked for. It
    /// compares halves, and the lower ones only where the upper ones are asked the same.
    fn order(&self, other: &Self) -> Ordering {
        let rank = |operator| match operator {
            Operator::Equal | Operator::NotEqual | Operator::MaskedEqual => 3,
            Operator::Less | Operator::LessOrEqual => 2,
            Operator::Greater | Operator::GreaterOrEqual => 1,
        };
        let values = match self.asks_high_as(other) {
            true => self.value.cmp(&other.value),
            false => (self.value >> 32).cmp(&(other.value >> 32)),
        };
        let values = match self.operator {
            Operator::Less | Operator::LessOrEqual => values.reverse(),
            _ => values,
        };
        self.argument
            .cmp(&other.argument)
            .then(rank(self.operator).cmp(&rank(other.operator)))
            .then(values)
    }

    /// Whether it compares the upper half in the same way, or not at all.
    fn asks_high_as(&self, other: &Self) -> bool {
        let masked = |one: &Self| one.operator == Operator::MaskedEqual;
        !self.whole || (masked(self) == masked(other) && self.mask >> 32 == other.mask >> 32)
    }
}

/// The rules of one system call. The first that holds decides; the default action if none does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rules {
    Always(Action),
    When(Vec<Node>),
}

/// A condition that rules have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) condition: Condition,
    /// Further conditions, asked first.
    pub(super) and: Vec<Node>,
    /// The answer when none of those holds.
    pub(super) then: Option<Action>,
}

/// How a new rule stands to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Added {
    Consistently,
    /// There is one with just the same conditions and another action, which stays.
    Contradicting,
}

impl Rules {
    /// The first rule. `conditions` are in the order of their arguments and none holds always.
    pub(super) fn new(conditions: &[Condition], action: Action) -> Self {
        match chain(conditions, action) {
            None => Self::Always(action),
            Some(node) => Self::When(vec![node]),
        }
    }

    /// Adds a rule, as libseccomp does: a rule without conditions replaces those with some and
    /// stays before all that follow.
    pub(super) fn add(&mut self, conditions: &[Condition], action: Action) -> Added {
        match self {
            Self::Always(_) => Added::Consistently,
            Self::When(_) if conditions.is_empty() => {
                *self = Self::Always(action);
                Added::Consistently
            }
            Self::When(nodes) => add(nodes, conditions, action),
        }
    }
}

/// The rule as one branch of a tree.
fn chain(conditions: &[Condition], action: Action) -> Option<Node> {
    let mut next: Option<Node> = None;
    for condition in conditions.iter().rev() {
        next = Some(Node {
            condition: *condition,
            then: next.is_none().then_some(action),
            and: next.into_iter().collect(),
        });
    }
    next
}

fn add(nodes: &mut Vec<Node>, conditions: &[Condition], action: Action) -> Added {
    let Some((first, rest)) = conditions.split_first() else {
        return Added::Consistently;
    };
    let before = nodes
        .iter()
        .position(|node| node.condition == *first || node.condition.order(first) == Ordering::Less);
    let place = before.unwrap_or(nodes.len());
    match nodes.get_mut(place) {
        Some(node) if node.condition == *first => node.add(rest, action),
        _ => {
            nodes.splice(place..place, chain(conditions, action));
            Added::Consistently
        }
    }
}

impl Node {
    fn add(&mut self, rest: &[Condition], action: Action) -> Added {
        match self.then {
            // The shorter rule was there first and holds whenever the new one does.
            Some(_) if !rest.is_empty() => Added::Consistently,
            None if !rest.is_empty() => add(&mut self.and, rest, action),
            Some(then) if then != action => Added::Contradicting,
            Some(_) => Added::Consistently,
            None => {
                if self.and.iter().all(|node| node.answers_only(action)) {
                    self.and.clear();
                }
                self.then = Some(action);
                Added::Consistently
            }
        }
    }

    fn answers_only(&self, action: Action) -> bool {
        self.then.is_none_or(|then| then == action)
            && self.and.iter().all(|node| node.answers_only(action))
    }
}
