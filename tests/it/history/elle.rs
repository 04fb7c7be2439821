//! Elle's histories: written and read back, and read as other tools write them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use coord_core::kv::{Op, Revision};
use coord_core::recording::{Attempt, AttemptEnd, KeyRead};
use coord_core::stm::Isolation;
use coord_core::{Client, Error, Stm};
use coord_mem::MemBackend;
use coord_testkit::history::formats::elle::{self, Syntax, Workload};
use coord_testkit::history::{EventKind, History, HistoryRecorder};
use coord_testkit::{Action, Call};

use super::{
    attempt, deleting, ending, history, lines, putting, reading, reading_absent, reading_range,
};
use crate::support::{intercepted, separate_client};

const WORKLOADS: [Workload; 2] = [Workload::RwRegister, Workload::ListAppend];

fn written(history: &History, workload: Workload, syntax: Syntax) -> String {
    lines(|file| elle::write(history, workload, syntax, file).unwrap()).join("\n")
}

/// The attempts in the order of their times, without what Elle's format does not have: the level,
/// and the numbers of the transaction and of the attempt.
fn comparable(history: &History) -> Vec<(u128, u128, Attempt)> {
    let mut attempts: Vec<_> = history
        .0
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::Attempt(attempt) => {
                let mut attempt = Attempt::clone(attempt);
                (attempt.transaction, attempt.number) = (0, 1);
                attempt.isolation = Isolation::default();
                Some((attempt.began.as_nanos(), event.at.as_nanos(), attempt))
            }
            _ => None,
        })
        .collect();
    attempts.sort_by_key(|(began, ..)| *began);
    attempts
}

/// A recorded history whose values are lists. Every value is unique.
async fn recorded_lists(level: Isolation) -> History {
    let store = Client::new(MemBackend::new());
    let recorder = HistoryRecorder::new();
    let clients = ["a", "b"].map(|name| {
        // The last commit of each client has no response.
        let commits = AtomicUsize::new(0);
        let rule = move |call: &Call| match call {
            Call::Txn(txn) if txn.success.iter().any(|op| matches!(op, Op::Put(_))) => {
                let earlier = commits.fetch_add(1, Ordering::Relaxed);
                if earlier == 11 { Action::DropResponse } else { Action::Pass }
            }
            _ => Action::Pass,
        };
        intercepted(&store, rule).record_transactions(recorder.process(name))
    });
    for element in 0..24_u32 {
        let stm = Stm::new(&clients[element as usize % 2]).isolation(level);
        let key = ["x", "y", "z w"][element as usize % 3];
        let run = stm.run(async |tx| {
            tx.get("y").await?;
            let list = tx.get_as::<String>(key).await?.unwrap_or_default();
            tx.put(key, format!("{list} {element}").trim());
            Ok::<_, Error>(())
        });
        // The outcome of some transactions is unknown.
        drop(run.await);
    }
    let reader = separate_client(&store).record_transactions(recorder.process("c"));
    let stm = Stm::new(&reader);
    stm.run(async |tx| tx.get_many(["x", "y", "z w", "nothing"]).await).await.unwrap();
    recorder.take()
}

#[tokio::test(start_paused = true)]
async fn recorded_history_is_read_back_with_its_revisions() {
    for level in [Isolation::SerializableSnapshot, Isolation::ReadCommitted] {
        let recorded = recorded_lists(level).await;
        for (workload, syntax) in WORKLOADS.into_iter().zip([Syntax::Json, Syntax::Edn]) {
            let text = written(&recorded, workload, syntax);
            let order = elle::transaction_order(&recorded).unwrap();
            let read = elle::read(&text, &order).unwrap();
            let (recorded, read) = (comparable(&recorded), comparable(&read));
            assert_eq!(recorded.len(), read.len());
            for ((.., recorded), (.., read)) in recorded.iter().zip(&read) {
                assert_same_transaction(recorded, read);
            }
            let unknown =
                |(.., attempt): &&(u128, u128, Attempt)| attempt.end == AttemptEnd::Unknown;
            assert_eq!(read.iter().filter(unknown).count(), 2);
        }
    }
}

/// Asserts that a transaction was read as it was recorded, except for what the format lacks: the
/// reads of a transaction with an unknown outcome, the revision of what it has put, and the
/// snapshot revision of a transaction without writes.
fn assert_same_transaction(recorded: &Attempt, read: &Attempt) {
    assert_eq!(recorded.writes, read.writes);
    if recorded.end == AttemptEnd::Unknown || !recorded.writes.is_empty() {
        assert_eq!(recorded.end, read.end);
    }
    if recorded.end == AttemptEnd::Unknown {
        return;
    }
    let value = |read: &KeyRead| read.found.as_ref().map(|(_, value)| value.clone());
    let revision = |read: &KeyRead| read.found.as_ref().map_or(0, |(revision, _)| revision.0);
    assert_eq!(recorded.reads.len(), read.reads.len());
    for (recorded, read) in recorded.reads.iter().zip(&read.reads) {
        assert_eq!(value(recorded), value(read));
        assert!([0, revision(recorded)].contains(&revision(read)));
    }
}

