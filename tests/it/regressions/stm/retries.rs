//! Faults of errors and retries: stale members, compaction, panics, limits, lost responses,
//! backoff.

use coord_core::{
    Client, Error, Stm,
    error::{ErrorKind, Outcome},
    kv::Compact,
    stm::{Isolation, Retry, StmError},
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder, StaleMember};
use futures_util::future::join_all;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, timeout};

use super::go_stm::GoStm;
use super::{STRONG_LEVELS, put_all, value};
use crate::support::{intercepted, nth, secs, separate_client, session_on};

/// Issues 11963 and 12561: a read at the snapshot revision fails on a stale member, and the
/// transaction fails.
#[tokio::test(start_paused = true)]
async fn snapshot_read_bypasses_a_stale_member() {
    for isolation in STRONG_LEVELS {
        let store = Client::new(MemBackend::new());
        let stale_revision = put_all(&store, &["a", "b"], "old").await;
        put_all(&store, &["a", "b"], "new").await;
        let member = StaleMember::new(store.clone());
        member.fall_behind(stale_revision);
        let kv = Client::new(member);

        let mut go = GoStm::new(kv.clone(), isolation);
        let failed = go.run(async |tx| Ok((tx.get(&["a"]).await?, tx.get(&["b"]).await?)));
        assert_eq!(failed.await.unwrap_err().kind(), ErrorKind::FutureRevision);

        let coord = Stm::new(&kv).isolation(isolation);
        let read = coord.run(async |tx| Ok::<_, Error>((tx.get("a").await?, tx.get("b").await?)));
        let read = read.await.unwrap();
        assert_eq!(read.value, (Some("new".into()), Some("new".into())));
        assert_eq!(read.info.attempts, 1);
    }
}

/// No issue yet: at `RepeatableReads` an attempt that reads from a stale member fails, and so do
/// its retries, without backoff, until the member has caught up.
#[tokio::test(start_paused = true)]
async fn stale_member_costs_one_attempt() {
    let store = Client::new(MemBackend::new());
    let stale_revision = put_all(&store, &["n"], "1").await;
    put_all(&store, &["n"], "2").await;
    let member = StaleMember::new(store.clone());
    member.fall_behind(stale_revision);
    let kv = Client::new(member.clone());

    let mut go = GoStm::new(kv.clone(), Isolation::RepeatableReads);
    let added = go.run(async |tx| {
        if tx.attempts == 1_000 {
            member.catch_up();
        }
        let n: u32 = tx.get(&["n"]).await?.parse().unwrap();
        tx.put("n", &(n + 1).to_string());
        Ok(())
    });
    added.await.unwrap();
    assert_eq!((go.attempts, value(&store, "n").await), (1_000, "3".to_owned()));

    member.fall_behind(stale_revision);
    let coord = Stm::new(&kv).isolation(Isolation::RepeatableReads);
    let added = coord.run(async |tx| {
        let n: u32 = tx.get_as::<String>("n").await?.unwrap_or_default().parse().unwrap();
        tx.put("n", (n + 1).to_string());
        Ok::<_, Error>(())
    });
    assert_eq!(added.await.unwrap().info.attempts, 2);
    assert_eq!(value(&store, "n").await, "4");
}

/// No issue yet: the snapshot revision is compacted between two reads, and the transaction fails.
#[tokio::test(start_paused = true)]
async fn compaction_between_reads_costs_at_most_one_attempt() {
    for isolation in STRONG_LEVELS {
        let store = Client::new(MemBackend::new());
        put_all(&store, &["a", "b"], "1").await;
        let compact = async || {
            let newest = put_all(&store, &["other"], "").await;
            store.compact(Compact::new(newest)).await.map(|_| ())
        };
        let mut go = GoStm::new(separate_client(&store), isolation);
        let failed = go.run(async |tx| {
            tx.get(&["a"]).await?;
            compact().await?;
            tx.get(&["b"]).await
        });
        assert_eq!(failed.await.unwrap_err().kind(), ErrorKind::Compacted);

        for changed in [false, true] {
            let mut attempts = 0;
            let coord = Stm::new(&separate_client(&store)).isolation(isolation);
            let read = coord.run(async |tx| {
                attempts += 1;
                tx.get("a").await?;
                if attempts == 1 {
                    if changed {
                        put_all(&store, &["a"], "2").await;
                    }
                    compact().await?;
                }
                tx.get("b").await
            });
            let read = read.await.unwrap();
            let expected = if changed { 2 } else { 1 };
            assert_eq!((read.value, read.info.attempts), (Some("1".into()), expected));
        }
    }
}

