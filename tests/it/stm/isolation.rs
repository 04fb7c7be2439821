//! Isolation levels: each anomaly happens at the levels that permit it, and at no other level.
//!
//! The expected rows agree with the table in the documentation of `Isolation`, which has no row for
//! W6, W7, dirty writes and a transaction's own writes. The anomalies have the numbers W1 to W10
//! here, and W11 and W12 in `snapshot.rs`. Each has a fixed schedule of transactions T1, T2, …:
//! `r1(x)` is a read of x by T1, `c1{x}` a commit of T1 that writes x. The other transaction runs
//! between two steps of the closure, during the first attempt only.

use std::sync::Arc;

use coord_core::{
    Client, Error, Stm,
    kv::KeyRange,
    stm::{Committed, Isolation},
};
use coord_mem::MemBackend;
use coord_testkit::StaleMember;

use super::{OneShot, fall_behind, number, put_all, stale_client, store_with, stored_number};
use crate::support::separate_client;

/// Generates one test per row: whether the anomaly happens at each of [`Isolation::ALL`].
macro_rules! rows {
    ($($name:ident: $anomaly:ident, $row:expr;)*) => {
        $(#[tokio::test(start_paused = true)]
        async fn $name() {
            let mut happens = [false; 4];
            for (happens, level) in happens.iter_mut().zip(Isolation::ALL) {
                *happens = $anomaly(level).await;
            }
            assert_eq!(happens, $row, "at {:?}", Isolation::ALL);
        })*
    };
}

rows! {
    w1_lost_update_only_at_read_committed: w1, [false, false, false, true];
    w1_lost_update_of_absent_key_only_at_read_committed:
        w1_absent, [false, false, false, true];
    w2_write_skew_only_at_read_committed: w2, [false, false, false, true];
    w3_read_skew_of_a_reader_only_at_read_committed: w3, [false, false, false, true];
    w4_read_skew_of_a_writer_only_at_read_committed: w4, [false, false, false, true];
    w5_stale_read_at_the_weak_levels: w5, [false, false, true, true];
    w6_update_of_a_stale_read_only_at_read_committed: w6, [false, false, false, true];
    w7_readers_disagree_on_order_only_at_read_committed: w7, [false, false, false, true];
    w8_phantom_at_the_weak_levels: w8, [false, false, true, true];
    w9_blind_write_misses_a_put_below_serializable_snapshot: w9_put, [false, true, true, true];
    w9_blind_write_misses_a_delete_below_serializable_snapshot:
        w9_delete, [false, true, true, true];
    w10_read_skew_within_an_attempt_at_the_weak_levels: w10, [false, false, true, true];
    intermediate_read_never_happens: intermediate_read, [false; 4];
    aborted_read_never_happens: aborted_read, [false; 4];
    non_repeatable_read_never_happens: non_repeatable_read, [false; 4];
    own_writes_are_read_at_every_level: own_writes_unseen, [false; 4];
    dirty_write_never_happens: dirty_write, [false; 4];
}

/// Lost update: `r1(x) r2(x) c1{x} c2{x}`, and both add one.
async fn w1(level: Isolation) -> bool {
    lost_update(level, &store_with(&[("x", 0)]).await).await
}

async fn w1_absent(level: Isolation) -> bool {
    lost_update(level, &Client::new(MemBackend::new())).await
}

async fn lost_update(level: Isolation, store: &Client) -> bool {
    let (kv, interfere) = (separate_client(store), OneShot::new());
    let stm = Stm::new(&kv).isolation(level);
    let add = stm.run(async |tx| {
        let x = number(tx, "x").await?;
        if interfere.take() {
            let other = stm.run(async |tx| {
                let x = number(tx, "x").await?;
                tx.put("x", (x + 1).to_string());
                Ok::<_, Error>(())
            });
            other.await.unwrap();
        }
        tx.put("x", (x + 1).to_string());
        Ok::<_, Error>(())
    });
    add.await.unwrap();
    stored_number(store, "x").await == 1
}

/// Write skew: `r1(y) r2(x) c2{y} c1{x}`. One of x and y must stay 1; each transaction clears one.
async fn w2(level: Isolation) -> bool {
    let (store, interfere) = (store_with(&[("x", 1), ("y", 1)]).await, OneShot::new());
    let stm = Stm::new(&separate_client(&store)).isolation(level);
    let skew = stm.run(async |tx| {
        let y = number(tx, "y").await?;
        if interfere.take() {
            let other = stm.run(async |tx| {
                if number(tx, "x").await? == 1 {
                    tx.put("y", "0");
                }
                Ok::<_, Error>(())
            });
            other.await.unwrap();
        }
        if y == 1 {
            tx.put("x", "0");
        }
        Ok::<_, Error>(())
    });
    skew.await.unwrap();
    stored_number(&store, "x").await + stored_number(&store, "y").await == 0
}