#[test]
fn transactions_are_written_as_other_tools_read_them() {
    let recorded = history([
        // The idempotency key is left out.
        (
            "a",
            5,
            putting(putting(reading_absent(attempt(1, 2), "x"), "coord/stm/7-1", "1"), "x", "1"),
        ),
        (
            "b",
            6,
            ending(putting(reading(attempt(2, 3), "x", 9, "1"), "x", "1 two"), AttemptEnd::Unknown),
        ),
        ("a", 9, ending(reading(attempt(3, 7), "x", 9, "1"), AttemptEnd::Aborted)),
    ]);
    assert_eq!(
        written(&recorded, Workload::RwRegister, Syntax::Json),
        [
            r#"{"index":0,"type":"invoke","f":"txn","process":0,"time":2,"value":[["r","x",null],["w","x",1]]}"#,
            r#"{"index":1,"type":"invoke","f":"txn","process":1,"time":3,"value":[["r","x",null],["w","x","1 two"]]}"#,
            r#"{"index":2,"type":"ok","f":"txn","process":0,"time":5,"value":[["r","x",null],["w","x",1]]}"#,
            r#"{"index":3,"type":"info","f":"txn","process":1,"time":6,"value":[["r","x",null],["w","x","1 two"]]}"#,
            r#"{"index":4,"type":"invoke","f":"txn","process":0,"time":7,"value":[["r","x",null]]}"#,
            r#"{"index":5,"type":"fail","f":"txn","process":0,"time":9,"value":[["r","x",null]]}"#,
        ]
        .join("\n")
    );
    assert_eq!(elle::transaction_order(&recorded).unwrap(), BTreeMap::from([(2, 9)]));
    let edn = written(&recorded, Workload::ListAppend, Syntax::Edn);
    assert_eq!(
        edn.lines().skip(2).take(2).collect::<Vec<_>>(),
        [
            "{:index 2, :type :ok, :f :txn, :process 0, :time 5, :value [[:r \"x\" []] [:append \"x\" 1]]}",
            "{:index 3, :type :info, :f :txn, :process 1, :time 6, :value [[:r \"x\" nil] [:append \"x\" \"two\"]]}",
        ]
    );
}

/// Elle expects one operation at a time from each of its processes, so a process of coord whose
/// transactions overlap is written as several.
#[test]
fn overlapping_transactions_of_a_process_are_separated() {
    let unknown = |attempt| ending(attempt, AttemptEnd::Unknown);
    let recorded = history([
        ("a", 4, attempt(1, 1)),
        ("a", 5, attempt(2, 2)),
        ("a", 7, unknown(attempt(3, 6))),
        ("a", 9, attempt(4, 8)),
        ("a", 11, attempt(5, 10)),
        ("b", 11, attempt(6, 11)),
        ("b", 11, attempt(7, 11)),
    ]);
    let text = written(&recorded, Workload::RwRegister, Syntax::Edn);
    let invoked = text.lines().filter(|line| line.contains(":invoke"));
    let number = |line: &str| line.split_once(":process ").unwrap().1.chars().next().unwrap();
    let numbers: String = invoked.map(number).collect();
    // Transaction 3 has Elle's process 0, which is not used again.
    assert_eq!(numbers, "0101123");
    // At one instant, invocations come first: the transactions are concurrent.
    let kinds: Vec<_> = text.lines().rev().take(5).map(|line| line.contains(":invoke")).collect();
    assert_eq!(kinds, [false, false, false, true, true]);
}

#[test]
fn only_the_last_attempt_of_a_transaction_is_written() {
    let mut second = putting(attempt(1, 1), "x", "1");
    second.number = 2;
    let first = ending(putting(attempt(1, 1), "x", "1"), AttemptEnd::Conflict);
    let text =
        written(&history([("a", 2, first), ("a", 4, second)]), Workload::RwRegister, Syntax::Edn);
    assert_eq!(text.lines().count(), 2);
    assert!(text.contains(":type :ok"), "{text}");
}

#[test]
fn event_that_the_format_cannot_express_is_named() {
    let register = Workload::RwRegister;
    let cases = [
        (register, deleting(attempt(2, 3), "x"), "it deletes x"),
        (register, reading_range(attempt(2, 3), "p/"), "it reads the range [\"p/\", \"p0\")"),
        (register, putting(attempt(2, 3), "x", "1"), "it puts x to 1, as another transaction does"),
        (
            Workload::ListAppend,
            putting(attempt(2, 3), "x", "2"),
            "it puts x without appending to it",
        ),
        (
            Workload::ListAppend,
            putting(reading(attempt(2, 3), "x", 9, "1"), "x", "2 1"),
            "it puts x without appending to it",
        ),
    ];
    for (workload, attempt, reason) in cases {
        let first = putting(reading_absent(super::attempt(1, 1), "x"), "x", "1");
        let recorded = history([("a", 2, first), ("a", 4, attempt)]);
        let error = elle::write(&recorded, workload, Syntax::Json, Vec::new()).unwrap_err();
        let message = error.to_string();
        assert!(message.ends_with(&format!(" cannot express event 1: {reason}")), "{message}");
    }
}

