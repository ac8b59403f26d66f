mod fuzz;
mod interpreter;
mod kernel;
mod listener;

use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

use super::syscalls::{Abi, Machine, X32_BIT, find};
use super::{Filter, SeccompError, compile, compile_for};
use interpreter::{Call, check, run};
use runvm_sys::seccomp;

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0;
const EPERM: u32 = errno(1);
const ENOSYS: u32 = errno(38);

const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;

const fn errno(number: u32) -> u32 {
    0x0005_0000 | number
}

fn profile(json: Value) -> LinuxSeccomp {
    serde_json::from_value(json).unwrap()
}

fn filter(json: Value) -> Filter {
    let filter = compile_for(Machine::X86_64, &profile(json)).unwrap();
    check(filter.instructions());
    filter
}

fn refusal(json: Value) -> String {
    compile(&profile(json)).unwrap_err().to_string()
}

fn number(abi: Abi, name: &str) -> u32 {
    abi.number(find(name).unwrap()).unwrap()
}

fn answer(filter: &Filter, arch: u32, number: u32, args: &[u64]) -> u32 {
    let mut call = Call {
        arch,
        number,
        args: [0; 6],
    };
    call.args[..args.len()].copy_from_slice(args);
    run(filter.instructions(), &call).0
}

/// The answer to a call of the machine's own ABI.
fn native(filter: &Filter, name: &str, args: &[u64]) -> u32 {
    answer(filter, X86_64, number(Abi::X86_64, name), args)
}

/// A profile that denies all but one entry, and a few calls so that none is too new for it.
fn allowing(syscall: Value) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": ["mseal"], "action": "SCMP_ACT_ALLOW"}, syscall],
    })
}

fn arg(index: u32, op: &str, value: u64) -> Value {
    json!({"index": index, "op": format!("SCMP_CMP_{op}"), "value": value})
}

#[test]
fn each_action_has_the_kernels_number() {
    let table = [
        (json!({"action": "SCMP_ACT_KILL"}), 0),
        (json!({"action": "SCMP_ACT_KILL_THREAD"}), 0),
        (json!({"action": "SCMP_ACT_KILL_PROCESS"}), 0x8000_0000),
        (json!({"action": "SCMP_ACT_TRAP"}), 0x0003_0000),
        (json!({"action": "SCMP_ACT_ERRNO"}), EPERM),
        (json!({"action": "SCMP_ACT_ERRNO", "errnoRet": 0}), errno(0)),
        (
            json!({"action": "SCMP_ACT_ERRNO", "errnoRet": 13}),
            errno(13),
        ),
        (json!({"action": "SCMP_ACT_TRACE"}), 0x7ff0_0001),
        (
            json!({"action": "SCMP_ACT_TRACE", "errnoRet": 7}),
            0x7ff0_0007,
        ),
        (json!({"action": "SCMP_ACT_NOTIFY"}), 0x7fc0_0000),
        (json!({"action": "SCMP_ACT_LOG"}), 0x7ffc_0000),
    ];
    for (mut syscall, expected) in table {
        syscall["names"] = json!(["getcwd"]);
        let filter = filter(json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": "/agent.sock",
            "syscalls": [syscall],
        }));
        assert_eq!(native(&filter, "getcwd", &[]), expected);
        assert_eq!(native(&filter, "read", &[]), ALLOW);
        let default_errno = syscall.get("errnoRet").cloned();
        if syscall["action"] == "SCMP_ACT_NOTIFY" {
            continue;
        }
        let mut json = json!({"defaultAction": syscall["action"]});
        if let Some(errno) = default_errno {
            json["defaultErrnoRet"] = errno;
        }
        let filter = self::filter(json);
        assert_eq!(native(&filter, "getcwd", &[]), expected);
    }
}

