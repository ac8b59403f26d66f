//! `runvm bench`: one bundle, started again and again in each isolation; the medians of its phases.

use std::fs::File;

use anyhow::Context;
use runvm_container::Stdio;
use runvm_oci::Plan;
use runvm_sandbox::lifecycle::{self, Console, Container, CreateRequest};
use runvm_sandbox::phases::{Span, Waterfall, now_ns};
use runvm_sandbox::{IsolationKind, Settings};

use super::Session;
use crate::cli::Bench;
use crate::waterfall::{draw, median};

/// Between two starts, so that one does not ride on what the one before left in motion: a
/// cgroup migration shortly after another is cheaper than the first.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(60);

/// `runvm bench`: prints the start-up of a bundle, phase by phase, in the isolation asked for, or
/// in both.
pub(super) fn bench(session: &Session<'_>, args: &Bench) -> anyhow::Result<u8> {
    let bundle = std::fs::canonicalize(&args.bundle)
        .with_context(|| format!("cannot use the bundle {}", args.bundle.display()))?;
    let settings = session.settings()?;
    let isolations = match session.global.isolation {
        Some(isolation) => vec![isolation],
        None => vec![IsolationKind::Container, IsolationKind::Vm],
    };
    let mut samples: Vec<(IsolationKind, Vec<Vec<Span>>)> = isolations
        .into_iter()
        .map(|isolation| (isolation, Vec::new()))
        .collect();
    for _ in 0..args.iterations {
        for (isolation, samples) in &mut samples {
            samples.push(one_life(session, &bundle, *isolation, &settings)?);
            std::thread::sleep(PAUSE);
        }
    }
    if args.json {
        let samples: serde_json::Map<_, _> = samples
            .iter()
            .map(|(isolation, samples)| Ok((isolation.to_string(), serde_json::to_value(samples)?)))
            .collect::<serde_json::Result<_>>()?;
        super::print(&serde_json::to_string_pretty(&samples)?)?;
        return Ok(0);
    }
    for (isolation, samples) in &samples {
        let waterfall = draw(&median(samples));
        super::print(&format!(
            "{isolation}: median of {}\n{waterfall}",
            samples.len()
        ))?;
    }
    Ok(0)
}

/// One life of the bundle, its stdio on /dev/null.
fn one_life(
    session: &Session<'_>,
    bundle: &std::path::Path,
    isolation: IsolationKind,
    settings: &Settings,
) -> anyhow::Result<Vec<Span>> {
    let id = format!("bench-{}-{:x}", std::process::id(), now_ns());
    let mut waterfall = Waterfall::begin();
    let (plan, config) = Plan::read(bundle)?;
    waterfall.end("read");
    let created = lifecycle::create(
        &session.store,
        CreateRequest {
            id: &id,
            bundle,
            plan: &plan,
            config: &config,
            isolation,
            settings,
            stdio: null_stdio().context("cannot open /dev/null")?,
            console: Console::Caller,
            pid_file: None,
            pidfd_socket: None,
            preserve_fds: 0,
            notifies: false,
            no_pivot: false,
            no_new_keyring: false,
            cgroup_driver: session.cgroup_driver(),
            rootless: session.rootless(),
            restore: None,
        },
        &mut waterfall,
    )?;
    let lived = live(session, &id, &created, &mut waterfall);
    let deleted = lifecycle::delete(&session.store, &id, true);
    waterfall.end("delete");
    lived?;
    deleted?;
    Ok(waterfall.spans().to_vec())
}

fn live(
    session: &Session<'_>,
    id: &str,
    created: &lifecycle::Created,
    waterfall: &mut Waterfall,
) -> anyhow::Result<()> {
    Container::open(&session.store, id)?.start()?;
    waterfall.end("start");
    created
        .pidfd
        .reap()
        .context("cannot wait for the container's process")?;
    waterfall.end("run");
    Ok(())
}

fn null_stdio() -> std::io::Result<Stdio> {
    Ok(Stdio {
        stdin: File::open("/dev/null")?.into(),
        stdout: File::create("/dev/null")?.into(),
        stderr: File::create("/dev/null")?.into(),
    })
}
