//! A container's cgroup: made, limited, entered, frozen, killed, removed.
//!
//! A [`Cgroup`] is one directory a hierarchy: a single one on a host with cgroup v2; on one with
//! v1, one for each controller's hierarchy and one in the unified hierarchy beside them. All are
//! held by descriptor, and paths are resolved below the hierarchy's mount only.
//!
//! Processes are not moved into it by their pid, as that waits for an RCU grace period in the
//! kernel: a child is cloned into the unified one, or writes "0" to the `tasks` of the v1 ones
//! itself; see [`Cgroup::entry`].

mod controllers;
mod delegate;
mod devices;
mod error;
mod file;
mod hierarchy;
mod oom;
mod path;
mod place;
mod processes;
mod record;
mod remove;
mod settings;
pub mod stats;
mod subgroup;
mod told;

use std::io;
use std::os::fd::OwnedFd;

use runvm_oci::LinuxResources;
use rustix::fs::OFlags;

pub use devices::rules as device_rules;
pub use error::CgroupError;
pub use oom::{OomNews, OomWatch};
pub use record::{CgroupRecord, PlaceRecord};
pub use stats::Stats;
pub use subgroup::{SubCgroup, SubCgroupError};

use controllers::{Controllers, Wanted};
use devices::{Before, Policy};
use hierarchy::Version;
use path::CgroupPath;
use place::Place;
use settings::Setting;

use crate::spawn::SIGKILL;

/// A container's cgroup.
#[derive(Debug)]
pub struct Cgroup {
    /// The v1 directories, then the unified one if there is a unified hierarchy.
    places: Vec<Place>,
}

/// The ways into a cgroup, for a child of ours.
#[derive(Debug)]
pub struct Entry {
    /// The directory in the unified hierarchy, for clone3(2) with CLONE_INTO_CGROUP.
    pub unified: Option<OwnedFd>,
    /// The `tasks` files of v1. The child writes "0" to each while it has one thread.
    pub tasks: Vec<OwnedFd>,
}

/// Where a cgroup is to be made. Who keeps its record before making it can clean up after a
/// creation that was cut short.
#[derive(Debug)]
pub struct Location {
    places: Vec<Place>,
    /// Whether a service manager makes it, and puts its processes there.
    is_managed: bool,
}

impl Location {
    /// Finds the place of the cgroup of container `id`; `path` is `linux.cgroupsPath`. Makes
    /// nothing; refuses a cgroup that holds processes.
    pub fn find(path: Option<&str>, id: &str) -> Result<Self, CgroupError> {
        Self::at(&CgroupPath::new(path, id)?, false)
    }

    /// The place of a scope: `path` is that of its cgroup, from the root of each hierarchy. It has
    /// been made, with a process in it, when [`Location::make`] adds what the service manager has
    /// not: hierarchies and limits that it does not know. As [`Location::find`] otherwise.
    pub fn of_scope(path: &str) -> Result<Self, CgroupError> {
        Self::at(&CgroupPath::of_scope(path)?, true)
    }

    fn at(path: &CgroupPath, is_managed: bool) -> Result<Self, CgroupError> {
        let places = locate(path)?;
        // What is in use must not come into a record: its processes would be killed by it.
        places
            .iter()
            .filter(|place| place.exists())
            .try_for_each(refuse_if_in_use)?;
        Ok(Self { places, is_managed })
    }

    /// Whether the host has the unified hierarchy alone.
    pub fn is_unified(&self) -> bool {
        is_unified(&self.places)
    }

    /// What [`Location::make`] writes to the cgroup's files for `resources`, but for device rules:
    /// names and values, in order.
    pub fn files(&self, resources: &LinuxResources) -> Result<Vec<(String, String)>, CgroupError> {
        files(&self.places, resources)
    }

    /// What [`Cgroup::open`] needs to remove whatever of the cgroup has been made.
    pub fn record(&self) -> CgroupRecord {
        CgroupRecord {
            places: self.places.iter().map(Place::record).collect(),
        }
    }

