//! At the strong levels an attempt sees the store as it was at one revision, whatever the order of
//! its calls; also an attempt that will not commit.

use crate::support::another;
use coord_mem::MemBackend;

use coord_core::{
    Client, Error, Stm,
    kv::{KeyRange, Op, Revision},
    stm::Isolation,
};
use coord_testkit::{Call, Recorder};

use super::{LEVELS, OneShot, STRONG_LEVELS, stale_client, number, put_all, store_with};
use crate::support::behind;

/// Go's `Rev` after `Put` filled the read set and did not pin the revision (witness W11).
async fn w11(level: Isolation) -> bool {
    let (store, interfere) = (store_with(&[("x", 1), ("y", 1)]).await, OneShot::new());
    let old = store.get("x").await.unwrap().unwrap().mod_revision;
    let mut torn = false;
    let stm = Stm::new(&another(&store)).isolation(level);
    let run = stm.run(async |tx| {
        tx.put("x", "3");
        let revision = tx.revision_of("x").await?;
        if interfere.take() {
            put_all(&store, &[("x", 2), ("y", 2)]).await;
        }
        let y = number(tx, "y").await?;
        torn |= (revision == Some(old)) != (y == 1);
        Ok::<_, Error>(())
    });
    run.await.unwrap();
    torn
}

/// Go's retry knew k as of the conflict, read another key first, newer, and then k as it knew it
/// (witness W12). At `ReadCommitted` nothing conflicts, so there is no such retry.
async fn w12(level: Isolation) -> bool {
    let (store, mut attempt, mut torn) = (store_with(&[("k", 1), ("z", 1)]).await, 0, false);
    let stm = Stm::new(&another(&store)).isolation(level);
    let run = stm.run(async |tx| {
        attempt += 1;
        if attempt == 1 {
            number(tx, "k").await?;
            put_all(&store, &[("k", 2), ("z", 2)]).await;
        } else if attempt == 2 {
            put_all(&store, &[("k", 3), ("z", 3)]).await;
            let z = number(tx, "z").await?;
            torn |= z != number(tx, "k").await?;
        }
        tx.put("k", "9");
        Ok::<_, Error>(())
    });
    run.await.unwrap();
    assert!(attempt > 1 || level == Isolation::ReadCommitted);
    torn
}

#[tokio::test(start_paused = true)]
async fn w11_revision_of_after_a_put_pins_the_snapshot() {
    for (level, expected) in LEVELS.into_iter().zip([false, false, true, true]) {
        assert_eq!(w11(level).await, expected, "at {level}");
    }
}

#[tokio::test(start_paused = true)]
async fn w12_retry_starting_with_another_key_sees_one_snapshot() {
    for (level, expected) in LEVELS.into_iter().zip([false, false, true, false]) {
        assert_eq!(w12(level).await, expected, "at {level}");
    }
}

/// Three keys that always change together, read in every order by every way of reading, while they
/// change between any two calls.
#[tokio::test(start_paused = true)]
async fn every_order_of_calls_sees_one_snapshot() {
    let ways: [&[&str]; 8] = [
        &["get a", "many c b", "range"],
        &["range", "get b", "many a c"],
        &["many b a", "range", "get c"],
        &["rev a", "get b", "range"],
        &["put a", "rev a", "get b", "range"],
        &["put b", "get b", "get a", "many c a", "rev b"],
        &["delete", "many a c", "get b"],
        &["many", "get c", "rev b", "many b a c"],
    ];
    for (level, way) in STRONG_LEVELS.into_iter().flat_map(|level| ways.map(|way| (level, way))) {
        for prefetch in [&[][..], &["b"], &["c", "a"]] {
            let store = store_with(&[("a", 1), ("b", 1), ("c", 1)]).await;
            let first = store.get("a").await.unwrap().unwrap().mod_revision;
            let (mut round, mut attempt) = (1, 0);
            let stm = Stm::new(&another(&store)).isolation(level).prefetch(prefetch.to_vec());
            let run = stm.run(async |tx| {
                attempt += 1;
                // What was seen in this attempt: in which round the keys were as they were found.
                let mut seen: Vec<i64> = Vec::new();
                let round_of = |revision: Revision| revision.0 - first.0 + 1;
                for call in way {
                    let (name, keys) = call.split_once(' ').unwrap_or((call, ""));
                    let keys: Vec<_> = keys.split_whitespace().map(str::to_owned).collect();
                    match name {
                        "get" => {
                            if let Some(value) = tx.get(keys[0].clone()).await? {
                                seen.extend(parsed(&value));
                            }
                        }
                        "many" => {
                            let values = tx.get_many(keys).await?;
                            seen.extend(values.iter().flatten().filter_map(|value| parsed(value)));
                        }
                        "range" => {
                            let found = tx.range(KeyRange::all()).await?;
                            seen.extend(found.iter().filter_map(|(_, value)| parsed(value)));
                        }
                        "rev" => seen.push(round_of(
                            tx.revision_of(keys[0].clone()).await?.unwrap(),
                        )),
                        "put" => tx.put(keys[0].clone(), "own"),
                        _ => tx.delete("d"),
                    }
                    if attempt < 3 {
                        round += 1;
                        put_all(&store, &[("a", round), ("b", round), ("c", round)]).await;
                    }
                }
                assert!(seen.windows(2).all(|two| two[0] == two[1]), "{way:?} saw {seen:?}");
                tx.put("own", "own");
                Ok::<_, Error>(seen.len())
            });
            assert!(run.await.unwrap().value > 2, "{way:?} saw nothing to compare");
        }
    }
}

