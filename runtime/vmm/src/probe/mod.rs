//! Tells a KVM that runs a guest's kernel in hardware from one that is only there.
//!
//! `/dev/kvm` may open, answer every question and still be of no use: on some clouds a guest's
//! kernel-mode code is interpreted, at a million instructions a second and without some of the
//! instructions that a kernel is made of, whatever CPUID says. So [`kvm`] runs a few.

mod guest;

use std::fmt;
use std::fs;
use std::io;
use std::time::Duration;

use kvm_bindings::{KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};

use self::guest::{Instruction, ProbeGuest, Stop};

/// What a usable KVM can do, for people to read and for the choice of a machine's size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvmCapability {
    /// The module that drives the hardware: `kvm_intel`, `kvm_amd`. None when it cannot be seen.
    pub module: Option<&'static str>,
    /// Whether the hardware walks the guest's page tables (EPT, NPT). None when it cannot be seen.
    pub nested_paging: Option<bool>,
    /// How many vCPUs KVM recommends at most.
    pub recommended_vcpus: usize,
    /// How many vCPUs a VM can have at most.
    pub max_vcpus: usize,
    /// How fast the probe's guest ran, at least: a short loop on a cold processor.
    pub instructions_per_second: u64,
}

impl fmt::Display for KvmCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nested_paging = match self.nested_paging {
            Some(true) => "nested paging",
            Some(false) => "no nested paging",
            None => "nested paging not known",
        };
        write!(
            f,
            "{}, {nested_paging}, up to {} vCPUs ({} recommended), {} million instructions a second",
            self.module.unwrap_or("module not known"),
            self.max_vcpus,
            self.recommended_vcpus,
            self.instructions_per_second / 1_000_000,
        )
    }
}

/// Why KVM cannot run a guest's kernel here.
#[derive(Debug, thiserror::Error)]
pub enum KvmUnusable {
    /// The device does not exist.
    #[error(
        "there is no /dev/kvm: the processor's virtualisation is not there, or disabled, or the kernel's kvm module is not loaded"
    )]
    NoDevice,
    /// The device may not be opened.
    #[error("no permission to open /dev/kvm")]
    NoPermission {
        /// The kernel's answer.
        source: kvm_ioctls::Error,
    },
    /// The device does not open for another reason.
    #[error("cannot open /dev/kvm")]
    Open {
        /// The kernel's answer.
        source: kvm_ioctls::Error,
    },
    /// The device speaks another language.
    #[error("/dev/kvm has API version {found}, and {KVM_API_VERSION} is the one that is known")]
    ApiVersion {
        /// What it said.
        found: i32,
    },
    /// The host's kernel is too old, or built without.
    #[error("KVM lacks {}", missing.join(", "))]
    MissingCapabilities {
        /// The capabilities' names, as in the KVM API.
        missing: Vec<&'static str>,
    },
    /// No VM can be made, for instance since another hypervisor has the hardware.
    #[error("KVM cannot create a virtual machine")]
    CreateVm {
        /// The kernel's answer.
        source: kvm_ioctls::Error,
    },
    /// The throw-away machine could not be set up.
    #[error("cannot {step} of a throw-away virtual machine")]
    SetUp {
        /// What could not be done.
        step: &'static str,
        /// The kernel's answer.
        source: kvm_ioctls::Error,
    },
    /// The throw-away machine's memory could not be had.
    #[error("cannot make the memory of a throw-away virtual machine")]
    Memory {
        /// The kernel's answer.
        source: io::Error,
    },
    /// KVM interprets the guest's kernel-mode code, and does not know an instruction of it.
    #[error(
        "KVM has no hardware under it: it interprets guest kernel code, and cannot do `{instruction}`"
    )]
    Interpreted {
        /// The instruction.
        instruction: &'static str,
    },
    /// KVM runs the guest's kernel-mode code as slowly as only an interpreter does.
    #[error(
        "KVM has no hardware under it: guest kernel code runs at {instructions_per_second} instructions a second"
    )]
    Slow {
        /// The fastest that was measured.
        instructions_per_second: u64,
    },
    /// The throw-away machine ended otherwise.
    #[error("KVM does not run guest kernel code: {what}")]
    Broken {
        /// What it did instead.
        what: String,
    },
}

