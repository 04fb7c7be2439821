//! Snapshots: at the strong levels each attempt reads the store at one revision.
//!
//! This holds for every order of calls, and for attempts that will not commit.

use coord_core::{
    Client, Error, Stm,
    kv::{KeyRange, Op, Revision},
    stm::Isolation,
};
use coord_mem::MemBackend;
use coord_testkit::{Call, Recorder};

use super::{OneShot, STRONG_LEVELS, number, put_all, stale_client, store_with};
use crate::support::{intercepted, separate_client};

/// Whether anomaly W11 happens: Go's `Rev` after `Put` fills the read set without a snapshot
/// revision, so that later reads are newer.
async fn w11(level: Isolation) -> bool {
    let (store, interfere) = (store_with(&[("x", 1), ("y", 1)]).await, OneShot::new());
    let first = store.get("x").await.unwrap().unwrap().mod_revision;
    let mut skew = false;
    let stm = Stm::new(&separate_client(&store)).isolation(level);
    let run = stm.run(async |tx| {
        tx.put("x", "3");
        let revision = tx.revision_of("x").await?;
        if interfere.take() {
            put_all(&store, &[("x", 2), ("y", 2)]).await;
        }
        let y = number(tx, "y").await?;
        skew |= (revision == Some(first)) != (y == 1);
        Ok::<_, Error>(())
    });
    run.await.unwrap();
    skew
}

/// Whether anomaly W12 happens: Go's retry reads another key first, which is newer, and then takes
/// k from the response of the failed commit. At `ReadCommitted` nothing conflicts, so there is no
/// such retry.
async fn w12(level: Isolation) -> bool {
    let (store, mut attempt, mut skew) = (store_with(&[("k", 1), ("z", 1)]).await, 0, false);
    let stm = Stm::new(&separate_client(&store)).isolation(level);
    let run = stm.run(async |tx| {
        attempt += 1;
        if attempt == 1 {
            number(tx, "k").await?;
            put_all(&store, &[("k", 2), ("z", 2)]).await;
        } else if attempt == 2 {
            put_all(&store, &[("k", 3), ("z", 3)]).await;
            let z = number(tx, "z").await?;
            skew |= z != number(tx, "k").await?;
        }
        tx.put("k", "9");
        Ok::<_, Error>(())
    });
    run.await.unwrap();
    assert!(attempt > 1 || level == Isolation::ReadCommitted);
    skew
}

#[tokio::test(start_paused = true)]
async fn w11_revision_of_after_a_put_pins_the_snapshot() {
    for (level, expected) in Isolation::ALL.into_iter().zip([false, false, true, true]) {
        assert_eq!(w11(level).await, expected, "at {level}");
    }
}

#[tokio::test(start_paused = true)]
async fn w12_retry_starting_with_another_key_sees_one_snapshot() {
    for (level, expected) in Isolation::ALL.into_iter().zip([false, false, true, false]) {
        assert_eq!(w12(level).await, expected, "at {level}");
    }
}

