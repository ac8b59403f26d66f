//! Several at once.

use runvm_tests::{Input, Isolation, Outcome, Running, Runtime, each_isolation};

each_isolation! {
    of_concurrent_creates_of_one_id_exactly_one_wins,
    containers_run_side_by_side,
    concurrent_deletes_end_clean,
}

fn of_concurrent_creates_of_one_id_exactly_one_wins(runtime: &Runtime) {
    if runtime.skips_runc("of runc's, none or two may win") {
        return;
    }
    let bundle = runtime.bundle().shell("echo it lives");
    let path = bundle.path_text();
    let id = runtime.new_id();
    let creates: Vec<Running> = (0..8)
        .map(|_| {
            Running::spawn(
                runtime.command(["create", "--bundle", path, &id]),
                Input::Null,
            )
        })
        .collect();
    let mut winners = Vec::new();
    for mut create in creates {
        // What has won leaves a container that holds its output; the others are at their end.
        if create.wait() == 0 {
            winners.push(create);
        } else {
            create.finish().refuses(1, &["already exists"]);
        }
    }
    assert_eq!(winners.len(), 1, "winners");
    assert_eq!(runtime.ids(), [id.as_str()]);
    runtime.call(["start", &id]).succeeds();
    winners[0].output().wait_for("it lives\n");
    runtime.call(["delete", "--force", &id]).succeeds();
    winners.pop().expect("one").finish().succeeds();
}

fn containers_run_side_by_side(runtime: &Runtime) {
    let count = if runtime.isolation() == Isolation::Vm {
        3
    } else {
        6
    };
    let bundle = runtime
        .bundle()
        .shell("read line; echo $(hostname) $line; exit $line");
    let mut containers: Vec<_> = (0..count)
        .map(|_| runtime.spawn_run(&bundle, Input::Pipe))
        .collect();
    // All run before the first may end.
    for (number, container) in containers.iter_mut().enumerate() {
        container.running().write(&format!("{number}\n"));
    }
    for (number, container) in containers.iter_mut().enumerate() {
        let outcome = container
            .finish()
            .exits(i32::try_from(number).expect("few"));
        assert_eq!(outcome.output(), format!("runc {number}\n"));
    }
}

fn concurrent_deletes_end_clean(runtime: &Runtime) {
    let bundle = runtime.bundle().shell("echo ready; exec sleep 1000");
    let container = runtime.create(&bundle);
    container.start();
    container.output().wait_for("ready\n");
    let deletes: Vec<Running> = (0..4)
        .map(|_| {
            Running::spawn(
                runtime.command(["delete", "--force", container.id()]),
                Input::Null,
            )
        })
        .collect();
    let outcomes: Vec<Outcome> = deletes.into_iter().map(Running::finish).collect();
    assert!(
        outcomes.iter().any(|outcome| outcome.code == 0),
        "{outcomes:?}"
    );
    if !Runtime::is_runc() {
        assert!(
            outcomes.iter().all(|outcome| outcome.code == 0),
            "{outcomes:?}"
        );
    }
}