    /// Makes the cgroup and sets its limits.
    ///
    /// A directory that is there and empty is taken; one with processes is refused. If anything
    /// fails, nothing that was made stays.
    pub fn make(self, resources: &LinuxResources) -> Result<Cgroup, CgroupError> {
        let policy = Policy::of(resources)?;
        let mut cgroup = Cgroup { places: Vec::new() };
        match cgroup.make(self.places, self.is_managed, resources, &policy) {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                for place in &cgroup.places {
                    place.remove_made();
                }
                Err(error)
            }
        }
    }
}

impl Cgroup {
    /// Makes the cgroup of container `id` and sets its limits. `path` is `linux.cgroupsPath`. As
    /// [`Location::make`].
    pub fn create(
        path: Option<&str>,
        id: &str,
        resources: &LinuxResources,
    ) -> Result<Self, CgroupError> {
        Location::find(path, id)?.make(resources)
    }

    fn make(
        &mut self,
        places: Vec<Place>,
        is_managed: bool,
        resources: &LinuxResources,
        policy: &Policy,
    ) -> Result<(), CgroupError> {
        for place in places {
            let place = place.make()?;
            self.places.push(if is_managed {
                place.made_for_us()
            } else {
                place
            });
        }
        for place in &self.places {
            refuse_if_in_use(place)?;
            refuse_if_threaded(place)?;
            inherit_cpuset(place)?;
        }
        self.refuse_if_frozen()?;
        self.set_limits(resources)?;
        self.set_devices(policy, Before::Nothing)
    }

    /// A process that entered would never come to report that it is ready.
    fn refuse_if_frozen(&self) -> Result<(), CgroupError> {
        let Ok(place) = self.freezer() else {
            return Ok(());
        };
        match processes::would_freeze(place) {
            Ok(false) => Ok(()),
            Ok(true) => Err(CgroupError::Frozen {
                path: place.full_path(),
            }),
            Err(source) => Err(CgroupError::Read {
                path: place.full_path(),
                source,
            }),
        }
    }

    /// Opens the cgroup of a record again. Directories that are gone are no error here.
    pub fn open(record: &CgroupRecord) -> Result<Self, CgroupError> {
        let places = record.places.iter().map(Place::open);
        Ok(Self {
            places: places.collect::<Result<_, _>>()?,
        })
    }

    /// The cgroup that container `id` has if it was made from where this process is; for one whose
    /// record is lost. That there is none is no error here.
    pub fn find(path: Option<&str>, id: &str) -> Result<Self, CgroupError> {
        Ok(Self {
            places: locate(&CgroupPath::new(path, id)?)?,
        })
    }

    /// The cgroup of a scope, as [`Location::of_scope`] has it. That there is none is no error here.
    pub fn of_scope(path: &str) -> Result<Self, CgroupError> {
        Ok(Self {
            places: locate(&CgroupPath::of_scope(path)?)?,
        })
    }

    /// Opens of a record's cgroup only the directory that tells whether it is frozen.
    pub fn open_freezer(record: &CgroupRecord) -> Result<Self, CgroupError> {
        Self::open(&record.freezer())
    }

    /// What [`Cgroup::open`] needs in another process.
    pub fn record(&self) -> CgroupRecord {
        CgroupRecord {
            places: self.places.iter().map(Place::record).collect(),
        }
    }

    /// Opens the ways in for one child.
    pub fn entry(&self) -> io::Result<Entry> {
        let mut entry = Entry {
            unified: None,
            tasks: Vec::new(),
        };
        for place in &self.places {
            let directory = place.directory()?;
            match place.version {
                Version::V1 => {
                    entry
                        .tasks
                        .push(file::open(directory, "tasks", OFlags::WRONLY)?);
                }
                Version::V2 => entry.unified = Some(directory.try_clone_to_owned()?),
            }
        }
        Ok(entry)
    }

