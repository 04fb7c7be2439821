//! Random histories: programs that are executed one after the other on a model of the store, with
//! reads that may be from another revision.
//!
//! ```text
//! program               revision   reads at     records
//! put a                     1
//! get a, put b (age 0)      2      1            reads a@1
//! get b, get a (age 2)             0            reads b absent, a absent
//! ```
//!
//! With age 0 everywhere the history is strictly serializable. The model also yields what the
//! oracle needs, apart from the history.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coord_core::kv::{KeyRange, Revision};
use coord_core::stm::Isolation;
use fastrand::Rng;

use crate::history::{
    Attempt, AttemptEnd, Event, EventKind, History, KeyRead, KeyWrite, RangeRead, StoreChange,
};

/// The names of the keys.
const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// One operation of a program; keys are indices.
#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    /// Reads a key as of `age` revisions ago; if negative, of later revisions.
    Get {
        key: usize,
        age: i64,
    },
    /// Reads the keys from the first to the last, both included.
    Range {
        first: usize,
        last: usize,
        age: i64,
    },
    Put {
        key: usize,
    },
    Delete {
        key: usize,
    },
}

/// A transaction to execute.
#[derive(Clone, Debug)]
pub(super) struct PlannedTransaction {
    pub(super) ops: Vec<Op>,
    /// How long before its execution it began, and how long after it ended. Two time units pass
    /// between two executions.
    pub(super) before: u64,
    pub(super) after: u64,
    pub(super) isolation: Isolation,
    /// Whether the transaction is not recorded, only its change. It has no reads.
    pub(super) is_other: bool,
}

/// A version: the revision, and whether the key exists.
pub(super) type ModelVersion = (i64, bool);

/// A transaction as the oracle sees it.
#[derive(Clone, Debug, Default)]
pub(super) struct Executed {
    pub(super) span: Option<(u64, u64)>,
    pub(super) isolation: Option<Isolation>,
    /// The keys read, with the revision; `None` if absent. The flag is set if only a range shows
    /// it.
    pub(super) reads: Vec<(usize, Option<i64>, bool)>,
    /// The revision that it wrote, and the keys, with whether they exist afterwards.
    pub(super) revision: i64,
    pub(super) writes: Vec<(usize, bool)>,
}

/// The result of an execution.
#[derive(Clone, Debug, Default)]
pub(super) struct Execution {
    pub(super) transactions: Vec<Executed>,
    pub(super) versions: Vec<Vec<ModelVersion>>,
    pub(super) history: History,
}

/// Executes programs in order. With `changes` the history has the changes of the store.
pub(super) fn execute(programs: &[PlannedTransaction], changes: bool) -> Execution {
    let mut versions: Vec<Vec<ModelVersion>> = vec![Vec::new(); KEYS.len()];
    let mut revision = 0;
    let mut executed = Vec::new();
    // The writes first: reads may be of later revisions.
    for program in programs {
        let mut writes = BTreeMap::new();
        for op in &program.ops {
            match *op {
                Op::Put { key } => writes.insert(key, true),
                Op::Delete { key } => writes.insert(key, false),
                _ => None,
            };
        }
        let exists = |key: usize| versions[key].last().is_some_and(|version| version.1);
        let effects: Vec<(usize, bool)> = writes
            .iter()
            .map(|(key, put)| (*key, *put))
            .filter(|(key, put)| *put || exists(*key))
            .collect();
        let before = revision;
        revision += i64::from(!effects.is_empty());
        for &(key, put) in &effects {
            versions[key].push((revision, put));
        }
        executed.push((before, effects));
    }
    let mut execution = Execution { versions, ..Execution::default() };
    let mut events = Vec::new();
    for (number, (program, (before, effects))) in programs.iter().zip(executed).enumerate() {
        let time = 100 + number as u64 * 2;
        let span = (time - program.before, time + program.after);
        let after = before + i64::from(!effects.is_empty());
        // The record of a commit has no deletion without effect.
        let writes = effects.iter().copied().collect();
        let attempt = attempt(&execution.versions, program, number, (before, revision), &writes);
        let transaction = executed_of(&execution.versions, program, &attempt, effects, after);
        if changes && !transaction.writes.is_empty() {
            events.push(change(&transaction, number, after));
        }
        if !program.is_other {
            let mut attempt = attempt;
            attempt.began = Duration::from_millis(span.0);
            attempt.end = AttemptEnd::Committed { revision: Revision(after) };
            events.push(Event {
                at: Duration::from_millis(span.1),
                process: Some(Arc::from(if number % 2 == 0 { "p" } else { "q" })),
                kind: EventKind::Attempt(Box::new(attempt)),
            });
        }
        let transaction = Executed {
            span: (!program.is_other).then_some(span),
            isolation: (!program.is_other).then_some(program.isolation),
            ..transaction
        };
        execution.transactions.push(transaction);
    }
    events.sort_by_key(|event| event.at);
    execution.history = History(events);
    execution
}

/// The version of a key at a revision, `None` if it is absent.
fn at(versions: &[ModelVersion], revision: i64) -> Option<i64> {
    let version = versions.iter().rev().find(|version| version.0 <= revision)?;
    version.1.then_some(version.0)
}

fn value(key: usize, revision: i64) -> String {
    format!("{}{revision}", KEYS[key])
}