fn words(text: &str, order: &[(u64, i64)]) -> Vec<String> {
    let read = elle::read(text, &order.iter().copied().collect()).unwrap();
    let words = |kind: &EventKind| kind.to_string().replace("tx attempt 1 of transaction ", "");
    read.0.iter().map(|event| words(&event.kind)).collect()
}

/// The examples of elle-cli's README, with a nemesis and an operation in progress.
#[test]
fn histories_of_other_tools_are_read() {
    let registers = "
        {:type :invoke, :f :txn :value [[:w :x 2]],   :process 0, :index 1}
        {:type :ok,     :f :txn :value [[:w :x 2]],   :process 0, :index 2}
        {:type :info, :f :start, :process :nemesis, :index 3}
        #jepsen.history.Op{:type :invoke, :f :txn :value [[:r :x nil] [:w :x 4]],
                           :process 0, :index 4}
        {:type :ok,     :f :txn :value [[:r :x 3] [:w :x 4]],   :process 0, :index 5}
        {:type :invoke, :f :txn :value [[:w :y 1] [:r :y nil]], :process 1, :index 6}";
    let expected = [
        "1; puts x; committed at revision 5",
        "2 reads x@0; puts x; committed at revision 0",
        "3; puts y; outcome unknown",
    ];
    assert_eq!(words(registers, &[(2, 5)]), expected);
    // Revisions are positive: if a position is below 1, they are the ranks of the positions.
    assert_eq!(words(registers, &[(2, 0)])[0], "1; puts x; committed at revision 1");
    // Positions as far apart as they can be: a shift of them would overflow.
    for (position, revision) in [(i64::MIN, 1), (0, 2), (i64::MAX, 3)] {
        let order = [(90, i64::MIN), (91, 0), (92, i64::MAX), (2, position)];
        let expected = format!("1; puts x; committed at revision {revision}");
        assert_eq!(words(registers, &order)[0], expected);
    }

    let lists = r#"[
        {"index":0,"type":"invoke","process":0,"value":[["append","x",1]]},
        {"index":1,"type":"ok","process":0,"value":[["append","x",1],["r","x",[1]]]},
        {"index":2,"type":"invoke","process":0,"value":[["r","x",null],["append","x",2],["append","x",3]]},
        {"index":3,"type":"ok","process":0,"value":[["r","x",[1]],["append","x",2],["append","x",3]]},
        {"index":4,"type":"invoke","process":0,"value":[["append","x",4],["append","y",9]]},
        {"index":5,"type":"fail","process":0,"value":[["append","x",4],["append","y",9]]},
        {"index":6,"type":"invoke","process":0,"value":[["r","x",null],["r","z",null]]},
        {"index":7,"type":"ok","process":0,"value":[["r","x",[1,2,3]],["r","z",[]]]}
    ]"#;
    let read = elle::read(lists, &BTreeMap::from([(1, 5), (3, 6)])).unwrap();
    let attempts = comparable(&read);
    let value = |attempt: &Attempt, i: usize| attempt.writes[i].value.clone().unwrap();
    let committed = |revision| AttemptEnd::Committed { revision: Revision(revision) };
    let (first, second) = (&attempts[0].2, &attempts[1].2);
    assert_eq!((value(first, 0), first.end, first.reads.len()), ("1".into(), committed(5), 0));
    assert_eq!((value(second, 0), second.end), ("1 2 3".into(), committed(6)));
    assert_eq!(second.reads[0].found, Some((Revision(5), "1".into())));
    // No read has seen the elements of the aborted transaction.
    let aborted = &attempts[2].2;
    assert_eq!((value(aborted, 0), value(aborted, 1)), ("4".into(), "9".into()));
    let last = &attempts[3].2;
    assert_eq!(last.reads[0].found, Some((Revision(6), "1 2 3".into())));
    assert_eq!(last.reads[1].found, None);
}

#[test]
fn invalid_history_is_refused() {
    let cases = [
        ("{\"type\":\"begin\"}", "line 1: invalid type \"begin\": must be "),
        ("{:type :info}\n{:type :ok :value [[:r 1]]}", "line 2: [\"r\",1] is no micro-operation"),
        ("{:type :ok :value [[:cas 1 2]]}", "line 1: invalid micro-operation \"cas\": must be "),
        ("{:type :ok :value [[:r [] 2]]}", "line 1: [] is no key"),
        ("{\"type\":\"info\"}\n{\"type\"", "line 2: EOF while parsing"),
        ("{\"type\":\"ok\",\"value\":null}", "line 1: a transaction of type \"ok\" needs a value"),
        ("{:type :ok :value 7}", "line 1: the value 7 is no list of micro-operations"),
    ];
    for (text, message) in cases {
        let error = elle::read(text, &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error} is not {message}");
    }
}
