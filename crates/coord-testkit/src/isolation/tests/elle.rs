//! The same verdicts as the crate `adya`, a port of Elle, on histories without deletions.
//!
//! Each transaction becomes a transaction on registers with unique values, and the revisions become
//! the order of transactions. No verdict differs in these histories, because what could differ is
//! kept out of them:
//!
//! - `adya` knows no deletions, no ranges and no levels of coord;
//! - it links all transactions of a process, ours only those that do not overlap: here each
//!   transaction has a process of its own;
//! - it takes real time from the order of events: at equal times the invocations come first, so
//!   that the transactions are concurrent, as they are for us.

#![expect(clippy::disallowed_types, reason = "the order of transactions in adya is a hash map")]

use std::collections::{BTreeMap, HashMap as TransactionOrder};
use std::fmt::Write;

use adya::{Opts, Valid, Workload};

use super::generator::{Executed, Execution, Op, execute, programs};
use crate::isolation::{Checker, Level, Values};

/// The levels that both checkers have, with the name in `adya`.
pub(super) const LEVELS: [(Level, &str); 6] = [
    (Level::ReadUncommitted, "read-uncommitted"),
    (Level::ReadCommitted, "read-committed"),
    (Level::RepeatableRead, "repeatable-read"),
    (Level::SnapshotIsolation, "snapshot-isolation"),
    (Level::Serializable, "serializable"),
    (Level::StrictSerializable, "strict-serializable"),
];

/// The history as `adya` reads it, and the order of its transactions.
fn exported(execution: &Execution) -> (adya::History, TransactionOrder<u64, i64>) {
    // At equal times the invocations come first.
    let mut lines: BTreeMap<(u64, bool, usize), String> = BTreeMap::new();
    for (number, transaction) in execution.transactions.iter().enumerate() {
        let Some((began, ended)) = transaction.span else { continue };
        let value = operations(transaction);
        let line = |kind| format!(r#""type":"{kind}","process":{number},"value":[{value}]"#);
        lines.insert((began, false, number), line("invoke"));
        lines.insert((ended, true, number), line("ok"));
    }
    let mut text = String::new();
    let mut order = TransactionOrder::new();
    for (index, ((_, is_end, number), line)) in lines.into_iter().enumerate() {
        writeln!(text, r#"{{"index":{index},{line}}}"#).expect("a string can be written");
        let revision = execution.transactions[number].revision;
        if is_end && revision > 0 {
            order.insert(index as u64, revision);
        }
    }
    (adya::History::from_json(&text).expect("the history is valid JSON"), order)
}

fn operations(transaction: &Executed) -> String {
    let mut operations: Vec<String> = Vec::new();
    for (key, revision, _) in &transaction.reads {
        let value = revision.map_or_else(|| "null".to_owned(), |revision| revision.to_string());
        operations.push(format!(r#"["r",{key},{value}]"#));
    }
    for (key, _) in &transaction.writes {
        operations.push(format!(r#"["w",{key},{}]"#, transaction.revision));
    }
    operations.join(",")
}

/// Random programs of single keys without deletions. Each transaction reads a key at most once.
pub(super) fn put_only(seed: u64, age_max: i64) -> Execution {
    let mut rng = fastrand::Rng::with_seed(seed);
    let count = rng.usize(3..25);
    let mut programs = programs(&mut rng, count, age_max, false);
    for op in programs.iter_mut().flat_map(|program| &mut program.ops) {
        *op = match *op {
            Op::Range { first: key, age, .. } => Op::Get { key, age },
            Op::Delete { key } => Op::Put { key },
            other => other,
        };
    }
    execute(&programs, seed.is_multiple_of(2))
}

#[test]
fn verdicts_equal_those_of_adya() {
    let mut refuted = BTreeMap::new();
    let mut unexplained = Vec::new();
    for seed in 0..400 {
        let execution = put_only(seed, if seed.is_multiple_of(4) { 0 } else { 5 });
        let mut checker = Checker::new().values(Values::Unique);
        execution.history.0.iter().for_each(|event| checker.push(event));
        let verdict = checker.finish();
        let (history, order) = exported(&execution);
        for (level, name) in LEVELS {
            let options = Opts {
                models: vec![name.to_owned()],
                transaction_order: Some(order.clone()),
                ..Opts::default()
            };
            let report = adya::check(&history, Workload::RwRegister, &options);
            let theirs = report.valid == Valid::False;
            let ours = verdict.status(level).is_refuted();
            *refuted.entry(name).or_insert(0) += usize::from(ours);
            if theirs != ours {
                unexplained.push(format!(
                    "seed {seed}, {level}: ours {ours}, adya {theirs} by {:?}\n{}{verdict}",
                    report.anomaly_types, execution.history
                ));
            }
        }
    }
    let differences = unexplained.len();
    assert!(
        unexplained.is_empty(),
        "{differences} differences\n{}",
        unexplained[..3.min(differences)].join("\n")
    );
    // Valid and refuted histories are both compared.
    assert!(refuted["serializable"] > 100 && refuted["serializable"] < 350, "{refuted:?}");
    assert!(refuted["read-committed"] > 0, "{refuted:?}");
}
