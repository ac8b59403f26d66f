//! Where the service manager listens.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};

use crate::Instance;

/// An address of a bus that cannot be one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {address:?} has no unix:path= or unix:abstract= address")]
pub struct AddressError {
    variable: &'static str,
    address: String,
}

/// The sockets at which a service manager is reached.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// The bus, the first that takes us.
    pub(crate) bus: Vec<SocketAddr>,
    /// The manager's own, where D-Bus is spoken without a bus: for hosts that run none. It takes
    /// none but its own user.
    pub(crate) direct: Option<PathBuf>,
}

impl Sockets {
    /// Those of `instance`, by what the environment says.
    pub(crate) fn find(instance: Instance) -> Result<Self, AddressError> {
        let (variable, default, direct) = match instance {
            Instance::System => (
                "DBUS_SYSTEM_BUS_ADDRESS",
                PathBuf::from("/run/dbus/system_bus_socket"),
                PathBuf::from("/run/systemd/private"),
            ),
            Instance::User => {
                let directory = runtime_directory();
                (
                    "DBUS_SESSION_BUS_ADDRESS",
                    directory.join("bus"),
                    directory.join("systemd/private"),
                )
            }
        };
        match env::var(variable).ok().filter(|value| !value.is_empty()) {
            Some(address) => Ok(Self {
                bus: parse(variable, &address)?,
                direct: None,
            }),
            None => Ok(Self {
                bus: SocketAddr::from_pathname(default).into_iter().collect(),
                direct: Some(direct),
            }),
        }
    }
}

/// Where the user's sockets are: `XDG_RUNTIME_DIR`, or where pam_systemd(8) puts that.
fn runtime_directory() -> PathBuf {
    let directory = env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty());
    let by_uid = || {
        let uid = rustix::process::getuid().as_raw();
        Path::new("/run/user").join(uid.to_string())
    };
    directory.map_or_else(by_uid, PathBuf::from)
}

pub(crate) fn connect(address: &SocketAddr) -> io::Result<UnixStream> {
    UnixStream::connect_addr(address)
}

/// Reads a list of addresses (D-Bus specification, "Server Addresses"); those that are no unix
/// sockets are left out.
fn parse(variable: &'static str, list: &str) -> Result<Vec<SocketAddr>, AddressError> {
    let sockets: Vec<SocketAddr> = list.split(';').filter_map(socket).collect();
    if sockets.is_empty() {
        return Err(AddressError {
            variable,
            address: list.chars().take(200).collect(),
        });
    }
    Ok(sockets)
}

fn socket(address: &str) -> Option<SocketAddr> {
    let pairs = address.strip_prefix("unix:")?.split(',');
    pairs
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(key, value)| match key {
            "path" => SocketAddr::from_pathname(OsString::from_vec(unescape(value)?)).ok(),
            "abstract" => SocketAddr::from_abstract_name(unescape(value)?).ok(),
            _ => None,
        })
}

/// Undoes `%` and two hexadecimal digits.
fn unescape(value: &str) -> Option<Vec<u8>> {
    let mut parts = value.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(part.as_bytes().get(2..)?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_socket_by_path_or_abstract_name() {
        let path = |text| SocketAddr::from_pathname(text).unwrap();
        for (list, expected) in [
            ("unix:path=/run/bus", path("/run/bus")),
            (
                "tcp:host=a,port=1;unix:guid=00,path=/a%20b%2c",
                path("/a b,"),
            ),
            (
                "unix:abstract=/tmp/x",
                SocketAddr::from_abstract_name("/tmp/x").unwrap(),
            ),
        ] {
            let parsed = parse("V", list).unwrap();
            assert_eq!(format!("{parsed:?}"), format!("[{expected:?}]"), "{list}");
        }
        for list in [
            "",
            "unix:",
            "unix:path=%4",
            "unix:path=%zz",
            "autolaunch:",
            "/run/bus",
        ] {
            let error = parse("V", list).unwrap_err().to_string();
            assert!(error.starts_with("V: "), "{error}");
        }
    }
}
