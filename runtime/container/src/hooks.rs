//! Hooks: programs of the bundle's author, run at the points of the lifecycle
//! (OCI runtime specification, "POSIX-platform Hooks").

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use runvm_oci::{Hook, State, Status};
use runvm_sys::PidFd;
use runvm_sys::command::tie_to_caller;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, MemfdFlags, access, memfd_create};

/// Why a hook did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It gets the state on its standard input.
    #[error("cannot hand the container's state to the {point} hook {}", path.display())]
    State {
        /// The field of `hooks`.
        point: &'static str,
        /// The hook's program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be executed or waited for.
    #[error("cannot run the {point} hook {}", path.display())]
    Run {
        /// The field of `hooks`.
        point: &'static str,
        /// The hook's program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It said no.
    #[error("the {point} hook {} failed with {status}{output}", path.display())]
    Failed {
        /// The field of `hooks`.
        point: &'static str,
        /// The hook's program.
        path: PathBuf,
        /// How it ended, in words.
        status: String,
        /// The end of what it printed, after a colon, or nothing.
        output: String,
    },
    /// It took too long, and was killed.
    #[error("the {point} hook {} was killed after its timeout of {timeout:?}", path.display())]
    TimedOut {
        /// The field of `hooks`.
        point: &'static str,
        /// The hook's program.
        path: PathBuf,
        /// Its `timeout`.
        timeout: Duration,
    },
    /// What it was run for is no more, and it was killed.
    #[error("the {point} hook {} was killed: the container's process has ended", path.display())]
    ContainerGone {
        /// The field of `hooks`.
        point: &'static str,
        /// The hook's program.
        path: PathBuf,
    },
}

/// How much of a hook's output an error quotes, in bytes.
const QUOTE_BYTES_MAX: usize = 512;

/// Runs `hooks` one after the other in the caller's namespaces, each with `state` on its standard
/// input; stops at the first that fails. `point` is their field of `hooks`, for the errors.
///
/// A hook is killed with the calling thread; and, which is an error, when `container` has ended,
/// the process of one that is being made.
pub fn run(
    point: &'static str,
    hooks: &[Hook],
    state: &State,
    container: Option<&PidFd>,
) -> Result<(), HookError> {
    hooks
        .iter()
        .try_for_each(|hook| run_one(point, hook, state, container))
}

fn run_one(
    point: &'static str,
    hook: &Hook,
    state: &State,
    container: Option<&PidFd>,
) -> Result<(), HookError> {
    let path = || hook.path.clone();
    let failed_state = |source| HookError::State {
        point,
        path: path(),
        source,
    };
    let failed_run = |source| HookError::Run {
        point,
        path: path(),
        source,
    };
    // Files and not pipes: a hook may leave its input unread, and may print without end in sight.
    let input = state_file(state).map_err(failed_state)?;
    let mut output = memory_file().map_err(failed_state)?;
    let mut child = command(hook, state, input, &output)
        .and_then(|mut command| command.spawn())
        .map_err(failed_run)?;
    let end = wait(&child, hook.timeout, container);
    if !matches!(end, Ok(End::Own)) {
        kill(&child);
    }
    let status = child.wait();
    match (end.map_err(failed_run)?, status.map_err(failed_run)?) {
        (End::TimedOut, _) => Err(HookError::TimedOut {
            point,
            path: path(),
            timeout: hook.timeout.unwrap_or_default(),
        }),
        (End::ContainerGone, _) => Err(HookError::ContainerGone {
            point,
            path: path(),
        }),
        (End::Own, status) if status.success() => Ok(()),
        (End::Own, status) => Err(HookError::Failed {
            point,
            path: path(),
            status: in_words(status),
            output: quote(&mut output),
        }),
    }
}

fn command(hook: &Hook, state: &State, input: File, output: &File) -> io::Result<Command> {
    let mut command = Command::new(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    if let Some(env) = &hook.env {
        let pairs = env.iter();
        command
            .env_clear()
            .envs(pairs.map(|pair| pair.split_once('=').unwrap_or((pair.as_str(), ""))));
    }
    // As with other runtimes, what a hook names without a slash is in the bundle, unless the root
    // of a user namespace may not go there.
    if state.status == Status::Creating && access(&state.bundle, Access::EXEC_OK).is_ok() {
        command.current_dir(&state.bundle);
    }
    command
        .stdin(input)
        .stdout(Stdio::from(output.try_clone()?))
        .stderr(Stdio::from(output.try_clone()?))
        // So that what it started can be killed with it.
        .process_group(0);
    tie_to_caller(&mut command);
    Ok(command)
}

fn state_file(state: &State) -> io::Result<File> {
    let mut file = memory_file()?;
    serde_json::to_writer(&mut file, state)?;
    file.flush()?;
    file.rewind()?;
    Ok(file)
}

fn memory_file() -> io::Result<File> {
    Ok(memfd_create(c"runvm-hook", MemfdFlags::CLOEXEC)?.into())
}

/// What ended the wait for a hook.
enum End {
    Own,
    TimedOut,
    ContainerGone,
}

fn wait(child: &Child, timeout: Option<Duration>, container: Option<&PidFd>) -> io::Result<End> {
    let hook = PidFd::open(child.id())?;
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let mut set = vec![PollFd::new(&hook, PollFlags::IN)];
    set.extend(container.map(|container| PollFd::new(container, PollFlags::IN)));
    let ready = rustix::io::retry_on_intr(|| poll(&mut set, timeout.as_ref()))?;
    Ok(if ready == 0 {
        End::TimedOut
    } else if set[0].revents().is_empty() {
        End::ContainerGone
    } else {
        End::Own
    })
}

/// Kills a hook that has not been reaped, with its group.
fn kill(child: &Child) {
    if let Some(group) = rustix::process::Pid::from_raw(child.id().cast_signed()) {
        // A failure means that all of it has ended.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    }
}

/// The last line or so of what the hook printed.
fn quote(output: &mut File) -> String {
    let mut bytes = Vec::new();
    // All for an error message: without the output it is still one.
    let length = output.stream_position().unwrap_or(0);
    let start = length.saturating_sub(QUOTE_BYTES_MAX as u64);
    let read = output
        .seek(io::SeekFrom::Start(start))
        .and_then(|_| output.take(QUOTE_BYTES_MAX as u64).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    match (read, text.trim()) {
        (Err(_), _) | (_, "") => String::new(),
        (Ok(_), text) => format!(": {}", text.replace('\n', "; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: Option<Duration>) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script.into()],
            env: Some(vec!["WHO=hook".into()]),
            timeout,
        }
    }

    fn state() -> State {
        State {
            oci_version: "1.3.0".into(),
            id: "c1".into(),
            status: Status::Creating,
            pid: 7,
            bundle: "/usr".into(),
            annotations: Default::default(),
        }
    }

    fn run_shell(script: &str, timeout: Option<Duration>) -> Result<(), HookError> {
        run("prestart", &[shell(script, timeout)], &state(), None)
    }

    #[test]
    fn a_hook_gets_the_state_and_its_own_environment_only() {
        run_shell(
            r#"/bin/grep -q '"id":"c1"' && test "$WHO" = hook && test -z "$HOME""#,
            None,
        )
        .unwrap();
    }

    #[test]
    fn a_hook_without_an_environment_has_the_runtimes_and_starts_in_the_bundle() {
        let mut hook = shell(r#"test -n "$PATH" && test "$PWD" = /usr"#, None);
        hook.env = None;
        run("prestart", &[hook], &state(), None).unwrap();
    }

    #[test]
    fn a_hook_may_ignore_its_input() {
        run_shell("exit 0", None).unwrap();
    }

    #[test]
    fn a_failing_hook_is_quoted() {
        let error = run_shell("echo no such card >&2; exit 3", None).unwrap_err();
        let text = error.to_string();
        assert_eq!(
            text,
            "the prestart hook /bin/sh failed with status 3: no such card"
        );
    }

    #[test]
    fn a_hook_is_killed_when_what_it_is_run_for_has_ended() {
        let mut container = Command::new("/bin/true").spawn().unwrap();
        let handle = PidFd::open(container.id()).unwrap();
        let hook = shell("/bin/sleep 100 & wait", None);
        let error = run("prestart", &[hook], &state(), Some(&handle)).unwrap_err();
        assert!(matches!(error, HookError::ContainerGone { .. }), "{error}");
        container.wait().unwrap();
    }

    #[test]
    fn a_hook_is_killed_with_its_children_when_its_time_is_over() {
        let error = run_shell("/bin/sleep 100 & wait", Some(Duration::from_millis(50)));
        assert!(matches!(error, Err(HookError::TimedOut { .. })));
    }
}
