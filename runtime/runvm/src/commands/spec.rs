use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::Context;

use crate::cli::Spec;

/// `runvm spec`: writes a config.json to start from, and never over one that is there.
pub(super) fn spec(args: &Spec) -> anyhow::Result<u8> {
    let path = args
        .bundle
        .as_deref()
        .unwrap_or(Path::new("."))
        .join("config.json");
    let mut file = match File::create_new(&path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            anyhow::bail!("{} exists: remove it first", path.display())
        }
        opened => opened.with_context(|| format!("cannot make {}", path.display()))?,
    };
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let rootless = args.rootless.then_some((uid.as_raw(), gid.as_raw()));
    file.write_all(runvm_oci::default_config(rootless).as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(0)
}
