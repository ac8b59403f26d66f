//! Files: the root and bind mounts, as the container and the host see them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use runvm_tests::{Bundle, Runtime, each_isolation};
use serde_json::json;

each_isolation! {
    files_of_the_root_are_the_hosts,
    a_read_only_root_refuses_writes,
    bind_mounts_show_the_hosts_files,
}

fn files_of_the_root_are_the_hosts(runtime: &Runtime) {
    let bundle = runtime.bundle().writable().shell(
        "set -e
         cat /greeting
         echo from inside >/written
         chmod 640 /written; chown 12:34 /written
         mkdir -m 711 /made; ln -s ../greeting /made/link; ln /written /made/same
         echo more >>/greeting
         mv /old /new; rm /gone
         umask 027; echo >/masked",
    );
    let rootfs = bundle.rootfs();
    for (name, content) in [
        ("greeting", "from the host\n"),
        ("old", "old\n"),
        ("gone", "gone\n"),
    ] {
        fs::write(rootfs.join(name), content).unwrap();
    }
    // A capability set without CAP_CHOWN and its like would be in the way of what is tested.
    let bundle = with_capabilities(bundle, &["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"]);
    runtime.run(&bundle).prints("from the host\n");

    assert_eq!(
        fs::read_to_string(rootfs.join("written")).unwrap(),
        "from inside\n"
    );
    assert_eq!(owner_and_mode(&rootfs.join("written")), (12, 34, 0o640));
    assert_eq!(owner_and_mode(&rootfs.join("made")), (0, 0, 0o711));
    assert_eq!(owner_and_mode(&rootfs.join("masked")), (0, 0, 0o640));
    assert_eq!(
        fs::read_link(rootfs.join("made/link")).unwrap(),
        Path::new("../greeting")
    );
    assert_eq!(fs::metadata(rootfs.join("written")).unwrap().nlink(), 2);
    assert_eq!(
        fs::read_to_string(rootfs.join("greeting")).unwrap(),
        "from the host\nmore\n"
    );
    assert_eq!(fs::read_to_string(rootfs.join("new")).unwrap(), "old\n");
    assert!(!rootfs.join("old").exists() && !rootfs.join("gone").exists());
}

fn a_read_only_root_refuses_writes(runtime: &Runtime) {
    // root.readonly is true in what `spec` writes.
    let bundle = runtime
        .bundle()
        .shell("touch /file; echo >/etc/passwd; mkdir /dev/shm/in-a-mount");
    let rootfs = bundle.rootfs();
    let outcome = runtime.run(&bundle).succeeds();
    assert_eq!(
        outcome.errors().matches("Read-only file system").count(),
        2,
        "{outcome}"
    );
    assert!(!rootfs.join("file").exists());
}

fn bind_mounts_show_the_hosts_files(runtime: &Runtime) {
    let [shared, fixed] = ["shared", "fixed"].map(|name| {
        let directory = runtime.path(name);
        fs::create_dir(&directory).unwrap();
        fs::write(format!("{directory}/file"), format!("{name} by the host\n")).unwrap();
        directory
    });
    let single = runtime.file("single", "one file\n");
    let fixed_single = runtime.file("fixed-single", "one fixed file\n");
    let bundle = runtime
        .bundle()
        // A root that cannot be written to does not make what is mounted in it read-only.
        .writable()
        .mount(bind(&shared, "/mnt/shared", &["rbind", "rw"]))
        .mount(bind(&fixed, "/mnt/fixed", &["rbind", "ro"]))
        .mount(bind(&single, "/mnt/single", &["bind"]))
        .mount(bind(&fixed_single, "/etc/fixed-single", &["bind", "ro"]))
        .shell(
            "cat /mnt/shared/file /mnt/fixed/file /mnt/single /etc/fixed-single
             echo shared from inside >/mnt/shared/new
             echo single from inside >/mnt/single
             echo >/mnt/fixed/new
             echo >/mnt/fixed/file
             echo >/etc/fixed-single
             rm /mnt/fixed/file
             true",
        );
    let outcome = runtime.run(&bundle).succeeds();
    assert_eq!(
        outcome.output(),
        "shared by the host\nfixed by the host\none file\none fixed file\n",
        "{outcome}"
    );
    assert_eq!(
        outcome.errors().matches("Read-only file system").count(),
        4,
        "{outcome}"
    );
    let read = |path: &str| fs::read_to_string(path).unwrap();
    assert_eq!(read(&format!("{shared}/new")), "shared from inside\n");
    assert_eq!(read(&single), "single from inside\n");
    assert_eq!(read(&format!("{fixed}/file")), "fixed by the host\n");
    assert_eq!(read(&fixed_single), "one fixed file\n");
    assert!(!fs::exists(format!("{fixed}/new")).unwrap());
    assert_eq!(read(&format!("{shared}/file")), "shared by the host\n");
}

fn bind(source: &str, destination: &str, options: &[&str]) -> serde_json::Value {
    json!({ "destination": destination, "type": "bind", "source": source, "options": options })
}

fn with_capabilities(bundle: Bundle, capabilities: &[&str]) -> Bundle {
    bundle.edit(|config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(capabilities);
        }
    })
}

fn owner_and_mode(path: &Path) -> (u32, u32, u32) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (
        metadata.uid(),
        metadata.gid(),
        metadata.permissions().mode() & 0o7777,
    )
}