/// The values that a transaction reads from x and y while another client sets both to 2 in between.
async fn read_skew(level: Isolation, writes: Option<&str>) -> Committed<(i64, i64)> {
    let (store, interfere) = (store_with(&[("x", 1), ("y", 1)]).await, OneShot::new());
    let stm = Stm::new(&separate_client(&store)).isolation(level);
    let read = stm.run(async |tx| {
        let x = number(tx, "x").await?;
        if interfere.take() {
            put_all(&store, &[("x", 2), ("y", 2)]).await;
        }
        let y = number(tx, "y").await?;
        if let Some(key) = writes {
            tx.put(key, "3");
        }
        Ok::<_, Error>((x, y))
    });
    read.await.unwrap()
}

/// Read skew of a reader: `r1(x) c2{x,y} r1(y) c1{}`.
async fn w3(level: Isolation) -> bool {
    read_skew(level, None).await.value == (1, 2)
}

/// Read skew of a writer: `r1(x) c2{x,y} r1(y) c1{y}`.
async fn w4(level: Isolation) -> bool {
    read_skew(level, Some("y")).await.value == (1, 2)
}

/// Stale read: `c2{x}` is acknowledged, then T1 starts with `r1(x)` from a stale member.
async fn w5(level: Isolation) -> bool {
    let store = store_with(&[("x", 1)]).await;
    let kv = stale_client(&store).await;
    put_all(&store, &[("x", 2)]).await;
    let stm = Stm::new(&kv).isolation(level);
    let read = stm.run(async |tx| number(tx, "x").await).await.unwrap();
    read.value == 1
}

/// Update of a stale read: as W5, but T1 writes x: `r1(x) c1{x}`.
async fn w6(level: Isolation) -> bool {
    let store = store_with(&[("x", 1)]).await;
    let kv = stale_client(&store).await;
    put_all(&store, &[("x", 2)]).await;
    let stm = Stm::new(&kv).isolation(level);
    let add = stm.run(async |tx| {
        let x = number(tx, "x").await?;
        tx.put("x", (x + 10).to_string());
        Ok::<_, Error>(x)
    });
    add.await.unwrap().value == 1
}

/// Order of commits: T1 writes x, T2 writes y. T3 reads only the write of T1; T4, from a stale
/// member, reads only the write of T2.
async fn w7(level: Isolation) -> bool {
    let (store, interfere) = (store_with(&[("x", 1), ("y", 1)]).await, OneShot::new());
    let kv = Arc::new(StaleMember::new(store.clone()));
    let ahead = Stm::new(&separate_client(&store)).isolation(level);
    let third = ahead.run(async |tx| {
        let y = number(tx, "y").await?;
        if interfere.take() {
            fall_behind(&kv, &store).await;
            put_all(&store, &[("x", 2)]).await;
        }
        Ok::<_, Error>((number(tx, "x").await?, y))
    });
    let third = third.await.unwrap().value;
    let (interfere, member) = (OneShot::new(), Client::new(Arc::clone(&kv)));
    let behind = Stm::new(&member).isolation(level);
    let fourth = behind.run(async |tx| {
        let x = number(tx, "x").await?;
        if interfere.take() {
            put_all(&store, &[("y", 2)]).await;
            kv.catch_up();
        }
        Ok::<_, Error>((x, number(tx, "y").await?))
    });
    third == (2, 1) && fourth.await.unwrap().value == (1, 2)
}

/// Phantom: T1 reads the range p/, T2 puts p/c, T1 commits a value computed from the range.
async fn w8(level: Isolation) -> bool {
    let (store, interfere) = (store_with(&[("p/a", 1), ("p/b", 1)]).await, OneShot::new());
    let stm = Stm::new(&separate_client(&store)).isolation(level);
    let count = stm.run(async |tx| {
        let found = tx.range(KeyRange::prefix("p/")).await?.len();
        if interfere.take() {
            put_all(&store, &[("p/c", 1)]).await;
        }
        tx.put("count", found.to_string());
        Ok::<_, Error>(())
    });
    count.await.unwrap();
    stored_number(&store, "count").await == 2
}

async fn w9_put(level: Isolation) -> bool {
    blind_write(level, async |store| put_all(store, &[("k", 7)]).await).await
}

async fn w9_delete(level: Isolation) -> bool {
    blind_write(level, async |store| drop(store.delete("k").await.unwrap())).await
}

/// Blind write: `r1(a) c2{k} c1{k}`, where T1 does not read k.
async fn blind_write(level: Isolation, other: impl AsyncFn(&Client)) -> bool {
    let (store, interfere) = (store_with(&[("a", 1), ("k", 1)]).await, OneShot::new());
    let stm = Stm::new(&separate_client(&store)).isolation(level);
    let write = stm.run(async |tx| {
        number(tx, "a").await?;
        if interfere.take() {
            other(&store).await;
        }
        tx.put("k", "9");
        Ok::<_, Error>(())
    });
    let info = write.await.unwrap().info;
    assert_eq!(stored_number(&store, "k").await, 9);
    assert!(info.conflicts.iter().all(|conflict| conflict.key == "k"), "{info:?}");
    info.attempts == 1
}

