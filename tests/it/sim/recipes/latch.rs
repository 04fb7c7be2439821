//! Latches under every fault: three participants that crash and start again, and two waiters.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_core::kv::{Range, Watch};
use coord_core::recipes::Latch;
use coord_core::sync;
use coord_testkit::sim::{Fault, Process, Sim, Sweep};
use tokio::time::{sleep, timeout};

use crate::sim::mutants::{Family, TaskResult, assert_caught, family};
use crate::sim::{SEEDS, print};

const PARTICIPANTS: [&str; 3] = ["a", "b", "c"];

/// The participants that have begun to count down.
type Began = Arc<Mutex<BTreeSet<String>>>;

async fn count_down(process: Process, began: Began, flaw: Option<Flaw>) -> TaskResult {
    sleep(Duration::from_millis(100)).await;
    sync::lock(&began).insert(process.name().to_owned());
    let client = process.client();
    match flaw {
        Some(Flaw::CountsAgainAfterError) => {
            let mut tries = 0;
            let key = |tries: u32| format!("l/{}-{tries}", process.name());
            while client.put(key(tries), "3").await.is_err() {
                tries += 1;
            }
        }
        Some(Flaw::ReadThenWrite) => {
            let left = client
                .get("l/left")
                .await?
                .map_or(Ok(3), |kv| String::from_utf8_lossy(&kv.value).parse::<u32>())?;
            client.put("l/left", (left - 1).to_string()).await?;
        }
        _ => {
            Latch::new(client, "l", PARTICIPANTS.len())?
                .count_down(process.name().to_owned())
                .await?;
        }
    }
    Ok(())
}

async fn wait(process: Process, began: Began, flaw: Option<Flaw>) -> TaskResult {
    let client = process.client();
    match flaw {
        Some(Flaw::ReadThenWrite) => loop {
            if client.get("l/left").await?.is_some_and(|kv| kv.value == "0") {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        },
        Some(Flaw::WatchAfterRead) => {
            let read = client.range(Range::prefix("l/").count_only()).await?;
            let mut count = usize::try_from(read.count)?;
            let mut watch = client.watch(Watch::prefix("l/")).await?;
            while count < PARTICIPANTS.len() {
                let batch = watch.next().await.ok_or("the watch has ended")??;
                count += batch.events.len();
            }
        }
        Some(Flaw::CountsAgainAfterError) => {
            while client.range(Range::prefix("l/").count_only()).await?.count < 3 {
                sleep(Duration::from_millis(100)).await;
            }
        }
        None => Latch::new(client, "l", PARTICIPANTS.len())?.wait().await?,
    }
    let began = sync::lock(&began).len();
    assert!(began == PARTICIPANTS.len(), "passed, and {began} have begun to count down");
    Ok(())
}

/// Three participants, and two waiters that give up after `patience`.
async fn count_and_wait(sim: Sim, (flaw, patience): (Option<Flaw>, Duration)) {
    let began = Began::default();
    for name in PARTICIPANTS {
        let began = Arc::clone(&began);
        sim.service(name, move |process| count_down(process, Arc::clone(&began), flaw));
    }
    // How many waiters have passed, and how many have given up.
    let ends = Arc::new(Mutex::new((0, 0)));
    for name in ["waiter-1", "waiter-2"] {
        let (began, ends) = (Arc::clone(&began), Arc::clone(&ends));
        sim.service(name, move |process| {
            let (began, ends) = (Arc::clone(&began), Arc::clone(&ends));
            async move {
                match timeout(patience, wait(process, began, flaw)).await {
                    Ok(passed) => {
                        passed?;
                        sync::lock(&ends).0 += 1;
                    }
                    Err(_) => sync::lock(&ends).1 += 1,
                }
                TaskResult::Ok(())
            }
        });
    }
    sim.join().await;
    let (passed, gave_up) = *sync::lock(&ends);
    sim.sometimes("both waiters pass", passed == 2);
    let is_finished = |name| sim.exit(name).is_some_and(|exit| exit.to_string() == "finished");
    let have_all_counted = PARTICIPANTS.into_iter().all(is_finished);
    assert!(gave_up == 0 || !have_all_counted, "a waiter is stranded");
    if flaw != Some(Flaw::ReadThenWrite) {
        check_stored(&sim).await;
    }
}

/// Each participant has counted once at most.
async fn check_stored(sim: &Sim) {
    let counted = sim.client().get_prefix("l/").await.expect("the store responds");
    assert!(counted.len() <= PARTICIPANTS.len(), "counted twice: {counted:?}");
    for kv in counted {
        assert_eq!(kv.version, 1, "counted twice: {kv:?}");
    }
}

#[test]
fn latch_opens_when_all_have_counted_under_every_fault() {
    let name = "latch_opens_when_all_have_counted_under_every_fault";
    let scenario = |sim| count_and_wait(sim, (None, Duration::from_secs(400)));
    // No key has a lease.
    let sweep = Sweep::new(name).without(Fault::LeaderChange).without(Fault::ClockDrift);
    print(name, &sweep.seeds(SEEDS).check_store().run(scenario));
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    CountsAgainAfterError,
    ReadThenWrite,
    WatchAfterRead,
}

fn latches() -> Family {
    family("latch", count_and_wait_quickly)
        .mutant("a participant counts again after an unknown outcome", Flaw::CountsAgainAfterError)
        .mutant("the count is read, then written", Flaw::ReadThenWrite)
        .mutant("the watch starts after the read, from now on", Flaw::WatchAfterRead)
        .done()
}

/// The scenario of a family, whose faults end after 15 s.
async fn count_and_wait_quickly(sim: Sim, flaw: Option<Flaw>) {
    count_and_wait(sim, (flaw, Duration::from_secs(60))).await;
}

#[test]
fn latch_mutants_are_caught() {
    assert_caught(&latches());
}
