//! Retries: which errors and conflicts are retried, the backoff, the budget and the cost.

use std::time::Duration;

use coord_core::{
    Client, Error, Stm,
    error::Outcome,
    kv::{Compact, Revision},
    stm::{Conflict, Isolation, Retry, StmError},
};
use coord_testkit::{Action, Recorder};
use tokio::time::{Instant, sleep, timeout};

use super::{OneShot, STRONG_LEVELS, number, put_all, store_with, stored_number};
use crate::support::{intercepted, nth, only, scripted, secs, separate_client, timed};

/// Adds one to x while another client writes x during each attempt, until the budget is spent.
async fn exhaust_retries(stm: &Stm, store: &Client) -> StmError<Error> {
    let mut n = 100;
    let run = stm.run(async |tx| {
        let x = number(tx, "x").await?;
        n += 1;
        put_all(store, &[("x", n)]).await;
        tx.put("x", (x + 1).to_string());
        Ok::<_, Error>(())
    });
    run.await.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn attempts_end_at_attempts_max() {
    for attempts_max in 0..4 {
        let store = store_with(&[("x", 1)]).await;
        let retry = Retry { attempts_max: Some(attempts_max), ..Retry::default() };
        let stm = Stm::new(&separate_client(&store)).retry(retry);
        let exhausted = exhaust_retries(&stm, &store).await;
        assert_eq!(exhausted.outcome(), Outcome::NotApplied);
        let StmError::RetriesExhausted { attempts, conflicts, .. } = exhausted else {
            panic!("{exhausted}")
        };
        assert_eq!(attempts, attempts_max.max(1), "there is at least one attempt");
        let [last] = &conflicts[..] else { panic!("{conflicts:?}") };
        let now = store.get("x").await.unwrap().unwrap().mod_revision;
        assert_eq!((last.read, last.found), (Some(now.previous()), Some(now)));
        assert_eq!(
            stored_number(&store, "x").await,
            100 + i64::from(attempts),
            "nothing was written"
        );
    }
}

/// Regression: when the backoff ended after `time_max`, the attempt started nevertheless, half a
/// second too late by default.
#[tokio::test(start_paused = true)]
async fn no_attempt_starts_after_time_max() {
    for seed in 0..20 {
        let store = store_with(&[("x", 1)]).await;
        let (pause_min, pause_max) = (Duration::from_millis(80), Duration::from_millis(640));
        let time_max = Duration::from_millis(200);
        let seed = Some(seed);
        let retry = Retry { time_max, pause_min, pause_max, seed, ..Retry::default() };
        let stm = Stm::new(&separate_client(&store)).retry(retry);
        let (began, mut last) = (Instant::now(), Duration::ZERO);
        let mut n = 100;
        let run = stm.run(async |tx| {
            last = began.elapsed();
            let x = number(tx, "x").await?;
            n += 1;
            put_all(&store, &[("x", n)]).await;
            tx.put("x", x.to_string());
            Ok::<_, Error>(())
        });
        let exhausted = run.await.unwrap_err();
        // The clock of a paused runtime ticks in milliseconds.
        assert!(last <= time_max, "an attempt started after {last:?}");
        assert!(began.elapsed() <= time_max, "the call took {:?}", began.elapsed());
        let StmError::RetriesExhausted { attempts, conflicts, .. } = exhausted else {
            panic!("{exhausted}")
        };
        assert!(attempts > 1 && conflicts.len() == 1);
    }
}

/// Regression: additions to the clock and the doubling of the backoff overflowed.
#[tokio::test(start_paused = true)]
async fn maximum_durations_do_not_overflow() {
    let store = store_with(&[("x", 1)]).await;
    let (time_max, pause_max) = (Duration::MAX, Duration::MAX);
    let unlimited = Retry { time_max, pause_max, attempts_max: Some(80), ..Retry::default() };
    let kv = separate_client(&store);
    let long_pauses = Retry { pause_min: Duration::MAX / 2, ..unlimited.clone() };
    let no_pauses = Retry { pause_min: Duration::ZERO, ..unlimited };
    let exhausted = exhaust_retries(&Stm::new(&kv).retry(no_pauses), &store).await;
    assert!(matches!(exhausted, StmError::RetriesExhausted { attempts: 80, .. }), "{exhausted}");
    let exhausted = exhaust_retries(&Stm::new(&kv).retry(long_pauses), &store).await;
    assert!(matches!(exhausted, StmError::RetriesExhausted { attempts: 3, .. }), "{exhausted}");
}

#[tokio::test(start_paused = true)]
async fn backoff_grows_within_limits_and_repeats_with_its_seed() {
    let pauses_of = async |seed| {
        let store = store_with(&[("x", 1)]).await;
        let (pause_min, pause_max) = (Duration::from_millis(10), Duration::from_millis(80));
        let retry = Retry {
            attempts_max: Some(40),
            seed: Some(seed),
            pause_min,
            pause_max,
            ..Retry::default()
        };
        let stm = Stm::new(&separate_client(&store)).retry(retry);
        let mut starts = Vec::new();
        let run = stm.run(async |tx| {
            starts.push(Instant::now());
            number(tx, "x").await?;
            put_all(&store, &[("x", 2)]).await;
            tx.put("x", "3");
            Ok::<_, Error>(())
        });
        run.await.unwrap_err();
        starts.windows(2).map(|two| two[1] - two[0]).collect::<Vec<_>>()
    };
    let pauses = pauses_of(7).await;
    assert_eq!(pauses[0], Duration::ZERO, "the conflict queue is free");
    let ms = Duration::from_millis;
    for (i, pause) in pauses[1..].iter().enumerate() {
        // The clock of a paused runtime ticks in milliseconds.
        let limit = ms(10 << i.min(3)) + ms(1);
        assert!(*pause <= limit, "pause {i} was {pause:?}");
    }
    assert!(pauses.iter().any(|pause| *pause > ms(40)), "the pauses do not grow: {pauses:?}");
    assert!(
        pauses[5..].iter().any(|pause| *pause < ms(40)),
        "the pauses are not random: {pauses:?}"
    );
    assert_eq!(pauses, pauses_of(7).await, "equal seeds give equal pauses");
    assert_ne!(pauses, pauses_of(8).await, "other seeds give other pauses");
}

#[tokio::test(start_paused = true)]
async fn conflict_costs_one_request() {
    for level in &Isolation::ALL[..3] {
        let (store, record) = (store_with(&[("x", 1), ("y", 1)]).await, Recorder::new());
        let (interfere, stm) =
            (OneShot::new(), Stm::new(&intercepted(&store, record.clone())).isolation(*level));
        let run = stm.run(async |tx| {
            let x = number(tx, "x").await?;
            let y = number(tx, "y").await?;
            if interfere.take() {
                put_all(&store, &[("x", 2), ("y", 2)]).await;
            }
            tx.put("z", (x + y).to_string());
            tx.put("x", "0");
            Ok::<_, Error>(x + y)
        });
        let committed = run.await.unwrap();
        assert_eq!(committed.value, 4);
        let reads = match level {
            // z is a blind write, so it is read before the commit.
            Isolation::SerializableSnapshot => "range txn range",
            Isolation::Serializable => "range txn",
            _ => "range range",
        };
        assert_eq!(record.take().names(), format!("{reads} txn txn"), "at {level}");
    }
}

#[tokio::test(start_paused = true)]
async fn conflict_found_by_a_read_costs_no_request() {
    for level in STRONG_LEVELS {
        let (store, record) = (store_with(&[("x", 1), ("y", 1)]).await, Recorder::new());
        let (interfere, stm) =
            (OneShot::new(), Stm::new(&intercepted(&store, record.clone())).isolation(level));
        let run = stm.run(async |tx| {
            let x = number(tx, "x").await?;
            if interfere.take() {
                put_all(&store, &[("x", 2), ("y", 2)]).await;
            }
            let y = number(tx, "y").await?;
            assert_eq!(x, y, "x and y are always equal");
            tx.put("x", (x + 1).to_string());
            tx.put("y", (y + 1).to_string());
            Ok::<_, Error>(())
        });
        let info = run.await.unwrap().info;
        assert_eq!(info.attempts, 2);
        let keys: Vec<_> = info.conflicts.iter().map(|conflict| &conflict.key[..]).collect();
        assert_eq!(keys, [b"x", b"y"]);
        assert_eq!(record.take().names(), "range txn txn", "x; y, and both again; commit");
    }
}

#[tokio::test(start_paused = true)]
async fn commit_info_reports_revision_attempts_and_conflicts() {
    let (store, mut attempt) = (store_with(&[("x", 1)]).await, 0);
    let run = Stm::new(&separate_client(&store));
    let run = run.run(async |tx| {
        attempt += 1;
        let x = number(tx, "x").await?;
        tx.get("absent").await?;
        match attempt {
            1 => put_all(&store, &[("x", 2)]).await,
            2 => put_all(&store, &[("absent", 1)]).await,
            3 => drop(store.delete("x").await.unwrap()),
            _ => {}
        }
        tx.put("x", (x + 1).to_string());
        Ok::<_, Error>(x)
    });
    let committed = run.await.unwrap();
    assert_eq!((committed.value, committed.info.attempts), (0, 4));
    assert!(!committed.info.resolved);
    let now = store.get("x").await.unwrap().unwrap().mod_revision;
    assert_eq!(committed.info.revision, now);
    let parts = |conflict: &Conflict| {
        let Conflict { key, read, found, .. } = conflict;
        let number = |revision: &Option<Revision>| revision.map_or(0, i64::from);
        (key.escape_ascii().to_string(), number(read), number(found))
    };
    let first = 2;
    let conflicts: Vec<_> = committed.info.conflicts.iter().map(parts).collect();
    assert_eq!(
        conflicts,
        [
            ("x".to_owned(), first, first + 1),
            ("absent".to_owned(), 0, first + 2),
            ("x".to_owned(), first + 1, 0)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn commit_info_of_a_read_only_run_has_its_read_revision() {
    for level in Isolation::ALL {
        let (store, interfere) = (store_with(&[("x", 1)]).await, OneShot::new());
        let stm = Stm::new(&separate_client(&store)).isolation(level);
        let read = stm.run(async |tx| {
            let x = number(tx, "x").await?;
            if interfere.take() {
                put_all(&store, &[("x", 2)]).await;
            }
            Ok::<_, Error>(x)
        });
        let read = read.await.unwrap();
        assert_eq!((read.value, read.info.revision), (1, Revision(2)), "at {level}");
    }
}

#[tokio::test(start_paused = true)]
async fn aborted_transaction_sends_no_commit() {
    for level in Isolation::ALL {
        let (store, record) = (store_with(&[("x", 1)]).await, Recorder::new());
        let stm = Stm::new(&intercepted(&store, record.clone())).isolation(level);
        let run = stm.run(async |tx| {
            tx.put("x", "2");
            tx.delete("y");
            Err::<(), _>(Error::EmptyKey)
        });
        let error = run.await.unwrap_err();
        assert!(matches!(error, StmError::Aborted(Error::EmptyKey)), "{error}");
        assert_eq!((record.take().names(), stored_number(&store, "x").await), (String::new(), 1));
        let run = stm.run(async |tx| {
            number(tx, "x").await?;
            tx.put("x", "2");
            Err::<(), _>(Error::EmptyKey)
        });
        run.await.unwrap_err();
        assert_eq!(record.take().names(), "range", "at {level}: only the read was sent");
    }
}

/// x and y always change together, so the values that made the closure abort never existed
/// together.
#[tokio::test(start_paused = true)]
async fn abort_after_inconsistent_reads_is_retried() {
    let (store, interfere) = (store_with(&[("x", 1), ("y", 1)]).await, OneShot::new());
    let stm = Stm::new(&separate_client(&store)).isolation(Isolation::RepeatableReads);
    let run = stm.run(async |tx| {
        let x = number(tx, "x").await?;
        if interfere.take() {
            put_all(&store, &[("x", 2), ("y", 2)]).await;
        }
        if x != number(tx, "y").await? {
            return Err(Error::EmptyKey);
        }
        Ok(x)
    });
    let read = run.await.unwrap();
    assert_eq!((read.value, read.info.attempts), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn compacted_snapshot_is_replaced() {
    for level in STRONG_LEVELS {
        let (store, interfere) = (store_with(&[("x", 1), ("y", 1)]).await, OneShot::new());
        let stm = Stm::new(&separate_client(&store)).isolation(level);
        let run = stm.run(async |tx| {
            let x = number(tx, "x").await?;
            if interfere.take() {
                put_all(&store, &[("x", 2), ("y", 2)]).await;
                put_all(&store, &[("z", 1)]).await;
                store.compact(Compact::new(Revision(4))).await.unwrap();
            }
            // The attempt fails even if its closure ignores the error of a read.
            let y = number(tx, "y").await.unwrap_or(-1);
            tx.put("sum", (x + y).to_string());
            Ok::<_, Error>(x + y)
        });
        let run = run.await.unwrap();
        assert_eq!((run.value, run.info.attempts), (4, 2), "at {level}");
        assert_eq!(stored_number(&store, "sum").await, 4);
    }
}

#[tokio::test(start_paused = true)]
async fn future_revision_error_is_retried() {
    let future = || Error::FutureRevision { requested: None, current: None };
    let store = store_with(&[("x", 1), ("y", 1)]).await;
    // The second read fails on the stale member, and again as a linearizable read.
    let actions = vec![Action::Pass, Action::Fail(future()), Action::Fail(future())];
    let stm = Stm::new(&intercepted(&store, scripted(actions)));
    let run = stm.run(async |tx| Ok::<_, Error>((number(tx, "x").await?, number(tx, "y").await?)));
    let run = run.await.unwrap();
    assert_eq!((run.value, run.info.attempts), ((1, 1), 2));
}

fn unavailable(outcome: Outcome) -> Error {
    Error::Unavailable { outcome, reason: "injected".to_owned(), source: None }
}

#[tokio::test(start_paused = true)]
async fn unavailable_backend_is_retried() {
    let store = store_with(&[("x", 1)]).await;
    for (kind, outcome) in
        [("range", Outcome::Unknown), ("range", Outcome::NotApplied), ("txn", Outcome::NotApplied)]
    {
        let outage = nth(kind, 1, 3, Action::Fail(unavailable(outcome)));
        let stm = Stm::new(&intercepted(&store, outage));
        let run = stm.run(async |tx| {
            let x = number(tx, "x").await?;
            tx.put("x", (x + 1).to_string());
            Ok::<_, Error>(())
        });
        assert_eq!(run.await.unwrap().info.attempts, 4, "{kind}: {outcome:?}");
    }
    assert_eq!(stored_number(&store, "x").await, 4);
}

#[tokio::test(start_paused = true)]
async fn unavailable_backend_fails_when_the_budget_is_spent() {
    let store = store_with(&[("x", 1)]).await;
    let outage = only("range", Action::Fail(unavailable(Outcome::Unknown)));
    let stm = Stm::new(&intercepted(&store, outage))
        .retry(Retry { time_max: secs(3), ..Retry::default() });
    let (error, took) = timed(stm.run(async |tx| number(tx, "x").await)).await;
    let error = error.unwrap_err();
    assert!(matches!(error, StmError::Backend(Error::Unavailable { .. })), "{error}");
    assert_eq!(error.outcome(), Outcome::NotApplied, "nothing was written");
    assert!(took <= secs(3), "took {took:?}");
}

#[tokio::test(start_paused = true)]
async fn permanent_error_is_returned_without_a_retry() {
    let store = store_with(&[("x", 1)]).await;
    let stm = Stm::new(&separate_client(&store));
    let read = stm.run(async |tx| tx.get("").await);
    assert!(matches!(read.await.unwrap_err(), StmError::Backend(Error::EmptyKey)));
    let write = stm.run(async |tx| {
        tx.put("x", "2");
        tx.put("", "2");
        Ok::<_, Error>(())
    });
    assert!(matches!(write.await.unwrap_err(), StmError::Backend(Error::EmptyKey)));
    assert_eq!(stored_number(&store, "x").await, 1);
}

#[tokio::test(start_paused = true)]
async fn transaction_dropped_in_its_closure_writes_nothing() {
    let store = store_with(&[("x", 1)]).await;
    let stm = Stm::new(&separate_client(&store));
    let run = stm.run(async |tx| {
        tx.put("x", "2");
        sleep(secs(10)).await;
        Ok::<_, Error>(())
    });
    assert!(timeout(secs(5), run).await.is_err());
    sleep(secs(10)).await;
    assert_eq!(stored_number(&store, "x").await, 1);
}
