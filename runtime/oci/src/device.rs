//! `linux.devices`: nodes to make in the container.

use crate::{ConfigError, Device, DeviceKind, check, document};

/// The kernel's dev_t has 12 bits for the major number and 20 for the minor (linux/kdev_t.h).
const MAJOR_MAX: i64 = (1 << 12) - 1;
const MINOR_MAX: i64 = (1 << 20) - 1;

pub(crate) fn checked(devices: Vec<document::Device>) -> Result<Vec<Device>, ConfigError> {
    devices
        .into_iter()
        .enumerate()
        .map(|(i, device)| one(i, device))
        .collect()
}

fn one(i: usize, device: document::Device) -> Result<Device, ConfigError> {
    let path = device.path.ok_or_else(|| ConfigError::Missing {
        field: format!("linux.devices[{i}].path"),
        expected: "an absolute path",
    })?;
    let path = check::absolute(format_args!("linux.devices[{i}].path"), path)?;
    let kind = match device.r#type.as_str() {
        "b" => DeviceKind::Block,
        "c" | "u" => DeviceKind::Char,
        "p" => DeviceKind::Fifo,
        other => {
            return check::refuse(
                format_args!("linux.devices[{i}].type"),
                other,
                "b, c, u or p",
            );
        }
    };
    let number = |field: &str, value: Option<i64>, max: i64| match value {
        // A FIFO has no number, and mknod(2) ignores what is given.
        _ if kind == DeviceKind::Fifo => Ok(0),
        None => Err(ConfigError::Missing {
            field: format!("linux.devices[{i}].{field}"),
            expected: "the device's number",
        }),
        Some(value) => match u32::try_from(value) {
            Ok(number) if value <= max => Ok(number),
            _ => check::refuse_number(
                format_args!("linux.devices[{i}].{field}"),
                value,
                format!("0 to {max}"),
            ),
        },
    };
    Ok(Device {
        major: number("major", device.major, MAJOR_MAX)?,
        minor: number("minor", device.minor, MINOR_MAX)?,
        // Engines also write the file type into the mode; the kind has said it already.
        mode: device.file_mode.unwrap_or(0o666) & 0o7777,
        uid: device.uid.unwrap_or(0),
        gid: device.gid.unwrap_or(0),
        path: check::cleaned(&path.to_string_lossy()),
        kind,
    })
}
