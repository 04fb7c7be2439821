//! What each kind of fault does to a process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coord_core::kv::{LeaseGrant, Revision, Watch};
use coord_core::{Error, Result};
use coord_testkit::sim::{Fault, Sim, Sweep};
use tokio::time::{Instant, sleep};

use super::super::print;
use crate::support::secs;

/// Runs a scenario once, without random faults.
fn run_once<F: Future<Output = ()> + Send + 'static>(scenario: impl Fn(Sim) -> F + Sync) {
    Sweep::new("run_once").seeds(0).run(scenario);
}

#[test]
fn paused_process_resumes_late_with_its_response() {
    run_once(|sim| async move {
        sim.client().put("k", "1").await.unwrap();
        sim.spawn("a", |process| async move {
            let timer = process.spawn(async {
                let began = Instant::now();
                sleep(secs(1)).await;
                began.elapsed()
            });
            // The other task starts its timer.
            sleep(secs(1)).await;
            let began = Instant::now();
            process.pause(secs(30));
            let read = process.client().get("k").await;
            // The response arrived during the pause, and the timeout of the request passed then.
            assert_eq!(read.unwrap().unwrap().value, "1");
            assert_eq!(began.elapsed(), secs(30));
            assert!(timer.await >= secs(1));
        });
        sim.join().await;
    });
}

#[test]
fn timer_of_a_paused_process_fires_after_the_pause() {
    run_once(|sim| async move {
        let process = sim.spawn("a", |_| async {
            let began = Instant::now();
            sleep(secs(5)).await;
            assert_eq!(began.elapsed(), secs(61), "the clock has jumped");
        });
        sleep(secs(1)).await;
        process.pause(secs(60));
        sim.join().await;
    });
}

#[test]
fn request_of_a_partitioned_process_is_applied_after_it() {
    run_once(|sim| async move {
        let process = sim.spawn("a", |process| async move {
            process.partition(secs(10));
            let put = process.client().put("k", "1").await;
            assert!(matches!(put, Err(Error::Timeout { after }) if after == secs(7)));
        });
        sleep(secs(9)).await;
        assert!(sim.client().get("k").await.unwrap().is_none());
        sleep(secs(2)).await;
        assert!(sim.client().get("k").await.unwrap().is_some());
        drop(process);
        sim.join().await;
    });
}

#[test]
fn heal_ends_a_partition_before_its_time() {
    run_once(|sim| async move {
        sim.spawn("a", |process| async move {
            process.partition(secs(100));
            process.client().put("k", "1").await.unwrap();
        });
        sleep(secs(2)).await;
        assert!(sim.client().get("k").await.unwrap().is_none() && !sim.is_healed());
        sim.heal();
        sim.join().await;
        assert!(sim.is_healed() && sim.elapsed() < secs(3));
    });
}

/// Returns whether the store applied a put of `a` when its first process point takes the option
/// `value`.
fn is_applied_in_a_one_way_partition(value: u16) -> bool {
    let is_applied = Arc::new(AtomicBool::new(false));
    let sweep = Sweep::new("one_way_partition");
    sweep.replay(&format!("a.process#1={value}/9"), |sim| {
        let is_applied = Arc::clone(&is_applied);
        async move {
            sim.spawn("a", |process| async move {
                let put = process.client().put("k", "1").await;
                assert!(matches!(put, Err(Error::Timeout { .. })), "{put:?}");
            });
            sim.join().await;
            is_applied.store(sim.client().get("k").await.unwrap().is_some(), Ordering::Relaxed);
        }
    });
    is_applied.load(Ordering::Relaxed)
}

#[test]
fn one_way_partition_holds_the_requests_or_the_responses() {
    assert!(!is_applied_in_a_one_way_partition(5), "requests are held");
    assert!(is_applied_in_a_one_way_partition(6), "responses are held");
}

#[test]
fn request_that_a_crashed_process_had_sent_is_applied() {
    run_once(|sim| async move {
        sim.spawn("a", |process| async move {
            let client = process.client().clone();
            drop(process.spawn(async move { client.put("k", "1").await }));
            tokio::task::yield_now().await;
            process.crash();
            // The client of a crashed process sends nothing.
            drop(process.client().put("other", "1").await);
        });
        sim.join().await;
        sleep(secs(1)).await;
        assert!(sim.client().get("k").await.unwrap().is_some());
        assert!(sim.client().get("other").await.unwrap().is_none());
    });
}

/// Watches a counter from a revision on until the watch ends. Returns the revision after the last.
async fn watch_counter(client: &coord_core::Client, from: Revision) -> Result<Revision> {
    let mut watch = client.watch(Watch::prefix("counter").start_at(from)).await?;
    let mut seen: Option<u32> = None;
    let mut revision = from;
    while let Some(batch) = watch.next().await {
        // The service watches again from the revision after the last batch.
        let Ok(batch) = batch else { break };
        assert!(batch.revision >= revision, "{} after {revision}", batch.revision);
        revision = batch.revision;
        for event in batch.events {
            let value = std::str::from_utf8(&event.kv.value).unwrap().parse().unwrap();
            assert!(seen.is_none_or(|seen| value == seen + 1), "{value} after {seen:?}");
            seen = Some(value);
        }
        if seen == Some(COUNT) {
            break;
        }
    }
    Ok(revision.next())
}

/// How far the counter counts.
const COUNT: u32 = 30;

#[test]
fn watch_batches_keep_their_order_under_every_fault() {
    let sweep = Sweep::new("watch_batches_keep_their_order_under_every_fault").seeds(500);
    let report = sweep.without_coverage().run(|sim| async move {
        let finished = Arc::new(AtomicBool::new(false));
        let is_finished = Arc::clone(&finished);
        sim.service("watcher", move |process| {
            let is_finished = Arc::clone(&is_finished);
            async move {
                let client = process.client();
                // So that there is a lease, and changes by the process.
                client.lease_grant(LeaseGrant::new(secs(60))).await?;
                let mut from = Revision(1);
                while !is_finished.load(Ordering::Relaxed) {
                    from = match watch_counter(client, from).await {
                        Err(Error::Compacted { compact_revision: Some(oldest), .. }) => oldest,
                        result => result?,
                    };
                }
                Ok::<_, Error>(())
            }
        });
        for value in 1..=COUNT {
            sim.client().put("counter", value.to_string()).await?;
            sleep(secs(1)).await;
        }
        finished.store(true, Ordering::Relaxed);
        sim.heal();
        // The last event ends a watch that is open.
        while sim.exit("watcher").is_none() && sim.elapsed() < secs(500) {
            sleep(secs(1)).await;
        }
        sim.sometimes("the watcher finishes", sim.exit("watcher").is_some());
        Ok::<_, Error>(())
    });
    print("watches", &report);
}

#[test]
fn guide_lists_every_fault() {
    let page = include_str!("../../../../docs/guide/simulation.md");
    let missing =
        Fault::ALL.into_iter().filter(|fault| !page.contains(&format!("| `{fault:?}` |")));
    assert_eq!(missing.collect::<Vec<_>>(), []);
}
