//! The program: where it starts, what its home is, which file it is, and the last call.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ffi::{CString, NulError};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use runvm_oci::Process;
use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, stat};
use rustix::io::Errno;
use rustix::process::{chdir, getcwd};

use crate::rootfs::Rootfs;

/// Why the program does not run. The words after "exec" are those engines look for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    #[error("cannot change to process.cwd {}", cwd.display())]
    Cwd { cwd: PathBuf, source: io::Error },
    #[error("process.cwd {} leads out of the container's root", cwd.display())]
    CwdOutside { cwd: PathBuf },
    #[error("exec: {0:?}: executable file not found in $PATH")]
    NotInPath(String),
    #[error("exec: {program:?}")]
    Unusable { program: String, source: io::Error },
    #[error("exec: {}", path.display())]
    Execute { path: PathBuf, source: io::Error },
    #[error("process.args or process.env has a nul byte")]
    Nul(#[source] NulError),
}

/// Makes the working directory where it is missing, as other runtimes do. Where that cannot be,
/// the change to it tells why.
pub(crate) fn make_directory(rootfs: &Rootfs, cwd: &Path) {
    let _ = rootfs.make_dir(cwd);
}

/// Changes to the working directory. `Retry` says that it may be reached by the program's user
/// though not by this process.
pub(crate) fn change_directory(cwd: &Path) -> Result<Changed, ProgramError> {
    match chdir(cwd) {
        Ok(()) => inside(cwd).map(|()| Changed::Yes),
        Err(Errno::ACCESS | Errno::PERM) => Ok(Changed::Retry),
        Err(errno) => Err(ProgramError::Cwd {
            cwd: cwd.into(),
            source: errno.into(),
        }),
    }
}

/// As [`change_directory`], with the program's credentials: the last try.
pub(crate) fn change_directory_as_user(cwd: &Path) -> Result<(), ProgramError> {
    chdir(cwd).map_err(|errno| ProgramError::Cwd {
        cwd: cwd.into(),
        source: errno.into(),
    })?;
    inside(cwd)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changed {
    Yes,
    Retry,
}

/// A descriptor of the host, reached as /proc/self/fd/N, would show as a directory that the root
/// does not lead to (CVE-2024-21626; getcwd(2), "(unreachable)").
fn inside(cwd: &Path) -> Result<(), ProgramError> {
    match getcwd(Vec::new()) {
        Ok(path) if path.as_bytes().starts_with(b"/") => Ok(()),
        _ => Err(ProgramError::CwdOutside { cwd: cwd.into() }),
    }
}

/// The program, ready to be executed.
#[derive(Debug)]
pub(crate) struct Program {
    path: PathBuf,
    argv: Vec<CString>,
    envp: Vec<CString>,
}

impl Program {
    /// Finds the program's file as its user sees it, and completes its environment.
    pub(crate) fn find(process: &Process) -> Result<Self, ProgramError> {
        let name = process.args.first().map_or("", String::as_str);
        let env = environment(process);
        Ok(Self {
            path: find(name, &env)?,
            argv: terminated(process.args.iter().map(String::as_str))?,
            envp: terminated(env.iter().map(AsRef::as_ref))?,
        })
    }

    /// Becomes the program; returns only when that failed.
    pub(crate) fn execute(&self) -> ProgramError {
        let failed = |errno: nix::Error| ProgramError::Execute {
            path: self.path.clone(),
            source: errno.into(),
        };
        match CString::new(self.path.as_os_str().as_bytes()) {
            Err(nul) => ProgramError::Nul(nul),
            Ok(path) => match nix::unistd::execve(&path, &self.argv, &self.envp) {
                Err(errno) => failed(errno),
                Ok(never) => match never {},
            },
        }
    }
}

fn terminated<'a>(strings: impl Iterator<Item = &'a str>) -> Result<Vec<CString>, ProgramError> {
    strings
        .map(CString::new)
        .collect::<Result<_, _>>()
        .map_err(ProgramError::Nul)
}

/// What the program gets of `process.env`: of a name that is there twice the last value, and a
/// home directory unless it says one.
fn environment(process: &Process) -> Vec<Cow<'_, str>> {
    let mut seen = HashSet::new();
    let name = |pair: &'_ str| pair.find('=').unwrap_or(pair.len());
    let last = process.env.iter().rev().map(String::as_str);
    let mut env: Vec<Cow<'_, str>> = last
        .filter(|pair| seen.insert(&pair[..name(pair)]))
        .filter(|pair| *pair != "HOME=")
        .map(Cow::from)
        .collect();
    env.reverse();
    if !env.iter().any(|pair| pair.starts_with("HOME=")) {
        let home = home_of(process.user.uid).unwrap_or_else(|| "/".into());
        env.push(format!("HOME={home}").into());
    }
    env
}

