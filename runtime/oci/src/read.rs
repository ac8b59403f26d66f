//! The way from bytes to a [`Plan`]: JSON, then every rule of the specification in turn.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::error::Category;

use crate::document::{self, Document};
use crate::namespace::Namespaces;
use crate::{
    ConfigError, Plan, Process, Propagation, Root, check, device, hook, memory_policy, mount,
    mount_option, namespace, process, resources, sysctl, vm,
};

/// The largest config.json read, in bytes. Real ones are some tens of kilobytes.
pub const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// `O_NONBLOCK`, the same number on x86-64 and AArch64: opening a FIFO must not wait for a writer.
const O_NONBLOCK: i32 = 0o4000;

impl Plan {
    /// Reads and checks `bundle`/config.json; also returns its bytes, to hand on as they are.
    pub fn read(bundle: &Path) -> Result<(Self, Vec<u8>), ConfigError> {
        let path = bundle.join("config.json");
        let bytes = read_bounded(&path).map_err(|error| blame_bundle(bundle, error))?;
        let plan = Self::parse(&bytes, bundle)?;
        Ok((plan, bytes))
    }

    /// Checks the text of a config.json, whose relative paths are taken from `bundle`.
    pub fn parse(bytes: &[u8], bundle: &Path) -> Result<Self, ConfigError> {
        let bundle = std::path::absolute(bundle).map_err(|source| ConfigError::Bundle {
            path: bundle.into(),
            source,
        })?;
        plan(decode("config.json", "", bytes)?, &bundle)
    }
}

impl Process {
    /// Checks the text of a process.json, as `exec` gets it.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        Self::parse_warned(bytes).map(|(process, _)| process)
    }

    /// As [`Process::parse`], with what was odd but is not refused.
    pub fn parse_warned(bytes: &[u8]) -> Result<(Self, Vec<String>), ConfigError> {
        let mut warnings = Vec::new();
        let document: document::Process = decode("process.json", "process.", bytes)?;
        Ok((process::checked(document, &mut warnings)?, warnings))
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let failed = |source| ConfigError::Read {
        path: path.into(),
        source,
    };
    let file = File::options()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(ConfigError::NotAFile { path: path.into() });
    }
    let size = metadata.len().min(CONFIG_BYTES_MAX + 1);
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default() + 1);
    file.take(CONFIG_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > CONFIG_BYTES_MAX {
        return Err(ConfigError::TooLarge {
            path: path.into(),
            max_bytes: CONFIG_BYTES_MAX,
        });
    }
    Ok(bytes)
}

/// Says it is the bundle that is missing, where that is why its config.json could not be read.
fn blame_bundle(bundle: &Path, error: ConfigError) -> ConfigError {
    let source = match std::fs::metadata(bundle) {
        Ok(metadata) if metadata.is_dir() => return error,
        Ok(_) => io::Error::from(io::ErrorKind::NotADirectory),
        Err(source) => source,
    };
    ConfigError::Bundle {
        path: bundle.into(),
        source,
    }
}

/// Parses JSON. The path to a field of the wrong type is only sought once there is one.
pub(crate) fn decode<'a, T: Deserialize<'a>>(
    document: &'static str,
    prefix: &str,
    bytes: &'a [u8],
) -> Result<T, ConfigError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        if error.classify() != Category::Data {
            let what = without_position(&error.to_string());
            return ConfigError::Syntax {
                document,
                what,
                line,
                column,
            };
        }
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let path = serde_path_to_error::deserialize::<_, T>(&mut json)
            .map_or_else(|error| error.path().to_string(), |_| ".".into());
        ConfigError::Type {
            field: if path == "." {
                document.into()
            } else {
                format!("{prefix}{path}")
            },
            what: in_json_words(&without_position(&error.to_string())),
            line,
            column,
        }
    })
}

/// The message without serde_json's own " at line 1 column 2".
fn without_position(message: &str) -> String {
    let end = message.rfind(" at line ").unwrap_or(message.len());
    message[..end].to_owned()
}

