//! The commands, a file each.

mod bench;
mod check;
mod checkpoint;
mod create;
mod delete;
mod events;
mod exec;
mod features;
mod kill;
mod list;
mod pause;
mod ps;
mod restore;
mod run;
mod spec;
mod start;
mod state;
mod update;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use runvm_oci::Plan;
use runvm_sandbox::{CgroupDriver, IsolationKind, Settings, Store};
use runvm_sys::user_namespace;
use runvm_systemd::Instance;

use crate::cli::{Cli, Command, Global, Rootless};
use crate::logger::Logger;
use crate::preserved::Preserved;

/// What every command works with.
pub(crate) struct Session<'a> {
    pub(crate) store: Store,
    pub(crate) global: &'a Global,
    pub(crate) preserved: Preserved,
    pub(crate) logger: &'a Logger,
}

/// Runs the command; the answer is the exit code.
pub(crate) fn run(cli: Cli, preserved: Preserved, logger: &Logger) -> anyhow::Result<u8> {
    let session = Session {
        store: Store::at(root(&cli.global)),
        global: &cli.global,
        preserved,
        logger,
    };
    match cli.command {
        Command::Create(args) => create::create(&session, &args),
        Command::Start(args) => start::start(&session, &args),
        Command::Run(args) => run::run(&session, &args),
        Command::Exec(args) => exec::exec(&session, &args),
        Command::Kill(args) => kill::kill(&session, &args),
        Command::Delete(args) => delete::delete(&session, &args),
        Command::Pause(args) => pause::pause(&session, &args),
        Command::Resume(args) => pause::resume(&session, &args),
        Command::Checkpoint(args) => checkpoint::checkpoint(&session, &args),
        Command::Restore(args) => restore::restore(&session, &args),
        Command::Ps(args) => ps::ps(&session, &args),
        Command::Update(args) => update::update(&session, &args),
        Command::Events(args) => events::events(&session, &args),
        Command::State(args) => state::state(&session, &args),
        Command::List(args) => list::list(&session, &args),
        Command::Spec(args) => spec::spec(&args),
        Command::Features => features::features(),
        Command::Check(args) => check::check(&session, &args),
        Command::Bench(args) => bench::bench(&session, &args),
    }
}

/// `/run/runvm`; a user's own runtime directory where they are not root. Root of a user namespace is a user, as an
/// engine makes one its own, unless `$USER` says that it is root to all around it (runc's rule).
fn root(global: &Global) -> PathBuf {
    if let Some(root) = &global.root {
        return root.clone();
    }
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    let is_root = || {
        rustix::process::geteuid().is_root()
            && (!user_namespace::is_inside()
                || std::env::var_os("USER").is_some_and(|user| user == "root"))
    };
    match runtime_dir {
        Some(dir) if !is_root() => Path::new(&dir).join("runvm"),
        _ => "/run/runvm".into(),
    }
}

/// Writes `text` and a newline to standard output.
fn print(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot write to standard output")
}

impl Session<'_> {
    /// The runtime's settings, the command line's flags over them.
    pub(crate) fn settings(&self) -> anyhow::Result<Settings> {
        let mut settings = Settings::read(self.global.config.as_deref())?;
        if let Some(hypervisor) = self.global.hypervisor {
            settings.hypervisor = hypervisor;
        }
        Ok(settings)
    }

    /// Chooses the isolation: flag, annotation, settings, `vm` section, container.
    pub(crate) fn isolation(
        &self,
        plan: &Plan,
        settings: &Settings,
    ) -> anyhow::Result<IsolationKind> {
        let annotated = plan
            .annotations
            .get(IsolationKind::ANNOTATION)
            .map(|word| word.parse::<IsolationKind>())
            .transpose()
            .with_context(|| format!("annotations.{}", IsolationKind::ANNOTATION))?;
        Ok(self
            .global
            .isolation
            .or(annotated)
            .or(settings.isolation)
            .or(plan.vm.is_some().then_some(IsolationKind::Vm))
            .unwrap_or(IsolationKind::Container))
    }

    /// Who makes cgroups.
    pub(crate) fn cgroup_driver(&self) -> CgroupDriver {
        if self.global.systemd_cgroup {
            CgroupDriver::Systemd(self.service_manager())
        } else {
            CgroupDriver::Cgroupfs
        }
    }

    /// Which service manager takes orders from the caller: root of a user namespace is a user.
    pub(crate) fn service_manager(&self) -> Instance {
        if self.rootless() || user_namespace::is_inside() {
            Instance::User
        } else {
            Instance::System
        }
    }

    /// Whether a missing right to make cgroups is no error.
    pub(crate) fn rootless(&self) -> bool {
        match self.global.rootless {
            Rootless::True => true,
            Rootless::False => false,
            Rootless::Auto => !rustix::process::geteuid().is_root() || user_namespace::is_inside(),
        }
    }
}
