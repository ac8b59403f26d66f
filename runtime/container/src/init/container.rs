//! A container's first process: from the clone to the program.

use std::os::unix::net::UnixListener;

use runvm_oci::{NamespaceKind, Plan, State, Status};
use runvm_sys::user_namespace;
use rustix::fs::Mode;
use rustix::process::umask;

use super::{
    InitError, enter_cgroups, forbid_new_privileges, give_streams, hide, let_go, new_keyring,
    outlive_caller, own_null_streams, start_session, take,
};
use crate::control::{Control, CreateOrder, GoOn, Word};
use crate::mounts::{self, Mounts};
use crate::namespaces::{self, Source, source};
use crate::proc_fs::ProcFs;
use crate::process::{self, Changed, Program};
use crate::rootfs::Rootfs;
use crate::seccomp::{self, Filter};
use crate::start::{self, Release};
use crate::terminal::Terminal;
use crate::{ChildError, credentials, devices, hooks, limits, paths, root, security, sysctl};

const DEFAULT_UMASK: u32 = 0o022;

/// Sets the container up, reports, waits to be started, and becomes the program.
pub(super) fn run(
    control: &mut Control,
    order: CreateOrder,
    config: &[u8],
    entered_ns: u64,
) -> Result<(), InitError> {
    let listener = UnixListener::from(take(order.listener)?);
    let plan = Plan::parse(config, &order.bundle)?;
    crate::supported::check(&plan)?;
    let init = Init {
        proc_fs: ProcFs::open()?,
        order: &order,
        plan: &plan,
    };
    let ready = init.set_up(control)?;
    outlive_caller()?;
    report(control, entered_ns, &ready)?;
    // From here on the caller may be gone; the next to hear of an error is the one who starts.
    let mut release = start::wait(&listener).map_err(InitError::Wait)?;
    drop(listener);
    let error = match init.run_program(&ready, &mut release) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    release.failed(&ChildError::new(&error));
    std::process::exit(1);
}

struct Init<'a> {
    proc_fs: ProcFs,
    order: &'a CreateOrder,
    plan: &'a Plan,
}

/// All that is left to do is to wait.
struct Ready {
    program: Program,
    filter: Option<Filter>,
    warnings: Vec<String>,
}

/// What cannot be.
enum Never {}

