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
struct Lists {
    began: u64,
    ended: u64,
    kind: &'static str,
    reads: Vec<(usize, Vec<i64>)>,
    appends: Vec<(usize, i64)>,
}

/// The execution as lists: each put appends the revision, each read returns the list up to a
/// version. Some outcomes are unknown.
fn lists(execution: &Execution, rng: &mut fastrand::Rng) -> Vec<Lists> {
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
        transactions.push(Lists {
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
fn last_read(execution: &Execution) -> Lists {
    let lists = execution.versions.iter();
    let lists = lists.map(|versions| versions.iter().map(|(revision, _)| *revision).collect());
    let (began, ended) = (u64::MAX - 1, u64::MAX);
    Lists { began, ended, kind: "ok", reads: (0..).zip(lists).collect(), appends: Vec::new() }
}

/// Changes a history in one place.
fn mutate(transactions: &mut [Lists], rng: &mut fastrand::Rng) {
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
fn text(transactions: &[Lists]) -> String {
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
