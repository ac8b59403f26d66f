//! Names the commit that `runvm --version` tells: git's, or `RUNVM_COMMIT` for a build without it.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=RUNVM_COMMIT");
    // It grows with each commit and checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    } else {
        println!("cargo::rerun-if-changed=build.rs");
    }
    let commit = env::var("RUNVM_COMMIT")
        .ok()
        .or_else(|| git(&["rev-parse", "HEAD"]));
    let commit = commit.unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=RUNVM_COMMIT={commit}");
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