impl Init<'_> {
    fn set_up(&self, control: &mut Control) -> Result<Ready, InitError> {
        let process = &self.plan.process;
        enter_cgroups(&self.order.tasks)?;
        self.enter_namespaces()?;
        limits::set_priorities(&self.proc_fs, process)?;
        if let Some(policy) = &self.plan.memory_policy {
            limits::set_memory_policy(policy.mode | policy.flags, &policy.nodes)?;
        }
        hide()?;
        start_session()?;
        if !self.order.no_new_keyring {
            new_keyring(&self.proc_fs, process, &self.order.id)?;
        }
        self.name_host()?;
        sysctl::set(&self.proc_fs, &self.plan.sysctl)?;
        // Modes are given whole.
        umask(Mode::empty());
        self.enter_root(control)?;
        umask(Mode::from_raw_mode(
            process.user.umask.unwrap_or(DEFAULT_UMASK),
        ));
        if let Some(personality) = &self.plan.personality {
            limits::set_personality(personality)?;
        }
        security::prepare(&self.proc_fs, process)?;
        own_null_streams().map_err(InitError::NullStreams)?;
        give_streams(process.user.uid);
        let changed = process::change_directory(&process.cwd)?;
        let keep =
            credentials::Keep::for_filter(self.plan.seccomp.is_some(), process.no_new_privileges);
        let mut warnings = credentials::assume(&self.proc_fs, process, keep)?;
        // A change of user has made the process's entries others' again.
        hide()?;
        if changed == Changed::Retry {
            process::change_directory_as_user(&process.cwd)?;
        }
        forbid_new_privileges(process.no_new_privileges)?;
        let program = Program::find(process)?;
        let filter = self.filter(control, &mut warnings)?;
        Ok(Ready {
            program,
            filter,
            warnings,
        })
    }

    /// The filter that is still to be loaded: one with a listener is loaded now, since the caller
    /// can hand it on.
    fn filter(
        &self,
        control: &Control,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Filter>, InitError> {
        let Some(profile) = &self.plan.seccomp else {
            return Ok(None);
        };
        let filter = seccomp::compile(profile)?;
        warnings.extend_from_slice(filter.warnings());
        if !filter.needs_listener() {
            return Ok(Some(filter));
        }
        super::load_and_offer(&filter, control)?;
        Ok(None)
    }

    fn enter_namespaces(&self) -> Result<(), InitError> {
        for (kind, number) in &self.order.joins {
            namespaces::join(*kind, &take(*number)?)?;
        }
        // Its root is the cgroup the process is in, so only now.
        if source(self.plan, NamespaceKind::Cgroup) == Source::New {
            namespaces::new_cgroup_namespace()?;
        }
        Ok(())
    }

    fn name_host(&self) -> Result<(), InitError> {
        if let Some(name) = &self.plan.hostname {
            rustix::system::sethostname(name.as_bytes()).map_err(|errno| InitError::Hostname {
                name: name.clone(),
                source: errno.into(),
            })?;
        }
        if let Some(name) = &self.plan.domainname {
            rustix::system::setdomainname(name.as_bytes()).map_err(|errno| {
                InitError::Domainname {
                    name: name.clone(),
                    source: errno.into(),
                }
            })?;
        }
        Ok(())
    }

    /// From the host's mounts to the container's root, with the hooks that come before it.
    fn enter_root(&self, control: &mut Control) -> Result<(), InitError> {
        let plan = self.plan;
        if source(plan, NamespaceKind::Mount) == Source::Runtime {
            self.run_hooks_before_root(control)?;
            return Ok(root::change_directory(&plan.root.path)?);
        }
        let rootfs = root::mount(&plan.root.path, plan.rootfs_propagation)?;
        let later = self.mounts(&rootfs, control).make(&plan.mounts)?;
        devices::set_up(&rootfs, &plan.devices, &plan.mounts, device_way())?;
        self.set_up_terminal(control, &rootfs)?;
        self.run_hooks_before_root(control)?;
        process::make_directory(&rootfs, &plan.process.cwd);
        paths::mask(&rootfs, &plan.masked_paths, plan.mount_label.as_deref())?;
        paths::make_read_only(&rootfs, &plan.readonly_paths)?;
        mounts::make_read_only(&later)?;
        if self.order.no_pivot {
            root::move_over(&rootfs)?;
        } else {
            root::pivot(&rootfs, plan.rootfs_propagation)?;
        }
        Ok(root::finish(
            &rootfs,
            plan.root.readonly,
            plan.rootfs_propagation,
        )?)
    }

    fn mounts<'a>(&'a self, rootfs: &'a Rootfs, control: &'a mut Control) -> Mounts<'a> {
        Mounts {
            rootfs,
            proc_fs: &self.proc_fs,
            control,
            user_namespace: source(self.plan, NamespaceKind::User) != Source::Runtime,
            label: self.plan.mount_label.as_deref(),
            cgroup_namespace: source(self.plan, NamespaceKind::Cgroup) != Source::Runtime,
        }
    }

    fn set_up_terminal(&self, control: &mut Control, rootfs: &Rootfs) -> Result<(), InitError> {
        if !self.plan.process.terminal {
            return Ok(());
        }
        let terminal = Terminal::open(rootfs, &self.plan.process)?;
        security::label_terminal(terminal.slave(), self.plan.mount_label.as_deref())?;
        terminal.bind_console(rootfs)?;
        super::joined::adopt_terminal(control, terminal)
    }

    fn run_hooks_before_root(&self, control: &mut Control) -> Result<(), InitError> {
        let asked = &self.plan.hooks;
        if !(asked.prestart.is_empty() && asked.create_runtime.is_empty()) {
            control
                .send(&Word::RuntimeHooks, &[], &[])
                .map_err(InitError::Control)?;
            match control.receive::<GoOn>().map_err(InitError::Control)? {
                Some(_) => {}
                // The caller gave up and has the reason itself.
                None => std::process::exit(1),
            }
        }
        if asked.create_container.is_empty() {
            return Ok(());
        }
        let state = self.state(Status::Creating);
        Ok(hooks::run(
            "createContainer",
            &asked.create_container,
            &state,
            None,
        )?)
    }

    fn state(&self, status: Status) -> State {
        State {
            oci_version: self.plan.oci_version.clone(),
            id: self.order.id.clone(),
            status,
            pid: std::process::id(),
            bundle: self.order.bundle.clone(),
            annotations: self.plan.annotations.clone(),
        }
    }

    /// The way from `created` to the program's first instruction.
    fn run_program(&self, ready: &Ready, release: &mut Release) -> Result<Never, InitError> {
        let asked = &self.plan.hooks.start_container;
        let mut filter = ready.filter.as_ref();
        if !asked.is_empty() {
            // Hooks in the container are confined as it is; else the filter comes last of all,
            // so that it need not allow what only the engine calls.
            if let Some(filter) = filter.take() {
                filter.load()?;
            }
            hooks::run("startContainer", asked, &self.state(Status::Created), None)?;
        }
        limits::set_rlimits(&self.plan.process.rlimits)?;
        release.executing().map_err(InitError::Control)?;
        let_go(self.order.preserve_fds)?;
        if let Some(filter) = filter {
            filter.load()?;
        }
        Err(ready.program.execute().into())
    }
}

/// No user namespace but the first lets a device node be made, be it the container's or its caller's.
fn device_way() -> devices::Way {
    match user_namespace::is_inside() {
        true => devices::Way::Bind,
        false => devices::Way::Make,
    }
}

fn report(control: &Control, entered_ns: u64, ready: &Ready) -> Result<(), InitError> {
    let word = Word::Ready {
        entered_ns,
        warnings: ready.warnings.clone(),
    };
    control.send(&word, &[], &[]).map_err(InitError::Control)
}