#[test]
fn each_operator_compares_whole_arguments() {
    let high = 1 << 32;
    let table: [(&str, u64, &[u64], &[u64]); 7] = [
        ("EQ", high + 5, &[high + 5], &[5, high, 2 * high + 5]),
        ("NE", high + 5, &[5, high, 2 * high + 5], &[high + 5]),
        (
            "LT",
            high + 5,
            &[0, high + 4, 9],
            &[high + 5, high + 6, 2 * high],
        ),
        (
            "LE",
            high + 5,
            &[0, high + 5, 9],
            &[high + 6, 2 * high, u64::MAX],
        ),
        (
            "GT",
            high + 5,
            &[high + 6, 2 * high, u64::MAX],
            &[0, 9, high + 5],
        ),
        ("GE", high + 5, &[high + 5, 2 * high], &[0, 9, high + 4]),
        (
            "MASKED_EQ",
            high + 0xf0,
            &[high + 0x30, 3 * high + 0x3f],
            &[0x30, high + 0x20],
        ),
    ];
    for (op, value, yes, no) in table {
        let mut arg = arg(1, op, value);
        // Bits outside the mask do not count.
        arg["valueTwo"] = json!(high + 0x30 + 0x8000);
        let filter = filter(allowing(
            json!({"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [arg]}),
        ));
        for value in yes {
            assert_eq!(
                native(&filter, "ioctl", &[0, *value]),
                ALLOW,
                "{op} {value:#x}"
            );
        }
        for value in no {
            assert_eq!(
                native(&filter, "ioctl", &[0, *value]),
                EPERM,
                "{op} {value:#x}"
            );
        }
        assert_eq!(native(&filter, "read", &[0, yes[0]]), EPERM);
    }
}

#[test]
fn a_mask_of_nothing_always_holds() {
    let filter = filter(allowing(json!({
        "names": ["ioctl"], "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 0, "valueTwo": 7}],
    })));
    assert_eq!(native(&filter, "ioctl", &[3]), ALLOW);
}

#[test]
fn arguments_of_one_rule_must_hold_together_and_one_twice_makes_two_rules() {
    let both = filter(allowing(json!({
        "names": ["fcntl"], "action": "SCMP_ACT_ALLOW",
        "args": [arg(2, "EQ", 9), arg(1, "GE", 3)],
    })));
    assert_eq!(native(&both, "fcntl", &[0, 3, 9]), ALLOW);
    assert_eq!(native(&both, "fcntl", &[0, 2, 9]), EPERM);
    assert_eq!(native(&both, "fcntl", &[0, 3, 8]), EPERM);
    let twice = filter(allowing(json!({
        "names": ["fcntl"], "action": "SCMP_ACT_ALLOW",
        "args": [arg(1, "EQ", 3), arg(1, "EQ", 4), arg(2, "EQ", 9)],
    })));
    for (args, expected) in [
        ([0, 3, 0], ALLOW),
        ([0, 4, 0], ALLOW),
        ([0, 0, 9], ALLOW),
        ([0, 0, 0], EPERM),
    ] {
        assert_eq!(native(&twice, "fcntl", &args), expected, "{args:?}");
    }
}

fn of_several(rules: &[Value]) -> Filter {
    let mut syscalls = vec![json!({"names": ["mseal"], "action": "SCMP_ACT_ALLOW"})];
    syscalls.extend(rules.iter().cloned().map(|mut rule| {
        rule["names"] = json!(["ioctl"]);
        rule
    }));
    filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": syscalls}))
}

#[test]
fn a_rule_without_conditions_beats_the_others_and_the_first_of_those_counts() {
    let allow = json!({"action": "SCMP_ACT_ALLOW"});
    let kill = json!({"action": "SCMP_ACT_KILL"});
    let log_three = json!({"action": "SCMP_ACT_LOG", "args": [arg(0, "EQ", 3)]});
    for rules in [
        [log_three.clone(), allow.clone(), kill.clone()],
        [allow.clone(), log_three.clone(), kill.clone()],
        [allow.clone(), kill.clone(), log_three.clone()],
    ] {
        let filter = of_several(&rules);
        assert_eq!(native(&filter, "ioctl", &[3]), ALLOW);
        assert_eq!(native(&filter, "ioctl", &[4]), ALLOW);
    }
}

#[test]
fn a_rule_that_does_what_the_default_does_stands_before_no_other() {
    let deny = json!({"action": "SCMP_ACT_ERRNO", "errnoRet": 1});
    let allow_three = json!({"action": "SCMP_ACT_ALLOW", "args": [arg(0, "EQ", 3)]});
    let filter = of_several(&[deny, allow_three]);
    assert_eq!(native(&filter, "ioctl", &[3]), ALLOW);
    assert_eq!(native(&filter, "ioctl", &[4]), EPERM);
}

#[test]
fn overlapping_conditions_go_by_libseccomps_order() {
    let rule = |action: &str, args: &[Value]| {
        let action = format!("SCMP_ACT_{action}");
        json!({"action": action, "args": args})
    };
    let log = 0x7ffc_0000;
    let trap = 0x0003_0000;
    let table = [
        // Equality before inequality, in either order of the rules.
        (
            [
                rule("TRAP", &[arg(0, "GT", 2)]),
                rule("LOG", &[arg(0, "EQ", 5)]),
            ],
            vec![(5, log), (6, trap), (2, EPERM)],
        ),
        // Less before greater.
        (
            [
                rule("TRAP", &[arg(0, "GE", 3)]),
                rule("LOG", &[arg(0, "LE", 7)]),
            ],
            vec![(5, log), (2, log), (8, trap)],
        ),
        // The narrower range.
        (
            [
                rule("TRAP", &[arg(0, "GT", 2)]),
                rule("LOG", &[arg(0, "GT", 9)]),
            ],
            vec![(10, log), (9, trap), (2, EPERM)],
        ),
        // What comes first is not repeated for one condition more.
        (
            [
                rule("TRAP", &[arg(0, "EQ", 5)]),
                rule("LOG", &[arg(0, "EQ", 5), arg(1, "EQ", 0)]),
            ],
            vec![(5, trap), (6, EPERM)],
        ),
        // The narrower of two, where libseccomp refuses.
        (
            [
                rule("LOG", &[arg(0, "EQ", 5), arg(1, "EQ", 0)]),
                rule("TRAP", &[arg(0, "EQ", 5)]),
            ],
            vec![(5, log), (6, EPERM)],
        ),
    ];
    for (rules, cases) in table {
        let filter = of_several(&rules);
        for (value, expected) in cases {
            assert_eq!(
                native(&filter, "ioctl", &[value]),
                expected,
                "{rules:?} {value}"
            );
        }
    }
}

#[test]
fn other_architectures_are_killed_and_listed_ones_have_their_own_numbers() {
    let mut json = allowing(json!({"names": ["execve"], "action": "SCMP_ACT_ALLOW"}));
    let all = filter(json.clone());
    let x32 = number(Abi::X32, "execve");
    assert_eq!(native(&all, "execve", &[]), ALLOW);
    assert_eq!(answer(&all, X86, 11, &[]), ALLOW);
    assert_eq!(answer(&all, X86, 59, &[]), EPERM);
    assert_eq!(answer(&all, X86_64, x32, &[]), ALLOW);
    assert_eq!(answer(&all, X86_64, X32_BIT + 59, &[]), EPERM);
    // AArch64 on this kernel.
    assert_eq!(answer(&all, 0xc000_00b7, 221, &[]), KILL);

    json["architectures"] = json!([]);
    let own = filter(json.clone());
    assert_eq!(native(&own, "execve", &[]), ALLOW);
    assert_eq!(answer(&own, X86, 11, &[]), KILL);
    assert_eq!(answer(&own, X86_64, x32, &[]), KILL);
    // A tracer's number for "skip this call".
    assert_eq!(answer(&own, X86_64, u32::MAX, &[]), EPERM);

    json["architectures"] = json!(["SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"]);
    assert_eq!(answer(&filter(json.clone()), X86, 11, &[]), ALLOW);
    json["architectures"] = json!(["SCMP_ARCH_X86", "SCMP_ARCH_S390X"]);
    assert_eq!(
        compile_for(Machine::X86_64, &profile(json))
            .unwrap_err()
            .to_string(),
        "linux.seccomp.architectures[1]: SCMP_ARCH_S390X has not this machine's byte order"
    );
}

#[test]
fn another_machine_has_its_own_numbers() {
    let json = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["execve", "cacheflush"], "action": "SCMP_ACT_ALLOW"}],
    });
    let filter = compile_for(Machine::Aarch64, &profile(json)).unwrap();
    assert_eq!(answer(&filter, 0xc000_00b7, 221, &[]), ALLOW);
    assert_eq!(answer(&filter, 0x4000_0028, 11, &[]), ALLOW);
    assert_eq!(answer(&filter, 0x4000_0028, 0xf_0002, &[]), ALLOW);
    assert_eq!(answer(&filter, X86_64, 59, &[]), KILL);
}

