//! `vm`: the standard's section for a virtual machine (config-vm.md).

use std::path::PathBuf;

use crate::{ConfigError, Vm, check, document};

pub(crate) fn checked(vm: document::Vm, warnings: &mut Vec<String>) -> Result<Vm, ConfigError> {
    let missing = |field: &str, expected| ConfigError::Missing {
        field: field.into(),
        expected,
    };
    let kernel = vm
        .kernel
        .ok_or_else(|| missing("vm.kernel", "an object with a path"))?;
    let path = kernel
        .path
        .ok_or_else(|| missing("vm.kernel.path", "an absolute path"))?;
    let kernel_parameters = kernel.parameters.unwrap_or_default();
    check::texts("vm.kernel.parameters", &kernel_parameters)?;
    if let Some(hypervisor) = vm.hypervisor {
        optional_path("vm.hypervisor.path", hypervisor.path)?;
        warnings.push("vm.hypervisor: not used, runvm brings its own".into());
    }
    if let Some(image) = vm.image {
        optional_path("vm.image.path", image.path)?;
        warnings.push("vm.image: not used, the machine boots runvm's own root".into());
    }
    let (vcpus, memory_bytes) = match vm.hw_config {
        Some(hardware) => self::hardware(hardware, warnings)?,
        None => (None, None),
    };
    Ok(Vm {
        kernel: check::absolute(format_args!("vm.kernel.path"), path)?,
        kernel_parameters,
        initrd: optional_path("vm.kernel.initrd", kernel.initrd)?,
        vcpus,
        memory_bytes,
    })
}

fn optional_path(field: &str, path: Option<String>) -> Result<Option<PathBuf>, ConfigError> {
    path.filter(|path| !path.is_empty())
        .map(|path| check::absolute(format_args!("{field}"), path))
        .transpose()
}

fn hardware(
    hardware: document::VmHardware,
    warnings: &mut Vec<String>,
) -> Result<(Option<u32>, Option<u64>), ConfigError> {
    if hardware.vcpus == Some(0) {
        return check::refuse_number(format_args!("vm.hwConfig.vcpus"), 0, "at least 1");
    }
    if hardware.memory == Some(0) {
        return check::refuse_number(format_args!("vm.hwConfig.memory"), 0, "a size in bytes");
    }
    for (field, is_given) in [
        ("deviceTree", hardware.device_tree.is_some()),
        ("dtdevs", hardware.dtdevs.is_some()),
        ("iomems", hardware.iomems.is_some()),
        ("irqs", hardware.irqs.is_some()),
    ] {
        if is_given {
            warnings.push(format!(
                "vm.hwConfig.{field}: not used, the machine has no host devices"
            ));
        }
    }
    Ok((hardware.vcpus, hardware.memory))
}
