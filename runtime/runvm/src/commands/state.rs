use std::collections::BTreeMap;
use std::path::Path;

use runvm_oci::Status;
use runvm_sandbox::lifecycle::{Container, StatusError};
use serde::Serialize;

use super::Session;
use crate::cli::Id;

/// A container's state: the specification's fields, and runc's beside them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State<'a> {
    oci_version: &'a str,
    pub(super) id: &'a str,
    pub(super) pid: u32,
    pub(super) status: Status,
    pub(super) bundle: &'a Path,
    rootfs: &'a Path,
    pub(super) created: &'a str,
    annotations: &'a BTreeMap<String, String>,
    pub(super) owner: String,
    /// systemd's unit for it, as crun tells it.
    #[serde(rename = "systemd-scope", skip_serializing_if = "Option::is_none")]
    systemd_scope: Option<&'a str>,
}

impl<'a> State<'a> {
    pub(super) fn of(container: &'a Container) -> Result<Self, StatusError> {
        let record = container.record();
        let status = container.status()?;
        Ok(Self {
            oci_version: &record.oci_version,
            id: &record.id,
            pid: record.pid_at(status),
            status,
            bundle: &record.bundle,
            rootfs: &record.rootfs,
            created: &record.created,
            annotations: &record.annotations,
            owner: owner(record.owner_uid),
            systemd_scope: record.scope.as_ref().map(|scope| scope.unit.as_str()),
        })
    }
}

/// The owner's name; the number where the user database has none.
fn owner(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_string())
}

/// `runvm state`: prints a container's state.
pub(super) fn state(session: &Session<'_>, args: &Id) -> anyhow::Result<u8> {
    let container = Container::open(&session.store, &args.id)?;
    super::print(&serde_json::to_string_pretty(&State::of(&container)?)?)?;
    Ok(0)
}