/// Rust's word for a type replaced by JSON's.
fn in_json_words(message: &str) -> String {
    let message = match message.split_once("expected struct ") {
        Some((before, _)) => format!("{before}expected an object"),
        None => message.to_owned(),
    };
    message
        .replace("invalid type: map", "invalid type: object")
        .replace("invalid type: sequence", "invalid type: array")
        .replace("expected a sequence", "expected an array")
        .replace("expected a map", "expected an object")
}

fn plan(document: Document, bundle: &Path) -> Result<Plan, ConfigError> {
    let mut warnings = Vec::new();
    let linux = document.linux.unwrap_or_default();
    let namespaces = Namespaces::checked(linux.namespaces.unwrap_or_default())?;
    let masked_paths = hidden_paths("linux.maskedPaths", linux.masked_paths, &namespaces)?;
    let readonly_paths = hidden_paths("linux.readonlyPaths", linux.readonly_paths, &namespaces)?;
    let (uid_mappings, gid_mappings) = namespace::id_mappings(
        linux.uid_mappings,
        linux.gid_mappings,
        &namespaces,
        &mut warnings,
    )?;
    let resources = linux.resources.unwrap_or_default();
    resources::check("linux.resources.", &resources)?;
    Ok(Plan {
        oci_version: version(document.oci_version)?,
        root: root(document.root, bundle)?,
        hostname: name_of_host("hostname", document.hostname, &namespaces)?,
        domainname: name_of_host("domainname", document.domainname, &namespaces)?,
        process: process::checked(required_process(document.process)?, &mut warnings)?,
        mounts: mount::checked(
            document.mounts.unwrap_or_default(),
            bundle,
            &namespaces,
            &mut warnings,
        )?,
        uid_mappings,
        gid_mappings,
        devices: device::checked(linux.devices.unwrap_or_default())?,
        resources,
        cgroups_path: cgroups_path(linux.cgroups_path)?,
        masked_paths,
        readonly_paths,
        rootfs_propagation: propagation(linux.rootfs_propagation)?,
        sysctl: sysctl::checked(linux.sysctl.unwrap_or_default(), &namespaces)?,
        seccomp: linux.seccomp,
        mount_label: check::optional_text(format_args!("linux.mountLabel"), linux.mount_label)?,
        personality: linux.personality,
        time_offsets: namespace::time_offsets(linux.time_offsets, &namespaces)?,
        intel_rdt: linux.intel_rdt.map(intel_rdt).transpose()?,
        memory_policy: linux
            .memory_policy
            .map(memory_policy::checked)
            .transpose()?,
        net_devices: namespace::net_devices(linux.net_devices, &namespaces)?,
        hooks: document
            .hooks
            .map_or(Ok(Default::default()), hook::checked)?,
        annotations: annotations(document.annotations)?,
        vm: document
            .vm
            .map(|vm| vm::checked(vm, &mut warnings))
            .transpose()?,
        namespaces: namespaces.0,
        warnings,
    })
}

/// The specification's version: SemVer, and any 1.x promises to be understood.
fn version(version: Option<String>) -> Result<String, ConfigError> {
    let Some(version) = version else {
        return Err(ConfigError::Missing {
            field: "ociVersion".into(),
            expected: "a version such as \"1.0.2\"",
        });
    };
    let number = version.split(['-', '+']).next().unwrap_or_default();
    let mut parts = number.split('.');
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let understood = parts.next() == Some("1")
        && parts.next().is_some_and(is_number)
        && parts.next().is_some_and(is_number)
        && parts.next().is_none();
    if !understood {
        return check::refuse(format_args!("ociVersion"), &version, "a version 1.x.y");
    }
    Ok(version)
}

