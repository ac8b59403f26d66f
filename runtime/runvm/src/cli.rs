//! The command line: runc's, and runvm's own flags beside it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use runvm_container::PageServer;
use runvm_sandbox::{HypervisorChoice, IsolationKind};

/// What `--version` prints after the name. Engines read it as runc's: `version` and a number, then
/// a line for each of the others.
const VERSION: &str = concat!(
    "version ",
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("RUNVM_COMMIT"),
    "\nspec: 1.3.0"
);

/// An OCI runtime that runs a bundle as a namespaced container or inside a KVM microVM.
#[derive(Debug, Parser)]
#[command(name = "runvm", version = VERSION, propagate_version = false, infer_long_args = false)]
#[command(disable_help_subcommand = true, disable_version_flag = true)]
pub(crate) struct Cli {
    /// Print the version
    #[arg(short, long, action = clap::ArgAction::Version)]
    version: Option<bool>,
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
    Exec(Box<Exec>),
    /// Send a signal to a container's first process
    Kill(Kill),
    /// Remove a stopped container and all it holds
    Delete(Delete),
    /// Stop all processes of a container until it is resumed
    Pause(Id),
    /// Let the processes of a paused container go on
    Resume(Id),
    /// Write a running container to files, by CRIU, and delete it
    Checkpoint(Box<Checkpoint>),
    /// Make a container from such files, which goes on where it was
    Restore(Box<Restore>),
    /// List the processes of a container
    Ps(Ps),
    /// Change the limits of a container
    Update(Box<Update>),
    /// Print what a container uses, and when it runs out of memory, as lines of JSON
    Events(Events),
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
    /// Send a pidfd of the container's process to this unix socket
    #[arg(long, value_name = "SOCKET")]
    pub(crate) pidfd_socket: Option<PathBuf>,
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
    /// Send a pidfd of the program to this unix socket
    #[arg(long, value_name = "SOCKET")]
    pub(crate) pidfd_socket: Option<PathBuf>,
    /// Pass this many descriptors beyond the standard three
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Run it in a cgroup below the container's, that is there
    #[arg(long, value_name = "[CONTROLLER:]PATH")]
    pub(crate) cgroup: Vec<String>,
    /// Take a paused container, too: the program runs when it is resumed
    #[arg(long)]
    pub(crate) ignore_paused: bool,
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

/// What `checkpoint` and `restore` have in common.
#[derive(Debug, Args)]
pub(crate) struct Criu {
    /// The directory of the files [default: ./checkpoint]
    #[arg(long, value_name = "DIR")]
    pub(crate) image_path: Option<PathBuf>,
    /// The directory of CRIU's log [default: that of the files]
    #[arg(long, value_name = "DIR")]
    pub(crate) work_path: Option<PathBuf>,
    /// Take open TCP connections along
    #[arg(long)]
    pub(crate) tcp_established: bool,
    /// Allow unix sockets whose other end is outside
    #[arg(long)]
    pub(crate) ext_unix_sk: bool,
    /// Allow a session and terminal of the caller's
    #[arg(long)]
    pub(crate) shell_job: bool,
    /// Take file locks along
    #[arg(long)]
    pub(crate) file_locks: bool,
    /// Give files that were removed while open a name
    #[arg(long)]
    pub(crate) link_remap: bool,
    /// Free what a later dump replaces
    #[arg(long)]
    pub(crate) auto_dedup: bool,
    /// Leave memory behind, to be fetched when it is used
    #[arg(long)]
    pub(crate) lazy_pages: bool,
    /// What to do about cgroups
    #[arg(long, value_enum, value_name = "MODE")]
    pub(crate) manage_cgroups_mode: Option<ManageCgroupsMode>,
    /// Leave a namespace empty; the network's always is
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) empty_ns: Option<EmptyNamespace>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ManageCgroupsMode {
    Soft,
    Full,
    Strict,
    Ignore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EmptyNamespace {
    Network,
}

#[derive(Debug, Args)]
pub(crate) struct Checkpoint {
    /// The container's id
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) criu: Criu,
    /// The files of an earlier --pre-dump, relative to --image-path
    #[arg(long, value_name = "DIR")]
    pub(crate) parent_path: Option<PathBuf>,
    /// Let the container go on
    #[arg(long)]
    pub(crate) leave_running: bool,
    /// Write its memory alone and let it go on, so that the next has less to write
    #[arg(long)]
    pub(crate) pre_dump: bool,
    /// Leave out TCP connections that are still being made
    #[arg(long)]
    pub(crate) tcp_skip_in_flight: bool,
    /// Send the memory to this `criu page-server`
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = page_server)]
    pub(crate) page_server: Option<PageServer>,
    /// Write a zero byte to this descriptor when memory can be fetched (with --lazy-pages)
    #[arg(long, value_name = "FD", requires = "lazy_pages")]
    pub(crate) status_fd: Option<i32>,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The new container's id
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) criu: Criu,
    /// The bundle: the directory that holds config.json [default: .]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) bundle: Option<PathBuf>,
    /// Send the terminal to this unix socket
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Write the pid of the container's process to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Return when the container runs, and leave it to the caller
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Do not become the reaper of the container's orphans
    #[arg(long)]
    pub(crate) no_subreaper: bool,
    /// Let TCP connections be as if they had been closed
    #[arg(long)]
    pub(crate) tcp_close: bool,
    /// The AppArmor profile or SELinux label, as TYPE:NAME
    #[arg(long, value_name = "PROFILE")]
    pub(crate) lsm_profile: Option<String>,
    /// The SELinux context of mounts
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) lsm_mount_context: Option<String>,
    // CRIU changes the root in its own way, and makes no keyring.
    #[arg(long, hide = true)]
    pub(crate) no_pivot: bool,
    #[arg(long, hide = true)]
    pub(crate) no_new_keyring: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// How to print
    #[arg(short, long, value_enum, default_value_t = ListFormat::Table, value_name = "FORMAT")]
    pub(crate) format: ListFormat,
    /// The container's id
    pub(crate) id: String,
    /// Arguments for ps(1), which makes the table [default: -ef]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) ps_args: Vec<OsString>,
}

