//! Records of attempts: what each attempt has read and written, and how it ended.

use std::collections::{BTreeMap, BTreeSet};

use coord_core::kv::{Delete, KeyRange, Op, Put, Revision, Txn, Watch};
use coord_core::layer::PrefixLayer;
use coord_core::recording::{Attempt, AttemptEnd, KeyRead, KeyWrite, RangeRead};
use coord_core::stm::{Isolation, Retry, StmError};
use coord_core::{Client, Error, Stm};
use coord_testkit::history::{EventKind, HistoryRecorder, StoreChange};
use coord_testkit::{Action, Call, StaleMember, poll_at_most};
use tokio::task::JoinSet;

use super::{OneShot, add_one, number, put_all, store_with, stored_number};
use crate::support::{POLLS_MAX, intercepted, nth, only, separate_client, session};

/// A recorder, and a client of `store` that records into it as the process `a`.
fn recorded(store: &Client) -> (HistoryRecorder, Client) {
    let recorder = HistoryRecorder::new();
    let client = separate_client(store).record_transactions(recorder.process("a"));
    (recorder, client)
}

/// The attempts recorded so far.
fn attempts(recorder: &HistoryRecorder) -> Vec<Attempt> {
    let attempt = |kind| match kind {
        EventKind::Attempt(attempt) => Some(*attempt),
        _ => None,
    };
    recorder.take().0.into_iter().filter_map(|event| attempt(event.kind)).collect()
}

/// The attempts recorded so far, in words.
fn words(recorder: &HistoryRecorder) -> Vec<String> {
    let short = |attempt: &Attempt| {
        attempt.to_string().replace("attempt ", "#").replace(" of transaction 1", "")
    };
    attempts(recorder).iter().map(short).collect()
}

fn put(key: &'static str, value: &'static str) -> KeyWrite {
    KeyWrite { key: key.into(), value: Some(value.into()) }
}

#[tokio::test(start_paused = true)]
async fn attempt_has_reads_ranges_and_writes_at_every_level() {
    for level in Isolation::ALL {
        // All at revision 2.
        let store = store_with(&[("p/a", 1), ("p/b", 2), ("q", 3), ("x", 4)]).await;
        let (recorder, client) = recorded(&store);
        let stm = Stm::new(&client).isolation(level).prefetch(["q", "x"]);
        let run = stm.run(async |tx| {
            tx.get("x").await?;
            tx.get("nothing").await?;
            tx.get("x").await?;
            tx.put("own", "1");
            tx.get("own").await?;
            tx.range(KeyRange::prefix("p/")).await?;
            tx.put("p/c", "3");
            tx.range(KeyRange::prefix("p/")).await?;
            tx.delete("p/a");
            tx.put("x", "5");
            tx.put("x", "6");
            Ok::<_, Error>(())
        });
        run.await.unwrap();
        let read = |key: &'static str, value: &'static str| KeyRead {
            key: key.into(),
            found: Some((Revision(2), value.into())),
        };
        let recorded = attempts(&recorder).pop().unwrap();
        let expected = Attempt {
            transaction: 1,
            number: 1,
            isolation: level,
            began: recorded.began,
            reads: vec![
                KeyRead { key: "nothing".into(), found: None },
                read("p/a", "1"),
                read("p/b", "2"),
                read("x", "4"),
            ],
            ranges: vec![RangeRead {
                range: KeyRange::prefix("p/"),
                found: vec![("p/a".into(), Revision(2)), ("p/b".into(), Revision(2))],
            }],
            writes: vec![
                put("own", "1"),
                KeyWrite { key: "p/a".into(), value: None },
                put("p/c", "3"),
                put("x", "6"),
            ],
            end: AttemptEnd::Committed { revision: Revision(3) },
        };
        assert_eq!(recorded, expected, "at {level}");
    }
}

#[tokio::test(start_paused = true)]
async fn read_only_attempt_is_committed_at_its_snapshot() {
    for level in Isolation::ALL {
        let store = store_with(&[("x", 1)]).await;
        let (recorder, client) = recorded(&store);
        let stm = Stm::new(&client).isolation(level);
        stm.run(async |tx| tx.get_many(["x", "y"]).await).await.unwrap();
        let attempt = attempts(&recorder).pop().unwrap();
        assert_eq!(attempt.reads.len(), 2, "at {level}");
        assert_eq!(attempt.end, AttemptEnd::Committed { revision: Revision(2) }, "at {level}");
    }
}

