//! A failure that the simulator has found and shrunk, replayed on a real etcd.

use std::collections::BTreeSet;

use coord_core::{Client, Error};
use coord_testkit::Intercept;
use coord_testkit::sim::{Deviations, Fault, Sim, Sweep};

use crate::support::{client, single_member};

/// Adds a task to a list, with a bug: the function repeats a put that may have been applied, under
/// another key.
async fn add_task(client: &Client, name: &str) -> Result<(), Error> {
    for attempt in 0..5 {
        match client.put(format!("tasks/{attempt}"), name.to_owned()).await {
            Err(error) if error.is_retryable() => {}
            result => return result.map(drop),
        }
    }
    Ok(())
}

async fn assert_no_task_twice(client: &Client) {
    let tasks = client.get_prefix("tasks/").await.unwrap();
    let names: BTreeSet<_> = tasks.iter().map(|task| &task.value).collect();
    assert_eq!(names.len(), tasks.len(), "a task was added twice");
}

async fn add_one_task(sim: Sim) {
    sim.spawn("a", |process| async move { add_task(process.client(), "sweep").await });
    sim.join().await;
    assert_no_task_twice(sim.client()).await;
}

/// The shortest list of deviations that shows the bug, found by a sweep.
fn shrunk() -> Deviations {
    let faults = [Fault::RequestLost, Fault::ResponseLost, Fault::Refused];
    let sweep = Sweep::new("add_task").faults(faults).without_canary();
    let report = sweep.check(add_one_task).expect_err("the sweep finds the bug");
    assert!(report.failure.text.contains("a task was added twice"), "{report}");
    assert_eq!(report.deviations.0.len(), 1, "{report}");
    report.deviations
}

#[tokio::test]
async fn shrunk_failure_happens_on_etcd_too() {
    // A sweep starts runtimes of its own, so it cannot run on a thread of this one.
    let list = tokio::task::spawn_blocking(shrunk).await.unwrap();
    let cluster = single_member().await;
    let store = client(&cluster.endpoints()).await;
    let faulty = Client::new(Intercept::new(store.clone(), list.rule("a").unwrap()));
    add_task(&faulty, "sweep").await.unwrap();
    let tasks = store.get_prefix("tasks/").await.unwrap();
    assert_eq!(tasks.len(), 2, "{list}: {tasks:?}");
    assert!(tasks.iter().all(|task| task.value == "sweep"), "{tasks:?}");
}
