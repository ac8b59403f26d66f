//! Random profiles against the meaning written down the plain way.

use serde_json::{Value, json};

use super::super::syscalls::{Abi, Machine};
use super::super::table::TABLE;
use super::interpreter::{Call, check, run};
use super::{ALLOW, X86, X86_64, compile_for, number, profile};

/// xorshift64*: the same numbers each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % limit
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }

    /// Few values, so that rules and calls meet.
    fn value(&mut self) -> u64 {
        const HALVES: [u64; 5] = [0, 1, 7, 0x8000_0000, 0xffff_ffff];
        *self.one(&HALVES) << 32 | *self.one(&HALVES)
    }
}

const OPERATORS: [&str; 7] = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];

fn condition(random: &mut Random, arguments: u64) -> Value {
    json!({
        "index": random.below(arguments),
        "op": format!("SCMP_CMP_{}", random.one(&OPERATORS)),
        "value": random.value(),
        "valueTwo": random.value(),
    })
}

fn holds(condition: &Value, args: &[u64; 6], mask: u64) -> bool {
    let field = |name: &str| condition[name].as_u64().unwrap();
    let index = usize::try_from(field("index")).unwrap();
    let (arg, value, two) = (args[index] & mask, field("value") & mask, field("valueTwo"));
    match condition["op"].as_str().unwrap() {
        "SCMP_CMP_NE" => arg != value,
        "SCMP_CMP_LT" => arg < value,
        "SCMP_CMP_LE" => arg <= value,
        "SCMP_CMP_EQ" => arg == value,
        "SCMP_CMP_GE" => arg >= value,
        "SCMP_CMP_GT" => arg > value,
        _ => arg & value == two & value,
    }
}

/// Where all rules have the same action their order does not matter.
#[test]
fn random_rules_of_one_action_mean_what_they_say() {
    let mut random = Random(0x5eed);
    let names = ["read", "ioctl", "fcntl", "prctl", "mseal"];
    for round in 0..400 {
        let rules: Vec<Value> = (0..1 + random.below(12))
            .map(|_| {
                let args: Vec<_> = (0..random.below(4))
                    .map(|_| condition(&mut random, 6))
                    .collect();
                json!({"names": [random.one(&names)], "action": "SCMP_ACT_ALLOW", "args": args})
            })
            .collect();
        let json = json!({
            "defaultAction": "SCMP_ACT_TRACE",
            "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": rules,
        });
        let filter = compile_for(Machine::X86_64, &profile(json)).unwrap();
        check(filter.instructions());
        for _ in 0..60 {
            let name = *random.one(&names);
            let (arch, abi, mask) = *random.one(&[
                (X86_64, Abi::X86_64, u64::MAX),
                (X86, Abi::X86, 0xffff_ffff),
                (X86_64, Abi::X32, 0xffff_ffff),
            ]);
            let call = Call {
                arch,
                number: number(abi, name),
                args: std::array::from_fn(|_| random.value()),
            };
            let expected = rules.iter().any(|rule| {
                let args = rule["args"].as_array().unwrap();
                let mut indices: Vec<_> = args.iter().map(|arg| arg["index"].as_u64()).collect();
                indices.sort();
                indices.dedup();
                let mut each = args.iter().map(|arg| holds(arg, &call.args, mask));
                rule["names"][0] == name
                    && match indices.len() == args.len() {
                        true => each.all(|holds| holds),
                        false => each.any(|holds| holds),
                    }
            });
            let (got, _) = run(filter.instructions(), &call);
            assert_eq!(got == ALLOW, expected, "round {round}: {call:x?} {rules:?}");
        }
    }
}

#[test]
fn no_profile_makes_the_compiler_panic_or_a_filter_the_kernel_would_refuse() {
    const ACTIONS: [&str; 9] = [
        "KILL",
        "KILL_PROCESS",
        "KILL_THREAD",
        "TRAP",
        "ERRNO",
        "NOTIFY",
        "TRACE",
        "LOG",
        "ALLOW",
    ];
    const ARCHITECTURES: [&str; 5] = ["X86_64", "X86", "X32", "AARCH64", "MIPS"];
    let mut random = Random(0xf00d);
    for _ in 0..1500 {
        let mut syscalls = Vec::new();
        for _ in 0..random.below(40) {
            let mut syscall = json!({
                "names": (0..random.below(4)).map(|_| random.one(TABLE).0).collect::<Vec<_>>(),
                "action": format!("SCMP_ACT_{}", random.one(&ACTIONS)),
                "args": (0..random.below(8)).map(|_| condition(&mut random, 7)).collect::<Vec<_>>(),
            });
            if random.below(4) == 0 {
                syscall["errnoRet"] = json!(random.below(70_000));
            }
            // Enough of them compile for the check below to mean something.
            if random.below(3) > 0 {
                syscall["action"] = json!("SCMP_ACT_ERRNO");
                syscall["args"] = json!([condition(&mut random, 6)]);
            }
            syscalls.push(syscall);
        }
        let arch = format!("SCMP_ARCH_{}", random.one(&ARCHITECTURES));
        let json = json!({
            "defaultAction": format!("SCMP_ACT_{}", random.one(&ACTIONS)),
            "architectures": [arch],
            "listenerPath": "/agent.sock",
            "syscalls": syscalls,
        });
        if let Ok(filter) = compile_for(Machine::X86_64, &profile(json)) {
            check(filter.instructions());
        }
    }
}