/// What the machine of this crate needs, with the names that the KVM API gives.
const NEEDED: [(Cap, &str); 9] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// Below this a guest's kernel is interpreted. Hardware does a thousand million and more, even a
/// nested one in emulation does a hundred; the interpreter that was met does one.
const HARDWARE_INSTRUCTIONS_PER_SECOND: u64 = 50_000_000;

/// Finds out whether KVM can run a guest's kernel here. Takes a few milliseconds at most where
/// it can, and leaves nothing behind.
pub fn kvm() -> Result<KvmCapability, KvmUnusable> {
    let kvm = open()?;
    check_api(&kvm)?;
    let instructions_per_second = run_kernel_code(&kvm)?;
    let (module, nested_paging) = hardware_module();
    Ok(KvmCapability {
        module,
        nested_paging,
        recommended_vcpus: kvm.get_nr_vcpus(),
        max_vcpus: kvm.get_max_vcpus(),
        instructions_per_second,
    })
}

fn open() -> Result<Kvm, KvmUnusable> {
    Kvm::new().map_err(|source| match source.errno() {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => KvmUnusable::NoDevice,
        libc::EACCES | libc::EPERM => KvmUnusable::NoPermission { source },
        _ => KvmUnusable::Open { source },
    })
}

fn check_api(kvm: &Kvm) -> Result<(), KvmUnusable> {
    let found = kvm.get_api_version();
    if u32::try_from(found) != Ok(KVM_API_VERSION) {
        return Err(KvmUnusable::ApiVersion { found });
    }
    let missing: Vec<_> = NEEDED
        .into_iter()
        .filter(|(capability, _)| !kvm.check_extension(*capability))
        .map(|(_, name)| name)
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(KvmUnusable::MissingCapabilities { missing })
    }
}

/// Runs the instructions that the interpreter lacks, then a loop; says how fast the loop ran.
fn run_kernel_code(kvm: &Kvm) -> Result<u64, KvmUnusable> {
    let set_up = |step| move |source| KvmUnusable::SetUp { step, source };
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(set_up("read the CPUID"))?;
    let mut guest = ProbeGuest::create(kvm, &cpuid)?;
    expect_halt(guest.run_instructions().map_err(set_up("run the vCPU"))?)?;
    fastest_loop(|count| {
        let (stop, time) = guest.run_loop(count).map_err(set_up("run the vCPU"))?;
        expect_halt(stop)?;
        Ok(time)
    })
}

fn expect_halt(stop: Stop) -> Result<(), KvmUnusable> {
    match stop {
        Stop::Halted => Ok(()),
        Stop::NotEmulated(Some(Instruction { name, .. })) => {
            Err(KvmUnusable::Interpreted { instruction: name })
        }
        Stop::NotEmulated(None) => Err(KvmUnusable::Broken {
            what: "an internal error at an unknown place".into(),
        }),
        Stop::Other(what) => Err(KvmUnusable::Broken { what }),
    }
}