fn find(name: &str, env: &[Cow<'_, str>]) -> Result<PathBuf, ProgramError> {
    if name.contains('/') {
        let path = PathBuf::from(name);
        return match executable(&path) {
            Ok(()) => Ok(path),
            Err(source) => Err(ProgramError::Unusable {
                program: name.into(),
                source,
            }),
        };
    }
    if name.is_empty() {
        return Err(ProgramError::NotInPath(name.into()));
    }
    let search = env.iter().find_map(|pair| pair.strip_prefix("PATH="));
    let mut refused = None;
    // Without a PATH there is nowhere to look: the working directory least of all.
    for dir in search
        .into_iter()
        .filter(|path| !path.is_empty())
        .flat_map(|path| path.split(':'))
    {
        // An empty entry is the working directory (execvp(3)).
        let dir = if dir.is_empty() { "." } else { dir };
        let path = Path::new(dir).join(name);
        match executable(&path) {
            Ok(()) => return Ok(path),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) => {}
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(match refused {
        // As execvp(3): a file that is there and cannot be executed says why when there is no better one.
        Some(source) => ProgramError::Unusable {
            program: name.into(),
            source,
        },
        None => ProgramError::NotInPath(name.into()),
    })
}

fn executable(path: &Path) -> io::Result<()> {
    let found = stat(path)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(Errno::ACCESS.into());
    }
    Ok(accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?)
}

/// The most of a passwd file that is read, in bytes.
const PASSWD_BYTES_MAX: u64 = 1 << 20;

/// The home directory of a user, from the container's /etc/passwd (passwd(5)).
fn home_of(uid: u32) -> Option<String> {
    let file = File::options()
        .read(true)
        // A FIFO of the image must not hold us up.
        .custom_flags(OFlag::O_NONBLOCK.bits() | OFlag::O_NOCTTY.bits())
        .open("/etc/passwd")
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    home_in(BufReader::new(file.take(PASSWD_BYTES_MAX)), uid)
}

fn home_in(passwd: impl BufRead, uid: u32) -> Option<String> {
    passwd.lines().map_while(Result::ok).find_map(|line| {
        let mut fields = line.split(':');
        let is_user = fields.nth(2)?.parse() == Ok(uid);
        let home = fields.nth(2)?;
        (is_user && !home.is_empty()).then(|| home.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_is_the_sixth_field_of_the_users_line() {
        let passwd = "# none\nroot:x:0:0:root:/root:/bin/sh\nbroken\nu:x:7:7::/home/u:/bin/sh\n";
        assert_eq!(home_in(passwd.as_bytes(), 7).as_deref(), Some("/home/u"));
        assert_eq!(home_in(passwd.as_bytes(), 0).as_deref(), Some("/root"));
        assert_eq!(home_in(passwd.as_bytes(), 1), None);
    }

    #[test]
    fn a_directory_of_the_path_that_cannot_be_searched_is_told_when_no_other_has_the_program() {
        let endless = format!("/{}", "x".repeat(300));
        let env = [Cow::from(format!("PATH={endless}:/bin"))];
        assert_eq!(find("sh", &env).unwrap(), Path::new("/bin/sh"));
        let error = find("no-such-program", &env).unwrap_err();
        assert!(
            matches!(&error, ProgramError::Unusable { source, .. }
                if source.raw_os_error() == Some(nix::libc::ENAMETOOLONG)),
            "{error}"
        );
    }

    #[test]
    fn a_program_is_looked_for_in_the_path_of_its_own_environment() {
        let env = ["PATH=/nowhere:/bin".into()];
        assert_eq!(find("sh", &env).unwrap(), Path::new("/bin/sh"));
        let error = find("no-such-program", &env).unwrap_err().to_string();
        assert!(error.contains("executable file not found in $PATH"));
        assert!(matches!(find("", &env), Err(ProgramError::NotInPath(_))));
        for env in [vec![], vec!["PATH=".into()]] {
            assert!(matches!(find("sh", &env), Err(ProgramError::NotInPath(_))));
        }
    }

    #[test]
    fn of_a_name_that_is_there_twice_the_last_value_counts() {
        let env = ["HOME=/override", "A=1", "B", "A=2=3", "C=\n", "HOME="];
        let json =
            serde_json::json!({"args": ["x"], "cwd": "/", "user": {"uid": 4_000_000_000_u32}});
        let mut process = Process::parse(json.to_string().as_bytes()).unwrap();
        process.env = env.map(str::to_owned).into();
        let env = environment(&process);
        assert_eq!(env, ["B", "A=2=3", "C=\n", "HOME=/"]);
    }

    #[test]
    fn a_directory_is_no_program() {
        let error = find("/etc", &[]).unwrap_err();
        let ProgramError::Unusable { source, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(source.kind(), io::ErrorKind::PermissionDenied);
    }
}
