//! The shared value under every fault: no update is lost, and the stream of values reaches the last
//! value without a gap that it does not report.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use coord_core::error::Outcome;
use coord_core::kv::{Range, Value as _, Watch};
use coord_core::recipes::{SharedValue, ValueSwap};
use coord_core::stm::StmError;
use coord_core::{Client, Error, Session};
use coord_testkit::sim::{Process, Sim, Sweep, Weaken};
use tokio::time::sleep;

use crate::sim::mutants::{Family, TaskResult, assert_caught, family};
use crate::sim::{SEEDS, print};
use crate::support::secs;

const KEY: &str = "value";

/// The last value of a run.
const END: i64 = -1;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    UpdateIsReadAndSet,
    WatchFromNowOn,
    CompactionIsIgnored,
    UnknownUpdateIsRepeated,
}

fn family_of_values() -> Family {
    family("shared value", share)
        .mutant("an update reads and sets", Flaw::UpdateIsReadAndSet)
        .mutant("the watch starts at its registration", Flaw::WatchFromNowOn)
        .mutant("values that were compacted are not reported", Flaw::CompactionIsIgnored)
        .mutant("an update with an unknown outcome is repeated", Flaw::UnknownUpdateIsRepeated)
        .weakened(Weaken::TxnIgnoresCompare)
        .weakened(Weaken::WatchSkipsEvents)
        .done()
}

/// How many increments were started, and how many were confirmed.
#[derive(Default)]
struct Increments {
    started: AtomicI64,
    confirmed: AtomicI64,
}

/// Adds one by an update.
async fn update(value: &SharedValue<i64>, flaw: Option<Flaw>) -> Result<(), StmError<Error>> {
    if flaw == Some(Flaw::UpdateIsReadAndSet) {
        let found = value.get().await.map_err(StmError::Backend)?;
        let set = value.set(&(found.unwrap_or_default() + 1)).await;
        return set.map(drop).map_err(StmError::OutcomeUnknown);
    }
    loop {
        let updated = value.update(|n| Ok(Some(n.unwrap_or_default() + 1))).await;
        let is_unknown = matches!(updated, Err(StmError::OutcomeUnknown(_)));
        if !(is_unknown && flaw == Some(Flaw::UnknownUpdateIsRepeated)) {
            return updated.map(drop);
        }
    }
}

/// Adds one by a swap.
async fn swap(value: &SharedValue<i64>) -> coord_core::Result<()> {
    let mut found = value.get().await?;
    loop {
        let new = found.unwrap_or_default() + 1;
        match value.compare_and_swap(found.as_ref(), Some(&new)).await? {
            ValueSwap::Swapped(_) => return Ok(()),
            ValueSwap::Found(current) => found = current,
        }
    }
}

async fn increment(
    process: Process,
    increments: Arc<Increments>,
    flaw: Option<Flaw>,
) -> TaskResult {
    let session = Session::builder(process.client()).open().await?;
    let value = SharedValue::new(process.client(), KEY);
    let exactly_once = match flaw {
        Some(Flaw::UnknownUpdateIsRepeated) => value.clone(),
        _ => value.clone().exactly_once(&session),
    };
    for round in 0..4 {
        increments.started.fetch_add(1, Ordering::Relaxed);
        let confirmed = match round % 2 {
            0 => update(&exactly_once, flaw).await.is_ok(),
            _ => match swap(&value).await {
                Ok(()) => true,
                Err(error) if error.outcome() == Outcome::Unknown => false,
                Err(error) => return Err(error.into()),
            },
        };
        increments.confirmed.fetch_add(i64::from(confirmed), Ordering::Relaxed);
        sleep(Duration::from_millis(20)).await;
    }
    Ok(session.close().await?)
}

/// Fails the run unless `next` follows `last`, or is the end, or a gap is reported.
fn check_order(sim: &Sim, last: Option<i64>, next: i64, has_gap: bool) {
    let follows = last.is_none_or(|last| next == last + 1 || (has_gap && next > last));
    if next != END && !follows {
        sim.fail("stream", format!("{next} follows {last:?}, and no gap is reported"));
    }
}

/// Follows the value until its end.
async fn follow(sim: Sim, process: Process, flaw: Option<Flaw>) -> TaskResult {
    let value = SharedValue::<i64>::new(process.client(), KEY);
    if matches!(flaw, Some(Flaw::WatchFromNowOn | Flaw::CompactionIsIgnored)) {
        return follow_wrongly(&sim, process.client(), flaw).await;
    }
    let mut values = value.watch();
    let mut last = None;
    while last != Some(END) {
        let next = values.next().await.ok_or("the stream has ended")??.unwrap_or_default();
        if last.is_some() {
            sim.sometimes("a gap is reported", values.gap().is_some());
        }
        check_order(&sim, last, next, values.gap().is_some());
        last = Some(next);
    }
    Ok(())
}

/// Follows the value by a watch that misses values: those before its registration, or those that
/// are compacted.
async fn follow_wrongly(sim: &Sim, client: &Client, flaw: Option<Flaw>) -> TaskResult {
    let read = client.range(Range::new(KEY)).await?;
    let mut last = read.kvs.first().map_or(Ok(0), |kv| i64::decode(kv.value.clone()))?;
    let mut from = match flaw {
        Some(Flaw::WatchFromNowOn) => None,
        _ => Some(read.header.revision.next()),
    };
    while last != END {
        let Ok(mut watch) = client.watch(Watch::new(KEY).start_at(from)).await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        while last != END {
            match watch.next().await {
                Some(Ok(batch)) => {
                    for event in batch.events {
                        let next = i64::decode(event.kv.value)?;
                        check_order(sim, Some(last), next, false);
                        last = next;
                    }
                    from = from.map(|_| batch.revision.next());
                }
                Some(Err(Error::Compacted { .. })) => {
                    from = None;
                    break;
                }
                Some(Err(_)) | None => break,
            }
        }
    }
    Ok(())
}

async fn share(sim: Sim, flaw: Option<Flaw>) {
    let increments = Arc::<Increments>::default();
    let names = ["a", "b", "c"];
    for name in names {
        let increments = Arc::clone(&increments);
        sim.spawn(name, |process| increment(process, increments, flaw));
    }
    let follower = sim.clone();
    sim.spawn("follower", |process| follow(follower, process, flaw));
    while names.iter().any(|name| sim.exit(name).is_none()) {
        sleep(secs(1)).await;
    }
    // A delayed request may still arrive.
    sleep(secs(30)).await;
    let value = SharedValue::<i64>::new(sim.client(), KEY);
    let found = value.get().await.unwrap().unwrap_or_default();
    let (started, confirmed) =
        (increments.started.load(Ordering::Relaxed), increments.confirmed.load(Ordering::Relaxed));
    if !(confirmed..=started).contains(&found) {
        sim.fail("value", format!("{found}, not from {confirmed} to {started}"));
    }
    sim.sometimes("every increment is confirmed", confirmed == 12);
    value.set(&END).await.unwrap();
    sim.join().await;
}

#[test]
fn shared_value_loses_no_update_under_every_fault() {
    let name = "shared_value_loses_no_update_under_every_fault";
    let sweep = Sweep::new(name).seeds(SEEDS).check_store();
    print(name, &sweep.run(|sim| share(sim, None)));
}

#[test]
fn shared_value_mutants_are_caught() {
    assert_caught(&family_of_values());
}