/// The attempt with its reads and writes.
fn attempt(
    versions: &[Vec<ModelVersion>],
    program: &PlannedTransaction,
    number: usize,
    (before, last): (i64, i64),
    writes: &BTreeMap<usize, bool>,
) -> Attempt {
    // A transaction does not read its own revision.
    let own = |key: usize| writes.contains_key(&key).then_some(before + 1);
    let read = |key: usize, age: i64| {
        let found = at(&versions[key], (before - age).clamp(0, last));
        if found.is_some() && found == own(key) { at(&versions[key], before) } else { found }
    };
    let mut reads: BTreeMap<usize, Option<i64>> = BTreeMap::new();
    let mut ranges = Vec::new();
    for op in &program.ops {
        match *op {
            Op::Get { key, age } => {
                reads.entry(key).or_insert_with(|| read(key, age));
            }
            Op::Range { first, last: end, age } => {
                let keys = first.min(end)..=first.max(end);
                let found = keys
                    .clone()
                    .filter_map(|key| Some((KEYS[key].into(), Revision(read(key, age)?))));
                let after = format!("{}\0", KEYS[*keys.end()]);
                ranges.push(RangeRead {
                    range: KeyRange::between(KEYS[*keys.start()], after),
                    found: found.collect(),
                });
            }
            _ => {}
        }
    }
    let reads = reads.into_iter().map(|(key, found)| KeyRead {
        key: KEYS[key].into(),
        found: found.map(|revision| (Revision(revision), value(key, revision).into())),
    });
    let writes = writes.iter().map(|(key, put)| KeyWrite {
        key: KEYS[*key].into(),
        value: put.then(|| value(*key, before + 1).into()),
    });
    Attempt {
        transaction: number as u64 + 1,
        number: 1,
        isolation: program.isolation,
        began: Duration::ZERO,
        reads: reads.collect(),
        ranges,
        writes: writes.collect(),
        end: AttemptEnd::Failed,
    }
}

/// The transaction for the oracle.
fn executed_of(
    versions: &[Vec<ModelVersion>],
    program: &PlannedTransaction,
    attempt: &Attempt,
    effects: Vec<(usize, bool)>,
    revision: i64,
) -> Executed {
    let index = |name: &[u8]| KEYS.iter().position(|key| key.as_bytes() == name).expect("a key");
    let mut reads: Vec<(usize, Option<i64>, bool)> = Vec::new();
    for read in &attempt.reads {
        let found = read.found.as_ref().map(|(revision, _)| revision.0);
        reads.push((index(&read.key), found, false));
    }
    for range in &attempt.ranges {
        for key in (0..KEYS.len()).filter(|key| range.range.contains(KEYS[*key].as_bytes())) {
            let found = range.found.iter().find(|(name, _)| index(name) == key);
            let revision = found.map(|(_, revision)| revision.0);
            reads.push((key, revision, revision.is_none()));
        }
    }
    if program.is_other {
        reads.clear();
    }
    // A key that never existed constrains nothing.
    reads.retain(|(key, ..)| !versions[*key].is_empty());
    let revision = if effects.is_empty() { 0 } else { revision };
    Executed { reads, revision, writes: effects, ..Executed::default() }
}

fn change(transaction: &Executed, number: usize, revision: i64) -> Event {
    let writes = transaction.writes.iter().map(|(key, put)| KeyWrite {
        key: KEYS[*key].into(),
        value: put.then(|| value(*key, revision).into()),
    });
    let change = StoreChange { revision: Revision(revision), writes: writes.collect() };
    let at = Duration::from_millis(100 + number as u64 * 2);
    Event { at, process: None, kind: EventKind::Changed(change) }
}

/// Random programs, with many deletions. Reads are as of up to `age_max` revisions ago or later.
pub(super) fn programs(
    rng: &mut Rng,
    count: usize,
    age_max: i64,
    others: bool,
) -> Vec<PlannedTransaction> {
    let keys = rng.usize(1..=KEYS.len());
    let program = |rng: &mut Rng| {
        let is_other = others && rng.u8(..5) == 0;
        let mut age = || if rng.bool() { 0 } else { rng.i64(-age_max / 2..=age_max) };
        let ages = [age(), age(), age(), age()];
        let op = |rng: &mut Rng, age: i64| {
            let key = rng.usize(..keys);
            match rng.u8(..8) {
                _ if is_other => {
                    if rng.bool() {
                        Op::Put { key }
                    } else {
                        Op::Delete { key }
                    }
                }
                0..3 => Op::Get { key, age },
                3 => Op::Range { first: key, last: rng.usize(..keys), age },
                4..6 => Op::Put { key },
                _ => Op::Delete { key },
            }
        };
        let ops = ages.into_iter().take(rng.usize(1..=4)).map(|age| op(rng, age)).collect();
        let isolation = [
            Isolation::SerializableSnapshot,
            Isolation::Serializable,
            Isolation::RepeatableReads,
            Isolation::ReadCommitted,
        ];
        PlannedTransaction {
            ops,
            before: rng.u64(..6),
            after: rng.u64(..6),
            isolation: isolation[rng.usize(..4)],
            is_other,
        }
    };
    (0..count).map(|_| program(rng)).collect()
}
