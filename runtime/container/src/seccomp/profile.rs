//! From `linux.seccomp` to what each ABI's calls are answered.

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
    entries: Vec<Entry>,
    named: Vec<Named>,
    /// Names that are no system call's.
    pub(super) unknown: Vec<String>,
    pub(super) notifies: bool,
}

/// One of `syscalls`.
#[derive(Debug)]
struct Entry {
    action: Action,
    /// Each a rule of its own.
    alternatives: Vec<Vec<Condition>>,
}

/// One of an entry's names.
#[derive(Debug, Clone, Copy)]
struct Named {
    row: &'static Row,
    /// Which of the entries.
    entry: usize,
}

/// The answers to one ABI's calls.
#[derive(Debug)]
pub(super) struct Answers {
    /// In ascending order of the numbers.
    pub(super) by_number: Vec<(u32, Rules)>,
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
            entries: Vec::new(),
            named: Vec::new(),
            unknown: Vec::new(),
            notifies: false,
        };
        for syscall in profile.syscalls().iter().flatten() {
            read.add(syscall)?;
        }
        Ok(read)
    }

    fn add(&mut self, syscall: &LinuxSyscall) -> Result<(), SeccompError> {
        let entry = self.entries.len();
        let action = Action::new(
            syscall.action(),
            syscall.errno_ret(),
            Field::ErrnoRet(entry),
        )?;
        self.notifies |= action == Action::NOTIFY;
        self.entries.push(Entry {
            action,
            alternatives: alternatives(entry, syscall.args().as_deref().unwrap_or_default())?,
        });
        for (n, name) in syscall.names().iter().enumerate() {
            if name.is_empty() {
                return Err(SeccompError::EmptyName {
                    syscall: entry,
                    name: n,
                });
            }
            match syscalls::find(name) {
                Some(row) => self.named.push(Named { row, entry }),
                None => self.unknown.push(name.clone()),
            }
        }
        Ok(())
    }

    /// What `abi`'s calls are answered.
    pub(super) fn answers(&self, abi: Abi) -> Result<Answers, SeccompError> {
        let mut by_number = Vec::with_capacity(self.named.len());
        for (number, named) in self.numbered(abi) {
            self.add_rules(&mut by_number, abi, number, named)?;
        }
        let named = self.named.iter();
        Ok(Answers {
            by_number,
            last: named.filter_map(|named| abi.number(named.row)).max(),
        })
    }

    /// The names in ascending order of their numbers, those of one number as the profile has
    /// them. Those that another call makes come with the latter's number too.
    fn numbered(&self, abi: Abi) -> Vec<(Number, Named)> {
        let mut numbered = Vec::with_capacity(self.named.len());
        for named in &self.named {
            // What the default does needs no rule; for libseccomp there is none then, and so it
            // stands before no other.
            if self.entries[named.entry].action == self.default {
                continue;
            }
            if abi == Abi::X86
                && let Some((through, call)) = syscalls::multiplexed(named.row.0)
                && let Some(number) = syscalls::find(through).and_then(|row| abi.number(row))
            {
                numbered.push((Number::Through(number, call), *named));
            }
            let own = abi.number(named.row).map(Number::Own);
            numbered.extend(own.map(|number| (number, *named)));
        }
        numbered.sort_by_key(|(number, _)| number.get());
        numbered
    }

    fn add_rules(
        &self,
        by_number: &mut Vec<(u32, Rules)>,
        abi: Abi,
        number: Number,
        named: Named,
    ) -> Result<(), SeccompError> {
        let entry = &self.entries[named.entry];
        for conditions in &entry.alternatives {
            let conditions = match number {
                Number::Own(_) => on(abi, conditions.iter().copied()),
                Number::Through(_, call) => on(abi, behind(call, conditions)),
            };
            let added = match by_number.last_mut() {
                Some((known, rules)) if *known == number.get() => {
                    rules.add(&conditions, entry.action)
                }
                _ => {
                    let rules = Rules::new(&conditions, entry.action);
                    by_number.push((number.get(), rules));
                    Added::Consistently
                }
            };
            // Half of the values, or those behind a pointer, may well be the same though the
            // rules are not.
            if added == Added::Contradicting && abi.is_64_bit() {
                return Err(SeccompError::Contradiction {
                    syscall: named.entry,
                    name: named.row.0.to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// A number a call is made by.
#[derive(Debug, Clone, Copy)]
enum Number {
    Own(u32),
    /// That of `socketcall` or `ipc`, and theirs for the call.
    Through(u32, u64),
}

impl Number {
    fn get(self) -> u32 {
        match self {
            Self::Own(number) | Self::Through(number, _) => number,
        }
    }
}

/// The conditions as `abi` has its arguments, without those that always hold.
fn on(abi: Abi, conditions: impl Iterator<Item = Condition>) -> Vec<Condition> {
    let conditions = conditions.map(|condition| match abi.is_64_bit() {
        true => condition,
        false => condition.lower_half(),
    });
    conditions
        .filter(|condition| !condition.always_holds())
        .collect()
}

/// The conditions of a call that `socketcall` or `ipc` makes: which call it is is their first
/// argument. The call's own arguments are behind a pointer, where no filter can look; those of
/// the rule that remain are compared as they would be by libseccomp.
fn behind(call: u64, conditions: &[Condition]) -> impl Iterator<Item = Condition> {
    let which = Condition {
        argument: 0,
        operator: Operator::Equal,
        mask: u64::MAX,
        value: call,
        whole: false,
    };
    let others = conditions.iter().filter(|other| other.argument != 0);
    std::iter::once(which).chain(others.copied())
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
