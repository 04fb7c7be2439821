//! List-append histories without revisions: the same verdicts as the crate `adya`, a port of Elle,
//! on valid histories and on changed ones.
//!
//! A changed history has one or two of these: an element twice, an aborted append that was read,
//! two elements swapped, an element dropped, an element of no transaction, a second append of one
//! transaction. Three differences are explained:
//!
//! - `adya` takes the longest list of a key for its order even if other reads contradict it. For us
//!   the order of such a key is unknown, and so are levels that nothing else refutes;
//! - `adya` accepts elements that no transaction appended. For us they are garbage reads;
//! - in `adya` the versions before and after an aborted element have no order. For us the committed
//!   versions keep the order in which they were read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use adya::{Opts, Valid, Workload};

use super::elle::{LEVELS, put_only};
use super::generator::Execution;
use crate::history::formats::elle;
use crate::isolation::{self, AnomalyKind, Level, Status, Verdict};

/// A transaction: its reads of lists, then its appends.
#[derive(Clone, Debug)]
struct GeneratedLists {
    began: u64,
    ended: u64,
    kind: &'static str,
    reads: Vec<(usize, Vec<i64>)>,
    appends: Vec<(usize, i64)>,
}

/// The execution as lists: each put appends the revision, each read returns the list up to a
/// version. Some outcomes are unknown.
fn lists(execution: &Execution, rng: &mut fastrand::Rng) -> Vec<GeneratedLists> {
    let list = |key: usize, last: i64| {
        let versions = execution.versions[key].iter().map(|(revision, _)| *revision);
        versions.filter(|revision| *revision <= last).collect::<Vec<_>>()
    };
    let mut transactions = Vec::new();
    for transaction in &execution.transactions {
        let Some((began, ended)) = transaction.span else { continue };
        let reads = transaction.reads.iter();
        let reads = reads.map(|(key, last, _)| (*key, list(*key, last.unwrap_or(0))));
        // A transaction with an unknown outcome has no response, so it has read nothing.
        let is_unknown = rng.u8(..20) == 0;
        transactions.push(GeneratedLists {
            began,
            ended,
            kind: if is_unknown { "info" } else { "ok" },
            reads: if is_unknown { Vec::new() } else { reads.collect() },
            appends: transaction
                .writes
                .iter()
                .map(|(key, _)| (*key, transaction.revision))
                .collect(),
        });
    }
    transactions
}

/// A read of all lists, after everything else.
fn last_read(execution: &Execution) -> GeneratedLists {
    let lists = execution.versions.iter();
    let lists = lists.map(|versions| versions.iter().map(|(revision, _)| *revision).collect());
    let (began, ended) = (u64::MAX - 1, u64::MAX);
    GeneratedLists {
        began,
        ended,
        kind: "ok",
        reads: (0..).zip(lists).collect(),
        appends: Vec::new(),
    }
}

/// Changes a history in one place.
fn mutate(transactions: &mut [GeneratedLists], rng: &mut fastrand::Rng) {
    let Some(transaction) = rng.choice(transactions) else { return };
    let next = rng.i64(1_000_000..2_000_000);
    let kind = rng.u8(..6);
    if kind == 0 && transaction.kind == "ok" && transaction.reads.is_empty() {
        transaction.kind = "fail";
        return;
    }
    if kind == 1 {
        // The appends of one key are adjacent in no list: a reader of the first is intermediate.
        transaction.appends.extend(transaction.appends.first().map(|(key, _)| (*key, next)));
        return;
    }
    let Some((_, list)) = rng.choice(&mut transaction.reads) else { return };
    if list.is_empty() {
        return;
    }
    let (place, other) = (rng.usize(..list.len()), rng.usize(..list.len()));
    match kind {
        0 | 2 => list.insert(place, list[other]),
        3 => list.swap(place, other),
        4 => drop(list.remove(place)),
        _ => list.insert(place, next),
    }
}