#[test]
fn only_the_lower_halves_count_where_arguments_have_32_bits() {
    let filter = filter(allowing(json!({
        "names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [arg(0, "EQ", 0xffff_ffff)],
    })));
    let x86 = number(Abi::X86, "personality");
    assert_eq!(answer(&filter, X86, x86, &[u64::MAX]), ALLOW);
    assert_eq!(answer(&filter, X86, x86, &[u64::MAX - 1]), EPERM);
    assert_eq!(native(&filter, "personality", &[u64::MAX]), EPERM);
    assert_eq!(native(&filter, "personality", &[0xffff_ffff]), ALLOW);
}

#[test]
fn calls_newer_than_the_profile_are_enosys_unless_the_default_lets_pass() {
    let table = [
        ("SCMP_ACT_ERRNO", EPERM, ENOSYS),
        ("SCMP_ACT_KILL_PROCESS", 0x8000_0000, ENOSYS),
        ("SCMP_ACT_TRAP", 0x0003_0000, ENOSYS),
        ("SCMP_ACT_LOG", 0x7ffc_0000, 0x7ffc_0000),
        ("SCMP_ACT_TRACE", 0x7ff0_0001, 0x7ff0_0001),
    ];
    for (default, older, newer) in table {
        let filter = filter(json!({
            "defaultAction": default,
            "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [{"names": ["read", "statx"], "action": "SCMP_ACT_ALLOW"}],
        }));
        for (arch, abi) in [(X86_64, Abi::X86_64), (X86, Abi::X86), (X86_64, Abi::X32)] {
            let last = number(abi, "statx");
            assert_eq!(answer(&filter, arch, last, &[]), ALLOW);
            assert_eq!(answer(&filter, arch, last - 1, &[]), older, "{default}");
            assert_eq!(answer(&filter, arch, last + 1, &[]), newer, "{default}");
        }
    }
    let nameless = filter(json!({"defaultAction": "SCMP_ACT_ERRNO"}));
    assert_eq!(native(&nameless, "read", &[]), EPERM);
}