/// Issue 7309: a panic of the closure ends the process, because the closure runs on another
/// goroutine.
#[tokio::test(start_paused = true)]
async fn panic_of_a_closure_reaches_only_its_caller() {
    let store = Client::new(MemBackend::new());
    let mut tasks = JoinSet::new();
    let coord = Stm::new(&separate_client(&store));
    tasks.spawn({
        let coord = coord.clone();
        async move {
            let panics = coord.run(async |tx| {
                tx.put("a", "half");
                if tx.get("b").await?.is_none() {
                    panic!("injected");
                }
                Ok::<_, Error>(())
            });
            panics.await.map(|_| ())
        }
    });
    let ended = tasks.join_next().await.unwrap();
    assert!(ended.unwrap_err().is_panic());
    assert_eq!(value(&store, "a").await, "", "nothing was written");
    let next = coord.run(async |tx| {
        tx.put("a", "whole");
        Ok::<_, Error>(())
    });
    next.await.unwrap();
}

/// No issue yet: a failed read panics, and a closure that recovers from the panic commits the
/// result of a read without a response.
#[tokio::test(start_paused = true)]
async fn commit_fails_after_the_closure_ignored_a_read_error() {
    let store = Client::new(MemBackend::new());
    let refused = |call: &Call| match call {
        Call::Range(_) => Action::Fail(Error::Unauthenticated { reason: "no token".to_owned() }),
        _ => Action::Pass,
    };
    let coord = Stm::new(&intercepted(&store, refused));
    let swallowed = coord.run(async |tx| {
        let a = tx.get("a").await.unwrap_or_default();
        tx.put("b", if a.is_some() { "exists" } else { "missing" });
        Ok::<_, Error>(())
    });
    let error = swallowed.await.unwrap_err();
    assert!(
        matches!(&error, StmError::Backend(error) if error.kind() == ErrorKind::Unauthenticated)
    );
    assert_eq!((error.outcome(), value(&store, "b").await), (Outcome::NotApplied, String::new()));
}

/// Issues 10048 and 7826, and pachyderm/pachyderm 2738: a transaction of more than 128 operations
/// is sent, and refused by the server. A key that is read and written counts twice.
#[tokio::test(start_paused = true)]
async fn too_many_operations_are_refused_without_a_request() {
    const KEYS: [&str; 65] = {
        let mut keys = [""; 65];
        let all = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ,.!";
        let mut n = 0;
        while n < keys.len() {
            keys[n] = all.split_at(n).1.split_at(1).0;
            n += 1;
        }
        keys
    };
    let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
    let kv = intercepted(&store, record.clone());
    let mut go = GoStm::new(kv.clone(), Isolation::SerializableSnapshot);
    let refused = go.run(async |tx| {
        tx.get(&KEYS).await?;
        KEYS.iter().for_each(|key| tx.put(key, "1"));
        Ok(())
    });
    assert!(matches!(refused.await, Err(Error::TooManyOps { count: 130, .. })));

    let coord = Stm::new(&kv).isolation(Isolation::SerializableSnapshot);
    let both = coord.run(async |tx| {
        tx.get_many(KEYS).await?;
        KEYS.iter().for_each(|key| tx.put(*key, "1"));
        Ok::<_, Error>(())
    });
    both.await.unwrap();

    record.take();
    let refused = coord.run(async |tx| {
        (0..129).for_each(|n| tx.put(format!("many/{n}"), ""));
        Ok::<_, Error>(())
    });
    let error = refused.await.unwrap_err();
    assert!(matches!(error, StmError::Backend(Error::TooManyOps { count: 129, limit: 128 })));
    assert_eq!(record.take().names(), "", "nothing was sent");
}

