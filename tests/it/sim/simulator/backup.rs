//! Backups of the store of a run, and its restoration as an action of a scenario.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coord_core::kv::{LeaseGrant, Revision, Watch};
use coord_core::{Client, Error};
use coord_testkit::history::EventKind;
use coord_testkit::sim::Sweep;
use coord_testkit::{Intercept, Recorder};
use tokio::time::sleep;

use super::run_once;
use crate::support::{newest_revision, secs};

#[test]
fn restoration_is_an_event_of_the_history() {
    let report =
        Sweep::new("restoration_is_an_event_of_the_history").seeds(0).check(|sim| async move {
            sim.client().put("a", "1").await.unwrap();
            let backup = sim.backup();
            sim.client().put("a", "2").await.unwrap();
            sleep(secs(1)).await;
            sim.restore(&backup);
            sim.fail("end", "the history is reported");
        });
    let history = report.expect_err("the scenario fails").history;
    let (newest, found) = (Revision(3), Revision(2));
    let restored = history.0.iter().find(|event| matches!(event.kind, EventKind::Restored { .. }));
    let restored = restored.expect("the event of the restoration");
    assert_eq!(restored.kind, EventKind::Restored { newest, found });
    assert_eq!((restored.at, &restored.process), (secs(1), &None));
    let text = history.to_string();
    assert!(text.contains("0.000 s  -           backup at revision 2\n"), "{text}");
    let line = "1.000 s  -        !! the store was at revision 3, restored from a backup at 2\n";
    assert!(text.contains(line), "{text}");
}

#[test]
fn watch_of_a_process_ends_when_the_store_is_restored() {
    run_once(|sim| async move {
        let backup = sim.backup();
        sim.spawn("a", |process| async move {
            let mut watch = process.client().watch(Watch::new("k")).await?;
            assert_eq!(watch.next().await.unwrap()?.events.len(), 1);
            let end = watch.next().await.unwrap().unwrap_err();
            let (expected_newest, expected_found) = (Revision(2), Revision(1));
            assert!(matches!(end, Error::HistoryReplaced { newest, found }
                if newest == expected_newest && found == expected_found));
            let mut watch = process.client().watch(Watch::new("k")).await?;
            assert_eq!(watch.next().await.unwrap()?.events[0].kv.value, "new");
            Ok::<_, Error>(())
        });
        sleep(secs(1)).await;
        sim.client().put("k", "old").await.unwrap();
        sleep(secs(1)).await;
        sim.restore(&backup);
        sleep(secs(1)).await;
        sim.client().put("k", "new").await.unwrap();
        sim.join().await;
    });
}

#[test]
fn request_in_flight_is_applied_to_the_restored_store() {
    run_once(|sim| async move {
        let backup = sim.backup();
        let process = sim.spawn("a", |process| async move {
            sleep(secs(1)).await;
            process.client().put("k", "late").await.map(drop)
        });
        process.partition(secs(4));
        sleep(secs(2)).await;
        sim.client().put("k", "lost").await.unwrap();
        sim.restore(&backup);
        assert!(sim.client().get("k").await.unwrap().is_none());
        sim.join().await;
        let applied = sim.client().get("k").await.unwrap().unwrap();
        assert_eq!((applied.value, applied.mod_revision), ("late".into(), Revision(2)));
    });
}

/// The processes reach the store through the layer, and the restoration reaches it directly.
#[test]
fn wrapped_store_is_restored() {
    let is_restored = Arc::new(AtomicBool::new(false));
    let sweep = Sweep::new("wrapped_store_is_restored").seeds(0);
    sweep.wrap_store(|store| Client::new(Intercept::new(store, Recorder::new()))).run(|sim| {
        let is_restored = Arc::clone(&is_restored);
        async move {
            let backup = sim.backup();
            let lease = sim.client().lease_grant(LeaseGrant::new(secs(10))).await.unwrap().id;
            sim.restore(&backup);
            assert!(sim.client().lease_keep_alive(lease).await.is_err());
            assert_eq!(newest_revision(sim.client()).await, backup.revision());
            is_restored.store(true, Ordering::Relaxed);
        }
    });
    assert!(is_restored.load(Ordering::Relaxed));
}
