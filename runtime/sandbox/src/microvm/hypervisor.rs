//! The ladder: KVM where it runs guests in hardware, else QEMU without it, else a refusal.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use runvm_vmm::probe;

use crate::{HypervisorChoice, Settings};

/// What a microVM can run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rung {
    /// KVM, which runs guests in hardware here.
    Kvm,
    /// QEMU without KVM.
    Qemu {
        /// The `qemu-system-x86_64` to run.
        binary: PathBuf,
    },
}

/// What a microVM will run on, and why that.
#[derive(Debug, Clone)]
pub struct HypervisorChosen {
    /// The hypervisor.
    pub hypervisor: Rung,
    /// What KVM can do, or why it is not used.
    pub reason: String,
}

impl HypervisorChosen {
    /// The word for it.
    pub fn as_str(&self) -> &'static str {
        match self.hypervisor {
            Rung::Kvm => "kvm",
            Rung::Qemu { .. } => "qemu",
        }
    }
}

impl fmt::Display for HypervisorChosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hypervisor {
            Rung::Kvm => write!(f, "KVM ({})", self.reason),
            Rung::Qemu { binary } => {
                write!(
                    f,
                    "QEMU without KVM ({}), because {}",
                    binary.display(),
                    self.reason
                )
            }
        }
    }
}

/// Why no microVM can run here.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// KVM was asked for and cannot be used.
    #[error("cannot run a microVM on KVM: {0}")]
    Kvm(String),
    /// QEMU was asked for and is not there.
    #[error("cannot run a microVM on QEMU")]
    Qemu(#[source] QemuMissing),
    /// Neither.
    #[error("cannot run a microVM: KVM is not usable ({kvm})")]
    Neither {
        /// Why not KVM.
        kvm: String,
        /// Why not QEMU.
        source: QemuMissing,
    },
}

/// QEMU is not where it was looked for.
#[derive(Debug, thiserror::Error)]
#[error("no executable {} found", .0.display())]
pub struct QemuMissing(PathBuf);

/// Chooses what microVMs run on.
pub fn choose_hypervisor(settings: &Settings) -> Result<HypervisorChosen, HypervisorError> {
    let qemu = |reason: String| {
        let hypervisor = Rung::Qemu {
            binary: find_qemu(settings)?,
        };
        Ok(HypervisorChosen { hypervisor, reason })
    };
    let kvm = |reason| HypervisorChosen {
        hypervisor: Rung::Kvm,
        reason,
    };
    match settings.hypervisor {
        HypervisorChoice::Kvm => kvm_usable().map(kvm).map_err(HypervisorError::Kvm),
        HypervisorChoice::Qemu => {
            qemu("the settings ask for it".to_owned()).map_err(HypervisorError::Qemu)
        }
        HypervisorChoice::Auto => match kvm_usable() {
            Ok(capability) => Ok(kvm(capability)),
            Err(unusable) => qemu(unusable.clone()).map_err(|source| HypervisorError::Neither {
                kvm: unusable,
                source,
            }),
        },
    }
}

/// What KVM can do here, or why it cannot be used: a line each.
pub fn kvm_usable() -> Result<String, String> {
    match probe::kvm() {
        Ok(capability) => Ok(capability.to_string()),
        Err(unusable) => Err(runvm_proto::Remote::from_error(&unusable).to_string()),
    }
}

/// Finds QEMU: the setting is a path, or a name in `PATH`.
pub fn find_qemu(settings: &Settings) -> Result<PathBuf, QemuMissing> {
    let wanted = &settings.qemu;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates: Vec<PathBuf> = if wanted.components().count() > 1 {
        vec![wanted.clone()]
    } else {
        std::env::split_paths(&path)
            .map(|directory| directory.join(wanted))
            .collect()
    };
    candidates
        .into_iter()
        .find(|candidate| is_executable(candidate))
        .ok_or_else(|| QemuMissing(wanted.clone()))
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::{choose_hypervisor, find_qemu};
    use crate::{HypervisorChoice, Settings};

    #[test]
    fn a_qemu_that_is_not_there_is_named() {
        let settings = Settings {
            qemu: "/nowhere/qemu".into(),
            ..Settings::default()
        };
        let error = find_qemu(&settings).unwrap_err();
        assert_eq!(error.to_string(), "no executable /nowhere/qemu found");
    }

    #[test]
    fn a_name_is_looked_up_in_the_path() {
        let settings = Settings {
            qemu: "sh".into(),
            ..Settings::default()
        };
        assert!(find_qemu(&settings).unwrap().ends_with("sh"));
    }

    #[test]
    fn qemu_is_not_replaced_by_kvm_when_it_was_asked_for() {
        let settings = Settings {
            hypervisor: HypervisorChoice::Qemu,
            qemu: "/nowhere/qemu".into(),
            ..Settings::default()
        };
        assert!(choose_hypervisor(&settings).is_err());
    }
}