/// Three keys change together after each call of the first two attempts. All reads of an attempt
/// must find them equal, for every kind and order of reads.
#[tokio::test(start_paused = true)]
async fn every_order_of_calls_sees_one_snapshot() {
    let sequences: [&[&str]; 8] = [
        &["get a", "many c b", "range"],
        &["range", "get b", "many a c"],
        &["many b a", "range", "get c"],
        &["rev a", "get b", "range"],
        &["put a", "rev a", "get b", "range"],
        &["put b", "get b", "get a", "many c a", "rev b"],
        &["delete", "many a c", "get b"],
        &["many", "get c", "rev b", "many b a c"],
    ];
    let cases = STRONG_LEVELS.into_iter().flat_map(|level| sequences.map(|calls| (level, calls)));
    for (level, calls) in cases {
        for prefetch in [&[][..], &["b"], &["c", "a"]] {
            let store = store_with(&[("a", 1), ("b", 1), ("c", 1)]).await;
            let first = store.get("a").await.unwrap().unwrap().mod_revision;
            let (mut round, mut attempt) = (1, 0);
            let stm =
                Stm::new(&separate_client(&store)).isolation(level).prefetch(prefetch.to_vec());
            let run = stm.run(async |tx| {
                attempt += 1;
                // The round of each value that the attempt has read.
                let mut rounds: Vec<i64> = Vec::new();
                let round_of = |revision: Revision| revision.0 - first.0 + 1;
                for call in calls {
                    let (name, keys) = call.split_once(' ').unwrap_or((call, ""));
                    let keys: Vec<_> = keys.split_whitespace().map(str::to_owned).collect();
                    match name {
                        "get" => {
                            if let Some(value) = tx.get(keys[0].clone()).await? {
                                rounds.extend(parse_number(&value));
                            }
                        }
                        "many" => {
                            let values = tx.get_many(keys).await?;
                            rounds.extend(
                                values.iter().flatten().filter_map(|value| parse_number(value)),
                            );
                        }
                        "range" => {
                            let found = tx.range(KeyRange::all()).await?;
                            rounds
                                .extend(found.iter().filter_map(|(_, value)| parse_number(value)));
                        }
                        "rev" => {
                            rounds.push(round_of(tx.revision_of(keys[0].clone()).await?.unwrap()))
                        }
                        "put" => tx.put(keys[0].clone(), "own"),
                        _ => tx.delete("d"),
                    }
                    if attempt < 3 {
                        round += 1;
                        put_all(&store, &[("a", round), ("b", round), ("c", round)]).await;
                    }
                }
                assert!(
                    rounds.windows(2).all(|two| two[0] == two[1]),
                    "{calls:?} read rounds {rounds:?}"
                );
                tx.put("own", "own");
                Ok::<_, Error>(rounds.len())
            });
            assert!(run.await.unwrap().value > 2, "{calls:?} read too few values to compare");
        }
    }
}

/// The number in a value, or `None` for the transaction's own write.
fn parse_number(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).unwrap().parse().ok()
}

