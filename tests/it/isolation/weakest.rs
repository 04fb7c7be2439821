//! The weakest store: at a weak level an invariant breaks within a few runs, without concurrency;
//! at the strong levels it never breaks.

use coord_core::kv::Compact;
use coord_core::stm::Isolation::{self, *};
use coord_core::{Client, Error, Stm};
use coord_mem::MemBackend;
use coord_testkit::Weakest;

use super::print;
use crate::support::{newest_revision, on_virtual_time};

/// Two doctors are on duty and leave one after the other, each if the other one is on duty. Returns
/// whether one is left.
async fn one_doctor_stays(seed: u64, level: Isolation) -> bool {
    let store = MemBackend::new();
    let plain = Client::new(store.clone());
    for name in ["ada", "bob"] {
        plain.put(name, "on duty").await.unwrap();
    }
    let stm =
        Stm::new(&Client::new(Weakest::new(store, seed).oldest(newest_revision(&plain).await)))
            .isolation(level);
    for (name, other) in [("ada", "bob"), ("bob", "ada")] {
        let leave = stm.run(async |tx| {
            if tx.get(other).await?.is_some() {
                tx.delete(name);
            }
            Ok::<_, Error>(())
        });
        leave.await.unwrap();
    }
    plain.get("ada").await.unwrap().is_some() || plain.get("bob").await.unwrap().is_some()
}

/// A key is put twice, then read in a transaction. Returns whether the transaction has seen the
/// second put.
async fn reads_the_newest(seed: u64, level: Isolation) -> bool {
    let client = Client::new(Weakest::new(MemBackend::new(), seed));
    client.put("x", "old").await.unwrap();
    client.put("x", "new").await.unwrap();
    let stm = Stm::new(&client).isolation(level);
    stm.run(async |tx| tx.get("x").await).await.unwrap().value.unwrap() == "new"
}

/// Two keys are put together, then read in a transaction that writes. Returns whether the
/// transaction has seen them together.
async fn reads_both_together(seed: u64, level: Isolation) -> bool {
    let client = Client::new(Weakest::new(MemBackend::new(), seed));
    let stm = Stm::new(&client).isolation(level);
    for value in ["1", "2", "3"] {
        let put = stm.run(async |tx| {
            tx.put("x", value);
            tx.put("y", value);
            Ok::<_, Error>(())
        });
        put.await.unwrap();
    }
    let read = stm.run(async |tx| {
        let both = (tx.get("x").await?, tx.get("y").await?);
        tx.put("seen", "1");
        Ok::<_, Error>(both.0 == both.1)
    });
    read.await.unwrap().value
}

/// The first seed with which the invariant breaks.
fn first_broken(seeds: u64, holds: impl AsyncFn(u64) -> bool) -> Option<u64> {
    on_virtual_time(async {
        for seed in 0..seeds {
            if !holds(seed).await {
                return Some(seed);
            }
        }
        None
    })
}

#[test]
fn invariants_break_within_ten_runs_at_the_weak_levels() {
    let found = [
        ("write skew", first_broken(10, async |seed| one_doctor_stays(seed, ReadCommitted).await)),
        ("stale read", first_broken(10, async |seed| reads_the_newest(seed, ReadCommitted).await)),
        (
            "stale read",
            first_broken(10, async |seed| reads_the_newest(seed, RepeatableReads).await),
        ),
        (
            "read skew",
            first_broken(10, async |seed| reads_both_together(seed, ReadCommitted).await),
        ),
    ];
    for (name, seed) in found {
        print(&format!("{name}: broken in run {}", seed.map_or(0, |seed| seed + 1)));
        assert!(seed.is_some(), "{name}");
    }
}

#[test]
fn strong_levels_never_break_on_the_weakest_store() {
    for level in [SerializableSnapshot, Serializable] {
        let broken = first_broken(2_000, async |seed| {
            one_doctor_stays(seed, level).await
                && reads_the_newest(seed, level).await
                && reads_both_together(seed, level).await
        });
        assert_eq!(broken, None, "{level}");
    }
}

#[test]
fn repeatable_reads_are_validated_on_the_weakest_store() {
    let broken = first_broken(500, async |seed| {
        one_doctor_stays(seed, RepeatableReads).await
            && reads_both_together(seed, RepeatableReads).await
    });
    assert_eq!(broken, None);
}

#[test]
fn compacted_revision_is_not_read_from_the_weakest_store() {
    on_virtual_time(async {
        for seed in 0..20 {
            let client = Client::new(Weakest::new(MemBackend::new(), seed));
            for value in ["1", "2", "3"] {
                client.put("x", value).await.unwrap();
            }
            client.compact(Compact::new(newest_revision(&client).await)).await.unwrap();
            let stm = Stm::new(&client).isolation(ReadCommitted);
            let read = stm.run(async |tx| tx.get("x").await).await.unwrap();
            assert_eq!(read.value.unwrap(), "3");
        }
    });
}