    /// What [`Cgroup::update`] writes to the cgroup's files for `resources`, but for device rules:
    /// names and values, in order. Refuses what it would refuse before the first is written.
    pub fn files(&self, resources: &LinuxResources) -> Result<Vec<(String, String)>, CgroupError> {
        self.refuse_below_usage(resources)?;
        files(&self.places, &self.completed(resources))
    }

    /// Changes limits; what `resources` does not name stays as it is.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let resources = &self.completed(resources);
        if resources.devices().is_some() {
            let policy = Policy::of(resources)?;
            self.set_limits(resources)?;
            return self.set_devices(&policy, Before::APolicy);
        }
        self.set_limits(resources)
    }

    /// Stops all processes, until [`Cgroup::thaw`].
    pub fn freeze(&self) -> Result<(), CgroupError> {
        self.set_frozen(true)
    }

    /// Lets all processes go on.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        self.set_frozen(false)
    }

    /// Whether the processes are stopped by [`Cgroup::freeze`].
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        let place = self.freezer()?;
        match processes::is_frozen(place) {
            Err(error) if processes::is_gone(&error) => Ok(false),
            result => result.map_err(|source| CgroupError::Read {
                path: place.full_path(),
                source,
            }),
        }
    }

    /// The processes in the cgroup and in those below it, by the pids this process sees.
    pub fn pids(&self) -> Result<Vec<u32>, CgroupError> {
        // Every process is in each hierarchy; one tells of all.
        let Some(place) = self.places.first() else {
            return Ok(Vec::new());
        };
        processes::pids(place).map_err(|source| CgroupError::Read {
            path: place.full_path().join("cgroup.procs"),
            source,
        })
    }

    /// Sends `signal` to all processes, and does not wait for what comes of it. SIGKILL misses no
    /// process that is forked meanwhile ([`kill`](Self::kill)).
    pub fn signal(&self, signal: i32) -> Result<(), CgroupError> {
        if signal == SIGKILL {
            return self.kill();
        }
        for pid in self.pids()? {
            processes::signal(pid, signal).map_err(|source| CgroupError::Signal {
                signal,
                pid,
                source,
            })?;
        }
        Ok(())
    }

    /// Kills all processes, frozen or not, and does not wait for their end.
    pub fn kill(&self) -> Result<(), CgroupError> {
        let Some(first) = self.places.first() else {
            return Ok(());
        };
        self.kill_in(first).map_err(|source| CgroupError::Kill {
            path: first.full_path(),
            source,
        })
    }

    fn kill_in(&self, first: &Place) -> io::Result<()> {
        let by_kernel = match self.unified() {
            Some(unified) => processes::kill_at_once(unified)?,
            None => false,
        };
        if by_kernel && first.version == Version::V2 {
            return Ok(());
        }
        if processes::pids(first)?.is_empty() {
            return Ok(());
        }
        let freezer = self.freezer().ok();
        if let Some(freezer) = freezer.filter(|_| !by_kernel) {
            // While frozen none of them can fork, and none whose pid we have can end.
            match processes::set_frozen(freezer, true) {
                Ok(()) => {}
                // Better to kill them running than not at all.
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => return Err(error),
            }
        }
        // After the kernel's kill this is for those that left the unified cgroup alone.
        let killed = processes::pids(first).and_then(|pids| processes::kill_each(&pids));
        if let Some(freezer) = freezer {
            // In the v1 freezer they do not even die.
            processes::set_frozen(freezer, false)?;
        }
        killed
    }

    /// Removes the cgroup with all below it, once its processes have ended; they are waited for
    /// some seconds, not killed. What is gone already is no error.
    pub fn delete(&self) -> Result<(), CgroupError> {
        for place in &self.places {
            remove::remove(place)?;
        }
        Ok(())
    }

    /// Whether the kernel has killed a process of the cgroup for exceeding its memory limit.
    pub fn has_oom_killed(&self) -> bool {
        let Some(place) = self.place_of("memory").or(self.unified()) else {
            return false;
        };
        let file = match place.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let text = place.read(file).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.is_some_and(|count| count.trim() != "0")
    }

    fn set_frozen(&self, frozen: bool) -> Result<(), CgroupError> {
        let place = self.freezer()?;
        processes::set_frozen(place, frozen).map_err(|source| CgroupError::Freeze {
            verb: if frozen { "freeze" } else { "thaw" },
            path: place.full_path(),
            source,
        })
    }

    /// The v1 freezer, or else the unified cgroup, each of which can be frozen.
    fn freezer(&self) -> Result<&Place, CgroupError> {
        self.place_of("freezer")
            .or(self.unified())
            .ok_or_else(|| self.lacks("the state paused", "freezer"))
    }

    /// That a v1 controller, and the unified hierarchy in its place, are missing.
    fn lacks(&self, field: &'static str, controller: &'static str) -> CgroupError {
        let first = self.places.first();
        CgroupError::NoController {
            field,
            controller,
            path: first.map(Place::full_path).unwrap_or_default(),
            why: String::new(),
        }
    }

    fn place_of(&self, controller: &str) -> Option<&Place> {
        self.places.iter().find(|place| place.controls(controller))
    }

    fn unified(&self) -> Option<&Place> {
        self.places
            .iter()
            .find(|place| place.version == Version::V2)
    }

    fn set_devices(&self, policy: &Policy, before: Before) -> Result<(), CgroupError> {
        match (self.place_of("devices"), self.unified()) {
            (Some(place), _) => devices::set_v1(place, policy, before_of(place, before)),
            (None, Some(place)) => devices::set_v2(place, policy, before_of(place, before)),
            (None, None) => Err(CgroupError::NoController {
                field: "linux.resources.devices",
                controller: "devices",
                path: self
                    .places
                    .first()
                    .map(Place::full_path)
                    .unwrap_or_default(),
                why: String::new(),
            }),
        }
    }

    /// `resources` with what they leave unsaid, where two of their fields are one figure to the
    /// kernel, or to systemd.
    fn completed(&self, resources: &LinuxResources) -> LinuxResources {
        settings::completed(resources, |file| match self.place_of("cpu") {
            Some(cpu) if file == "cpu.max" => {
                let quota = cpu.read("cpu.cfs_quota_us").ok()?;
                Some(format!("{quota} {}", cpu.read("cpu.cfs_period_us").ok()?))
            }
            _ if is_unified(&self.places) => self.unified()?.read(file).ok(),
            _ => None,
        })
    }

    fn refuse_below_usage(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        settings::refuse_below_usage(self.place_of("memory").or(self.unified()), resources)
    }

    fn set_limits(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        self.refuse_below_usage(resources)?;
        if is_unified(&self.places) {
            let settings = settings::v2::settings(resources)?;
            return self.set_unified(&Wanted::All, &settings);
        }
        let mut missing = Vec::new();
        let all = settings::v1::settings(resources)?;
        for place in &self.places {
            let of_place = |setting: &&Setting| place.controls(setting.controller);
            let own: Vec<Setting> = all.iter().filter(of_place).cloned().collect();
            settings::write_all(place, &own)?;
        }
        for setting in &all {
            if self.place_of(setting.controller).is_none() {
                missing.push(setting);
            }
        }
        self.set_beside_v1(resources, &missing)
    }

    /// Sets what no v1 hierarchy controls through the unified hierarchy beside them.
    fn set_beside_v1(
        &self,
        resources: &LinuxResources,
        missing: &[&Setting],
    ) -> Result<(), CgroupError> {
        let Some(first) = missing.first() else {
            return Ok(());
        };
        if self.unified().is_none() {
            return Err(self.no_controller(first, &Controllers::default()));
        }
        let v2_name = |setting: &&Setting| match setting.controller {
            "blkio" => "io",
            name => name,
        };
        let wanted: Vec<&'static str> = missing.iter().map(v2_name).collect();
        let mut settings = settings::v2::settings(resources)?;
        settings.retain(|setting| wanted.contains(&setting.controller));
        self.set_unified(&Wanted::These(&wanted), &settings)
    }

    fn set_unified(&self, wanted: &Wanted<'_>, settings: &[Setting]) -> Result<(), CgroupError> {
        let Some(place) = self.unified() else {
            return Ok(());
        };
        let controllers = controllers::enable(place, wanted)?;
        for setting in settings {
            let is_core = setting.controller == "cgroup";
            if !is_core && !controllers.has(setting.controller) {
                return Err(self.no_controller(setting, &controllers));
            }
        }
        settings::write_all(place, settings)
    }

    fn no_controller(&self, setting: &Setting, controllers: &Controllers) -> CgroupError {
        let place = self.unified().or(self.places.first());
        CgroupError::NoController {
            field: setting.field,
            controller: setting.controller,
            path: place.map(Place::full_path).unwrap_or_default(),
            why: controllers.why_not(setting.controller),
        }
    }
}