/// Read skew within an attempt, whether it commits or not: `r1(x) c2{x,y} r1(y)`.
async fn w10(level: Isolation) -> bool {
    let (store, interfere) = (store_with(&[("x", 1), ("y", 1)]).await, OneShot::new());
    let mut skew = false;
    let stm = Stm::new(&separate_client(&store)).isolation(level);
    let write = stm.run(async |tx| {
        let x = number(tx, "x").await?;
        if interfere.take() {
            put_all(&store, &[("x", 2), ("y", 2)]).await;
        }
        skew |= x != number(tx, "y").await?;
        tx.put("z", "1");
        Ok::<_, Error>(())
    });
    write.await.unwrap();
    skew
}

/// Intermediate read (G1b): T1 puts x twice, and T2 reads x in between.
async fn intermediate_read(level: Isolation) -> bool {
    let store = store_with(&[("x", 0)]).await;
    let stm = Stm::new(&separate_client(&store)).isolation(level);
    let mut observed = false;
    let write = stm.run(async |tx| {
        for n in 1..3 {
            tx.put("x", n.to_string());
            let other = stm.run(async |tx| number(tx, "x").await).await;
            observed |= other.unwrap().value != 0;
        }
        Ok::<_, Error>(())
    });
    write.await.unwrap();
    let changes = store.get("x").await.unwrap().unwrap().version - 1;
    assert_eq!((stored_number(&store, "x").await, changes), (2, 1), "only the last value was put");
    observed
}

/// Aborted read (G1a): T1 puts x and aborts, then T2 reads x.
async fn aborted_read(level: Isolation) -> bool {
    let store = store_with(&[("x", 0)]).await;
    let stm = Stm::new(&separate_client(&store)).isolation(level);
    let aborted = stm.run(async |tx| {
        tx.put("x", "1");
        Err::<(), Error>(Error::EmptyKey)
    });
    aborted.await.unwrap_err();
    stm.run(async |tx| number(tx, "x").await).await.unwrap().value != 0
}

/// Non-repeatable read (A2): `r1(x) c2{x} r1(x)`.
async fn non_repeatable_read(level: Isolation) -> bool {
    let (store, interfere) = (store_with(&[("x", 1)]).await, OneShot::new());
    let mut differs = false;
    let stm = Stm::new(&separate_client(&store)).isolation(level);
    let read = stm.run(async |tx| {
        let x = number(tx, "x").await?;
        if interfere.take() {
            put_all(&store, &[("x", 2)]).await;
        }
        differs |= x != number(tx, "x").await?;
        let many = tx.get_many(["y", "x"]).await?;
        differs |= many[1].as_deref() != Some(x.to_string().as_bytes());
        let all = tx.range(KeyRange::all()).await?;
        differs |= all.iter().any(|(_, value)| *value != x.to_string());
        Ok::<_, Error>(())
    });
    read.await.unwrap();
    differs
}

/// Whether a read of any kind misses the puts or deletes of its own transaction.
async fn own_writes_unseen(level: Isolation) -> bool {
    let store = store_with(&[("x", 1), ("y", 1)]).await;
    let stm = Stm::new(&separate_client(&store)).isolation(level);
    let run = stm.run(async |tx| {
        tx.put("x", "2");
        tx.delete("y");
        tx.delete("z");
        tx.put("z", "3");
        let one_by_one = (tx.get("x").await?, tx.get("y").await?, tx.get("z").await?);
        let many = tx.get_many(["z", "y", "x"]).await?;
        let all = tx.range(KeyRange::all()).await?;
        Ok::<_, Error>((one_by_one, many, all))
    });
    let ((x, y, z), many, all) = run.await.unwrap().value;
    let (two, three) = (Some("2".into()), Some("3".into()));
    x != two
        || y.is_some()
        || z != three
        || many != [three, None, two]
        || all != [("x".into(), "2".into()), ("z".into(), "3".into())]
}

/// Dirty write (G0): the writes of two transactions mix.
async fn dirty_write(level: Isolation) -> bool {
    let store = Client::new(MemBackend::new());
    let stm = Stm::new(&separate_client(&store)).isolation(level);
    let write = async |n: &str| {
        let write = stm.run(async |tx| {
            tx.put("x", n);
            tokio::task::yield_now().await;
            tx.put("y", n);
            Ok::<_, Error>(())
        });
        write.await.unwrap().info.revision
    };
    let (one, other) = tokio::join!(write("1"), write("2"));
    let (x, y) = (store.get("x").await.unwrap().unwrap(), store.get("y").await.unwrap().unwrap());
    assert_eq!(x.mod_revision, one.max(other));
    x.mod_revision != y.mod_revision || x.value != y.value || one == other
}