/// Amounts of memory are bytes, or a number with a unit such as 64M; -1 is no limit.
#[derive(Debug, Default, Args)]
pub(crate) struct Update {
    /// The container's id
    pub(crate) id: String,
    /// Read linux.resources from this file, or from standard input (-); other flags are ignored
    #[arg(short, long, value_name = "FILE")]
    pub(crate) resources: Option<PathBuf>,
    /// The share of block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    pub(crate) blkio_weight: Option<u16>,
    /// The length of a period of the CPU quota, in microseconds
    #[arg(long, value_name = "US")]
    pub(crate) cpu_period: Option<u64>,
    /// The CPU time in each period, in microseconds; -1 is no limit
    #[arg(long, value_name = "US", allow_negative_numbers = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// The CPU time that may be saved up for a burst, in microseconds
    #[arg(long, value_name = "US")]
    pub(crate) cpu_burst: Option<u64>,
    /// The share of CPU time
    #[arg(long, value_name = "SHARES")]
    pub(crate) cpu_share: Option<u64>,
    /// The length of a real-time period, in microseconds
    #[arg(long, value_name = "US")]
    pub(crate) cpu_rt_period: Option<u64>,
    /// The real-time CPU time in each period, in microseconds
    #[arg(long, value_name = "US", allow_negative_numbers = true)]
    pub(crate) cpu_rt_runtime: Option<i64>,
    /// Whether it runs only when nothing else wants to: 0 or 1
    #[arg(long, value_name = "0|1", allow_negative_numbers = true)]
    pub(crate) cpu_idle: Option<i64>,
    /// The CPUs it may use
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,
    /// The memory nodes it may use
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_mems: Option<String>,
    /// The most memory
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true, value_parser = amount)]
    pub(crate) memory: Option<i64>,
    /// The memory that is left to it when others want some
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true, value_parser = amount)]
    pub(crate) memory_reservation: Option<i64>,
    /// The most memory and swap together
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true, value_parser = amount)]
    pub(crate) memory_swap: Option<i64>,
    /// The most processes; -1 is no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) pids_limit: Option<i64>,
    /// The schema of the L3 cache (Intel RDT)
    #[arg(long, value_name = "SCHEMA")]
    pub(crate) l3_cache_schema: Option<String>,
    /// The schema of the memory bandwidth (Intel RDT)
    #[arg(long, value_name = "SCHEMA")]
    pub(crate) mem_bw_schema: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) kernel_memory: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) kernel_memory_tcp: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// The container's id
    pub(crate) id: String,
    /// How often to print what it uses
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = interval)]
    pub(crate) interval: Duration,
    /// Print what it uses once, and end
    #[arg(long)]
    pub(crate) stats: bool,
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

fn interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("duration interval must be greater than 0".into()),
        Ok(interval) => Ok(interval),
        Err(error) => Err(error.to_string()),
    }
}