/// The places of a cgroup, in the order of [`Cgroup::places`].
fn locate(path: &CgroupPath) -> Result<Vec<Place>, CgroupError> {
    let hierarchies = hierarchy::find(!path.is_absolute)?;
    let mut places = hierarchies
        .into_iter()
        .map(|hierarchy| Place::locate(hierarchy, path))
        .collect::<Result<Vec<_>, _>>()?;
    places.sort_by_key(|place| place.version == Version::V2);
    Ok(places)
}

fn is_unified(places: &[Place]) -> bool {
    places.iter().all(|place| place.version == Version::V2)
}

fn files(
    places: &[Place],
    resources: &LinuxResources,
) -> Result<Vec<(String, String)>, CgroupError> {
    let settings = if is_unified(places) {
        settings::v2::settings(resources)?
    } else {
        settings::v1::settings(resources)?
    };
    Ok(settings.into_iter().map(Setting::into_file).collect())
}

/// A directory that was there before may have a policy whatever its user thinks.
fn before_of(place: &Place, before: Before) -> Before {
    if place.is_new() {
        before
    } else {
        Before::APolicy
    }
}

fn refuse_if_in_use(place: &Place) -> Result<(), CgroupError> {
    if place.is_new() {
        return Ok(());
    }
    let pids = processes::pids(place).map_err(|source| CgroupError::Read {
        path: place.full_path().join("cgroup.procs"),
        source,
    })?;
    match pids.first() {
        None => Ok(()),
        Some(pid) => Err(CgroupError::InUse {
            path: place.full_path(),
            pid: *pid,
        }),
    }
}

fn refuse_if_threaded(place: &Place) -> Result<(), CgroupError> {
    if place.version == Version::V1 {
        return Ok(());
    }
    match place.read("cgroup.type") {
        Ok(kind) if kind.trim() == "domain" || kind.trim() == "domain threaded" => Ok(()),
        Ok(kind) => Err(CgroupError::Threaded {
            path: place.full_path(),
            kind: kind.trim().to_owned(),
        }),
        Err(source) => Err(CgroupError::Read {
            path: place.full_path().join("cgroup.type"),
            source,
        }),
    }
}

/// Fills in the CPUs and memory nodes of a v1 cpuset from the cpusets above: a new one has none,
/// and no process can enter it.
fn inherit_cpuset(place: &Place) -> Result<(), CgroupError> {
    if !place.controls("cpuset") {
        return Ok(());
    }
    for name in ["cpuset.cpus", "cpuset.mems"] {
        place.inherit(name).map_err(|source| CgroupError::Make {
            path: place.full_path(),
            source,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
