//! Security modules, where the host has them and where it has not.

use std::path::Path;

use serde_json::json;

use crate::bundle::{Bundle, chain, shell_process};

crate::tests![
    a_profile_is_refused_where_apparmor_is_not_enabled,
    labels_are_refused_where_selinux_is_not_enabled,
    a_profile_confines_the_program_and_what_is_executed_beside_it,
    a_profile_that_is_not_loaded_is_told,
    labels_are_those_of_the_plan,
    a_label_that_does_not_exist_is_told,
];

fn has_apparmor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|enabled| enabled.trim() == "Y")
}

fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

fn a_profile_is_refused_where_apparmor_is_not_enabled() {
    if has_apparmor() {
        println!("skipped: AppArmor is enabled");
        return;
    }
    let missing = "apparmorProfile needs AppArmor, which is not enabled on this host";
    let bundle = Bundle::shell("true").set("/process/apparmorProfile", json!("x"));
    assert_eq!(bundle.error(), format!("process.{missing}"));
    let bundle = Bundle::shell("sleep 100");
    let container = bundle.create().unwrap();
    let mut process = shell_process("true");
    process["apparmorProfile"] = json!("x");
    let error = container.exec(&process).map(drop).unwrap_err();
    assert_eq!(chain(&error), missing);
}

fn labels_are_refused_where_selinux_is_not_enabled() {
    if has_selinux() {
        println!("skipped: SELinux is enabled");
        return;
    }
    for field in ["process/selinuxLabel", "linux/mountLabel"] {
        let bundle = Bundle::shell("true").set(&format!("/{field}"), json!("a:b:c:s0"));
        let field = field.replace('/', ".");
        assert_eq!(
            bundle.error(),
            format!("{field} needs SELinux, which is not enabled on this host")
        );
    }
}

/// A profile that is loaded for the while of a test.
struct Profile(&'static str);

impl Profile {
    fn load() -> Self {
        let profile = Self("runvm-test");
        let text = format!(
            "profile {} flags=(attach_disconnected) {{ file, }}",
            profile.0
        );
        profile.parse("--add", &text);
        profile
    }

    fn parse(&self, what: &str, text: &str) {
        use std::io::Write;
        let mut parser = std::process::Command::new("apparmor_parser")
            .args([what, "--skip-cache"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = parser.stdin.take().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        drop(input);
        assert!(parser.wait().unwrap().success());
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.parse("--remove", &format!("profile {} {{ file, }}", self.0));
    }
}

fn a_profile_confines_the_program_and_what_is_executed_beside_it() {
    let has_parser = std::process::Command::new("apparmor_parser")
        .arg("--version")
        .output()
        .is_ok();
    if !has_apparmor() || !has_parser {
        println!("skipped: needs AppArmor and apparmor_parser");
        return;
    }
    let profile = Profile::load();
    let bundle = Bundle::shell("cat /proc/self/attr/current; exec sleep 100")
        .set("/process/apparmorProfile", json!(profile.0));
    let container = bundle.create().unwrap();
    container.start();
    let current = "cat /proc/1/attr/current /proc/self/attr/current";
    let confined = format!("{} (enforce)\n", profile.0);
    assert_eq!(container.run(current), confined.repeat(2));
}

fn a_profile_that_is_not_loaded_is_told() {
    if !has_apparmor() {
        println!("skipped: needs AppArmor");
        return;
    }
    let bundle = Bundle::shell("true").set("/process/apparmorProfile", json!("runvm-none"));
    let error = bundle.error();
    assert!(
        error.contains("cannot set process.apparmorProfile \"runvm-none\": no such file"),
        "{error}"
    );
}

/// A label that a program may have here: the own one.
fn own_label() -> String {
    let label = std::fs::read_to_string("/proc/self/attr/current").unwrap();
    label.trim_end_matches(['\0', '\n']).to_owned()
}

/// A label that files have here.
fn file_label() -> String {
    let mut value = [0; 256];
    match rustix::fs::getxattr("/tmp", "security.selinux", &mut value[..]) {
        Ok(length) => String::from_utf8_lossy(&value[..length])
            .trim_end_matches('\0')
            .to_owned(),
        Err(_) => own_label(),
    }
}

/// Before a policy is loaded there is one label, which is no context, and any text is taken for it.
fn has_policy() -> bool {
    has_selinux() && own_label().contains(':')
}

fn labels_are_those_of_the_plan() {
    if !has_policy() {
        println!("skipped: needs SELinux with a policy");
        return;
    }
    let label = own_label();
    let bundle = Bundle::shell("exec sleep 100")
        .set("/process/selinuxLabel", json!(label))
        .set("/linux/mountLabel", json!(file_label()));
    let container = bundle
        .create()
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    container.start();
    let current = "for p in 1 self; do cat /proc/$p/attr/current; echo; done";
    let output = container.run(current).replace('\0', "");
    let labels: Vec<_> = output.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(labels, [&label, &label]);
    drop(container);
    // Its devpts has the label already, and takes no other.
    let bundle = bundle.set("/process/terminal", json!(true));
    let created = bundle.create().map(drop);
    created.unwrap_or_else(|error| panic!("{}", chain(&error)));
}

fn a_label_that_does_not_exist_is_told() {
    if !has_policy() {
        println!("skipped: needs SELinux with a policy");
        return;
    }
    let bundle = Bundle::shell("true").set("/process/selinuxLabel", json!("no label"));
    let error = bundle.error();
    assert!(
        error.contains("label \"no label\"") || error.contains("selinuxLabel \"no label\""),
        "{error}"
    );
}
