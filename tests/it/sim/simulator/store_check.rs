//! The store check: it finds the weaknesses of requests and watches by itself, and a correct store
//! passes it under every fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord_core::error::Outcome;
use coord_core::kv::{
    Compare, CompareOp, Delete, Op, Put, PutResponse, Range, SortOrder, SortTarget, Txn, Watch,
};
use coord_core::layer::Layer;
use coord_core::{Client, Error, KvBackend as _, Result};
use coord_mem::MemBackend;
use coord_testkit::sim::{FailureReport, Fault, Process, Sim, Sweep, Weaken};
use tokio::time::sleep;

use super::super::print;
use crate::support::secs;

/// How many requests of each kind a process sends.
const ROUNDS: u32 = 6;

/// Sends requests of six kinds to four keys, and sends the next request after an error too.
async fn use_store(process: Process) {
    let client = process.client();
    for round in 0..ROUNDS {
        let (key, other) = (format!("k/{}", round % 3), format!("k/{}", (round + 1) % 3));
        let value = format!("{}{round}", process.name());
        let results = [
            client.put_with(Put::new(&key, &value).with_prev_kv()).await.is_ok(),
            client.range(Range::prefix("k/").limit(2)).await.is_ok(),
            client.put_with(Put::new(&key, "").ignore_value()).await.is_ok(),
            client.txn(swap(&key, &other)).await.is_ok(),
            client.range(Range::new(&key).serializable()).await.is_ok(),
            client.delete(Delete::prefix(&other).with_prev_kv()).await.is_ok(),
        ];
        if results.contains(&false) {
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// A transaction that depends on a key, reads before and after its changes, and has a nested one.
fn swap(key: &str, other: &str) -> Txn {
    let newest = Range::prefix("k/").sorted(SortTarget::ModRevision, SortOrder::Descending);
    let nested = Txn::new().when([Compare::absent(other)]).and_then([Put::new("k/n", "new")]);
    Txn::new()
        .when([Compare::exists("k/0".."k/9"), Compare::version(key, CompareOp::Greater, 2)])
        .and_then([
            Op::Range(newest),
            Op::Put(Put::new(other, "swapped")),
            Op::Delete(Delete::new(key).with_prev_kv()),
            Op::Range(Range::new(other)),
            Op::Txn(nested),
        ])
        .or_else([Op::Range(Range::new(key)), Op::Put(Put::new(key, "kept"))])
}

/// Watches all keys, again after each end of the watch, until the run ends.
async fn follow(process: Process) {
    let mut next = None;
    loop {
        let watch = Watch::prefix("k/").start_at(next).with_prev_kv();
        let Ok(mut watch) = process.client().watch(watch).await else {
            next = None;
            sleep(secs(1)).await;
            continue;
        };
        watch.request_progress();
        while let Some(batch) = watch.next().await {
            let Ok(batch) = batch else { break };
            next = Some(batch.revision.next());
        }
    }
}

/// Three processes that change the same keys, and one that watches them.
async fn share_store(sim: Sim) {
    let follower = sim.process("follower");
    drop(follower.spawn(follow(follower.clone())));
    for name in ["a", "b", "c"] {
        sim.spawn(name, |process| async move { use_store(process).await });
    }
    sim.join().await;
    sleep(secs(40)).await;
}

#[test]
fn correct_store_passes_the_store_check_under_every_fault() {
    let name = "correct_store_passes_the_store_check_under_every_fault";
    // No process has a lease, and none is a service.
    let sweep = Sweep::new(name).seeds(500).without_coverage().check_store();
    print("store check", &sweep.run(share_store));
}

/// The failure that the store check reports of a weak store.
fn found(weakness: Weaken) -> Box<FailureReport> {
    let sweep = Sweep::new("weak").weaken(weakness).without_canary().without_coverage();
    let report = sweep.check_store().check(share_store);
    report.err().unwrap_or_else(|| panic!("{weakness} is not found"))
}

#[test]
fn store_check_finds_each_weakness_of_requests_and_watches() {
    for (weakness, oracle, text) in [
        (Weaken::StaleReads, "linearizability", "before the request"),
        (Weaken::ChangeAppliedTwice, "linearizability", "added 2 revisions to the store, not 1"),
        (Weaken::TxnIgnoresCompare, "linearizability", "compares met at"),
        (Weaken::WatchSkipsEvents, "watch", "skipped the events of revision"),
        (Weaken::WatchRepeatsEvents, "watch", "repeated it"),
    ] {
        let report = found(weakness);
        assert_eq!(report.failure.oracle, oracle, "{report}");
        assert!(report.failure.text.contains(text), "{report}");
        assert!(report.deviations.0.len() <= 1, "{report}");
    }
}

/// A weakened store fails the sweep of a user only if the user's own test detects the weakness.
#[test]
fn store_is_compared_only_on_request() {
    for weakness in Weaken::ALL {
        let sweep = Sweep::new("store_is_compared_only_on_request").seeds(20).weaken(weakness);
        sweep.run(share_store);
    }
}

/// The rules of leases are about time, and other oracles check them.
#[test]
fn lease_that_ends_early_is_left_to_other_oracles() {
    let name = "lease_that_ends_early_is_left_to_other_oracles";
    let sweep = Sweep::new(name).seeds(20).weaken(Weaken::LeaseEndsEarly);
    sweep.check_store().run(share_store);
}

#[test]
fn restored_store_passes_the_store_check() {
    let sweep = Sweep::new("restored_store_passes_the_store_check").seeds(100).without_coverage();
    sweep.check_store().run(|sim| async move {
        let backup = sim.backup();
        let restoring = sim.clone();
        let restorer = sim.process("restorer");
        drop(restorer.spawn(async move {
            for _ in 0..3 {
                sleep(Duration::from_millis(35)).await;
                restoring.restore(&backup);
            }
        }));
        share_store(sim).await;
    });
}

/// A layer of a user over the store, with one flaw.
#[derive(Debug)]
struct FlawedLayer {
    store: MemBackend,
    flaw: LayerFlaw,
    puts: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LayerFlaw {
    /// None: each put takes a second.
    Slow,
    /// The fifth put reports that it was not applied, after it was.
    DeniesChange,
    /// The fifth put is not applied, and reports success.
    InventsChange,
}

#[async_trait]
impl Layer for FlawedLayer {
    type Inner = MemBackend;

    fn inner(&self) -> &MemBackend {
        &self.store
    }

    async fn put(&self, request: Put) -> Result<PutResponse> {
        let is_fifth = self.puts.fetch_add(1, Ordering::Relaxed) == 4;
        match self.flaw {
            LayerFlaw::Slow => {
                sleep(Duration::from_millis(500)).await;
                let response = self.store.put(request).await;
                sleep(Duration::from_millis(500)).await;
                response
            }
            LayerFlaw::DeniesChange if is_fifth => {
                self.store.put(request).await?;
                let reason = "it was applied".to_owned();
                Err(Error::Unavailable { outcome: Outcome::NotApplied, reason, source: None })
            }
            LayerFlaw::InventsChange if is_fifth => {
                let header = self.store.range(Range::new("k")).await?.header;
                Ok(PutResponse { header, prev_kv: None })
            }
            _ => self.store.put(request).await,
        }
    }
}

/// The sweep of a user's layer.
fn sweep_of(flaw: LayerFlaw) -> Sweep {
    let sweep = Sweep::new("layer")
        .seeds(50)
        .wrap_store(move |store| Client::new(FlawedLayer { store, flaw, puts: AtomicU64::new(0) }));
    sweep.without_coverage().check_store()
}

#[test]
fn slow_layer_passes_the_store_check() {
    let count = Arc::new(AtomicU64::new(0));
    sweep_of(LayerFlaw::Slow).run(|sim| {
        count.fetch_add(1, Ordering::Relaxed);
        share_store(sim)
    });
    assert!(count.load(Ordering::Relaxed) > 50);
}

#[test]
fn layer_that_denies_or_invents_a_change_is_found() {
    for (flaw, text) in [
        (LayerFlaw::DeniesChange, "added 1 revisions to the store, not 0, despite"),
        (LayerFlaw::InventsChange, "before the request"),
    ] {
        let report = sweep_of(flaw).check(share_store).expect_err("the store check finds it");
        assert_eq!(report.failure.oracle, "linearizability", "{report}");
        assert!(report.failure.text.contains(text), "{report}");
        assert!(report.deviations.0.is_empty(), "{report}");
    }
}

/// A weak watch is noticed by the check of watches alone: the process drops every batch.
#[test]
fn watch_of_a_process_that_ignores_it_is_compared() {
    let sweep = Sweep::new("watch_of_a_process_that_ignores_it_is_compared").seeds(0);
    let sweep = sweep.weaken(Weaken::WatchSkipsEvents).check_store();
    let report = sweep.check(|sim| async move {
        let watcher = sim.process("watcher");
        let client = watcher.client().clone();
        drop(watcher.spawn(async move {
            let mut watch = client.watch_prefix("k").await?;
            while watch.next().await.is_some() {}
            Ok::<_, Error>(())
        }));
        for value in 0..4 {
            sleep(secs(1)).await;
            sim.client().put("k", value.to_string()).await?;
        }
        sleep(secs(1)).await;
        Ok::<_, Error>(())
    });
    let report = report.expect_err("the third batch is skipped");
    let text = "watch: a watch of watcher delivered 1 event(s) of revision 5 after revision 3: \
                skipped the events of revision 4";
    assert_eq!(report.failure.to_string(), text);
}

/// Faults that are not those of the store cause no alarm, also without swarm.
#[test]
fn compaction_at_bad_moments_causes_no_false_alarm() {
    let sweep = Sweep::new("compaction_at_bad_moments_causes_no_false_alarm").seeds(100);
    let faults = [Fault::Compaction, Fault::Latency, Fault::StaleRead, Fault::LateDelivery];
    let sweep = sweep.faults(faults).without_swarm().without_coverage();
    sweep.check_store().run(share_store);
}
