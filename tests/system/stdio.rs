//! Standard input, output and error, and the exit code.

use std::io::Write;
use std::thread;

use runvm_tests::{Input, Runtime, each_isolation};

each_isolation! {
    what_a_program_prints_comes_out,
    the_exit_code_is_the_programs,
    output_and_errors_stay_apart,
    input_reaches_the_program_until_its_end,
    a_hundred_megabytes_pass_unchanged,
}

fn what_a_program_prints_comes_out(runtime: &Runtime) {
    runtime
        .run(&runtime.bundle().args(&["echo", "hello", "wörld"]))
        .prints("hello wörld\n");
}

fn the_exit_code_is_the_programs(runtime: &Runtime) {
    runtime.run(&runtime.bundle().shell("exit 7")).exits(7);
}

fn output_and_errors_stay_apart(runtime: &Runtime) {
    let bundle = runtime.bundle().shell("echo out; echo err >&2; printf end");
    let outcome = runtime.run(&bundle).succeeds();
    assert_eq!(
        (outcome.output().as_str(), outcome.errors().as_str()),
        ("out\nend", "err\n")
    );
}

fn input_reaches_the_program_until_its_end(runtime: &Runtime) {
    let bundle = runtime
        .bundle()
        .shell("read line; echo got $line; cat; echo end of input");
    let mut container = runtime.spawn_run(&bundle, Input::Pipe);
    container.running().write("first\n");
    // The program answers while its input is open: nothing waits for the whole of it.
    container.output().wait_for("got first\n");
    container.running().write("second\n");
    container.output().wait_for("second\n");
    container
        .finish()
        .prints("got first\nsecond\nend of input\n");

    let null = runtime.bundle().shell("cat; echo end of input");
    runtime.run(&null).prints("end of input\n");
}

fn a_hundred_megabytes_pass_unchanged(runtime: &Runtime) {
    // runc's way through two Go processes is not what is tested.
    let megabytes = if Runtime::is_runc() { 8 } else { 100 };
    let bundle = runtime.bundle().args(&["cat"]);
    let mut container = runtime.spawn_run(&bundle, Input::Pipe);
    let mut input = container.running().take_input().expect("a pipe");
    let writer = thread::spawn(move || {
        let mut noise = Noise::default();
        (0..megabytes).try_for_each(|_| input.write_all(noise.megabyte()))
    });
    let outcome = container.finish();
    writer
        .join()
        .expect("no panic")
        .expect("the program reads on");
    assert_eq!((outcome.code, outcome.errors()), (0, String::new()));
    assert_eq!(outcome.output.len(), megabytes << 20);
    let mut noise = Noise::default();
    for (number, came) in outcome.output.chunks(1 << 20).enumerate() {
        let is_same = came == noise.megabyte();
        assert!(is_same, "MiB {number} came out changed");
    }
}

/// Bytes that repeat nowhere, the same in every run.
struct Noise {
    state: u64,
    buffer: Vec<u8>,
}

impl Default for Noise {
    fn default() -> Self {
        Self {
            state: 0x9e37_79b9_7f4a_7c15,
            buffer: Vec::new(),
        }
    }
}

impl Noise {
    fn megabyte(&mut self) -> &[u8] {
        self.buffer.clear();
        while self.buffer.len() < 1 << 20 {
            // Marsaglia's xorshift64.
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            self.buffer.extend_from_slice(&self.state.to_le_bytes());
        }
        &self.buffer
    }
}
