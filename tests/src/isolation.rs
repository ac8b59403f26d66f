//! One behaviour, a test for each isolation.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::sync::{Once, OnceLock};

use rustix::process::Signal;
use serde_json::Value;

use crate::leftovers::processes_of;
use crate::{Process, Runtime, cgroups_of, leftovers};

/// The ways to isolate a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Namespaces on the host's kernel.
    Container,
    /// A microVM with a kernel of its own.
    Vm,
}

impl Isolation {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Vm => "vm",
        }
    }
}

/// Makes of each behaviour, a function of a [`Runtime`], a test in each isolation:
/// `BEHAVIOUR::container` and `BEHAVIOUR::vm`.
#[macro_export]
macro_rules! each_isolation {
    ($($behaviour:ident),+ $(,)?) => {
        $(mod $behaviour {
            #[test]
            fn container() {
                $crate::in_isolation($crate::Isolation::Container, super::$behaviour);
            }

            #[test]
            fn vm() {
                $crate::in_isolation($crate::Isolation::Vm, super::$behaviour);
            }
        })+
    };
}

/// Makes of each behaviour a test in container isolation alone.
#[macro_export]
macro_rules! container_only {
    ($($behaviour:ident),+ $(,)?) => {
        $(mod $behaviour {
            #[test]
            fn container() {
                $crate::in_isolation($crate::Isolation::Container, super::$behaviour);
            }
        })+
    };
}

/// Makes of each behaviour a test in vm isolation alone.
#[macro_export]
macro_rules! vm_only {
    ($($behaviour:ident),+ $(,)?) => {
        $(mod $behaviour {
            #[test]
            fn vm() {
                $crate::in_isolation($crate::Isolation::Vm, super::$behaviour);
            }
        })+
    };
}

/// Tests `behaviour` in `isolation`, and that it leaves nothing behind. Where that cannot be, says
/// why and skips.
pub fn in_isolation(isolation: Isolation, behaviour: fn(&Runtime)) {
    if let Some(reason) = reason_to_skip(isolation) {
        return skip(&reason);
    }
    become_subreaper();
    let runtime = Runtime::new(isolation);
    let result = catch_unwind(AssertUnwindSafe(|| behaviour(&runtime)));
    let left = leftovers(&runtime);
    if result.is_err() || !left.is_empty() {
        clean_up(&runtime);
    }
    if let Err(panic) = result {
        resume_unwind(panic);
    }
    assert!(
        left.is_empty(),
        "the test passed, and left behind:\n{}",
        left.join("\n")
    );
}

/// Says, past the capturing of a test's output, that the running test is skipped.
pub fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    // With standard error gone there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "skipped {test}: {reason}");
}

fn reason_to_skip(isolation: Isolation) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".into());
    }
    if let Ok(only) = std::env::var("RUNVM_TEST_ISOLATION") {
        let known = matches!(only.as_str(), "container" | "vm");
        assert!(
            known,
            "RUNVM_TEST_ISOLATION is {only:?}: neither container nor vm"
        );
        if only != isolation.as_str() {
            return Some(format!("RUNVM_TEST_ISOLATION is {only}"));
        }
    }
    if isolation == Isolation::Vm {
        return vm_missing().clone();
    }
    None
}

/// Why there is no vm isolation here.
fn vm_missing() -> &'static Option<String> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    MISSING.get_or_init(|| {
        if Runtime::is_runc() {
            return Some("runc has no vm isolation".into());
        }
        let check = Command::new(Runtime::binary())
            .args(["check", "--json"])
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", Runtime::binary().display()));
        let findings: Value = serde_json::from_slice(&check.stdout).expect("check prints JSON");
        let finding = findings
            .as_array()
            .and_then(|findings| {
                findings
                    .iter()
                    .find(|finding| finding["name"] == "vm isolation")
            })
            .expect("check has a finding about vm isolation");
        (finding["available"] != true).then(|| format!("runvm check: {}", finding["detail"]))
    })
}

/// Makes this process the parent of what the runtime leaves running, as an engine's shim is.
fn become_subreaper() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .expect("any process may become a subreaper");
    });
}

/// After a test that failed: the next ones, and the user, shall not stumble over what it left.
fn clean_up(runtime: &Runtime) {
    for entry in std::fs::read_dir(runtime.root())
        .into_iter()
        .flatten()
        .flatten()
    {
        let id = entry.file_name();
        let arguments = ["delete".as_ref(), "--force".as_ref(), id.as_os_str()];
        let _ = runtime.command(arguments).output();
    }
    let processes = processes_of(runtime.scratch().name());
    for process in processes.iter().filter_map(|(pid, _)| Process::open(*pid)) {
        process.signal(Signal::KILL);
        let _ = process.wait_for_end();
    }
    // Innermost first; what cannot be removed has been reported.
    for cgroup in cgroups_of(runtime.scratch().name()).iter().rev() {
        let _ = std::fs::remove_dir(cgroup);
    }
}