/// The second attempt starts with the keys in the response of the first commit, which were read
/// before it. So its record begins when the transaction began.
#[tokio::test(start_paused = true)]
async fn conflict_is_recorded_before_the_commit() {
    let (store, interfere) = (store_with(&[("n", 1)]).await, OneShot::new());
    let (recorder, client) = recorded(&store);
    let stm = Stm::new(&client);
    let run = stm.run(async |tx| {
        let n = number(tx, "n").await?;
        if interfere.take() {
            put_all(&store, &[("n", 5)]).await;
        }
        tx.put("n", (n + 1).to_string());
        Ok::<_, Error>(())
    });
    run.await.unwrap();
    let recorded = attempts(&recorder);
    assert!(recorded[1].began < recorded[0].began, "the transaction began before its attempts");
    let words: Vec<_> = recorded.iter().map(ToString::to_string).collect();
    assert_eq!(
        words,
        [
            "attempt 1 of transaction 1 reads n@2; puts n; conflict",
            "attempt 2 of transaction 1 reads n@3; puts n; committed at revision 4"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn aborted_attempt_is_recorded_with_its_writes() {
    for level in Isolation::ALL {
        let store = store_with(&[("x", 1), ("y", 2)]).await;
        let (recorder, client) = recorded(&store);
        let stm = Stm::new(&client).isolation(level);
        let run = stm.run(async |tx| {
            tx.get_many(["x", "y"]).await?;
            tx.put("z", "3");
            Err::<(), _>(Error::EmptyKey)
        });
        assert!(matches!(run.await, Err(StmError::Aborted(Error::EmptyKey))));
        assert_eq!(words(&recorder), ["#1 reads x@2, y@2; puts z; aborted"], "at {level}");
    }
}

#[tokio::test(start_paused = true)]
async fn attempt_that_fails_after_a_read_is_recorded() {
    let store = store_with(&[("x", 1), ("y", 2)]).await;
    // The second read fails, then the whole transaction, which is not retried.
    let failing = nth("txn", 1, 1, Action::Fail(Error::EmptyKey));
    let (recorder, client) = recorded(&intercepted(&store, failing));
    let retry = Retry { attempts_max: Some(1), ..Retry::default() };
    let stm = Stm::new(&client).retry(retry);
    let run = stm.run(async |tx| {
        tx.get("x").await?;
        tx.get("y").await
    });
    assert!(matches!(run.await, Err(StmError::Backend(Error::EmptyKey))));
    assert_eq!(words(&recorder), ["#1 reads x@2; failed"]);

    // Without a read the closure has seen nothing.
    let (recorder, client) =
        recorded(&intercepted(&store, only("range", Action::Fail(Error::EmptyKey))));
    let stm = Stm::new(&client);
    assert!(stm.run(async |tx| tx.get("x").await).await.is_err());
    assert_eq!(words(&recorder), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn attempt_whose_closure_panics_is_recorded_as_failed() {
    let store = store_with(&[("x", 1)]).await;
    let (recorder, client) = recorded(&store);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let stm = Stm::new(&client);
        let run = stm.run(async |tx| {
            let x = tx.get("x").await?;
            tx.put("x", "2");
            assert_eq!(x, None, "the closure panics");
            Ok::<_, Error>(())
        });
        run.await.map_err(|error| error.to_string())
    });
    assert!(tasks.join_next().await.unwrap().unwrap_err().is_panic());
    assert_eq!(words(&recorder), ["#1 reads x@2; puts x; failed"]);
}

/// The ground truth shows that the commit was applied: it has the value of the write, and with an
/// idempotency key also a value that no other commit puts.
#[tokio::test(start_paused = true)]
async fn commit_without_a_response_is_unknown_unless_resolved() {
    for (exactly_once, end) in
        [(false, AttemptEnd::Unknown), (true, AttemptEnd::Committed { revision: Revision(3) })]
    {
        let store = store_with(&[("n", 1)]).await;
        let session = session(&store).await;
        let faulty = intercepted(&store, nth("txn", 1, 1, Action::DropResponse));
        let (recorder, client) = recorded(&faulty);
        let mut changes = recorder.watch_changes(&store).await.unwrap();
        let stm = Stm::new(&client);
        let stm = if exactly_once { stm.exactly_once(&session) } else { stm };
        let run = stm.run(async |tx| {
            let n = number(tx, "n").await?;
            tx.put("n", (n + 1).to_string());
            Ok::<_, Error>(())
        });
        assert_eq!(run.await.is_ok(), exactly_once);
        changes.catch_up().await.unwrap();
        let events = recorder.take().0;
        let kinds = || events.iter().map(|event| &event.kind);
        let attempt = kinds().find_map(|kind| match kind {
            EventKind::Attempt(attempt) => Some(attempt),
            _ => None,
        });
        let change = kinds().find_map(|kind| match kind {
            EventKind::Changed(change) if change.revision == Revision(3) => Some(change),
            _ => None,
        });
        let (attempt, change) = (attempt.unwrap(), change.unwrap());
        assert_eq!(attempt.end, end);
        assert_eq!(attempt.writes, change.writes);
        assert_eq!(attempt.writes.len(), if exactly_once { 2 } else { 1 });
    }
}

#[tokio::test(start_paused = true)]
async fn attempt_dropped_at_any_await_is_recorded() {
    let mut ends = BTreeSet::new();
    for polls in 1..POLLS_MAX {
        let store = store_with(&[("n", 1)]).await;
        let (recorder, client) = recorded(&intercepted(&store, |_: &Call| Action::Yield));
        let done = poll_at_most(polls, add_one(client, "n")).await.is_some();
        let recorded = words(&recorder);
        let is_applied = stored_number(&store, "n").await == 2;
        let end = recorded.first().map_or("no record", |words| words.rsplit("; ").next().unwrap());
        ends.insert(end.to_owned());
        match end {
            "committed at revision 3" => assert!(done && is_applied),
            "outcome unknown" => assert!(!done),
            "failed" | "no record" => assert!(!done && !is_applied, "{end} after {polls} polls"),
            other => panic!("{other} after {polls} polls"),
        }
        if done {
            break;
        }
    }
    let expected = ["committed at revision 3", "failed", "no record", "outcome unknown"];
    assert_eq!(ends.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

/// An attempt that yields to a conflict queue does not count as made, but its closure has seen what
/// it has read.
#[tokio::test(start_paused = true)]
async fn attempt_that_yields_to_a_queue_is_recorded_as_failed() {
    let store = store_with(&[("n", 0)]).await;
    let (recorder, client) = recorded(&intercepted(&store, |_: &Call| Action::Yield));
    let mut tasks = JoinSet::new();
    for _ in 0..64 {
        tasks.spawn(add_one(client.clone(), "n"));
    }
    let made: u32 = tasks.join_all().await.iter().map(|r| r.as_ref().unwrap().info.attempts).sum();
    let recorded = attempts(&recorder);
    let count = |end: fn(&AttemptEnd) -> bool| recorded.iter().filter(|a| end(&a.end)).count();
    let yielded = count(|end| *end == AttemptEnd::Failed);
    assert_eq!(count(|end| matches!(end, AttemptEnd::Committed { .. })), 64);
    assert_eq!(recorded.len() - yielded, made as usize);
    assert!(yielded > 0, "no attempt has yielded after a read");
    // Each attempt has another number, and all reads are of versions that existed.
    let numbers: BTreeSet<_> = recorded.iter().map(|a| (a.transaction, a.number)).collect();
    assert_eq!(numbers.len(), recorded.len());
    for attempt in &recorded {
        let (revision, value) = attempt.reads[0].found.as_ref().expect("n exists");
        assert_eq!(value, &(revision.0 - 2).to_string(), "{attempt}");
    }
}

#[tokio::test(start_paused = true)]
async fn clients_of_one_recorder_share_a_clock() {
    let store = store_with(&[("n", 0)]).await;
    let recorder = HistoryRecorder::new();
    for name in ["a", "b", "a"] {
        let client = separate_client(&store);
        let stm = Stm::new(&client).record(recorder.process(name));
        let run = stm.run(async |tx| {
            let n = number(tx, "n").await?;
            tx.put("n", (n + 1).to_string());
            Ok::<_, Error>(())
        });
        run.await.unwrap();
    }
    recorder.note("done");
    let events = recorder.take().0;
    let names: Vec<_> = events.iter().map(|event| event.process.as_deref()).collect();
    assert_eq!(names, [Some("a"), Some("b"), Some("a"), None]);
    let mut ended = None;
    for (event, number) in events.iter().zip(1..=3) {
        let EventKind::Attempt(attempt) = &event.kind else { panic!("{event}") };
        assert_eq!(attempt.transaction, number);
        // No time has passed, and yet each transaction ends before the next one begins.
        assert!(ended < Some(attempt.began) && attempt.began < event.at, "{event}");
        ended = Some(event.at);
    }
    assert_eq!(recorder.take().0, []);
}

#[tokio::test(start_paused = true)]
async fn ignored_value_is_recorded_as_the_value_read() {
    let store = store_with(&[("x", 1), ("y", 2)]).await;
    let (recorder, client) = recorded(&store);
    let stm = Stm::new(&client);
    let run = stm.run(async |tx| {
        tx.get("x").await?;
        tx.put_with(Put::new("x", "").ignore_value());
        tx.put_with(Put::new("y", "").ignore_value());
        Ok::<_, Error>(())
    });
    run.await.unwrap();
    assert_eq!(attempts(&recorder)[0].writes, [put("x", "1"), put("y", "")]);
}

/// The changes recorded so far.
fn changes(recorder: &HistoryRecorder) -> Vec<StoreChange> {
    let change = |kind| match kind {
        EventKind::Changed(change) => Some(change),
        _ => None,
    };
    recorder.take().0.into_iter().filter_map(|event| change(event.kind)).collect()
}

#[tokio::test(start_paused = true)]
async fn changes_are_those_of_the_history_of_the_store() {
    let store = store_with(&[("a", 1), ("b", 2)]).await;
    put_all(&store, &[("b", 3)]).await;
    let recorder = HistoryRecorder::new();
    let mut recording = recorder.watch_changes(&separate_client(&store)).await.unwrap();
    // The keys that exist at the start, each at its mod revision.
    let expected = |revision, writes| StoreChange { revision: Revision(revision), writes };
    let existing = [expected(2, vec![put("a", "1")]), expected(3, vec![put("b", "3")])];
    assert_eq!(recording.catch_up().await.unwrap(), Revision(3));
    assert_eq!(changes(&recorder), existing);

    let random = &mut generator(7);
    for _ in 0..300 {
        let key = format!("k{}", random() % 8);
        match random() % 4 {
            0 => drop(store.delete(key).await.unwrap()),
            1 => drop(store.delete_prefix("k").await.unwrap()),
            2 => {
                let ops: [Op; 2] =
                    [Put::new("k9", random().to_string()).into(), Delete::new("k0").into()];
                store.txn(Txn::new().and_then(ops)).await.unwrap();
            }
            _ => drop(store.put(key, random().to_string()).await.unwrap()),
        }
        if random().is_multiple_of(16) {
            recording.catch_up().await.unwrap();
        }
    }
    let last = recording.catch_up().await.unwrap();
    let mut watch = store.watch(Watch::new(KeyRange::all()).start_at(Revision(4))).await.unwrap();
    let mut history = Vec::new();
    while history.last().is_none_or(|change: &StoreChange| change.revision < last) {
        let batch = watch.next().await.unwrap().unwrap();
        let mut writes = BTreeMap::new();
        for event in batch.events {
            let value = (event.kind == coord_core::kv::EventKind::Put).then_some(event.kv.value);
            writes.insert(event.kv.key, value);
        }
        let writes = writes.into_iter().map(|(key, value)| KeyWrite { key, value }).collect();
        history.push(StoreChange { revision: batch.revision, writes });
    }
    assert_eq!(changes(&recorder), history);
}

/// A generator of numbers, the same in each run.
fn generator(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    }
}

#[tokio::test(start_paused = true)]
async fn changes_of_a_namespace_are_caught_up_with() {
    let store = store_with(&[("outside", 1)]).await;
    let namespace = Client::new(PrefixLayer::new(store.clone(), "ns/"));
    let recorder = HistoryRecorder::new();
    let mut recording = recorder.watch_changes(&namespace).await.unwrap();
    namespace.put("x", "1").await.unwrap();
    // The namespace does not change in the newest revision.
    put_all(&store, &[("outside", 2)]).await;
    assert_eq!(recording.catch_up().await.unwrap(), Revision(4));
    let change = StoreChange { revision: Revision(3), writes: vec![put("x", "1")] };
    assert_eq!(changes(&recorder), [change]);
}

#[tokio::test(start_paused = true)]
async fn deletion_of_an_absent_key_is_no_write_of_a_commit() {
    let store = store_with(&[("x", 1)]).await;
    let (recorder, client) = recorded(&store);
    let stm = Stm::new(&client);
    let run = stm.run(async |tx| {
        tx.delete("nothing");
        tx.delete("x");
        Ok::<_, Error>(())
    });
    run.await.unwrap();
    assert_eq!(words(&recorder), ["#1; deletes x; committed at revision 3"]);
}

/// A read of the range at an older revision does not change what the closure sees of a key that it
/// has read before. The record had the older version, so the checker found read skew.
#[tokio::test(start_paused = true)]
async fn range_is_recorded_as_the_closure_sees_it() {
    for level in [Isolation::RepeatableReads, Isolation::ReadCommitted] {
        let store = store_with(&[("p/a", 1), ("p/b", 1)]).await;
        let old = store.get("p/a").await.unwrap().unwrap().mod_revision;
        let member = StaleMember::new(store.clone());
        let recorder = HistoryRecorder::new();
        let client = Client::new(member.clone()).record_transactions(recorder.process("a"));
        store.put("p/a", "2").await.unwrap();
        let run = Stm::new(&client).isolation(level);
        let run = run.run(async |tx| {
            let first = tx.get("p/a").await?;
            member.fall_behind(old);
            let again = tx.range(KeyRange::prefix("p/")).await?;
            Ok::<_, Error>((first, again[0].1.clone()))
        });
        let (first, again) = run.await.unwrap().value;
        assert_eq!(first.unwrap(), again, "at {level}");
        let recorded = attempts(&recorder).pop().unwrap();
        let newer = old.next();
        assert_eq!(recorded.ranges[0].found, [("p/a".into(), newer), ("p/b".into(), old)]);
    }
}
