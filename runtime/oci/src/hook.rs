//! `hooks`: programs of the caller's, run by the runtime.

use std::time::Duration;

use crate::{ConfigError, Hook, Hooks, check, document};

pub(crate) fn checked(hooks: document::Hooks) -> Result<Hooks, ConfigError> {
    Ok(Hooks {
        prestart: list("hooks.prestart", hooks.prestart)?,
        create_runtime: list("hooks.createRuntime", hooks.create_runtime)?,
        create_container: list("hooks.createContainer", hooks.create_container)?,
        start_container: list("hooks.startContainer", hooks.start_container)?,
        poststart: list("hooks.poststart", hooks.poststart)?,
        poststop: list("hooks.poststop", hooks.poststop)?,
    })
}

fn list(field: &str, hooks: Option<Vec<document::Hook>>) -> Result<Vec<Hook>, ConfigError> {
    hooks
        .unwrap_or_default()
        .into_iter()
        .enumerate()
        .map(|(i, hook)| one(&format!("{field}[{i}]"), hook))
        .collect()
}

fn one(field: &str, hook: document::Hook) -> Result<Hook, ConfigError> {
    let path = hook.path.ok_or_else(|| ConfigError::Missing {
        field: format!("{field}.path"),
        expected: "an absolute path",
    })?;
    let args = hook.args.unwrap_or_default();
    check::texts(&format!("{field}.args"), &args)?;
    if let Some(env) = &hook.env {
        check::environment(&format!("{field}.env"), env)?;
    }
    Ok(Hook {
        path: check::absolute(format_args!("{field}.path"), path)?,
        args,
        env: hook.env,
        timeout: hook
            .timeout
            .map(|seconds| timeout(field, seconds))
            .transpose()?,
    })
}

fn timeout(field: &str, seconds: i64) -> Result<Duration, ConfigError> {
    match u64::try_from(seconds) {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => check::refuse_number(
            format_args!("{field}.timeout"),
            seconds,
            "a number of seconds above zero",
        ),
    }
}
