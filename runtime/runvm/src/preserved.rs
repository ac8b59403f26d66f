//! The descriptors that a container gets beyond the standard three: `--preserve-fds` and socket
//! activation (sd_listen_fds(3)).

use anyhow::{Context, bail};
use runvm_sys::inherited;
use serde_json::{Value, json};

use crate::cli::Command;

/// How many descriptors from 3 on go to the container's process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Preserved {
    /// Those of socket activation, which come first.
    activated: u32,
    /// All of them.
    pub(crate) count: u32,
}

impl Preserved {
    /// Reads what is asked for, and checks that it is there. This is the first thing to do: what
    /// this process opens itself takes the lowest free numbers, and would go to the container in
    /// place of what is missing.
    pub(crate) fn find(command: &Command) -> anyhow::Result<Self> {
        let (asked, activated) = match command {
            Command::Create(create) => (create.container.preserve_fds, activated()?),
            Command::Run(run) => (run.container.preserve_fds, activated()?),
            Command::Exec(exec) => (exec.preserve_fds, 0),
            Command::Checkpoint(checkpoint) => {
                if let Some(number) = checkpoint.status_fd
                    && !inherited::is_open(number)
                {
                    bail!("--status-fd: descriptor {number} is not open");
                }
                return Ok(Self::default());
            }
            _ => return Ok(Self::default()),
        };
        let Some(count) = asked.checked_add(activated) else {
            bail!("--preserve-fds and LISTEN_FDS are too many");
        };
        if let Some(number) = inherited::first_missing(count) {
            let by = if number - 3 < activated {
                "LISTEN_FDS"
            } else {
                "--preserve-fds"
            };
            bail!("{by}: descriptor {number} is not open");
        }
        Ok(Self { activated, count })
    }

    /// Whether there are descriptors of socket activation among them.
    pub(crate) fn is_activated(self) -> bool {
        self.activated > 0
    }

    /// Tells the program of the descriptors of socket activation, as they were told to us; its pid
    /// is 1.
    pub(crate) fn tell_program(self, config: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut config: Value = serde_json::from_slice(config)?;
        let count = self.activated.to_string();
        set_env(
            &mut config,
            &[("LISTEN_FDS", count), ("LISTEN_PID", "1".to_owned())],
        );
        Ok(serde_json::to_vec(&config)?)
    }
}

/// Sets environment variables of a configuration's process, whatever it says of them itself.
pub(crate) fn set_env(config: &mut Value, variables: &[(&str, String)]) {
    let env = &mut config["process"]["env"];
    if !env.is_array() {
        *env = json!([]);
    }
    let Some(env) = env.as_array_mut() else {
        return;
    };
    let name = |pair: &Value| {
        let pair = pair.as_str().unwrap_or_default();
        pair.split('=').next().unwrap_or_default().to_owned()
    };
    env.retain(|pair| variables.iter().all(|(ours, _)| *ours != name(pair)));
    env.extend(
        variables
            .iter()
            .map(|(name, value)| json!(format!("{name}={value}"))),
    );
}

/// How many descriptors were passed to this process by socket activation; those meant for
/// another process, whose environment this one has by inheritance, are none.
fn activated() -> anyhow::Result<u32> {
    let own_pid = std::process::id().to_string();
    activated_in(
        std::env::var("LISTEN_PID").ok().as_deref(),
        std::env::var("LISTEN_FDS").ok().as_deref(),
        &own_pid,
    )
}

fn activated_in(pid: Option<&str>, fds: Option<&str>, own_pid: &str) -> anyhow::Result<u32> {
    match (pid, fds) {
        (Some(pid), Some(fds)) if pid == own_pid => fds
            .parse()
            .with_context(|| format!("LISTEN_FDS is {fds:?}, not a number of descriptors")),
        _ => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Preserved, activated_in};

    #[test]
    fn activation_is_for_the_process_it_names() {
        let rows = [
            (Some("7"), Some("2"), Some(2)),
            (Some("8"), Some("2"), Some(0)),
            (Some("8"), Some("many"), Some(0)),
            (None, Some("2"), Some(0)),
            (Some("7"), None, Some(0)),
            (Some("7"), Some("-1"), None),
            (Some("7"), Some(""), None),
        ];
        for (pid, fds, expected) in rows {
            assert_eq!(
                activated_in(pid, fds, "7").ok(),
                expected,
                "{pid:?} {fds:?}"
            );
        }
    }

    #[test]
    fn the_program_is_told_of_its_sockets_and_of_no_others() {
        let config = json!({"process": {"env": ["A=b", "LISTEN_PID=5", "LISTEN_FDS=9"]}});
        let preserved = Preserved {
            activated: 2,
            count: 3,
        };
        let bytes = preserved.tell_program(config.to_string().as_bytes());
        let told: Value = serde_json::from_slice(&bytes.unwrap()).unwrap();
        let env = json!(["A=b", "LISTEN_FDS=2", "LISTEN_PID=1"]);
        assert_eq!(told["process"]["env"], env);
    }
}
