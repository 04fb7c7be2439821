//! Read-modify-write without coord's transactions, and its wrong variants.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use coord_core::Client;
use coord_core::error::Outcome;
use coord_core::kv::{Compare, CompareOp, KeyValue, Put, Range, Revision, Txn};
use coord_testkit::sim::{Process, Sim};
use tokio::time::sleep;

use super::{Family, TaskResult, family};

/// What is wrong with an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    NoCompare,
    CompareOnValue,
    RepeatedWhenUnknown,
}

pub(super) fn counters() -> Family {
    family("counter", count)
        .mutant("a read-modify-write has no compare", Flaw::NoCompare)
        .mutant("the compare is on a value that repeats", Flaw::CompareOnValue)
        .mutant("a commit with unknown outcome is repeated", Flaw::RepeatedWhenUnknown)
        .done()
}

/// Parses the number in a key; 0 if there is none.
fn number(kv: Option<&KeyValue>) -> i64 {
    let text = kv.map(|kv| String::from_utf8_lossy(&kv.value).into_owned());
    text.map_or(0, |text| text.parse().unwrap())
}

/// How many increments were started, and how many were surely applied.
#[derive(Clone, Default)]
struct Increments {
    started: Arc<AtomicI64>,
    applied: Arc<AtomicI64>,
}

impl Increments {
    /// Fails the run unless `found` is between the two numbers.
    fn check(&self, sim: &Sim, found: i64) {
        let (started, applied) = (&self.started, &self.applied);
        let (started, applied) = (started.load(Ordering::Relaxed), applied.load(Ordering::Relaxed));
        if found < applied {
            sim.fail("counter", format!("{applied} increments, but the counter is {found}"));
        }
        if found > started {
            sim.fail("counter", format!("only {started} increments, but the counter is {found}"));
        }
    }
}

/// Increments `count`, and flips `parity` with it.
async fn increment(client: &Client, flaw: Option<Flaw>, increments: &Increments) -> TaskResult {
    increments.started.fetch_add(1, Ordering::Relaxed);
    loop {
        let reads = [Range::new("count"), Range::new("parity")];
        let read = client.txn(Txn::new().and_then(reads)).await?.responses;
        let kv = |i: usize| read[i].as_range().and_then(|range| range.kvs.first());
        let next = number(kv(0)) + 1;
        let revision = kv(1).map_or(Revision::ZERO, |kv| kv.mod_revision);
        let compare = match (flaw, kv(1)) {
            (Some(Flaw::NoCompare), _) => None,
            (Some(Flaw::CompareOnValue), Some(kv)) => {
                Some(Compare::value("parity", CompareOp::Equal, &kv.value))
            }
            _ => Some(Compare::mod_revision("parity", CompareOp::Equal, revision)),
        };
        let parity = (next % 2).to_string();
        let puts = [Put::new("count", next.to_string()), Put::new("parity", parity)];
        match client.txn(Txn::new().when(compare).and_then(puts)).await {
            Ok(response) if response.succeeded => {
                increments.applied.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Ok(_) => {}
            Err(error) if error.outcome() == Outcome::NotApplied => {}
            Err(_) if flaw == Some(Flaw::RepeatedWhenUnknown) => {}
            Err(error) => return Err(error.into()),
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Processes that increment one counter.
async fn count(sim: Sim, flaw: Option<Flaw>) {
    let increments = Increments::default();
    for (name, starts) in [("a", 0), ("b", 5), ("c", 10)] {
        let increments = increments.clone();
        sim.spawn(name, move |process| async move {
            for _ in 0..3 {
                sleep(Duration::from_millis(starts)).await;
                increment(process.client(), flaw, &increments).await?;
                sleep(Duration::from_millis(20 - starts)).await;
            }
            TaskResult::Ok(())
        });
    }
    sim.join().await;
    let found = number(sim.client().get("count").await.unwrap().as_ref());
    increments.check(&sim, found);
}

/// What is wrong with a change of duty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ComparesWrittenKeysOnly;

pub(super) fn duty() -> Family {
    family("one of two stays on duty", go_off_duty)
        .mutant("only the written keys are compared", ComparesWrittenKeysOnly)
        .done()
}

/// Ends the duty of a process if the other process is on duty.
async fn end_duty(process: &Process, flaw: Option<ComparesWrittenKeysOnly>) -> TaskResult {
    let (own, other) = match process.name() {
        "a" => ("duty/a", "duty/b"),
        _ => ("duty/b", "duty/a"),
    };
    let reads = [Range::new(own), Range::new(other)];
    let read = process.client().txn(Txn::new().and_then(reads)).await?.responses;
    let revision = |i: usize| {
        let found = read[i].as_range().and_then(|range| range.kvs.first());
        found.map(|kv: &KeyValue| kv.mod_revision)
    };
    let (Some(own_revision), Some(other_revision)) = (revision(0), revision(1)) else {
        return Ok(());
    };
    let mut compares = vec![Compare::mod_revision(own, CompareOp::Equal, own_revision)];
    if flaw.is_none() {
        compares.push(Compare::mod_revision(other, CompareOp::Equal, other_revision));
    }
    let delete = coord_core::kv::Delete::new(own);
    process.client().txn(Txn::new().when(compares).and_then([delete])).await?;
    Ok(())
}

async fn go_off_duty(sim: Sim, flaw: Option<ComparesWrittenKeysOnly>) {
    sim.client().put("duty/a", "on").await.unwrap();
    sim.client().put("duty/b", "on").await.unwrap();
    for (name, starts) in [("a", 0), ("b", 10)] {
        sim.spawn(name, move |process| async move {
            sleep(Duration::from_millis(starts)).await;
            end_duty(&process, flaw).await
        });
    }
    sim.join().await;
    if sim.client().get_prefix("duty/").await.unwrap().is_empty() {
        sim.fail("duty", "both are off duty");
    }
}

/// What is wrong with a producer of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NewKeyPerAttempt;

pub(super) fn producers() -> Family {
    family("producer of jobs", produce)
        .mutant("an ambiguous enqueue is repeated under a new key", NewKeyPerAttempt)
        .done()
}

async fn produce(sim: Sim, flaw: Option<NewKeyPerAttempt>) {
    for name in ["a", "b"] {
        sim.spawn(name, move |process| async move {
            for job in 0..3 {
                let mut attempt = 0;
                let mut key = format!("jobs/{}-{job}", process.name());
                while process.client().put_if_absent(&key, "").await.is_err() {
                    attempt += 1;
                    if flaw.is_some() {
                        key = format!("jobs/{}-{job}-{attempt}", process.name());
                    }
                    sleep(Duration::from_millis(100)).await;
                }
            }
        });
    }
    sim.join().await;
    let jobs = sim.client().get_prefix("jobs/").await.unwrap().len();
    if jobs > 6 {
        sim.fail("jobs", format!("six jobs were produced, but the queue has {jobs}"));
    }
}