fn root(root: Option<document::Root>, bundle: &Path) -> Result<Root, ConfigError> {
    let missing = |field: &str, expected| ConfigError::Missing {
        field: field.into(),
        expected,
    };
    let root = root.ok_or_else(|| missing("root", "an object with a path"))?;
    let path = root
        .path
        .filter(|path| !path.is_empty())
        .ok_or_else(|| missing("root.path", "the path of the root file system"))?;
    check::no_nul(format_args!("root.path"), &path)?;
    Ok(Root {
        path: bundle.join(path),
        readonly: root.readonly.unwrap_or(false),
    })
}

fn required_process(process: Option<document::Process>) -> Result<document::Process, ConfigError> {
    process.ok_or_else(|| ConfigError::Missing {
        field: "process".into(),
        expected: "an object with the program's args and cwd",
    })
}

fn name_of_host(
    field: &str,
    name: Option<String>,
    namespaces: &Namespaces,
) -> Result<Option<String>, ConfigError> {
    let Some(name) = check::optional_text(format_args!("{field}"), name)? else {
        return Ok(None);
    };
    if !namespaces.contains(crate::NamespaceKind::Uts) {
        return Err(ConfigError::Needs {
            field: field.into(),
            needs: "a uts namespace in linux.namespaces",
        });
    }
    // __NEW_UTS_LEN of the kernel.
    if name.len() > 64 {
        return check::refuse(format_args!("{field}"), &name, "at most 64 bytes");
    }
    Ok(Some(name))
}

/// Paths to hide inside the container; without a mount namespace that would hide the host's own.
fn hidden_paths(
    field: &str,
    paths: Option<Vec<String>>,
    namespaces: &Namespaces,
) -> Result<Vec<PathBuf>, ConfigError> {
    let paths = check::absolute_paths(field, paths.unwrap_or_default())?;
    if !paths.is_empty() && !namespaces.contains(crate::NamespaceKind::Mount) {
        return Err(ConfigError::Needs {
            field: field.into(),
            needs: "a mount namespace in linux.namespaces",
        });
    }
    Ok(paths)
}

/// The class's name becomes that of a directory.
pub(crate) fn intel_rdt(rdt: crate::LinuxIntelRdt) -> Result<crate::LinuxIntelRdt, ConfigError> {
    let field = format_args!("linux.intelRdt.closID");
    let name = rdt.clos_id().as_deref().unwrap_or_default();
    check::no_nul(field, name)?;
    let is_taken = matches!(name, "." | ".." | "info" | "mon_groups" | "mon_data");
    if is_taken || (name.contains('/') && name != "/") {
        return check::refuse(field, name, "the name of a class of service, or \"/\"");
    }
    for (i, line) in rdt.schemata().iter().flatten().enumerate() {
        if line.contains(['\n', '\0']) {
            let field = format_args!("linux.intelRdt.schemata[{i}]").to_string();
            return check::refuse(format_args!("{field}"), line, "one line of a schemata file");
        }
    }
    Ok(rdt)
}

fn cgroups_path(path: Option<String>) -> Result<Option<String>, ConfigError> {
    let field = format_args!("linux.cgroupsPath");
    let Some(path) = check::optional_text(field, path)? else {
        return Ok(None);
    };
    if path.split('/').any(|component| component == "..") {
        return check::refuse(field, &path, "a path without \"..\"");
    }
    Ok(Some(path))
}

fn propagation(word: Option<String>) -> Result<Option<Propagation>, ConfigError> {
    let Some(word) = word.filter(|word| !word.is_empty()) else {
        return Ok(None);
    };
    match mount_option::propagation(&word) {
        Some(propagation) => Ok(Some(propagation)),
        None => check::refuse(
            format_args!("linux.rootfsPropagation"),
            &word,
            "[r]shared, [r]slave, [r]private or [r]unbindable",
        ),
    }
}

fn annotations(
    annotations: Option<std::collections::BTreeMap<String, String>>,
) -> Result<std::collections::BTreeMap<String, String>, ConfigError> {
    let annotations = annotations.unwrap_or_default();
    match annotations.get("") {
        Some(_) => check::refuse(format_args!("annotations"), "", "keys that are not empty"),
        None => Ok(annotations),
    }
}

#[cfg(test)]
mod tests;
