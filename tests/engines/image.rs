//! The image that the engines get: busybox, as an archive that all of them can load. There is no registry.

use std::fs;
use std::path::Path;
use std::process::Command;

use runvm_tests::{Input, Running, make_root};
use serde_json::json;

/// The image's name in an engine's store.
pub(crate) const NAME: &str = "docker.io/library/busybox:latest";

/// Writes the image to `directory` as `docker save` would. The answer is the archive's path.
pub(crate) fn write(directory: &str) -> String {
    let root = format!("{directory}/image-root");
    make_root(Path::new(&root));
    let archive = format!("{directory}/image.tar");
    let layer = format!("{directory}/layer.tar");
    tar(&["--directory", &root, "--file", &layer, "."]);
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Cmd": ["sh"], "Env": ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"] },
        "history": [{ "created_by": "a copy" }],
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))] },
    });
    let manifest = json!([
        { "Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"] }
    ]);
    for (name, content) in [("config.json", config), ("manifest.json", manifest)] {
        let path = Path::new(directory).join(name);
        fs::write(path, content.to_string()).expect("the directory is writable");
    }
    let names = ["manifest.json", "config.json", "layer.tar"];
    tar(&[&["--directory", directory, "--file", &archive], &names[..]].concat());
    archive
}

fn tar(args: &[&str]) {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--owner=0", "--group=0"]).args(args);
    Running::spawn(tar, Input::Null).finish().succeeds();
}

fn sha256(path: &str) -> String {
    let mut sum = Command::new("sha256sum");
    sum.arg(path);
    let output = Running::spawn(sum, Input::Null)
        .finish()
        .succeeds()
        .output();
    let digest = output.split_whitespace().next();
    digest.expect("a digest and a name").to_owned()
}
