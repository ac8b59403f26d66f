//! Mounts whose ids are mapped.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::bundle::{Bundle, chain};
use crate::mounts::Nested;

crate::tests![
    a_mount_has_its_own_mappings_without_a_user_namespace,
    a_mount_takes_the_mappings_of_the_containers_user_namespace,
    a_mount_has_its_own_mappings_beside_the_containers,
    a_mount_takes_the_mappings_of_a_joined_user_namespace,
    mappings_reach_what_is_below_only_where_asked,
    a_file_system_that_cannot_map_ids_is_told,
    a_missing_source_of_an_id_mapped_mount_is_told,
];

/// A directory beside the rootfs with a file of user and group `id`.
fn source(bundle: &Bundle, id: u32) -> PathBuf {
    let source = bundle.dir.join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "").unwrap();
    for path in [&source, &source.join("file")] {
        chown(path, Some(id), Some(id)).unwrap();
    }
    source
}

fn mappings(container: u32, host: u32) -> Value {
    json!([{"containerID": container, "hostID": host, "size": 10}])
}

fn mapped(source: &PathBuf, option: &str, container: u32, host: u32) -> Value {
    let mappings = mappings(container, host);
    json!({"destination": "/m", "source": source, "options": ["rbind", option],
        "uidMappings": mappings, "gidMappings": mappings})
}

fn a_mount_has_its_own_mappings_without_a_user_namespace() {
    let bundle = Bundle::shell("stat -c %u:%g /m/file; touch /m/made; stat -c %u:%g /m/made")
        .set("/process/user", json!({"uid": 1005, "gid": 1006}))
        .set("/process/capabilities", json!({}));
    let source = source(&bundle, 5);
    let bundle = bundle.mount(mapped(&source, "idmap", 0, 1000));
    assert_eq!(bundle.run(), "1005:1005\n1005:1006\n");
    let made = fs::metadata(source.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (5, 6));
}

fn a_mount_takes_the_mappings_of_the_containers_user_namespace() {
    let bundle = Bundle::shell("stat -c %u /plain/file /m/file; touch /m/made").user_namespace();
    let source = source(&bundle, 0);
    let bundle = bundle
        .mount(json!({"destination": "/plain", "source": source, "options": ["bind"]}))
        .mount(json!({"destination": "/m", "source": source, "options": ["bind", "idmap"]}));
    assert_eq!(bundle.run(), "65534\n0\n");
    assert_eq!(fs::metadata(source.join("made")).unwrap().uid(), 0);
}

fn a_mount_has_its_own_mappings_beside_the_containers() {
    let bundle = Bundle::shell("stat -c %u /m/file; touch /m/made")
        .user_namespace()
        .set("/process/user", json!({"uid": 3, "gid": 3}))
        .set("/process/capabilities", json!({}));
    let source = source(&bundle, 1000);
    // To the ids of the host, of which the container's 3 is 100003.
    let bundle = bundle.mount(mapped(&source, "idmap", 997, 100_000));
    assert_eq!(bundle.run(), "3\n");
    assert_eq!(fs::metadata(source.join("made")).unwrap().uid(), 1000);
}

fn a_mount_takes_the_mappings_of_a_joined_user_namespace() {
    let other = Bundle::shell("sleep 100").user_namespace();
    let running = other.create().unwrap();
    let path = format!("/proc/{}/ns/user", running.created.pid);
    let bundle = Bundle::shell("stat -c %u /m/file")
        .user_namespace()
        .set("/linux/uidMappings", json!([]))
        .set("/linux/gidMappings", json!([]))
        .namespace("user", Some(Some(&path)));
    let source = source(&bundle, 7);
    let bundle =
        bundle.mount(json!({"destination": "/m", "source": source, "options": ["bind", "idmap"]}));
    assert_eq!(bundle.run(), "7\n");
}

fn mappings_reach_what_is_below_only_where_asked() {
    for (option, below) in [("idmap", "0"), ("ridmap", "1000")] {
        let bundle = Bundle::shell("stat -c %u /m /m/below/inner");
        let nested = Nested::new(&bundle);
        let source = bundle.dir.join("source");
        let bundle = bundle.mount(mapped(&source, option, 0, 1000));
        assert_eq!(bundle.run(), format!("1000\n{below}\n"), "{option}");
        drop(nested);
    }
}

fn a_file_system_that_cannot_map_ids_is_told() {
    let bundle = Bundle::shell("true");
    let index = bundle.config["mounts"].as_array().unwrap().len();
    let bundle = bundle.mount(mapped(&"/proc".into(), "idmap", 0, 1000));
    assert_eq!(
        bundle.error(),
        format!(
            "cannot map the ids of mounts[{index}]: its file system, or one mounted below it, \
             cannot map ids"
        )
    );
}

fn a_missing_source_of_an_id_mapped_mount_is_told() {
    let bundle = Bundle::shell("true").mount(mapped(&"/no/where".into(), "idmap", 0, 1000));
    let error = bundle.create().map(drop).unwrap_err();
    let error = chain(&error);
    assert!(
        error.contains("cannot bind /no/where to /m: no such file or directory"),
        "{error}"
    );
}
