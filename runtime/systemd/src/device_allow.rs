//! Device rules in systemd's words (systemd.resource-control(5), `DeviceAllow=`).

use std::fs;

use crate::{Property, Value};

/// The properties that allow what `rules` do (lines of `devices.allow`, such as `c 1:3 rwm`) and
/// nothing else. Without rules all is allowed: systemd cannot deny, which is left to the runtime.
///
/// A rule that systemd has no words for is left out. On cgroup v2 systemd's rules hold beside the
/// runtime's, and would deny what that rule allows: with `exact`, one such rule leaves all of them
/// to the runtime. On v1 there is one set of rules, which the runtime writes after systemd, and
/// which systemd would open to all devices again if it had none.
pub fn device_properties(rules: Option<&[String]>, exact: bool) -> Vec<Property> {
    let majors = fs::read_to_string("/proc/devices").unwrap_or_default();
    let allowed: Option<Vec<Option<Value>>> =
        rules.map(|rules| rules.iter().map(|rule| allow(rule, &majors)).collect());
    match allowed {
        Some(allowed) if !exact || allowed.iter().all(Option::is_some) => {
            let allowed = allowed.into_iter().flatten().collect();
            vec![
                Property::new("DevicePolicy", "strict"),
                Property {
                    name: "DeviceAllow".into(),
                    value: Value::Array("(ss)".into(), allowed),
                },
            ]
        }
        _ => vec![Property::new("DevicePolicy", "auto")],
    }
}

/// One rule; `majors` is /proc/devices.
fn allow(rule: &str, majors: &str) -> Option<Value> {
    let mut words = rule.split([' ', ':']);
    let (kind, section) = match words.next()? {
        "c" => ("char", "Character devices:"),
        "b" => ("block", "Block devices:"),
        _ => return None,
    };
    let (major, minor, access) = (words.next()?, words.next()?, words.next()?);
    let devices = match (major, minor) {
        ("*", "*") => format!("{kind}-*"),
        ("*", _) => return None,
        (major, "*") => format!("{kind}-{}", driver(majors, section, major)?),
        // systemd takes the numbers from the name; the node need not be there.
        (major, minor) => format!("/dev/{kind}/{major}:{minor}"),
    };
    Some(Value::Struct(vec![devices.as_str().into(), access.into()]))
}

/// The driver that has a major number, by which systemd names it.
fn driver<'a>(majors: &'a str, section: &str, major: &str) -> Option<&'a str> {
    let lines = majors.lines().skip_while(|line| *line != section).skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let mut drivers = lines.filter_map(|line| line.trim().split_once(' '));
    drivers
        .find(|(number, _)| *number == major)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAJORS: &str = "Character devices:
  1 mem
136 pts

Block devices:
  8 sd
136 other
";

    #[test]
    fn rules_become_names_of_systemds() {
        for (rule, devices, access) in [
            ("c *:* m", "char-*", "m"),
            ("b *:* rwm", "block-*", "rwm"),
            ("c 1:3 rwm", "/dev/char/1:3", "rwm"),
            ("b 8:0 r", "/dev/block/8:0", "r"),
            ("c 136:* rwm", "char-pts", "rwm"),
            ("b 136:* w", "block-other", "w"),
        ] {
            let expected = Value::Struct(vec![devices.into(), access.into()]);
            assert_eq!(allow(rule, MAJORS), Some(expected), "{rule}");
        }
        for rule in ["c *:5 r", "c 77:* r", "b 1:* r", "a", ""] {
            assert_eq!(allow(rule, MAJORS), None, "{rule}");
        }
    }

    #[test]
    fn what_cannot_be_said_is_left_out_or_leaves_all_out() {
        let rules = ["c 1:3 rwm".to_owned(), "c *:5 r".to_owned()];
        let policy = |properties: &[Property]| properties[0].value.clone();
        assert_eq!(
            policy(&device_properties(Some(&rules), true)),
            "auto".into()
        );
        assert_eq!(policy(&device_properties(None, false)), "auto".into());
        let some = device_properties(Some(&rules), false);
        assert_eq!(policy(&some), "strict".into());
        let rule = Value::Struct(vec!["/dev/char/1:3".into(), "rwm".into()]);
        assert_eq!(some[1].value, Value::Array("(ss)".into(), vec![rule]));
    }
}
