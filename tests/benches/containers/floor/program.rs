//! The program that takes the steps.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, execv, pivot_root, sethostname};

/// linux/sched.h.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Takes the steps in the file at `path`: those before the clone, in the new process those after
/// it, and at the program's end the removal of the cgroups.
pub(crate) fn run(path: &Path) {
    let steps = fs::read_to_string(path).expect("the steps can be read");
    let mut cgroups = Vec::new();
    for step in steps.lines() {
        let words: Vec<&str> = step.split('\t').collect();
        match words[..] {
            ["cgroup", path] => {
                fs::create_dir(path).expect(step);
                cgroups.push(path);
            }
            ["clone", flags, cgroup] => {
                if let Some(child) = clone(flags.parse().expect(step), cgroup) {
                    let ended = waitpid(child, None);
                    assert_eq!(
                        ended,
                        Ok(WaitStatus::Exited(child, 0)),
                        "the container's process"
                    );
                    cgroups
                        .iter()
                        .for_each(|path| fs::remove_dir(path).expect(path));
                    return;
                }
            }
            _ => take(&words).expect(step),
        }
    }
}

fn take(words: &[&str]) -> nix::Result<()> {
    let failed =
        |error: std::io::Error| nix::Error::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    match *words {
        ["write", path, value] => fs::write(path, value).map_err(failed),
        ["hostname", name] => sethostname(name),
        ["mkdir", path] => fs::create_dir(path).map_err(failed),
        ["symlink", target, path] => symlink(target, path).map_err(failed),
        ["mknod", path, number] => {
            let (major, minor) = number.split_once(' ').expect("two numbers");
            let number = [major, minor].map(|text| text.parse().expect("a number"));
            let mode = Mode::from_bits_truncate(0o666);
            mknod(path, SFlag::S_IFCHR, mode, makedev(number[0], number[1]))
        }
        ["mount", source, target, fstype, flags, data] => {
            let flags = MsFlags::from_bits_retain(flags.parse().expect("a number"));
            mount(given(source), target, given(fstype), flags, given(data))
        }
        ["pivot_root", root] => {
            chdir(root)?;
            pivot_root(".", ".")?;
            umount2(".", MntFlags::MNT_DETACH)?;
            chdir("/")
        }
        ["exec", program, ref args @ ..] => {
            let c_string = |text: &str| CString::new(text).expect("no nul byte");
            let args: Vec<CString> = args.iter().map(|arg| c_string(arg)).collect();
            execv(&c_string(program), &args).map(|never| match never {})
        }
        _ => panic!("no such step"),
    }
}

/// Makes a process in new namespaces, born in a v2 cgroup if one is named; `None` in the new one.
fn clone(namespaces: u64, cgroup: &str) -> Option<Pid> {
    let cgroup = given(cgroup).map(|path| File::open(path).expect("it was made"));
    let into_cgroup = match cgroup {
        Some(_) => CLONE_INTO_CGROUP,
        None => 0,
    };
    let cgroup = cgroup.as_ref().map_or(0, AsRawFd::as_raw_fd);
    let args = libc::clone_args {
        flags: namespaces | into_cgroup,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        cgroup: u64::from(cgroup.unsigned_abs()),
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
    };
    // SAFETY: `args` has the kernel's layout and its size is passed. This process has one thread,
    // so that its copy, which goes on with the same stack, lacks no other's work.
    let answer = unsafe { libc::syscall(libc::SYS_clone3, &args, size_of_val(&args)) };
    match i32::try_from(answer).expect("a pid is small") {
        0 => None,
        child @ 1.. => Some(Pid::from_raw(child)),
        _ => panic!("clone3: {}", std::io::Error::last_os_error()),
    }
}

fn given(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}
