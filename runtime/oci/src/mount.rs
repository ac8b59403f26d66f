//! `mounts`: what is mounted where, and who acts on which of the options.

use std::path::Path;

use crate::mount_option::{self, Attributes, Effect, mount_attr};
use crate::namespace::{self, Namespaces};
use crate::{ConfigError, Idmap, Mount, MountKind, NamespaceKind, Propagation, check, document};

/// As large as the page that mount(2) took all options in; a list above is no honest one.
const OPTIONS_MAX: usize = 4096;

pub(crate) fn checked(
    mounts: Vec<document::Mount>,
    bundle: &Path,
    namespaces: &Namespaces,
    warnings: &mut Vec<String>,
) -> Result<Vec<Mount>, ConfigError> {
    let mut checked = Vec::with_capacity(mounts.len());
    for (i, mount) in mounts.into_iter().enumerate() {
        checked.push(one(
            &Site {
                i,
                bundle,
                namespaces,
            },
            mount,
            warnings,
        )?);
    }
    Ok(checked)
}

/// What the rules of one mount look at besides the mount.
struct Site<'a> {
    i: usize,
    bundle: &'a Path,
    namespaces: &'a Namespaces,
}

/// What the options came to.
#[derive(Default)]
struct Options {
    own: Attributes,
    recursive: Attributes,
    superblock: Vec<(&'static str, bool)>,
    data: Vec<(String, Option<String>)>,
    propagation: Vec<Propagation>,
    /// Whether it is a bind mount, and then whether a recursive one.
    bind: Option<bool>,
    copy_up: bool,
    /// Whether ids are mapped, and then whether recursively.
    idmap: Option<bool>,
}

fn one(
    site: &Site<'_>,
    mut mount: document::Mount,
    warnings: &mut Vec<String>,
) -> Result<Mount, ConfigError> {
    let i = site.i;
    let destination = destination(i, mount.destination.take(), warnings)?;
    let mut options = options(i, mount.options.take().unwrap_or_default())?;
    let kind = kind(site, mount.r#type.take(), mount.source.take(), options.bind)?;
    let is_bind = matches!(kind, MountKind::Bind { .. });
    if is_bind {
        // A bind shares the superblock of what it binds; mount(2) ignores these there.
        options.superblock.clear();
        if let Some((name, _)) = options.data.first() {
            warnings.push(format!(
                "mounts[{i}].options: {} and what else is for a file system has no effect on a bind",
                check::quote(name)
            ));
            options.data.clear();
        }
    }
    if options.copy_up
        && !matches!(&kind, MountKind::FileSystem { fstype, .. } if fstype == "tmpfs")
    {
        return Err(ConfigError::Needs {
            field: format!("mounts[{i}].options: tmpcopyup"),
            needs: "the type tmpfs",
        });
    }
    Ok(Mount {
        destination,
        idmap: idmap(site, mount, options.idmap, is_bind)?,
        kind,
        attr_set: options.own.set,
        attr_clear: options.own.clear,
        attr_set_recursive: options.recursive.set,
        attr_clear_recursive: options.recursive.clear,
        superblock_flags: options.superblock,
        data: options.data,
        propagation: options.propagation,
        copy_up: options.copy_up,
    })
}

fn destination(
    i: usize,
    destination: Option<String>,
    warnings: &mut Vec<String>,
) -> Result<std::path::PathBuf, ConfigError> {
    let Some(destination) = destination.filter(|path| !path.is_empty()) else {
        return Err(ConfigError::Missing {
            field: format!("mounts[{i}].destination"),
            expected: "an absolute path",
        });
    };
    check::no_nul(format_args!("mounts[{i}].destination"), &destination)?;
    if !destination.starts_with('/') {
        warnings.push(format!(
            "mounts[{i}].destination: {} is relative and is taken from /",
            check::quote(&destination)
        ));
    }
    Ok(check::cleaned(&destination))
}

fn kind(
    site: &Site<'_>,
    fstype: Option<String>,
    source: Option<String>,
    bind: Option<bool>,
) -> Result<MountKind, ConfigError> {
    let i = site.i;
    let fstype = check::optional_text(format_args!("mounts[{i}].type"), fstype)?;
    let source = check::optional_text(format_args!("mounts[{i}].source"), source)?;
    // With bind or rbind the type is a dummy (config.md, "Mounts").
    if bind.is_some() || fstype.as_deref() == Some("bind") {
        let source = source.ok_or_else(|| ConfigError::Missing {
            field: format!("mounts[{i}].source"),
            expected: "the path to bind",
        })?;
        return Ok(MountKind::Bind {
            source: site.bundle.join(source),
            recursive: bind.unwrap_or(false),
        });
    }
    match fstype {
        Some(fstype) if matches!(fstype.as_str(), "cgroup" | "cgroup2") => Ok(MountKind::Cgroup),
        Some(fstype) => Ok(MountKind::FileSystem { fstype, source }),
        None => Err(ConfigError::Missing {
            field: format!("mounts[{i}].type"),
            expected: "a file system, or the option bind or rbind",
        }),
    }
}

fn options(i: usize, words: Vec<String>) -> Result<Options, ConfigError> {
    if words.len() > OPTIONS_MAX {
        return check::refuse_number(
            format_args!("mounts[{i}].options"),
            format_args!("{} options", words.len()),
            format!("at most {OPTIONS_MAX}"),
        );
    }
    let mut options = Options::default();
    for (j, word) in words.into_iter().enumerate() {
        match mount_option::effect(&word) {
            Some(effect) => options.apply(effect),
            None => options.pass_on(format_args!("mounts[{i}].options[{j}]"), &word)?,
        }
    }
    Ok(options)
}

impl Options {
    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Set(bits) => self.own.set(bits),
            Effect::Clear(bits) => self.own.clear(bits),
            Effect::Atime(value) => self.own.atime(value),
            Effect::NotAtime(value) => self.own.not_atime(value),
            Effect::SetRecursive(bits) => self.recursive.set(bits),
            Effect::ClearRecursive(bits) => self.recursive.clear(bits),
            Effect::AtimeRecursive(value) => self.recursive.atime(value),
            Effect::NotAtimeRecursive(value) => self.recursive.not_atime(value),
            Effect::Superblock(name, on) => self.superblock(name, on),
            Effect::ReadOnly(on) => {
                self.superblock("ro", on);
                if on {
                    self.own.set(mount_attr::RDONLY);
                } else {
                    self.own.clear(mount_attr::RDONLY);
                }
            }
            Effect::Propagation(kind, recursive) => {
                self.propagation.push(Propagation { kind, recursive });
            }
            // bind beside rbind is rbind: mount(2) would get both flags.
            Effect::Bind { recursive } => self.bind = Some(recursive || self.bind == Some(true)),
            Effect::CopyUp => self.copy_up = true,
            Effect::Idmap { recursive } => self.idmap = Some(recursive),
            Effect::Nothing => {}
        }
    }

