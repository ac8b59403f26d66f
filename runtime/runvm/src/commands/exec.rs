use anyhow::{Context, bail};
use runvm_container::Stdio;
use runvm_container::cgroup::SubCgroup;
use runvm_sandbox::lifecycle::{Console, Container, ExecRequest};
use serde_json::{Value, json};

use super::Session;
use crate::cli::Exec;
use crate::foreground::{ForwardedSignals, attend, window_size};

/// `runvm exec`: runs one more program in a container; the answer is its exit code, or 0 when
/// detached.
pub(super) fn exec(session: &Session<'_>, args: &Exec) -> anyhow::Result<u8> {
    let container = Container::open(&session.store, &args.id)?;
    let process = match &args.process {
        Some(path) => std::fs::read(path)
            .with_context(|| format!("cannot read the process file {}", path.display()))?,
        None => serde_json::to_vec(&process_from_flags(&container, args)?)?,
    };
    let sub_cgroups = args.cgroup.iter().map(|text| SubCgroup::parse(text));
    let sub_cgroups = sub_cgroups.collect::<Result<Vec<_>, _>>()?;
    let signals = (!args.detach).then(ForwardedSignals::take).transpose()?;
    let pid_file = args
        .pid_file
        .as_deref()
        .map(std::path::absolute)
        .transpose()?;
    let attached = container.exec(ExecRequest {
        process_json: &process,
        stdio: Stdio::inherit().context("cannot take over standard input, output and error")?,
        console: match &args.console_socket {
            Some(socket) => Console::Socket(socket),
            None if args.detach => Console::None,
            None => Console::Caller,
        },
        pid_file: pid_file.as_deref(),
        pidfd_socket: args.pidfd_socket.as_deref(),
        preserve_fds: session.preserved.count,
        sub_cgroups: &sub_cgroups,
        ignore_paused: args.ignore_paused,
    })?;
    for warning in &attached.warnings {
        session.logger.warn(warning);
    }
    let Some(signals) = signals else { return Ok(0) };
    attend(&attached.pidfd, attached.terminal, &signals, |signal| {
        if let Err(error) = attached.pidfd.send_signal(signal) {
            session
                .logger
                .debug(|| format!("cannot forward signal {signal}: {error}"));
        }
    })
}

/// The container's own process with what the flags say changed, as runc has it.
fn process_from_flags(container: &Container, args: &Exec) -> anyhow::Result<Value> {
    if args.command.is_empty() {
        bail!("exec needs a program, or --process");
    }
    let mut config: Value = serde_json::from_slice(&container.config()?)
        .context("cannot read the container's configuration")?;
    let mut process = config["process"].take();
    process["args"] = json!(args.command);
    process["terminal"] = json!(args.tty);
    if !args.tty {
        process
            .as_object_mut()
            .map(|fields| fields.remove("consoleSize"));
    } else if let Some(size) = window_size().filter(|_| !args.detach) {
        process["consoleSize"] = json!({ "height": size.ws_row, "width": size.ws_col });
    }
    if let Some(cwd) = &args.cwd {
        process["cwd"] = json!(cwd);
    }
    if let Some(user) = &args.user {
        let (uid, gid) = parse_user(user)?;
        process["user"]["uid"] = json!(uid);
        if let Some(gid) = gid {
            process["user"]["gid"] = json!(gid);
        }
    }
    append(
        &mut process["user"]["additionalGids"],
        &args.additional_gids,
    );
    append(&mut process["env"], &args.env);
    for set in ["bounding", "effective", "permitted"] {
        append(&mut process["capabilities"][set], &args.cap);
    }
    if args.no_new_privs {
        process["noNewPrivileges"] = json!(true);
    }
    if let Some(profile) = &args.apparmor {
        process["apparmorProfile"] = json!(profile);
    }
    if let Some(label) = &args.process_label {
        process["selinuxLabel"] = json!(label);
    }
    Ok(process)
}

fn append<T: serde::Serialize>(list: &mut Value, items: &[T]) {
    if items.is_empty() {
        return;
    }
    if !list.is_array() {
        *list = json!([]);
    }
    if let Some(list) = list.as_array_mut() {
        list.extend(items.iter().map(|item| json!(item)));
    }
}

/// Reads `UID[:GID]`. A name is refused: which database it is to be looked up in is the caller's
/// to say, and taking it for user 0 is CVE-2026-30892.
fn parse_user(text: &str) -> anyhow::Result<(u32, Option<u32>)> {
    let wrong = || format!("--user {text:?}: expected UID or UID:GID in numbers");
    match text.split_once(':') {
        None => Ok((text.parse().with_context(wrong)?, None)),
        Some((uid, gid)) => Ok((
            uid.parse().with_context(wrong)?,
            Some(gid.parse().with_context(wrong)?),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_user;

    #[test]
    fn a_user_is_numbers_or_refused() {
        let rows = [
            ("1", Some((1, None))),
            ("1000:5", Some((1000, Some(5)))),
            ("nobody", None),
            ("1:", None),
            (":1", None),
            ("-1", None),
            ("4294967296", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(parse_user(text).ok(), expected, "{text:?}");
        }
    }
}
