//! `NOTIFY_SOCKET`: a supervisor, such as systemd, that wants to hear when the container's program
//! is ready (sd_notify(3)).

use std::ffi::OsString;
use std::path::Path;
use std::thread;

use anyhow::Context;
use runvm_oci::Status;
use runvm_sandbox::lifecycle::Container;
use runvm_sys::PidFd;
use serde_json::{Value, json};

use crate::commands::Session;
use crate::preserved::set_env;

/// Where the program finds its socket.
const IN_CONTAINER: &str = "/run/notify";

/// The supervisor's socket.
pub(crate) fn supervisor() -> Option<OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())
}

/// Gives the program a socket of its own, which will be in `directory`.
pub(crate) fn tell_program(config: &[u8], directory: &Path) -> anyhow::Result<Vec<u8>> {
    let mut config: Value = serde_json::from_slice(config)?;
    let mount = json!({
        "destination": IN_CONTAINER, "source": directory, "type": "bind",
        "options": ["bind", "nosuid", "nodev", "noexec", "ro"],
    });
    match &mut config["mounts"] {
        Value::Array(mounts) => mounts.push(mount),
        none => *none = json!([mount]),
    }
    let socket = format!("{IN_CONTAINER}/notify.sock");
    set_env(&mut config, &[("NOTIFY_SOCKET", socket)]);
    Ok(serde_json::to_vec(&config)?)
}

/// Runs the program of `container`, and tells the supervisor, if there is one, when it is ready.
///
/// `stand_in` is the process the supervisor is to watch in place of the container's, and who does
/// not wait: it has other things to do meanwhile.
pub(crate) fn start(
    session: &Session<'_>,
    container: &Container,
    stand_in: Option<u32>,
) -> anyhow::Result<()> {
    let readiness = match supervisor() {
        Some(socket) => container.listen_for_readiness()?.map(|said| (said, socket)),
        None => None,
    };
    let Some((readiness, socket)) = readiness else {
        return Ok(container.start()?);
    };
    let process = container.watch_process()?;
    container.start()?;
    let main_pid = stand_in.unwrap_or_else(|| container.record().pid_at(Status::Running));
    let pass_on = move |process: PidFd| readiness.pass_on(&process, &socket, main_pid);
    if stand_in.is_some() {
        // It ends with this process; a supervisor that cannot be told misses only that.
        let thread = thread::Builder::new().name("notify".into());
        let waiting = thread.spawn(move || pass_on(process));
        waiting.context("cannot wait for the program to be ready")?;
    } else if let Err(error) = pass_on(process) {
        session.logger.warn(&crate::logger::one_line(&error.into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::tell_program;

    #[test]
    fn the_program_finds_its_socket_and_not_the_supervisors() {
        let config = json!({"process": {"env": ["A=b", "NOTIFY_SOCKET=/run/systemd/notify"]}});
        let bytes = tell_program(config.to_string().as_bytes(), Path::new("/state/c1/notify"));
        let told: Value = serde_json::from_slice(&bytes.unwrap()).unwrap();
        let env = json!(["A=b", "NOTIFY_SOCKET=/run/notify/notify.sock"]);
        assert_eq!(told["process"]["env"], env);
        assert_eq!(told["mounts"][0]["source"], "/state/c1/notify");
    }
}
