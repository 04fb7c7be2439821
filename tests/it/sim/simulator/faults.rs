//! What faults do to a process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coord_core::kv::{Compact, KeyRange, LeaseGrant, Range, Revision, Watch};
use coord_core::{Error, Result};
use coord_testkit::sim::{Fault, Sweep};
use tokio::time::{Instant, sleep};

use super::super::print;
use super::run_once;
use crate::support::secs;

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
fn watch_that_the_server_ended_stays_ended() {
    Sweep::new("watch_that_the_server_ended_stays_ended").replay(
        "a.batch#1=5/6",
        |sim| async move {
            sim.spawn("a", |process| async move {
                let mut watch = process.client().watch_prefix("k").await.unwrap();
                process.client().put("k", "1").await.unwrap();
                let error = watch.next().await.expect("the error is delivered").unwrap_err();
                assert!(error.is_retryable(), "{error}");
                assert!(watch.next().await.is_none());
            });
            sim.join().await;
        },
    );
}

/// The store has compacted the older revision, so the read at it is served from the current state.
#[test]
fn stale_read_of_compacted_history_returns_the_current_state() {
    let name = "stale_read_of_compacted_history_returns_the_current_state";
    Sweep::new(name).replay("a.read#1=1/3,a.read#2=1/3", |sim| async move {
        for value in ["1", "2", "3"] {
            sim.client().put("k", value).await.unwrap();
        }
        sim.spawn("a", |process| async move {
            let client = process.client();
            let read = || client.range(Range::new(KeyRange::key("k")).serializable());
            assert_eq!(read().await.unwrap().kvs[0].value, "2", "one revision behind");
            let current = client.get("k").await.unwrap().unwrap();
            client.compact(Compact::new(current.mod_revision)).await.unwrap();
            assert_eq!(read().await.unwrap().kvs[0].value, "3");
        });
        sim.join().await;
    });
}

#[test]
fn withheld_progress_notification_is_not_delivered() {
    let delivered = |list: &str| {
        let delivered = Arc::new(AtomicBool::new(false));
        Sweep::new("withheld_progress_notification_is_not_delivered").replay(list, |sim| {
            let delivered = Arc::clone(&delivered);
            async move {
                sim.spawn("a", |process| async move {
                    let mut watch = process.client().watch_prefix("k").await.unwrap();
                    watch.request_progress();
                    let next = tokio::time::timeout(secs(5), watch.next()).await;
                    delivered.store(next.is_ok(), Ordering::Relaxed);
                });
                sim.join().await;
            }
        });
        delivered.load(Ordering::Relaxed)
    };
    assert!(delivered(""));
    assert!(!delivered("a.progress#1=1/2"));
}

/// The put of `a` is the change after which the processes are partitioned: `a` at once, `b` and `c`
/// a second later each. `c` is healed first.
#[test]
fn swizzle_heals_the_processes_in_reverse_order() {
    let name = "swizzle_heals_the_processes_in_reverse_order";
    Sweep::new(name).replay("store.change#1=4/5", |sim| async move {
        let started = Instant::now();
        for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
            sim.spawn(name, move |process| async move {
                if index == 0 {
                    assert!(process.client().put("k", "1").await.is_ok(), "6 s are no timeout");
                } else {
                    sleep(std::time::Duration::from_millis(2_500)).await;
                    process.client().get("k").await.unwrap();
                }
                let now = started.elapsed();
                let healed = secs([6, 5, 4][index]);
                assert!(now >= healed && now < healed + secs(1), "{name}: {now:?}");
            });
        }
        sim.join().await;
    });
}

#[test]
fn too_large_request_is_rejected_if_it_is_a_change() {
    let list = "a.request#1=10/11,a.request#2=10/11";
    Sweep::new("too_large_request_is_rejected_if_it_is_a_change").replay(list, |sim| async move {
        sim.spawn("a", |process| async move {
            let put = process.client().put("k", "1").await;
            assert!(matches!(put, Err(Error::RequestTooLarge { .. })), "{put:?}");
            assert!(process.client().get("k").await.unwrap().is_none());
        });
        sim.join().await;
    });
}

/// The faults that never mattered in a sweep of a process that puts once.
fn missing_faults(fault: Fault) -> String {
    let sweep = Sweep::new("missing_faults").seeds(200).without_canary().faults([fault]);
    let report = sweep.check(|sim| async move {
        sim.spawn("a", |process| async move { process.client().put("k", "1").await.map(drop) });
        sim.join().await;
    });
    report.expect_err("a fault never mattered").failure.text
}

/// A message that no other can overtake may take any time; a store that is out of space after the
/// last change rejects nothing.
#[test]
fn fault_without_an_effect_does_not_matter() {
    for (fault, name) in [(Fault::Latency, "latency"), (Fault::NoSpace, "no space")] {
        let text = missing_faults(fault);
        assert!(text.starts_with(&format!("never exercised in 200 seeds: {name};")), "{text}");
    }
}

#[test]
fn guide_lists_every_fault() {
    let page = include_str!("../../../../docs/guide/simulation.md");
    let missing =
        Fault::ALL.into_iter().filter(|fault| !page.contains(&format!("| `{fault:?}` |")));
    assert_eq!(missing.collect::<Vec<_>>(), []);
}
