//! Handing a terminal, a pidfd and a pid to the engine that asked for them.

use std::fs::{self, File};
use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
};

/// Sends `descriptor` to the engine listening on `socket`, as SCM_RIGHTS with its name as payload
/// (runc's `--console-socket` and `--pidfd-socket`).
pub(crate) fn send_descriptor(socket: &Path, descriptor: &impl AsFd, name: &str) -> io::Result<()> {
    let address = SocketAddrUnix::new(socket)?;
    let connection = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    connect(&connection, &address)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for the descriptor"));
    }
    sendmsg(
        &connection,
        &[IoSlice::new(name.as_bytes())],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Writes `pid` to `path` so that a reader sees the whole number or no file: conmon polls for it.
pub(crate) fn write_pid_file(path: &Path, pid: u32) -> io::Result<()> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not the path of a file"))?;
    let mut aside_name = std::ffi::OsString::from(".");
    aside_name.push(name);
    aside_name.push(format!(".{}", std::process::id()));
    let aside: PathBuf = path.with_file_name(aside_name);
    let written = File::create_new(&aside)
        .and_then(|mut file| file.write_all(pid.to_string().as_bytes()))
        .and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        // Only this process made the file aside; what could not be made need not be removed.
        let _ = fs::remove_file(&aside);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::write_pid_file;

    #[test]
    fn a_pid_file_holds_the_bare_number_and_nothing_stays_aside() {
        let directory = std::env::temp_dir().join(format!("runvm-test-pid-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let path = directory.join("init.pid");
        write_pid_file(&path, 42).unwrap();
        write_pid_file(&path, 43).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "43");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(&directory).unwrap();
    }
}