fn page_server(text: &str) -> Result<PageServer, String> {
    let (address, port) = text
        .rsplit_once(':')
        .ok_or("expected an address and a port, with a colon between them")?;
    let address = address
        .strip_prefix('[')
        .and_then(|address| address.strip_suffix(']'))
        .unwrap_or(address);
    match port.parse() {
        Ok(port) if port > 0 && !address.is_empty() => Ok(PageServer {
            address: address.to_owned(),
            port,
        }),
        _ => Err("expected an address and a port, with a colon between them".into()),
    }
}

/// Reads an amount of memory as engines write it: a number, perhaps with a fraction, and a unit of
/// 1024s.
fn amount(text: &str) -> Result<i64, String> {
    let wrong = || "expected bytes, or a number with a unit such as 64M".to_owned();
    if text == "-1" {
        return Ok(-1);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.trim_start().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let shift = match unit.strip_suffix('i').unwrap_or(unit) {
        "" if unit.is_empty() => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let bytes = whole.parse::<i64>().ok();
    let bytes = bytes.and_then(|whole| whole.checked_mul(1 << shift));
    // Nine digits tell a byte of any fraction of what is ever limited.
    let digits: String = fraction.chars().take(9).collect();
    let part = digits.parse::<i128>().map_err(|_| wrong())?;
    let scale = 10_i128.pow(u32::try_from(digits.len()).unwrap_or(0));
    let part = i64::try_from((part << shift) / scale).map_err(|_| wrong())?;
    bytes
        .and_then(|bytes| bytes.checked_add(part))
        .ok_or_else(wrong)
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

    use super::{Cli, Command, ListFormat, amount, interval, page_server, with_double_dashes};

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
            "runvm pause ID",
            "runvm ps --format json ID",
            "runvm ps ID --format json",
            "runvm ps ID -aux",
            "runvm update --resources=- ID",
            "runvm update --resources - ID",
            "runvm update ID --memory 64M --memory-swap -1 --pids-limit -1 --cpu-quota -1",
            "runvm events --stats ID",
            "runvm events --interval 100ms ID",
            "runvm checkpoint --image-path /i --work-path /w --leave-running --tcp-established --file-locks ID",
            "runvm checkpoint --pre-dump --parent-path ../p --page-server [::1]:27 --empty-ns network ID",
            "runvm checkpoint --lazy-pages --status-fd 3 --manage-cgroups-mode ignore ID",
            "runvm restore --image-path /i --work-path /w --detach --pid-file /p --no-pivot -no-subreaper --bundle /b ID",
            "runvm restore --bundle /b --pid-file /p --no-new-keyring --detach --image-path /i --console-socket /s ID",
            "runvm exec --cgroup cpu,memory:a --cgroup pids:/b --ignore-paused ID true",
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

    #[test]
    fn ps_keeps_what_comes_after_the_id_for_ps() {
        let cli = Cli::try_parse_from(["runvm", "ps", "-f", "json", "ID", "-o", "pid,args"]);
        let Command::Ps(ps) = cli.unwrap().command else {
            panic!("not ps")
        };
        assert_eq!(ps.format, ListFormat::Json);
        assert_eq!(ps.ps_args, ["-o", "pid,args"]);
    }

    #[test]
    fn memory_is_given_in_bytes_or_with_a_unit() {
        let rows = [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("1234", Some(1234)),
            ("64M", Some(64 << 20)),
            ("64mb", Some(64 << 20)),
            ("2 GiB", Some(2 << 30)),
            ("1.5k", Some(1536)),
            ("7b", Some(7)),
            ("9000000P", None),
            ("", None),
            ("M", None),
            ("-2", None),
            ("i", None),
            ("5ib", None),
            ("1.2.3", None),
            ("1e3", None),
            ("64X", None),
        ];
        for (text, expected) in rows {
            assert_eq!(amount(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_page_server_is_an_address_and_a_port() {
        let rows = [
            ("10.0.0.1:27", Some(("10.0.0.1", 27))),
            ("[::1]:65535", Some(("::1", 65535))),
            ("host:0", None),
            ("host:65536", None),
            ("host", None),
            (":27", None),
            ("", None),
        ];
        for (text, expected) in rows {
            let found = page_server(text).ok();
            let found = found.as_ref().map(|at| (at.address.as_str(), at.port));
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn an_interval_is_a_time_above_zero() {
        assert!(interval("5s").is_ok() && interval("1m30s").is_ok() && interval("100ms").is_ok());
        for text in ["0s", "0ms", "-1s", "", "5"] {
            assert!(interval(text).is_err(), "{text:?}");
        }
    }
}
