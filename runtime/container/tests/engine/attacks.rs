//! Images and configurations that mean harm. What they aim at is outside the root.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::bundle::{Bundle, chain, shell_process};

crate::tests![
    a_link_for_proc_is_refused,
    a_link_for_dev_makes_nothing_on_the_host,
    a_link_in_a_destination_stays_inside,
    a_link_for_a_file_mount_creates_nothing_on_the_host,
    a_masked_path_is_not_covered_with_the_images_null,
    a_console_that_is_a_link_stays_inside,
    a_fake_terminal_is_refused,
    a_working_directory_through_a_descriptor_is_refused,
    a_working_directory_through_a_descriptor_is_refused_to_an_exec,
    a_destination_that_is_swapped_for_a_link_stays_inside,
    a_protected_path_that_is_a_link_stays_inside,
    a_fake_proc_swallows_no_sysctl,
    the_runtimes_executable_cannot_be_written_to,
    an_exec_cannot_be_looked_into,
    a_fifo_for_passwd_holds_nothing_up,
];

/// A directory beside the rootfs that nothing may be made in.
fn outside(bundle: &Bundle) -> PathBuf {
    let outside = bundle.dir.join("outside");
    fs::create_dir(&outside).unwrap();
    outside
}

fn is_empty(dir: &PathBuf) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

fn a_link_for_proc_is_refused() {
    for name in ["proc", "sys"] {
        let bundle = Bundle::shell("true");
        fs::create_dir(bundle.root().join("etc")).unwrap();
        symlink("/etc", bundle.root().join(name)).unwrap();
        let error = bundle.error();
        assert!(
            error.contains(&format!("at /{name}: a symbolic link is in the way")),
            "{error}"
        );
    }
}

fn a_link_for_dev_makes_nothing_on_the_host() {
    let bundle = Bundle::shell("true");
    let outside = outside(&bundle);
    symlink(&outside, bundle.root().join("dev")).unwrap();
    // With the usual tmpfs the link leads to a place inside the root; without, nowhere.
    let _ = bundle.create();
    assert!(is_empty(&outside));
    let bundle = bundle.set("/mounts", json!([{"destination": "/proc", "type": "proc"}]));
    let error = bundle.error();
    assert!(error.contains("/dev"), "{error}");
    assert!(is_empty(&outside));
}

fn a_link_in_a_destination_stays_inside() {
    let bundle = Bundle::shell("true");
    let outside = outside(&bundle);
    symlink(&outside, bundle.root().join("absolute")).unwrap();
    symlink("../outside", bundle.root().join("relative")).unwrap();
    let bundle = bundle
        .mount(json!({"destination": "/absolute/a/b", "type": "tmpfs"}))
        .mount(json!({"destination": "/relative/c", "type": "tmpfs"}));
    bundle.run();
    assert!(is_empty(&outside));
    assert!(bundle.root().join("outside/c").is_dir());
}

fn a_link_for_a_file_mount_creates_nothing_on_the_host() {
    let bundle = Bundle::shell("true");
    let outside = outside(&bundle);
    symlink(outside.join("made"), bundle.root().join("file")).unwrap();
    let bundle = bundle
        .mount(json!({"destination": "/file", "source": "/etc/hostname", "options": ["bind"]}));
    // Whether it is mounted or refused, nothing appears outside.
    let _ = bundle.create();
    assert!(is_empty(&outside));
}

fn a_masked_path_is_not_covered_with_the_images_null() {
    // The image brings its own /dev/null, a link to what is to be hidden elsewhere.
    let bundle = Bundle::shell("stat -c %t:%T /hidden").mount(json!({
        "destination": "/image", "type": "tmpfs"
    }));
    fs::create_dir(bundle.root().join("dev")).unwrap();
    symlink("/secret", bundle.root().join("dev/null")).unwrap();
    fs::write(bundle.root().join("secret"), "secret").unwrap();
    fs::write(bundle.root().join("hidden"), "secret").unwrap();
    let mut bundle = bundle.set("/linux/maskedPaths", json!(["/hidden"]));
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    assert_eq!(bundle.run(), "1:3\n");
}