/// The fastest that `run` does its loop, in instructions a second; an error when that is slow.
///
/// `run` is asked for a number of instructions and says how much processor time they took, which
/// a busy host does not add to; of what does disturb, the fastest of some rounds is rid. Short
/// rounds come first, so that an interpreter is found out before it has cost much: they leave a
/// factor of ten for the price of entering the guest.
fn fastest_loop(
    mut run: impl FnMut(u64) -> Result<Duration, KvmUnusable>,
) -> Result<u64, KvmUnusable> {
    const SHORT: u64 = 4_000;
    const LONG: u64 = 200_000;
    const ROUNDS: u32 = 5;
    let mut fastest = 0;
    for (count, enough) in [
        (SHORT, HARDWARE_INSTRUCTIONS_PER_SECOND / 10),
        (LONG, HARDWARE_INSTRUCTIONS_PER_SECOND),
    ] {
        for _ in 0..ROUNDS {
            fastest = rate(count, run(count)?).max(fastest);
            if fastest >= enough {
                break;
            }
        }
        if fastest < enough {
            return Err(KvmUnusable::Slow {
                instructions_per_second: fastest,
            });
        }
    }
    Ok(fastest)
}

fn rate(count: u64, time: Duration) -> u64 {
    let per_second = u128::from(count) * 1_000_000_000 / time.as_nanos().max(1);
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

/// The module that drives the hardware, and whether it uses nested paging, where sysfs shows it.
fn hardware_module() -> (Option<&'static str>, Option<bool>) {
    [("kvm_intel", "ept"), ("kvm_amd", "npt")]
        .into_iter()
        .find_map(|(module, parameter)| {
            let path = format!("/sys/module/{module}/parameters/{parameter}");
            let value = fs::read_to_string(path).ok()?;
            Some((Some(module), boolean_parameter(&value)))
        })
        .unwrap_or((None, None))
}

/// A module parameter as the kernel writes it: Y and N, or 1 and 0.
fn boolean_parameter(value: &str) -> Option<bool> {
    match value.trim() {
        "Y" | "1" => Some(true),
        "N" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the verdict is for a guest that takes `ns` per thousand instructions, `entry_ns` to
    /// enter, and now and then is disturbed; and how much time it took to reach.
    fn verdict(ns_per_thousand: u64, entry_ns: u64) -> (Result<u64, KvmUnusable>, Duration) {
        let mut total = Duration::ZERO;
        let mut round = 0;
        let result = fastest_loop(|count| {
            round += 1;
            let disturbance = if round % 3 == 0 { 0 } else { 10_000_000 };
            let ns = entry_ns + count * ns_per_thousand / 1000 + disturbance;
            total += Duration::from_nanos(ns - disturbance);
            Ok(Duration::from_nanos(ns))
        });
        (result, total)
    }

    #[test]
    fn hardware_passes_though_it_is_disturbed_and_slow_to_enter() {
        for (name, ns_per_thousand, entry_ns) in [
            ("bare", 300, 1_000),
            ("nested", 500, 50_000),
            ("nested in emulation", 8_000, 400_000),
        ] {
            let (result, _) = verdict(ns_per_thousand, entry_ns);
            assert!(result.is_ok(), "{name}: {result:?}");
        }
    }

    #[test]
    fn an_interpreter_is_found_out_soon() {
        for ns_per_thousand in [25_000, 200_000, 1_000_000, 10_000_000] {
            let (result, total) = verdict(ns_per_thousand, 10_000);
            assert!(matches!(result, Err(KvmUnusable::Slow { .. })));
            assert!(total < Duration::from_millis(250), "{total:?}");
        }
    }

    #[test]
    fn module_parameters_are_read_in_both_spellings() {
        assert_eq!(boolean_parameter("Y\n"), Some(true));
        assert_eq!(boolean_parameter("0\n"), Some(false));
        assert_eq!(boolean_parameter("maybe"), None);
    }

    #[test]
    fn this_host_gets_a_verdict_with_a_reason() {
        match kvm() {
            Ok(capability) => {
                assert!(capability.instructions_per_second >= HARDWARE_INSTRUCTIONS_PER_SECOND);
            }
            Err(KvmUnusable::Broken { what }) => panic!("the probe's own guest is wrong: {what}"),
            Err(KvmUnusable::SetUp { step, source }) => panic!("{step}: {source}"),
            Err(unusable) => println!("not usable here: {unusable}"),
        }
    }
}