#[test]
fn i386_sockets_and_ipc_are_reached_through_their_multiplexers_too() {
    let filter = filter(allowing(json!({
        "names": ["socket", "accept", "shmget"], "action": "SCMP_ACT_ALLOW",
        "args": [arg(0, "NE", 40)],
    })));
    let (socketcall, ipc) = (number(Abi::X86, "socketcall"), number(Abi::X86, "ipc"));
    let table = [
        (number(Abi::X86, "socket"), 2, ALLOW),
        (number(Abi::X86, "socket"), 40, EPERM),
        // Which call it is, and no more, can be seen.
        (socketcall, 1, ALLOW),
        (socketcall, 2, EPERM),
        (socketcall, 5, ALLOW),
        (ipc, 23, ALLOW),
        (ipc, 24, EPERM),
    ];
    for (number, first, expected) in table {
        assert_eq!(
            answer(&filter, X86, number, &[first]),
            expected,
            "{number} {first}"
        );
    }
}

/// The rules for sockets in the profile podman ships. Through `socketcall` the last two hold
/// whenever the first does.
#[test]
fn podmans_rules_for_audit_sockets_hold() {
    let rule = |action: &str, errno: Option<u32>, args: &[Value]| {
        let mut rule = json!({"names": ["socket"], "action": action, "args": args});
        if let Some(errno) = errno {
            rule["errnoRet"] = json!(errno);
        }
        rule
    };
    let allow = "SCMP_ACT_ALLOW";
    let filter = filter(json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            rule("SCMP_ACT_ERRNO", Some(22), &[arg(0, "EQ", 16), arg(2, "EQ", 9)]),
            rule(allow, None, &[arg(2, "NE", 9)]),
            rule(allow, None, &[arg(0, "NE", 16)]),
            rule(allow, None, &[arg(2, "NE", 9)]),
        ],
    }));
    for (args, expected) in [
        ([16, 3, 9], errno(22)),
        ([16, 3, 0], ALLOW),
        ([2, 3, 9], ALLOW),
        ([2, 1, 0], ALLOW),
    ] {
        assert_eq!(native(&filter, "socket", &args), expected, "{args:?}");
        let direct = number(Abi::X86, "socket");
        assert_eq!(answer(&filter, X86, direct, &args), expected, "{args:?}");
    }
    let socketcall = number(Abi::X86, "socketcall");
    assert_eq!(answer(&filter, X86, socketcall, &[1, 0xffff_0000]), ALLOW);
    assert_eq!(answer(&filter, X86, socketcall, &[2, 0xffff_0000]), ENOSYS);
}

#[test]
fn names_that_are_no_calls_are_passed_over_with_the_rest_kept() {
    let filter = filter(allowing(json!({
        "names": ["read", "futuristic_call", "s390_runtime_instr"], "action": "SCMP_ACT_ALLOW",
    })));
    assert_eq!(native(&filter, "read", &[]), ALLOW);
    assert_eq!(
        filter.unknown_syscalls(),
        ["futuristic_call", "s390_runtime_instr"]
    );
}

