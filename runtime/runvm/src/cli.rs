//! The command line: runc's, and runvm's own flags beside it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use runvm_sandbox::{HypervisorChoice, IsolationKind};

/// What `--version` prints: engines read the first line and the one that begins with `spec:`.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0");

/// An OCI runtime that runs a bundle as a namespaced container or inside a KVM microVM.
#[derive(Debug, Parser)]
#[command(name = "runvm", version = VERSION, propagate_version = false, infer_long_args = false)]
#[command(disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The flags of every command; engines give them before it.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Where the state of containers is kept [default: /run/runvm, or $XDG_RUNTIME_DIR/runvm]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Append log messages to this file instead of standard error
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// How log messages are written
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
    /// Log what is done, not only what fails
    #[arg(long)]
    pub(crate) debug: bool,
    /// Have systemd make the cgroups
    #[arg(long)]
    pub(crate) systemd_cgroup: bool,
    /// Go on without a cgroup where the user may not make one
    #[arg(long, value_enum, default_value_t = Rootless::Auto, value_name = "WHEN")]
    pub(crate) rootless: Rootless,
    /// How to isolate the bundle: container or vm
    #[arg(long, value_name = "KIND")]
    pub(crate) isolation: Option<IsolationKind>,
    /// What a microVM runs on: auto, kvm or qemu
    #[arg(long, value_name = "NAME")]
    pub(crate) hypervisor: Option<HypervisorChoice>,
    /// The runtime's configuration file [default: /etc/runvm/config.toml]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rootless {
    Auto,
    True,
    False,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a container from a bundle, and stop before its program
    Create(Create),
    /// Run the program of a created container
    Start(Id),
    /// Make a container, run its program, wait for it, and delete the container
    Run(Run),
    /// Run one more program in a container
    Exec(Exec),
    /// Send a signal to a container's first process
    Kill(Kill),
    /// Remove a stopped container and all it holds
    Delete(Delete),
    /// Print a container's state as JSON
    State(Id),
    /// List the containers
    List(List),
    /// Write a config.json to start from
    Spec(Spec),
    /// Print what this runtime supports, as JSON
    Features,
    /// Say what this host can do for each isolation, and why not
    Check(Check),
    /// Measure the start-up of a bundle in each isolation, phase by phase
    Bench(Bench),
}

impl Command {
    /// The exit code when the command fails: as runc's, `exec` keeps the low ones for the program.
    pub(crate) fn failure_code(&self) -> u8 {
        if matches!(self, Self::Exec(_)) {
            255
        } else {
            1
        }
    }
}

/// A container, by its id.
#[derive(Debug, Args)]
pub(crate) struct Id {
    /// The container's id
    pub(crate) id: String,
}

/// What `create` and `run` have in common.
#[derive(Debug, Args)]
pub(crate) struct NewContainer {
    /// The bundle: the directory that holds config.json [default: .]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) bundle: Option<PathBuf>,
    /// Send the terminal to this unix socket
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Write the pid of the container's process to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Leave the old root by chroot instead of pivot_root
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// Keep the session keyring of the caller
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
    /// Pass this many descriptors beyond the standard three
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The new container's id
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) container: NewContainer,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The new container's id; or, without --bundle, the bundle, and the id is made up
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) container: NewContainer,
    /// Return when the program runs, and leave it to the caller
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Do not delete the container when it has stopped
    #[arg(long)]
    pub(crate) keep: bool,
    /// Do not become the reaper of the container's orphans
    #[arg(long)]
    pub(crate) no_subreaper: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// The container's id
    pub(crate) id: String,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
    /// Read the whole OCI process from this file instead
    #[arg(short, long, value_name = "FILE", conflicts_with = "command")]
    pub(crate) process: Option<PathBuf>,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// The working directory
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Run as this user: UID or UID:GID
    #[arg(short, long, value_name = "UID[:GID]")]
    pub(crate) user: Option<String>,
    /// Add a supplementary group
    #[arg(short = 'g', long, value_name = "GID")]
    pub(crate) additional_gids: Vec<u32>,
    /// Add a capability
    #[arg(short, long, value_name = "CAP")]
    pub(crate) cap: Vec<String>,
    /// Forbid the program to gain privileges
    #[arg(long)]
    pub(crate) no_new_privs: bool,
    /// Run it under this AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub(crate) apparmor: Option<String>,
    /// Run it under this SELinux label
    #[arg(long, value_name = "LABEL")]
    pub(crate) process_label: Option<String>,
    /// Return when the program runs, and leave it to the caller
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Send the terminal to this unix socket
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Write the pid of the program to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Pass this many descriptors beyond the standard three
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// The container's id
    pub(crate) id: String,
    /// The signal, by name or number
    #[arg(default_value = "SIGTERM")]
    pub(crate) signal: String,
    /// Signal every process of the container
    #[arg(short, long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The container's id
    pub(crate) id: String,
    /// Kill it first where it has not stopped; unknown ids are no error
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// How to print
    #[arg(short, long, value_enum, default_value_t = ListFormat::Table, value_name = "FORMAT")]
    pub(crate) format: ListFormat,
    /// Print the ids alone
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Spec {
    /// Where to write it [default: .]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) bundle: Option<PathBuf>,
    /// For a container that needs no root
    #[arg(long)]
    pub(crate) rootless: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// The bundle to start
    #[arg(default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// How many times in each isolation; medians are shown
    #[arg(short = 'n', long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) iterations: u32,
    /// Print the samples as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Answers a command line that asks for no command: help and version as asked, and one line about
/// one that is wrong, with runc's exit code.
pub(crate) fn answer_without_command(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Who closed standard output does not want the answer.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    let mut lines = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    let rest: Vec<&str> = lines.collect();
    let line = format!("{first} {}", rest.join(" "));
    eprintln!("runvm: {}", crate::logger::escape_control(line.trim_end()));
    ExitCode::FAILURE
}

/// Gives long flags with one dash their second: runc's parser takes both, and containerd's runc
/// shim uses `-no-subreaper`.
pub(crate) fn with_double_dashes(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    const SINGLE_DASH: [&str; 1] = ["-no-subreaper"];
    args.map(|arg| match arg.to_str() {
        Some(word) if SINGLE_DASH.contains(&word) => format!("-{word}").into(),
        _ => arg,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::{Cli, Command, with_double_dashes};

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn engines_words_are_understood() {
        let rows = [
            "runvm --root /r --log /l --log-format json create --bundle /b --pid-file /p --no-new-keyring ID",
            "runvm --root=/r --systemd-cgroup start ID",
            "runvm kill --all ID 9",
            "runvm kill ID KILL",
            "runvm delete --force ID",
            "runvm exec --process /t --console-socket /s --detach --pid-file /p ID",
            "runvm exec ID ls -l --color",
            "runvm create ID --bundle /b",
            "runvm run -d -b /b ID",
            "runvm list -q",
            "runvm features",
        ];
        for row in rows {
            let args = with_double_dashes(row.split(' ').map(Into::into));
            Cli::try_parse_from(args).unwrap_or_else(|error| panic!("{row}: {error}"));
        }
    }

    #[test]
    fn the_program_of_exec_keeps_its_own_flags() {
        let cli = Cli::try_parse_from(["runvm", "exec", "-t", "ID", "ls", "-t", "--tty"]).unwrap();
        let Command::Exec(exec) = cli.command else {
            panic!("not exec")
        };
        assert!(exec.tty);
        assert_eq!(exec.command, ["ls", "-t", "--tty"]);
    }
}
