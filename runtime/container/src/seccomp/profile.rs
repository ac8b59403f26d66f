//! From `linux.seccomp` to what each ABI's calls are answered.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};

use super::action::Action;
use super::error::{Field, SeccompError};
use super::rules::{Added, Condition, Operator, Rules};
use super::syscalls::{self, Abi, Machine, Row, Understood};

/// How many arguments a system call has at most.
const ARGUMENTS: usize = 6;

/// A profile that has been checked, independent of any ABI.
#[derive(Debug)]
pub(super) struct Profile {
    pub(super) default: Action,
    /// Which calls can be told from others; the machine's own ABI is always among them.
    pub(super) abis: Vec<Abi>,
    rules: Vec<Rule>,
    /// All system calls it names, whether or not a rule is left for them.
    named: Vec<&'static Row>,
    /// Names that are no system call's.
    pub(super) unknown: Vec<String>,
    pub(super) notifies: bool,
}

/// One entry of `syscalls` for one of its names.
#[derive(Debug)]
struct Rule {
    row: &'static Row,
    action: Action,
    /// Which of `syscalls`, for messages.
    syscall: usize,
    /// Each a rule of its own.
    alternatives: Vec<Vec<Condition>>,
}

/// The answers to one ABI's calls.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) by_number: BTreeMap<u32, Rules>,
    /// The greatest number the profile names; what is greater is newer than the profile.
    pub(super) last: Option<u32>,
}

impl Profile {
    pub(super) fn read(profile: &LinuxSeccomp, machine: Machine) -> Result<Self, SeccompError> {
        let default = Action::new(
            profile.default_action(),
            profile.default_errno_ret(),
            Field::DefaultErrnoRet,
        )?;
        let mut read = Self {
            default,
            abis: abis(profile, machine)?,
            rules: Vec::new(),
            named: Vec::new(),
            unknown: Vec::new(),
            notifies: false,
        };
        for (i, syscall) in profile.syscalls().iter().flatten().enumerate() {
            read.add(i, syscall)?;
        }
        Ok(read)
    }

    fn add(&mut self, i: usize, syscall: &LinuxSyscall) -> Result<(), SeccompError> {
        let action = Action::new(syscall.action(), syscall.errno_ret(), Field::ErrnoRet(i))?;
        let alternatives = alternatives(i, syscall.args().as_deref().unwrap_or_default())?;
        self.notifies |= action == Action::NOTIFY;
        for (n, name) in syscall.names().iter().enumerate() {
            if name.is_empty() {
                return Err(SeccompError::EmptyName {
                    syscall: i,
                    name: n,
                });
            }
            let Some(row) = syscalls::find(name) else {
                self.unknown.push(name.clone());
                continue;
            };
            self.named.push(row);
            // What the default does needs no rule; for libseccomp there is none then, and so it
            // stands before no other.
            if action == self.default {
                continue;
            }
            self.rules.push(Rule {
                row,
                action,
                syscall: i,
                alternatives: alternatives.clone(),
            });
        }
        Ok(())
    }

    /// What `abi`'s calls are answered.
    pub(super) fn answers(&self, abi: Abi) -> Result<Answers, SeccompError> {
        let mut answers = Answers {
            by_number: BTreeMap::new(),
            last: self.named.iter().filter_map(|row| abi.number(row)).max(),
        };
        for rule in &self.rules {
            for conditions in &rule.alternatives {
                answers.add(abi, rule, conditions)?;
            }
        }
        Ok(answers)
    }
}

impl Answers {
    fn add(&mut self, abi: Abi, rule: &Rule, conditions: &[Condition]) -> Result<(), SeccompError> {
        if abi == Abi::X86
            && let Some((through, call)) = syscalls::multiplexed(rule.row.0)
            && let Some(number) = syscalls::find(through).and_then(|row| abi.number(row))
        {
            self.put(abi, number, &behind(call, conditions), rule.action);
        }
        let Some(number) = abi.number(rule.row) else {
            return Ok(());
        };
        let added = self.put(abi, number, conditions, rule.action);
        // Half of the values, or those behind a pointer, may well be the same though the rules
        // are not.
        if added == Added::Contradicting && abi.is_64_bit() {
            return Err(SeccompError::Contradiction {
                syscall: rule.syscall,
                name: rule.row.0.to_owned(),
            });
        }
        Ok(())
    }

    fn put(&mut self, abi: Abi, number: u32, conditions: &[Condition], action: Action) -> Added {
        let conditions = conditions.iter().map(|condition| match abi.is_64_bit() {
            true => *condition,
            false => condition.lower_half(),
        });
        let conditions: Vec<_> = conditions
            .filter(|condition| !condition.always_holds())
            .collect();
        match self.by_number.get_mut(&number) {
            Some(rules) => rules.add(&conditions, action),
            None => {
                self.by_number
                    .insert(number, Rules::new(&conditions, action));
                Added::Consistently
            }
        }
    }
}

/// The conditions of a call that `socketcall` or `ipc` makes: which call it is is their first
/// argument. The call's own arguments are behind a pointer, where no filter can look; those of
/// the rule that remain are compared as they would be by libseccomp.
fn behind(call: u64, conditions: &[Condition]) -> Vec<Condition> {
    let which = Condition {
        argument: 0,
        operator: Operator::Equal,
        mask: u64::MAX,
        value: call,
        whole: false,
    };
    let others = conditions.iter().filter(|other| other.argument != 0);
    std::iter::once(which).chain(others.copied()).collect()
}

fn abis(profile: &LinuxSeccomp, machine: Machine) -> Result<Vec<Abi>, SeccompError> {
    let mut abis = vec![machine.own_abi()];
    for (index, arch) in profile.architectures().iter().flatten().enumerate() {
        match machine.understand(*arch) {
            Understood::Here(abi) if !abis.contains(&abi) => abis.push(abi),
            Understood::Here(_) | Understood::Foreign => {}
            Understood::OtherByteOrder => {
                return Err(SeccompError::Architecture { index, arch: *arch });
            }
        }
    }
    Ok(abis)
}

/// The conditions of one entry: all of `args` together, or each alone where an argument is
/// compared twice, as runc has it.
fn alternatives(
    syscall: usize,
    args: &[LinuxSeccompArg],
) -> Result<Vec<Vec<Condition>>, SeccompError> {
    let mut conditions = Vec::with_capacity(args.len());
    for (arg, given) in args.iter().enumerate() {
        let index = given.index();
        let argument = u8::try_from(index).ok().filter(|_| index < ARGUMENTS);
        let Some(argument) = argument else {
            return Err(SeccompError::ArgumentIndex {
                syscall,
                arg,
                index,
            });
        };
        let value_two = given.value_two().unwrap_or(0);
        conditions.push(Condition::new(
            argument,
            given.op(),
            given.value(),
            value_two,
        ));
    }
    let mut sorted = conditions.clone();
    sorted.sort_by_key(|condition| condition.argument);
    if sorted
        .windows(2)
        .any(|two| two[0].argument == two[1].argument)
    {
        return Ok(conditions.into_iter().map(|one| vec![one]).collect());
    }
    Ok(vec![sorted])
}
