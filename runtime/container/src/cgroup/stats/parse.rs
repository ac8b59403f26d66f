//! The forms of the kernel's figures.

use std::collections::BTreeMap;

use super::{DeviceCount, Files, Pressure, ReadError, Stall};

/// A file of one number; 0 where the kernel does not have it. `max` is the largest.
pub(super) fn number(files: &impl Files, name: &str) -> Result<u64, ReadError> {
    Ok(optional_number(files, name)?.unwrap_or(0))
}

/// A file of one number, `max` being the largest.
pub(super) fn optional_number(files: &impl Files, name: &str) -> Result<Option<u64>, ReadError> {
    let Some(text) = files.read(name)? else {
        return Ok(None);
    };
    match text.trim() {
        "max" => Ok(Some(u64::MAX)),
        // What a counter of the kernel that is momentarily below zero comes to.
        text if text.starts_with('-') => Ok(Some(0)),
        text => match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(ReadError::odd(name, text)),
        },
    }
}

/// A file of one number that can be below zero; 0 where the kernel does not have it.
pub(super) fn signed_number(files: &impl Files, name: &str) -> Result<i64, ReadError> {
    let Some(text) = files.read(name)? else {
        return Ok(0);
    };
    let text = text.trim();
    text.parse().map_err(|_| ReadError::odd(name, text))
}

/// A file of lines `KEY NUMBER`; empty where the kernel does not have it.
pub(super) fn keyed(files: &impl Files, name: &str) -> Result<BTreeMap<String, u64>, ReadError> {
    let text = files.read(name)?.unwrap_or_default();
    let lines = text.lines().filter(|line| !line.is_empty());
    let pairs = lines.map(|line| {
        let pair = line
            .split_once(' ')
            .and_then(|(key, number)| Some((key.to_owned(), number.trim().parse().ok()?)));
        pair.ok_or_else(|| ReadError::odd(name, line))
    });
    pairs.collect()
}

/// A file of numbers between spaces.
pub(super) fn numbers(files: &impl Files, name: &str) -> Result<Vec<u64>, ReadError> {
    let text = files.read(name)?.unwrap_or_default();
    let numbers = text.split_whitespace().map(str::parse);
    numbers
        .collect::<Result<_, _>>()
        .map_err(|_| ReadError::odd(name, &text))
}

/// A file of a list such as `0-2,7` (cpuset(7), "List format").
pub(super) fn list(files: &impl Files, name: &str) -> Result<Vec<u16>, ReadError> {
    let text = files.read(name)?.unwrap_or_default();
    let text = text.trim();
    let mut list = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<u16>(), last.parse::<u16>()) {
            (Ok(first), Ok(last)) => list.extend(first..=last),
            _ => return Err(ReadError::odd(name, text)),
        }
    }
    Ok(list)
}

/// A file of lines `MAJOR:MINOR [OPERATION] NUMBER`, and of sums that are left out; `None` where
/// the kernel does not have it.
pub(super) fn devices(
    files: &impl Files,
    name: &str,
) -> Result<Option<Vec<DeviceCount>>, ReadError> {
    let Some(text) = files.read(name)? else {
        return Ok(None);
    };
    let lines = text.lines().filter(|line| !line.starts_with("Total"));
    let counts = lines.map(|line| device(line).ok_or_else(|| ReadError::odd(name, line)));
    counts.collect::<Result<_, _>>().map(Some)
}

fn device(line: &str) -> Option<DeviceCount> {
    let mut words = line.split_whitespace();
    let (major, minor) = device_number(words.next()?)?;
    let second = words.next()?;
    let (operation, value) = match words.next() {
        Some(value) => (second, value),
        None => ("", second),
    };
    Some(DeviceCount {
        major,
        minor,
        operation: operation.to_owned(),
        value: value.parse().ok()?,
    })
}

pub(super) fn device_number(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A pressure file; `None` where the kernel does not have it.
pub(super) fn pressure(files: &impl Files, name: &str) -> Result<Option<Pressure>, ReadError> {
    let Some(text) = files.read(name)? else {
        return Ok(None);
    };
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let odd = || ReadError::odd(name, line);
        let (kind, words) = line.split_once(' ').ok_or_else(odd)?;
        let stall = stall(words).ok_or_else(odd)?;
        match kind {
            "some" => pressure.some = stall,
            "full" => pressure.full = stall,
            // A kind that a later kernel adds.
            _ => {}
        }
    }
    Ok(Some(pressure))
}

fn stall(words: &str) -> Option<Stall> {
    let mut stall = Stall::default();
    for word in words.split_whitespace() {
        let (key, value) = word.split_once('=')?;
        match key {
            "avg10" => stall.avg10 = value.parse().ok()?,
            "avg60" => stall.avg60 = value.parse().ok()?,
            "avg300" => stall.avg300 = value.parse().ok()?,
            "total" => stall.total_us = value.parse().ok()?,
            _ => {}
        }
    }
    Some(stall)
}

/// The size in the name of a directory of /sys/kernel/mm/hugepages: `hugepages-2048kB` is `2MB`.
pub(super) fn huge_page_size(directory: &str) -> Option<String> {
    let kib: u64 = directory
        .strip_prefix("hugepages-")?
        .strip_suffix("kB")?
        .parse()
        .ok()?;
    // As the kernel names the files: mem_fmt of mm/hugetlb_cgroup.c.
    Some(if kib >= 1 << 20 {
        format!("{}GB", kib >> 20)
    } else if kib >= 1 << 10 {
        format!("{}MB", kib >> 10)
    } else {
        format!("{kib}KB")
    })
}