/// The history as a file, invocations first at equal times.
fn text(transactions: &[GeneratedLists]) -> String {
    let mut lines = BTreeMap::new();
    for (number, transaction) in transactions.iter().enumerate() {
        let reads = transaction.reads.iter().map(|(key, list)| format!(r#"["r",{key},{list:?}]"#));
        let appends = transaction.appends.iter();
        let appends = appends.map(|(key, element)| format!(r#"["append",{key},{element}]"#));
        let value = reads.chain(appends).collect::<Vec<_>>().join(",");
        let line = |kind| format!(r#""type":"{kind}","process":{number},"value":[{value}]"#);
        lines.insert((transaction.began, false, number), line("invoke"));
        lines.insert((transaction.ended, true, number), line(transaction.kind));
    }
    let mut text = String::new();
    for (index, line) in lines.into_values().enumerate() {
        writeln!(text, r#"{{"index":{index},{line}}}"#).expect("a string can be written");
    }
    text
}

fn verdict(text: &str) -> Verdict {
    isolation::check(&elle::read(text, &BTreeMap::new()).expect("the history is valid JSON"))
}

fn has(verdict: &Verdict, kind: AnomalyKind) -> bool {
    verdict.anomalies().iter().any(|anomaly| anomaly.kind == kind)
}

/// Whether `adya` finds nothing for a reason that is known.
fn is_explained(verdict: &Verdict, level: Level) -> bool {
    let is_committed_read = level != Level::ReadUncommitted;
    (is_committed_read && has(verdict, AnomalyKind::GarbageRead))
        || (has(verdict, AnomalyKind::G0) && has(verdict, AnomalyKind::G1a))
}

/// How often each anomaly was found, and how many levels were refuted, unknown, and differed for a
/// known reason.
#[derive(Debug, Default)]
struct Compared {
    kinds: BTreeMap<AnomalyKind, usize>,
    levels: usize,
    refuted: usize,
    unknown: usize,
    explained: usize,
}

/// Compares histories with `changes` changes each.
fn compare(changes: usize) -> Compared {
    let mut compared = Compared::default();
    for seed in 0..400 {
        let execution = put_only(seed, if seed.is_multiple_of(4) { 0 } else { 5 });
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut transactions = lists(&execution, &mut rng);
        if rng.u8(..4) > 0 {
            transactions.push(last_read(&execution));
        }
        (0..changes).for_each(|_| mutate(&mut transactions, &mut rng));
        let text = text(&transactions);
        let verdict = verdict(&text);
        for kind in verdict.anomalies().iter().map(|anomaly| anomaly.kind).collect::<BTreeSet<_>>()
        {
            *compared.kinds.entry(kind).or_default() += 1;
        }
        let theirs = adya::History::from_json(&text).expect("the history is valid JSON");
        for (level, name) in LEVELS {
            let options = Opts { models: vec![name.to_owned()], ..Opts::default() };
            let report = adya::check(&theirs, Workload::ListAppend, &options);
            compared.levels += 1;
            let status = verdict.status(level);
            compared.refuted += usize::from(status.is_refuted());
            match (status.is_refuted(), report.valid == Valid::False) {
                _ if status == Status::Unknown => compared.unknown += 1,
                (true, false) if is_explained(&verdict, level) => compared.explained += 1,
                (ours, theirs) => assert_eq!(
                    ours, theirs,
                    "seed {seed}, {level}: adya has {:?}\n{text}{verdict}",
                    report.anomaly_types
                ),
            }
        }
    }
    compared
}

#[test]
fn verdicts_of_valid_lists_equal_those_of_adya() {
    let compared = compare(0);
    assert!(compared.refuted * 5 > compared.levels, "{compared:?}");
    assert_eq!(compared.explained, 0, "{compared:?}");
}

#[test]
fn verdicts_of_changed_lists_equal_those_of_adya() {
    for changes in [1, 2] {
        let compared = compare(changes);
        for kind in [
            AnomalyKind::DuplicateElements,
            AnomalyKind::GarbageRead,
            AnomalyKind::G1a,
            AnomalyKind::IncompatibleOrder,
            AnomalyKind::G1b,
        ] {
            let count = compared.kinds.get(&kind).copied().unwrap_or(0);
            assert!(count >= 5, "{kind:?} in {count} histories: {compared:?}");
        }
        assert!(compared.explained > 0, "{compared:?}");
    }
}

/// If every key is read after all appends, the order of all appends is known.
#[test]
fn lists_that_are_read_at_the_end_are_decided() {
    for seed in 0..400 {
        let execution = put_only(seed, 5);
        let mut transactions = lists(&execution, &mut fastrand::Rng::with_seed(seed));
        transactions.push(last_read(&execution));
        let verdict = verdict(&text(&transactions));
        for (level, status) in verdict.levels() {
            assert_ne!(status, Status::Unknown, "seed {seed}, {level}:\n{verdict}");
        }
        assert_eq!(verdict.coverage().without_revision, 0, "seed {seed}:\n{verdict}");
    }
}

/// Concurrent transactions: for each `ok` or `fail`, and its micro-operations.
fn written(transactions: &[(&str, &str)]) -> Verdict {
    let all = || transactions.iter().enumerate();
    let invoked = |(process, _)| format!("{{:type :invoke, :process {process}, :value []}}\n");
    let completed = |(process, (kind, value)): (usize, &(&str, &str))| {
        format!("{{:type :{kind}, :process {process}, :value {value}}}\n")
    };
    verdict(&all().map(invoked).chain(all().map(completed)).collect::<String>())
}

#[test]
fn contradictions_of_lists_are_named() {
    let append = ("ok", "[[:append x 1] [:append x 2]]");
    let other = ("ok", "[[:append x 3]]");
    let read = |list| ("ok", list);
    let cases: [(&[_], &str, &str); 10] = [
        (
            &[append, other, read("[[:r x [1 2 3]]]"), read("[[:r x [1 2]] [:r y [7]]]")],
            "read committed: garbage read",
            "  T4: y\n",
        ),
        (
            &[append, ("fail", "[[:append x 3]]"), read("[[:r x [1 2 3]]]")],
            "read committed: aborted read (G1a)",
            "  T3: x, written by T2\n",
        ),
        (
            &[append, read("[[:r x [1]]]"), read("[[:r x [1 2]]]")],
            "read committed: intermediate read (G1b)",
            "  T2: x, written by T1\n",
        ),
        (
            &[append, other, read("[[:r x [1 2]]]"), read("[[:r x [3 1 2]]]")],
            "read committed: incompatible-order",
            "  T3: x, in another order than T4\n",
        ),
        (&[append, read("[[:r x [1 2 2]]]")], "read uncommitted: duplicate-elements", "  T2: x\n"),
        (
            &[
                ("ok", "[[:append x 1] [:append y 1]]"),
                ("ok", "[[:append x 2] [:append y 2]]"),
                read("[[:r x [1 2]] [:r y [2 1]]]"),
            ],
            "read uncommitted: G0",
            "  T1 -> T2  ww x: wrote it, then overwritten\n  T2 -> T1  ww y: ",
        ),
        // One transaction in two places.
        (&[append, other, read("[[:r x [1 3 2]]]")], "read uncommitted: G0", "  T1 -> T2  ww x"),
        (
            &[("ok", "[[:r x [1]] [:append x 1]]"), read("[[:r x [1]]]")],
            "read committed: future read (G1c)",
            "  T1: x\n",
        ),
        (
            &[
                append,
                ("ok", "[[:r x [1 2]] [:append x 3] [:r x [1 2]]]"),
                read("[[:r x [1 2 3]]]"),
            ],
            "snapshot isolation: internal",
            "  T2: x\n",
        ),
        // Each has read the empty list, and no read shows which append came first.
        (
            &[("ok", "[[:r x []] [:append x 1]]"), ("ok", "[[:r x nil] [:append x 2]]")],
            "repeatable read, snapshot isolation: lost update (G-single-item)",
            "  T1: x, appended to the list that T2 read\n",
        ),
    ];
    for (transactions, expected, participants) in cases {
        let verdict = written(transactions);
        assert_eq!(super::summary(&verdict), expected, "{transactions:?}\n{verdict}");
        assert!(verdict.to_string().contains(participants), "{verdict}");
        assert_eq!(verdict.declared(), Status::Not);
    }
}

#[test]
fn contradictions_of_registers_are_named() {
    let cases: [(&[_], &str); 8] = [
        (&[("ok", "[[:w x 1]]"), ("ok", "[[:r x 2]]")], "read committed: garbage read"),
        (&[("fail", "[[:w x 1]]"), ("ok", "[[:r x 1]]")], "read committed: aborted read (G1a)"),
        (
            &[("ok", "[[:w x 1] [:w x 2]]"), ("ok", "[[:r x 1]]")],
            "read committed: intermediate read (G1b)",
        ),
        (&[("ok", "[[:r x 1] [:w x 1]]")], "read committed: future read (G1c)"),
        (&[("ok", "[[:w x 1] [:r y 2]]"), ("ok", "[[:w y 2] [:r x 1]]")], "read committed: G1c"),
        // Regression: a reader behind the cycle ended the search for it.
        (
            &[("ok", "[[:r x 1]]"), ("ok", "[[:w x 1] [:r y 2]]"), ("ok", "[[:w y 2] [:r x 1]]")],
            "read committed: G1c",
        ),
        (&[("ok", "[[:w x 1] [:r x 2]]"), ("ok", "[[:w x 2]]")], "snapshot isolation: internal"),
        // Two transactions have put the value: any of them may be its writer.
        (&[("fail", "[[:w x 1]]"), ("ok", "[[:w x 1]]"), ("ok", "[[:r x 1]]")], ": "),
    ];
    for (transactions, expected) in cases {
        let verdict = written(transactions);
        assert_eq!(super::summary(&verdict), expected, "{transactions:?}\n{verdict}");
        // Without the order of versions nothing is known about interleaved writes.
        assert_eq!(verdict.status(Level::ReadUncommitted), Status::Unknown, "{verdict}");
    }
}

#[test]
fn element_of_a_transaction_in_progress_is_no_garbage() {
    for end in
        ["{:type :info, :process 0, :value nil}", "{:type :invoke, :process 0, :value []}", ""]
    {
        let text = format!(
            "{{:type :invoke, :process 0, :value [[:append x 1]]}} {end}
             {{:type :invoke, :process 1, :value [[:r x nil]]}}
             {{:type :ok, :process 1, :value [[:r x [1]]]}}"
        );
        let verdict = verdict(&text);
        assert_eq!(verdict.status(Level::StrictSerializable), Status::Holds, "{end}\n{verdict}");
        assert_eq!(verdict.coverage().inferred_versions, 1);
        assert!(verdict.to_string().ends_with("  1 version in an inferred order\n"), "{verdict}");
    }
}
