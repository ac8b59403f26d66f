use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use runvm_oci::LinuxResources;
use runvm_sandbox::lifecycle::Container;
use serde_json::{Map, Value, json};

use super::Session;
use crate::cli::Update;

/// More than any resources document has.
const BYTES_MAX: u64 = 1 << 20;

/// `runvm update`: changes the limits of a container.
pub(super) fn update(session: &Session<'_>, args: &Update) -> anyhow::Result<u8> {
    let container = Container::open(&session.store, &args.id)?;
    if args.l3_cache_schema.is_some() {
        bail!("--l3-cache-schema: Intel RDT/CAT: l3 cache schema is not enabled");
    }
    if args.mem_bw_schema.is_some() {
        bail!("--mem-bw-schema: Intel RDT/MBA: memory bandwidth schema is not enabled");
    }
    let resources = match &args.resources {
        Some(file) => runvm_oci::parse_resources(&read(file)?)?,
        None => {
            if args.kernel_memory.is_some() || args.kernel_memory_tcp.is_some() {
                session
                    .logger
                    .warn("--kernel-memory and --kernel-memory-tcp are ignored");
            }
            of_flags(args)?
        }
    };
    container.update(resources)?;
    Ok(0)
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let failed = || format!("cannot read the resources from {}", file.display());
    let mut bytes = Vec::new();
    let source: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).with_context(failed)?)
    };
    let count = source
        .take(BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .with_context(failed)?;
    if count as u64 > BYTES_MAX {
        bail!("{}: more than {BYTES_MAX} bytes", failed());
    }
    Ok(bytes)
}

/// The resources document that says what the flags say.
fn of_flags(args: &Update) -> anyhow::Result<LinuxResources> {
    let mut document = Map::new();
    let mut set = |section: &str, field: &str, value: Option<Value>| {
        if let Some(value) = value {
            document.entry(section).or_insert_with(|| json!({}))[field] = value;
        }
    };
    let cpu = [
        ("period", args.cpu_period.map(Value::from)),
        ("quota", args.cpu_quota.map(Value::from)),
        ("burst", args.cpu_burst.map(Value::from)),
        ("shares", args.cpu_share.map(Value::from)),
        ("realtimePeriod", args.cpu_rt_period.map(Value::from)),
        ("realtimeRuntime", args.cpu_rt_runtime.map(Value::from)),
        ("idle", args.cpu_idle.map(Value::from)),
        ("cpus", args.cpuset_cpus.clone().map(Value::from)),
        ("mems", args.cpuset_mems.clone().map(Value::from)),
    ];
    for (field, value) in cpu {
        set("cpu", field, value);
    }
    let memory = [
        ("limit", args.memory),
        ("reservation", args.memory_reservation),
        ("swap", args.memory_swap),
    ];
    for (field, value) in memory {
        set("memory", field, value.map(Value::from));
    }
    set("blockIO", "weight", args.blkio_weight.map(Value::from));
    set("pids", "limit", args.pids_limit.map(Value::from));
    serde_json::from_value(Value::Object(document)).context("cannot use the limits given by flags")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::of_flags;
    use crate::cli::Update;

    #[test]
    fn flags_say_what_the_document_would_and_no_more() {
        let none = Update::default();
        assert_eq!(json!(of_flags(&none).unwrap()), json!({}));
        let some = Update {
            memory: Some(5),
            memory_swap: Some(-1),
            cpu_quota: Some(-1),
            cpuset_cpus: Some("0-1".into()),
            pids_limit: Some(7),
            blkio_weight: Some(100),
            ..Update::default()
        };
        let mut resources = json!(of_flags(&some).unwrap());
        let block_io = resources["blockIO"]["weight"].take();
        assert_eq!(block_io, 100);
        resources["blockIO"] = Value::Null;
        let expected = json!({
            "memory": {"limit": 5, "swap": -1}, "cpu": {"quota": -1, "cpus": "0-1"},
            "pids": {"limit": 7}, "blockIO": null,
        });
        assert_eq!(resources, expected);
    }
}