#[tokio::test(start_paused = true)]
async fn read_only_transaction_sees_earlier_commits() {
    for level in STRONG_LEVELS {
        let store = store_with(&[("x", 1), ("y", 1)]).await;
        let kv = stale_client(&store).await;
        put_all(&store, &[("x", 2), ("y", 2)]).await;
        // The stale member does not have the snapshot revision, so the read is linearizable.
        let stm = Stm::new(&kv).isolation(level);
        let read =
            stm.run(async |tx| Ok::<_, Error>((number(tx, "x").await?, number(tx, "y").await?)));
        let read = read.await.unwrap();
        assert_eq!((read.value, read.info.attempts), ((2, 2), 1), "at {level}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_first_read_is_linearizable() {
    for level in STRONG_LEVELS {
        let (store, record) = (store_with(&[("x", 1), ("y", 1)]).await, Recorder::new());
        let stm = Stm::new(&intercepted(&store, record.clone())).isolation(level);
        let read = stm.run(async |tx| {
            number(tx, "x").await?;
            number(tx, "y").await
        });
        read.await.unwrap();
        let calls = record.take().0;
        let [Call::Range(x), Call::Txn(y)] = &calls[..] else { panic!("{calls:?}") };
        assert!(!x.serializable);
        let is_serializable = |op: &Op| matches!(op, Op::Range(read) if read.serializable);
        assert!(y.success.iter().chain(&y.failure).all(is_serializable), "{y:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn snapshot_extends_while_the_read_set_is_unchanged() {
    for level in STRONG_LEVELS {
        let store = store_with(&[("x", 1), ("y", 1), ("z", 1)]).await;
        let stm = Stm::new(&separate_client(&store)).isolation(level);
        let read = stm.run(async |tx| {
            let x = number(tx, "x").await?;
            put_all(&store, &[("y", 2), ("z", 2)]).await;
            let y = number(tx, "y").await?;
            put_all(&store, &[("x", 3), ("z", 3)]).await;
            Ok::<_, Error>((x, y, number(tx, "z").await?))
        });
        let read = read.await.unwrap();
        assert_eq!((read.value, read.info.attempts), ((1, 2, 2), 1), "at {level}");
    }
}

/// The snapshot is not extended if a range or a prefetched key would then be older than the reads
/// that follow.
#[tokio::test(start_paused = true)]
async fn snapshot_is_not_extended_past_a_range_or_prefetch() {
    for level in STRONG_LEVELS {
        let store = store_with(&[("x", 1), ("y", 1), ("z", 1)]).await;
        let prefetched = Stm::new(&separate_client(&store)).isolation(level).prefetch(["x", "y"]);
        let read = prefetched.run(async |tx| {
            number(tx, "x").await?;
            put_all(&store, &[("y", 2), ("z", 2)]).await;
            Ok::<_, Error>((number(tx, "z").await?, number(tx, "y").await?))
        });
        assert_eq!(read.await.unwrap().value, (1, 1), "at {level}");

        let ranged = Stm::new(&separate_client(&store)).isolation(level);
        let read = ranged.run(async |tx| {
            let found = tx.range(KeyRange::prefix("r")).await?.len();
            number(tx, "x").await?;
            put_all(&store, &[("r", 3), ("z", 3)]).await;
            Ok::<_, Error>((found, number(tx, "z").await?))
        });
        assert_eq!(read.await.unwrap().value, (0, 2), "at {level}");
        store.delete("r").await.unwrap();
        put_all(&store, &[("z", 1)]).await;
    }
}

/// The stale member has the first key unchanged, and an older value of the second.
#[tokio::test(start_paused = true)]
async fn snapshot_does_not_move_back_to_a_stale_member() {
    for level in STRONG_LEVELS {
        let store = store_with(&[("x", 1), ("y", 1)]).await;
        let kv = stale_client(&store).await;
        put_all(&store, &[("y", 2)]).await;
        let stm = Stm::new(&kv).isolation(level);
        let read =
            stm.run(async |tx| Ok::<_, Error>((number(tx, "x").await?, number(tx, "y").await?)));
        let read = read.await.unwrap();
        assert_eq!((read.value, read.info.attempts), ((1, 2), 1), "at {level}");
    }
}

/// The key of a blind write must be unchanged since the *first* read, also after an extension of
/// the snapshot.
#[tokio::test(start_paused = true)]
async fn snapshot_extension_keeps_blind_write_conflicts() {
    let (store, interfere) = (store_with(&[("x", 1), ("y", 1), ("z", 1)]).await, OneShot::new());
    let run = Stm::new(&separate_client(&store));
    let run = run.run(async |tx| {
        number(tx, "x").await?;
        if interfere.take() {
            put_all(&store, &[("z", 2)]).await;
        }
        number(tx, "y").await?;
        tx.put("z", "3");
        Ok::<_, Error>(())
    });
    let info = run.await.unwrap().info;
    let keys: Vec<_> = info.conflicts.iter().map(|conflict| &conflict.key[..]).collect();
    assert_eq!((info.attempts, &keys[..]), (2, &[&b"z"[..]][..]));
}

/// Regression: retries at a weak level read from the same stale member and conflicted until it had
/// caught up.
#[tokio::test(start_paused = true)]
async fn retry_bypasses_a_stale_member() {
    let store = store_with(&[("x", 1)]).await;
    let kv = stale_client(&store).await;
    put_all(&store, &[("x", 2), ("y", 2)]).await;
    let stm = Stm::new(&kv).isolation(Isolation::RepeatableReads);
    let add = stm.run(async |tx| {
        let x = number(tx, "x").await?;
        // The response of the failed commit does not contain y.
        let y = if x == 2 { number(tx, "y").await? } else { 0 };
        tx.put("x", (x + y + 1).to_string());
        Ok::<_, Error>((x, y))
    });
    let add = add.await.unwrap();
    assert_eq!((add.value, add.info.attempts), ((2, 2), 2));
}

#[tokio::test(start_paused = true)]
async fn absent_key_is_read_at_the_snapshot_revision() {
    for level in STRONG_LEVELS {
        let (store, interfere) = (Client::new(MemBackend::new()), OneShot::new());
        let stm = Stm::new(&separate_client(&store)).isolation(level);
        let read = stm.run(async |tx| {
            let x = tx.get("x").await?;
            if interfere.take() {
                put_all(&store, &[("x", 1), ("y", 1)]).await;
            }
            Ok::<_, Error>((x, tx.get("y").await?))
        });
        assert_eq!(read.await.unwrap().value, (None, None), "at {level}");
    }
}
