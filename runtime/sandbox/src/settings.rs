//! The runtime's own configuration: `/etc/runvm/config.toml`.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fs, io};

use serde::Deserialize;

use crate::IsolationKind;

/// Which hypervisor a microVM runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HypervisorChoice {
    /// KVM where it runs guests in hardware, else QEMU without it.
    #[default]
    Auto,
    /// KVM, or a refusal.
    Kvm,
    /// QEMU without KVM, or a refusal.
    Qemu,
}

/// A word that names no hypervisor.
#[derive(Debug, thiserror::Error)]
#[error("unknown hypervisor {0:?}: expected \"auto\", \"kvm\" or \"qemu\"")]
pub struct UnknownHypervisor(String);

impl FromStr for HypervisorChoice {
    type Err = UnknownHypervisor;

    fn from_str(word: &str) -> Result<Self, UnknownHypervisor> {
        match word {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "qemu" => Ok(Self::Qemu),
            _ => Err(UnknownHypervisor(word.to_owned())),
        }
    }
}

/// What the runtime's configuration file says; each entry has a default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The isolation where neither a flag nor an annotation chooses.
    pub isolation: Option<IsolationKind>,
    /// The hypervisor of microVMs.
    pub hypervisor: HypervisorChoice,
    /// The guest kernel: an uncompressed ELF `vmlinux` with a PVH entry. `None` is the installed one.
    pub kernel: Option<PathBuf>,
    /// The guest's initramfs, which holds the agent. `None` is the installed one.
    pub initramfs: Option<PathBuf>,
    /// QEMU's binary for the rung without KVM: a path, or a name in `PATH`.
    pub qemu: PathBuf,
    /// Memory of a microVM whose bundle sets no limit, in MiB.
    pub memory_mib: u32,
    /// What is appended to the guest kernel's command line.
    pub kernel_parameters: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            isolation: None,
            hypervisor: HypervisorChoice::Auto,
            kernel: None,
            initramfs: None,
            qemu: "qemu-system-x86_64".into(),
            memory_mib: 256,
            kernel_parameters: String::new(),
        }
    }
}

/// Why the runtime's configuration could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("cannot use the configuration file {}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        message: String,
    },
}

impl Settings {
    /// Where the configuration file is, unless the caller names another.
    pub const DEFAULT_PATH: &str = "/etc/runvm/config.toml";

    /// Reads the settings from `path`, or from [`DEFAULT_PATH`](Self::DEFAULT_PATH) where that
    /// exists.
    pub fn read(path: Option<&Path>) -> Result<Self, SettingsError> {
        let named = path.is_some();
        let path = path.unwrap_or(Path::new(Self::DEFAULT_PATH));
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !named => Ok(Self::default()),
            Err(source) => Err(SettingsError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, SettingsError> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| {
                text.as_bytes()
                    .iter()
                    .take(span.start)
                    .filter(|&&byte| byte == b'\n')
                    .count()
                    + 1
            });
            let message = format!("line {line}: {}", error.message());
            SettingsError::Parse {
                path: path.to_owned(),
                message,
            }
        })
    }

    /// The guest kernel to boot: as set, or the first installed one.
    pub fn kernel_path(&self) -> PathBuf {
        self.kernel.clone().unwrap_or_else(|| installed("vmlinux"))
    }

    /// The guest's initramfs: as set, or the first installed one.
    pub fn initramfs_path(&self) -> PathBuf {
        self.initramfs
            .clone()
            .unwrap_or_else(|| installed("initramfs.cpio"))
    }
}

/// Finds `name` under the prefix this binary is installed in: `PREFIX/bin/runvm` has its data in
/// `PREFIX/share/runvm`. The answer need not exist; opening it then names it in the error.
fn installed(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|exe| {
        let share = exe.parent()?.parent()?.join("share/runvm").join(name);
        share.exists().then_some(share)
    });
    beside.unwrap_or_else(|| Path::new("/usr/local/share/runvm").join(name))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{HypervisorChoice, Settings};
    use crate::IsolationKind;

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(text, Path::new("config.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        assert_eq!(parse("").unwrap(), Settings::default());
    }

    #[test]
    fn every_entry_is_read() {
        let settings = parse(
            "isolation = 'vm'\nhypervisor = 'qemu'\nkernel = '/k'\ninitramfs = '/i'\nqemu = '/q'\n\
             memory_mib = 64\nkernel_parameters = 'debug'\n",
        )
        .unwrap();
        assert_eq!(settings.isolation, Some(IsolationKind::Vm));
        assert_eq!(settings.hypervisor, HypervisorChoice::Qemu);
        assert_eq!(settings.kernel_path(), Path::new("/k"));
        assert_eq!(settings.initramfs_path(), Path::new("/i"));
        assert_eq!(
            (settings.memory_mib, settings.kernel_parameters.as_str()),
            (64, "debug")
        );
    }

    #[test]
    fn a_wrong_entry_is_refused_by_file_line_and_name() {
        let error = parse("memory_mib = 64\nkernle = '/k'\n").unwrap_err();
        assert!(error.contains("config.toml"), "{error}");
        assert!(error.contains("line 2"), "{error}");
        assert!(error.contains("kernle"), "{error}");
    }
}