/// The number that a value is, if it is not what the transaction has put itself.
fn parsed(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).unwrap().parse().ok()
}

#[tokio::test(start_paused = true)]
async fn read_only_transaction_sees_earlier_commits() {
    for level in STRONG_LEVELS {
        let store = store_with(&[("x", 1), ("y", 1)]).await;
        let kv = stale_client(&store).await;
        put_all(&store, &[("x", 2), ("y", 2)]).await;
        // The member that lags cannot answer as of the base: another is asked.
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
        let stm = Stm::new(&behind(&store, record.clone())).isolation(level);
        let read = stm.run(async |tx| {
            number(tx, "x").await?;
            number(tx, "y").await
        });
        read.await.unwrap();
        let calls = record.take().0;
        let [Call::Range(x), Call::Txn(y)] = &calls[..] else { panic!("{calls:?}") };
        assert!(!x.serializable);
        let asks_any = |op: &Op| matches!(op, Op::Range(read) if read.serializable);
        assert!(y.success.iter().chain(&y.failure).all(asks_any), "{y:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn snapshot_extends_while_the_read_set_is_unchanged() {
    for level in STRONG_LEVELS {
        let store = store_with(&[("x", 1), ("y", 1), ("z", 1)]).await;
        let stm = Stm::new(&another(&store)).isolation(level);
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

/// The base cannot move where that would part what is seen after it from what was known before.
#[tokio::test(start_paused = true)]
async fn snapshot_is_not_extended_past_a_range_or_prefetch() {
    for level in STRONG_LEVELS {
        let store = store_with(&[("x", 1), ("y", 1), ("z", 1)]).await;
        let prefetched = Stm::new(&another(&store)).isolation(level).prefetch(["x", "y"]);
        let read = prefetched.run(async |tx| {
            number(tx, "x").await?;
            put_all(&store, &[("y", 2), ("z", 2)]).await;
            Ok::<_, Error>((number(tx, "z").await?, number(tx, "y").await?))
        });
        assert_eq!(read.await.unwrap().value, (1, 1), "at {level}");

        let ranged = Stm::new(&another(&store)).isolation(level);
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

/// The member has what was read first as it was, and something older of what is read next.
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

/// What is written unread must not have been changed since the *first* read, wherever the base is.
#[tokio::test(start_paused = true)]
async fn snapshot_extension_keeps_blind_write_conflicts() {
    let (store, interfere) = (store_with(&[("x", 1), ("y", 1), ("z", 1)]).await, OneShot::new());
    let run = Stm::new(&another(&store));
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

/// A retry at a weak level asked the same member again, which still lagged, and conflicted again,
/// for as long as it lagged.
#[tokio::test(start_paused = true)]
async fn retry_bypasses_a_stale_member() {
    let store = store_with(&[("x", 1)]).await;
    let kv = stale_client(&store).await;
    put_all(&store, &[("x", 2), ("y", 2)]).await;
    let level = Isolation::RepeatableReads;
    let kv: Client = kv;
    let stm = Stm::new(&kv).isolation(level);
    let add = stm.run(async |tx| {
        let x = number(tx, "x").await?;
        // Not known from the conflict of the first attempt.
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
        let stm = Stm::new(&another(&store)).isolation(level);
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
