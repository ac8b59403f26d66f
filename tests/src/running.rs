//! Commands: run to their end, or watched while they run.

use std::fs::File;
use std::io::Write;
use std::process::{ChildStdin, Command, Stdio};

use rustix::process::Signal;

use crate::{Capture, Process};

/// Where a command's standard input comes from.
#[derive(Debug)]
pub enum Input {
    /// /dev/null.
    Null,
    /// A pipe that the test writes to.
    Pipe,
    /// A file.
    File(File),
}

/// A command that runs, its output gathered.
#[derive(Debug)]
pub struct Running {
    line: String,
    process: Process,
    input: Option<ChildStdin>,
    output: Capture,
    errors: Capture,
    /// The exit code, once it has been taken.
    code: Option<i32>,
}

/// What a command has come to.
#[derive(Debug)]
pub struct Outcome {
    /// The command, for messages.
    pub line: String,
    /// Its exit code, or 128 and the number of the signal that killed it.
    pub code: i32,
    /// What it wrote to standard output.
    pub output: Vec<u8>,
    /// What it wrote to standard error.
    pub errors: Vec<u8>,
}

impl Running {
    /// Starts `command`, its output and errors gathered apart.
    #[track_caller]
    #[expect(clippy::zombie_processes, reason = "it is reaped through its pidfd")]
    pub fn spawn(mut command: Command, input: Input) -> Self {
        command.stdin(match input {
            Input::Null => Stdio::null(),
            Input::Pipe => Stdio::piped(),
            Input::File(file) => file.into(),
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let line = format!("{command:?}");
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {line}: {error}"));
        Self {
            process: handle(&child),
            input: child.stdin.take(),
            output: Capture::of(child.stdout.take().expect("standard output is piped")),
            errors: Capture::of(child.stderr.take().expect("standard error is piped")),
            line,
            code: None,
        }
    }

    /// Starts `command` with the stdio it has been given.
    #[track_caller]
    #[expect(clippy::zombie_processes, reason = "it is reaped through its pidfd")]
    pub fn spawn_as_is(mut command: Command) -> Self {
        let line = format!("{command:?}");
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {line}: {error}"));
        Self {
            process: handle(&child),
            input: None,
            output: Capture::of(std::io::empty()),
            errors: Capture::of(std::io::empty()),
            line,
            code: None,
        }
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its standard output.
    pub fn output(&self) -> &Capture {
        &self.output
    }

    /// Its standard error.
    pub fn errors(&self) -> &Capture {
        &self.errors
    }

    /// Writes to its standard input.
    #[track_caller]
    pub fn write(&mut self, text: &str) {
        let input = self.input.as_mut().expect("standard input is an open pipe");
        input
            .write_all(text.as_bytes())
            .and_then(|()| input.flush())
            .expect("it reads its input");
    }

    /// The pipe to its standard input; dropping it is the end of input.
    pub fn take_input(&mut self) -> Option<ChildStdin> {
        self.input.take()
    }

    /// Waits for another process in this one's stead: what it started goes on with its output.
    pub(crate) fn stand_for(&mut self, process: Process) {
        self.process = process;
        self.code = None;
    }

    /// Waits for its end, but not for the end of its output, which what it started may hold. The
    /// answer is its exit code, or 128 and the number of the signal that killed it.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        if let Some(code) = self.code {
            return code;
        }
        if !self.process.wait_for_end() {
            self.process.signal(Signal::KILL);
            panic!("{} hangs; {}", self.line, self.words());
        }
        let code = self.process.reap().expect("it is a child of this process");
        self.code = Some(code);
        code
    }

    /// Closes its input, waits for its end and for that of its output.
    #[track_caller]
    pub fn finish(mut self) -> Outcome {
        drop(self.input.take());
        let code = self.wait();
        for (capture, name) in [(&self.output, "output"), (&self.errors, "error")] {
            let ended = capture.wait_for_end();
            assert!(
                ended,
                "{} has ended, but its standard {name} is still held",
                self.line
            );
        }
        self.outcome(code)
    }

    /// What has come of it so far, with `code` for its end.
    pub(crate) fn outcome(&self, code: i32) -> Outcome {
        Outcome {
            line: self.line.clone(),
            code,
            output: self.output.bytes(),
            errors: self.errors.bytes(),
        }
    }

    fn words(&self) -> String {
        format!(
            "output: {:?}, errors: {:?}",
            self.output.text(),
            self.errors.text()
        )
    }
}

fn handle(child: &std::process::Child) -> Process {
    let pid = i32::try_from(child.id()).expect("a pid fits");
    Process::open(pid).expect("the child has not been reaped")
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.code.is_none() {
            self.process.signal(Signal::KILL);
            if self.process.wait_for_end() {
                self.process.reap();
            }
        }
    }
}

impl Outcome {
    /// Its standard output as text.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    /// Its standard error as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.errors).into_owned()
    }

    /// Insists on an exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code; {self}");
        self
    }

    /// Insists on success.
    #[track_caller]
    pub fn succeeds(self) -> Self {
        self.exits(0)
    }

    /// Insists on success with this output, and no word on standard error.
    #[track_caller]
    pub fn prints(self, text: &str) -> Self {
        assert_eq!(self.output(), text, "standard output; {self}");
        assert_eq!(self.errors(), "", "standard error; {self}");
        self.exits(0)
    }

    /// Insists on a refusal: this exit code, nothing on standard output, and on standard error one
    /// line that has each of `words` in it.
    #[track_caller]
    pub fn refuses(self, code: i32, words: &[&str]) -> Self {
        let errors = self.errors();
        for word in words {
            assert!(errors.contains(word), "the message lacks {word:?}; {self}");
        }
        assert_eq!(errors.lines().count(), 1, "one line of error; {self}");
        assert_eq!(self.output(), "", "standard output; {self}");
        self.exits(code)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { line, code, .. } = self;
        let (output, errors) = (shortened(&self.output()), shortened(&self.errors()));
        write!(
            f,
            "{line} exited {code}\noutput: {output:?}\nerrors: {errors:?}"
        )
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(4000).collect()
}