fn a_console_that_is_a_link_stays_inside() {
    let bundle = Bundle::shell("true").set("/process/terminal", json!(true));
    let outside = outside(&bundle);
    let victim = outside.join("victim");
    fs::write(&victim, "untouched").unwrap();
    fs::create_dir(bundle.root().join("dev")).unwrap();
    symlink(&victim, bundle.root().join("dev/console")).unwrap();
    let mut bundle = bundle;
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    // No tmpfs over the image's /dev.
    mounts.retain(|mount| mount["destination"] != "/dev");
    let _ = bundle.create();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

fn a_fake_terminal_is_refused() {
    let mut bundle = Bundle::shell("true").set("/process/terminal", json!(true));
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    fs::create_dir_all(bundle.root().join("dev/pts")).unwrap();
    let fifo = bundle.root().join("dev/pts/ptmx");
    let kind = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
    let error = bundle.error();
    assert!(
        error.contains("is not the multiplexer of a devpts"),
        "{error}"
    );
}

fn a_working_directory_through_a_descriptor_is_refused() {
    for number in 0..24 {
        let cwd = format!("/proc/self/fd/{number}");
        let bundle = Bundle::shell("true").set("/process/cwd", json!(cwd));
        match bundle.create() {
            Err(error) => {
                let error = chain(&error);
                assert!(error.contains("process.cwd"), "{error}");
            }
            Ok(_) => panic!("{cwd} is a directory"),
        }
    }
}

fn a_working_directory_through_a_descriptor_is_refused_to_an_exec() {
    let bundle = Bundle::shell("sleep 100");
    let container = bundle.create().unwrap();
    container.start();
    for number in 0..24 {
        let mut process = shell_process("pwd");
        process["cwd"] = json!(format!("/proc/self/fd/{number}"));
        let error = container.exec(&process).map(drop).unwrap_err();
        assert!(chain(&error).contains("process.cwd"), "{}", chain(&error));
    }
}

/// Swaps a directory of the root for a link that leads out of it, again and again.
fn swap(root: PathBuf, done: &AtomicBool) {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    while !done.load(Ordering::Relaxed) {
        let (one, other) = (root.join("volume"), root.join("link"));
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
    }
}

fn a_destination_that_is_swapped_for_a_link_stays_inside() {
    let bundle = Bundle::shell("true");
    let outside = outside(&bundle);
    fs::create_dir(bundle.root().join("volume")).unwrap();
    symlink(&outside, bundle.root().join("link")).unwrap();
    let bundle = bundle
        .mount(json!({"destination": "/volume/made/here", "type": "tmpfs"}))
        .mount(
            json!({"destination": "/volume/file", "source": "/etc/hostname", "options": ["bind"]}),
        )
        .set(
            "/linux/devices",
            json!([{"path": "/volume/null", "type": "c", "major": 1, "minor": 3}]),
        )
        .set("/linux/maskedPaths", json!(["/volume/made"]))
        .set("/process/cwd", json!("/volume/cwd"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| swap(bundle.root(), &done));
        for _ in 0..20 {
            // Who loses the race may be refused; nothing may come of it outside.
            drop(bundle.create());
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(is_empty(&outside));
}

fn a_protected_path_that_is_a_link_stays_inside() {
    let bundle = Bundle::shell("echo > /inside 2>&1; cat /masked; echo $?");
    let outside = outside(&bundle);
    let victim = outside.join("victim");
    fs::write(&victim, "untouched").unwrap();
    // By the host's names they lead to the victim, and by the container's to files of its own.
    for (link, target) in [("read-only", "/inside"), ("masked", "../outside/victim")] {
        symlink(target, bundle.root().join(link)).unwrap();
    }
    fs::create_dir(bundle.root().join("outside")).unwrap();
    fs::write(bundle.root().join("outside/victim"), "secret").unwrap();
    fs::write(bundle.root().join("inside"), "").unwrap();
    let bundle = bundle
        .set("/linux/readonlyPaths", json!(["/read-only"]))
        .set("/linux/maskedPaths", json!(["/masked"]));
    let printed = bundle.run();
    assert!(printed.contains("Read-only file system"), "{printed}");
    assert!(
        printed.ends_with("0\n") && !printed.contains("secret"),
        "{printed}"
    );
    fs::write(&victim, "still to be written").unwrap();
}

fn a_fake_proc_swallows_no_sysctl() {
    // A volume at /proc that looks like one, as in CVE-2019-16884.
    let bundle = Bundle::shell("cat /real/sys/kernel/msgmax /proc/sys/kernel/msgmax")
        .mount(json!({"destination": "/real", "type": "proc"}))
        .set("/linux/sysctl", json!({"kernel.msgmax": "4242"}));
    let fake = bundle.dir.join("fake");
    fs::create_dir_all(fake.join("sys/kernel")).unwrap();
    fs::write(fake.join("sys/kernel/msgmax"), "fake\n").unwrap();
    let volume = json!({"destination": "/proc", "source": fake, "options": ["bind"]});
    assert_eq!(bundle.mount(volume).run(), "4242\nfake\n");
}

fn the_runtimes_executable_cannot_be_written_to() {
    let bundle = Bundle::shell("sleep 100");
    let container = bundle.create().unwrap();
    // As CVE-2019-5736: hold it open until it is executed no more, then write.
    let held = fs::File::open(format!("/proc/{}/exe", container.created.pid)).unwrap();
    drop(container);
    let path = format!("/proc/self/fd/{}", held.as_raw_fd());
    // This test is executed from the same file, so a plain open would say that it is busy before
    // it looks at the mount; one that truncates looks at the mount first.
    let mut writer = fs::File::options();
    let error = writer.write(true).truncate(true).open(path).unwrap_err();
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::ReadOnlyFilesystem,
        "{error}"
    );
}

fn an_exec_cannot_be_looked_into() {
    // The waiting process of a container is like one that execs: root's, and closed to others.
    let bundle = Bundle::shell("sleep 100").set("/process/user", json!({"uid": 21, "gid": 21}));
    let container = bundle.create().unwrap();
    let entry = fs::metadata(format!("/proc/{}/environ", container.created.pid)).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&entry), 0);
}

fn a_fifo_for_passwd_holds_nothing_up() {
    let bundle = Bundle::shell("echo $HOME");
    fs::create_dir(bundle.root().join("etc")).unwrap();
    let kind = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    let fifo = bundle.root().join("etc/passwd");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
    assert_eq!(bundle.run(), "/\n");
}