    /// The last word wins.
    fn superblock(&mut self, name: &'static str, on: bool) {
        self.superblock.retain(|(other, _)| *other != name);
        self.superblock.push((name, on));
    }

    /// Keeps an option for the file system.
    fn pass_on(&mut self, field: std::fmt::Arguments<'_>, word: &str) -> Result<(), ConfigError> {
        check::no_nul(field, word)?;
        if word.is_empty() {
            return Ok(());
        }
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (word, None),
        };
        if key.is_empty() {
            return check::refuse(field, word, "an option, or key=value");
        }
        self.data.push((key.to_owned(), value));
        Ok(())
    }
}

/// Checks the id mapping of a mount: `idmap`, `ridmap`, or mappings of its own.
fn idmap(
    site: &Site<'_>,
    mount: document::Mount,
    asked: Option<bool>,
    is_bind: bool,
) -> Result<Option<Idmap>, ConfigError> {
    let i = site.i;
    let uids = mount.uid_mappings.unwrap_or_default();
    let gids = mount.gid_mappings.unwrap_or_default();
    let uid_mappings = namespace::mappings(&format!("mounts[{i}].uidMappings"), uids)?;
    let gid_mappings = namespace::mappings(&format!("mounts[{i}].gidMappings"), gids)?;
    let needs = |field: &str, needs| ConfigError::Needs {
        field: format!("mounts[{i}].{field}"),
        needs,
    };
    match (uid_mappings.is_empty(), gid_mappings.is_empty()) {
        (true, true) if asked.is_none() => return Ok(None),
        (true, true) if !site.namespaces.contains(NamespaceKind::User) => {
            return Err(needs(
                "options: idmap",
                "uidMappings and gidMappings of the mount, or a user namespace",
            ));
        }
        (false, true) => return Err(needs("uidMappings", "gidMappings beside it")),
        (true, false) => return Err(needs("gidMappings", "uidMappings beside it")),
        _ => {}
    }
    if !is_bind {
        return Err(needs("options: idmap", "a bind mount"));
    }
    Ok(Some(Idmap {
        recursive: asked.unwrap_or(false),
        uid_mappings,
        gid_mappings,
    }))
}