#[test]
fn refusals_name_the_field() {
    let syscalls = |rules: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules});
    let one = |rule: Value| syscalls(json!([{"names": [], "action": "SCMP_ACT_KILL"}, rule]));
    let table = [
        (
            one(json!({"names": ["read"], "action": "SCMP_ACT_KILL", "args": [arg(6, "EQ", 1)]})),
            "linux.seccomp.syscalls[1].args[0].index: 6 is not one of 0 to 5",
        ),
        (
            one(json!({"names": ["read", ""], "action": "SCMP_ACT_KILL"})),
            "linux.seccomp.syscalls[1].names[1] is empty",
        ),
        (
            one(json!({"names": ["read"], "action": "SCMP_ACT_KILL", "errnoRet": 1})),
            "linux.seccomp.syscalls[1].errnoRet: SCMP_ACT_KILL answers no error number",
        ),
        (
            one(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 65536})),
            "linux.seccomp.syscalls[1].errnoRet: 65536 is not an error number, which has 16 bits",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_LOG", "defaultErrnoRet": 1}),
            "linux.seccomp.defaultErrnoRet: SCMP_ACT_LOG answers no error number",
        ),
        (
            syscalls(json!([
                {"names": ["read"], "action": "SCMP_ACT_KILL", "args": [arg(0, "EQ", 1)]},
                {"names": ["read"], "action": "SCMP_ACT_LOG", "args": [arg(0, "EQ", 1)]},
            ])),
            "linux.seccomp.syscalls[1].action: the same conditions for read have another action \
             before",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/a"}),
            "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be used for all calls",
        ),
        (
            one(json!({"names": ["write"], "action": "SCMP_ACT_NOTIFY"})),
            "linux.seccomp.syscalls[1].action: SCMP_ACT_NOTIFY cannot be used for write",
        ),
        (
            one(json!({"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"})),
            "linux.seccomp.listenerPath is missing: SCMP_ACT_NOTIFY needs it",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}),
            "linux.seccomp.listenerMetadata needs linux.seccomp.listenerPath",
        ),
    ];
    for (json, expected) in table {
        assert_eq!(refusal(json), expected);
    }
}

#[test]
fn a_filter_longer_than_the_kernel_takes_is_refused_and_the_longest_is_right() {
    let masks = |count: u64| {
        let rules: Vec<_> = (0..count)
            .map(|value| {
                let args = [arg(0, "EQ", value << 32 | value), arg(3, "LT", value)];
                json!({"names": ["ioctl"], "action": "SCMP_ACT_LOG", "args": args})
            })
            .collect();
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules})
    };
    assert!(matches!(
        compile(&profile(masks(600))),
        Err(SeccompError::TooLong { instructions }) if instructions > 4096
    ));
    // Jumps over far more than 255 instructions.
    let filter = filter(masks(400));
    assert!(filter.instructions().len() > 3000);
    for value in [0_u64, 1, 77, 399] {
        let whole = value << 32 | value;
        let below = native(&filter, "ioctl", &[whole, 0, 0, value.saturating_sub(1)]);
        assert_eq!(below, if value == 0 { ALLOW } else { 0x7ffc_0000 });
        assert_eq!(native(&filter, "ioctl", &[whole, 0, 0, value]), ALLOW);
    }
    assert_eq!(native(&filter, "read", &[]), ALLOW);
}

#[test]
fn flags_are_those_of_seccomp() {
    let flags = |json: Value| filter(json).flags;
    let notify = json!([{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]);
    let bare = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    assert_eq!(flags(bare.clone()), seccomp::FLAG_SPEC_ALLOW);
    let mut json = bare;
    json["flags"] = json!([]);
    assert_eq!(flags(json.clone()), 0);
    json["flags"] = json!([
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
    ]);
    assert_eq!(flags(json.clone()), seccomp::FLAG_LOG | seccomp::FLAG_TSYNC);
    assert_eq!(
        filter(json.clone()).warnings(),
        [
            "linux.seccomp.flags[2]: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV has no effect without \
             SCMP_ACT_NOTIFY"
        ]
    );
    json["syscalls"] = notify;
    json["listenerPath"] = json!("/agent.sock");
    assert!(filter(json.clone()).needs_listener());
    assert_eq!(
        flags(json),
        seccomp::FLAG_LOG
            | seccomp::FLAG_TSYNC
            | seccomp::FLAG_TSYNC_ESRCH
            | seccomp::FLAG_NEW_LISTENER
            | seccomp::FLAG_WAIT_KILLABLE_RECV
    );
}

#[test]
fn a_profile_of_all_calls_is_searched_in_few_steps() {
    // Every second call allowed: nothing can be merged.
    let mut names: Vec<_> = super::table::TABLE.iter().collect();
    names.sort_by_key(|row| row.1[0]);
    let names: Vec<_> = names.iter().step_by(2).map(|row| row.0).collect();
    let filter = filter(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
    }));
    for number in 0..600 {
        let call = Call {
            arch: X86_64,
            number,
            args: [0; 6],
        };
        let (_, steps) = run(filter.instructions(), &call);
        assert!(steps <= 18, "{number} takes {steps}");
    }
}