/// Issues 18424 and 14890: when the response to a commit is lost, the client or its caller may
/// repeat the commit, which applies it twice. Nothing shows whether it was applied.
#[tokio::test(start_paused = true)]
async fn commit_with_a_lost_response_is_applied_once() {
    let store = Client::new(MemBackend::new());
    let mut go = GoStm::new(
        intercepted(&store, nth("txn", 2, 2, Action::DropResponse)),
        Isolation::Serializable,
    );
    let mut add_one = async || {
        let added = go.run(async |tx| {
            let n: u32 = tx.get(&["go"]).await?.parse().unwrap_or_default();
            tx.put("go", &(n + 1).to_string());
            Ok(())
        });
        added.await
    };
    assert_eq!(add_one().await.unwrap_err().outcome(), Outcome::Unknown);
    add_one().await.unwrap();
    assert_eq!(value(&store, "go").await, "2", "two increments for one call");

    for action in [Action::DropResponse, Action::DropRequest] {
        let (store, resolved) =
            (Client::new(MemBackend::new()), matches!(action, Action::DropResponse));
        let kv = intercepted(&store, nth("txn", 1, 1, action));
        let session = session_on(kv.clone()).await;
        let coord = Stm::new(&kv).exactly_once(&session);
        let added = coord.run(async |tx| {
            let n: u32 = tx.get_as::<String>("n").await?.unwrap_or_default().parse().unwrap_or(0);
            tx.put("n", (n + 1).to_string());
            Ok::<_, Error>(())
        });
        assert_eq!(added.await.unwrap().info.resolved, resolved);
        assert_eq!(value(&store, "n").await, "1");
    }

    let without = Stm::new(&intercepted(&store, nth("txn", 1, 1, Action::DropResponse)));
    let unknown = without.run(async |tx| {
        tx.put("n", "1");
        Ok::<_, Error>(())
    });
    assert_eq!(unknown.await.unwrap_err().outcome(), Outcome::Unknown);
}

/// lightningnetwork/lnd 4457: all transactions that write one key retry at once, and all but one
/// conflict again.
#[tokio::test(start_paused = true)]
async fn transactions_on_one_key_need_few_attempts() {
    const WORKERS: u32 = 64;
    let store = Client::new(MemBackend::new());
    let go_attempts = join_all((0..WORKERS).map(async |_| {
        let mut go = GoStm::new(separate_client(&store), Isolation::Serializable);
        let added = go.run(async |tx| {
            let n: u32 = tx.get(&["go"]).await?.parse().unwrap_or_default();
            yield_now().await;
            tx.put("go", &(n + 1).to_string());
            Ok(())
        });
        added.await.unwrap();
        go.attempts
    }));
    let go_attempts: u32 = go_attempts.await.iter().sum();
    assert_eq!(go_attempts, WORKERS * (WORKERS + 1) / 2, "each commit conflicts with all others");

    let kv = separate_client(&store);
    let coord_attempts = join_all((0..WORKERS).map(async |_| {
        let coord = Stm::new(&kv).isolation(Isolation::Serializable);
        let added = coord.run(async |tx| {
            let n: u32 = tx.get_as::<String>("n").await?.unwrap_or_default().parse().unwrap_or(0);
            yield_now().await;
            tx.put("n", (n + 1).to_string());
            Ok::<_, Error>(())
        });
        added.await.unwrap().info.attempts
    }));
    let coord_attempts: u32 = coord_attempts.await.iter().sum();
    assert_eq!(value(&store, "n").await, WORKERS.to_string());
    assert!(coord_attempts <= 2 * WORKERS, "{coord_attempts} attempts");
}

/// The same issue: a transaction that always conflicts retries forever, without backoff.
#[tokio::test(start_paused = true)]
async fn retries_back_off_and_end_with_their_budget() {
    let (store, began) = (Client::new(MemBackend::new()), Instant::now());
    let mut go = GoStm::new(separate_client(&store), Isolation::Serializable);
    let lost = go.run(async |tx| {
        tx.get(&["k"]).await?;
        store.put("k", "others").await?;
        tx.put("k", "mine");
        if tx.attempts == 1_000 { Err(Error::EmptyKey) } else { Ok(()) }
    });
    assert!(lost.await.is_err());
    assert_eq!(began.elapsed(), secs(0), "a thousand attempts without backoff");

    let exhaust = async |retry| {
        let coord = Stm::new(&separate_client(&store)).retry(retry);
        let lost = coord.run(async |tx| {
            tx.get("k").await?;
            store.put("k", "others").await?;
            tx.put("k", "mine");
            Ok::<_, Error>(())
        });
        match timeout(secs(3_600), lost).await.unwrap() {
            Err(StmError::RetriesExhausted { attempts, elapsed, conflicts }) => {
                assert_eq!(conflicts[0].key, "k");
                (attempts, elapsed)
            }
            other => panic!("{other:?}"),
        }
    };
    let (attempts, _) = exhaust(Retry { attempts_max: Some(5), ..Retry::default() }).await;
    assert_eq!(attempts, 5);
    let (attempts, elapsed) = exhaust(Retry { time_max: secs(10), ..Retry::default() }).await;
    assert!(attempts < 200, "{attempts} attempts in ten seconds");
    // A pause that would end after `time_max` does not start.
    assert!(elapsed > secs(9) && elapsed <= secs(10), "{elapsed:?}");
}
