//! Speed of the isolation checker: histories of transactions that read two keys and write one,
//! valid and with anomalies, beside the crate `adya` on the same history.
//!
//! `adya` is given the order of transactions, so both have the same information. Its history is
//! parsed outside of the measurement, and ours is in memory too.

#![expect(clippy::disallowed_types, reason = "the order of transactions in adya is a hash map")]

use std::collections::HashMap as TransactionOrder;
use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_core::kv::Revision;
use coord_core::stm::Isolation;
use coord_testkit::history::{
    Attempt, AttemptEnd, Event, EventKind, History, KeyRead, KeyWrite, StoreChange,
};
use coord_testkit::isolation::{Checker, Engine, Verdict};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// The keys of the store.
const KEYS: u64 = 1000;

/// The concurrent clients.
const CLIENTS: u64 = 10;

/// A transaction: two keys with the revisions read, and the key written.
type Row = ([(u64, u64); 2], u64);

/// Transactions that commit at revisions 1, 2, 3 and so on. If the number of a transaction is a
/// multiple of `stale`, its first read returns the version before the current one.
fn rows(count: u64, stale: Option<u64>) -> Vec<Row> {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut versions = vec![(0, 0); KEYS as usize];
    let row = |number: u64| {
        let (first, second, written) = (rng.u64(..KEYS), rng.u64(..KEYS), rng.u64(..KEYS));
        let (current, previous): (u64, u64) = versions[first as usize];
        let is_stale = stale.is_some_and(|every| number.is_multiple_of(every));
        let read = if is_stale { previous } else { current };
        let row = ([(first, read), (second, versions[second as usize].0)], written);
        versions[written as usize] = (number, versions[written as usize].0);
        row
    };
    (1..=count).map(row).collect()
}

/// The times at which transaction `number` begins and ends. Ten transactions overlap.
const fn span(number: u64) -> (u64, u64) {
    (number * 10, number * 10 + 10 * CLIENTS - 5)
}

fn history(rows: &[Row], with_changes: bool) -> History {
    let keys: Vec<Bytes> = (0..KEYS).map(|key| format!("key/{key:04}").into()).collect();
    let clients: Vec<Arc<str>> = (0..CLIENTS).map(|client| format!("c{client}").into()).collect();
    let mut events = Vec::new();
    for (number, (reads, written)) in (1..).zip(rows) {
        let read = |(key, revision): &(u64, u64)| KeyRead {
            key: keys[*key as usize].clone(),
            found: (*revision > 0)
                .then(|| (Revision(*revision as i64), Bytes::from(revision.to_string()))),
        };
        let key = keys[*written as usize].clone();
        let writes = vec![KeyWrite { key, value: Some(number.to_string().into()) }];
        let (began, ended) = span(number);
        let revision = Revision(number as i64);
        if with_changes {
            let change = StoreChange { revision, writes: writes.clone() };
            events.push(Event {
                at: Duration::from_micros(ended),
                process: None,
                kind: EventKind::Changed(change),
            });
        }
        let attempt = Attempt {
            transaction: number,
            number: 1,
            isolation: Isolation::default(),
            began: Duration::from_micros(began),
            reads: reads.iter().map(read).collect(),
            ranges: Vec::new(),
            writes,
            end: AttemptEnd::Committed { revision },
        };
        events.push(Event {
            at: Duration::from_micros(ended),
            process: Some(Arc::clone(&clients[(number % CLIENTS) as usize])),
            kind: EventKind::Attempt(Box::new(attempt)),
        });
    }
    History(events)
}

fn check(history: &History, engine: Engine) -> Verdict {
    let mut checker = Checker::new().engine(engine);
    history.0.iter().for_each(|event| checker.push(event));
    checker.finish()
}

/// The history for `adya`: an invocation and a completion of each transaction, by time.
fn exported(rows: &[Row]) -> (adya::History, TransactionOrder<u64, i64>) {
    let mut lines = Vec::new();
    for (number, (reads, written)) in (1..).zip(rows) {
        let read = |(key, revision): &(u64, u64)| match revision {
            0 => format!(r#"["r",{key},null]"#),
            _ => format!(r#"["r",{key},{revision}]"#),
        };
        let mut value: Vec<String> = reads.iter().map(read).collect();
        value.push(format!(r#"["w",{written},{number}]"#));
        let value = value.join(",");
        let process = number % CLIENTS;
        let line = |kind| format!(r#""type":"{kind}","process":{process},"value":[{value}]"#);
        let (began, ended) = span(number);
        lines.push((began, number, line("invoke"), false));
        lines.push((ended, number, line("ok"), true));
    }
    lines.sort_by_key(|(time, number, ..)| (*time, *number));
    let mut text = String::new();
    let mut order = TransactionOrder::new();
    for (index, (_, number, line, is_end)) in lines.into_iter().enumerate() {
        writeln!(text, r#"{{"index":{index},{line}}}"#).expect("a string can be written");
        if is_end {
            order.insert(index as u64, number as i64);
        }
    }
    (adya::History::from_json(&text).expect("the history is valid JSON"), order)
}

fn valid(c: &mut Criterion) {
    let mut group = c.benchmark_group("isolation, valid");
    group.sample_size(10);
    for count in [100_000, 1_000_000] {
        group.throughput(Throughput::Elements(count));
        let rows = rows(count, None);
        for (name, with_changes) in [("attempts only", false), ("with changes", true)] {
            let history = history(&rows, with_changes);
            group.bench_function(BenchmarkId::new(name, count), |b| {
                b.iter(|| black_box(check(&history, Engine::Intervals)));
            });
        }
        let history = history(&rows, false);
        group.bench_function(BenchmarkId::new("whole graph", count), |b| {
            b.iter(|| black_box(check(&history, Engine::WholeGraph)));
        });
    }
    group.finish();
}

fn refuted(c: &mut Criterion) {
    let mut group = c.benchmark_group("isolation, refuted");
    group.sample_size(10);
    let count = 100_000;
    group.throughput(Throughput::Elements(count));
    for (name, every) in
        [("one stale read", 99_999), ("every tenth transaction has a stale read", 10)]
    {
        let history = history(&rows(count, Some(every)), false);
        group.bench_function(BenchmarkId::new(name, count), |b| {
            b.iter(|| black_box(check(&history, Engine::Intervals)));
        });
    }
    group.finish();
}

fn beside_adya(c: &mut Criterion) {
    let mut group = c.benchmark_group("isolation, beside adya");
    group.sample_size(10);
    let count = 20_000;
    group.throughput(Throughput::Elements(count));
    let rows = rows(count, None);
    let history = history(&rows, false);
    group.bench_function(BenchmarkId::new("coord", count), |b| {
        b.iter(|| black_box(check(&history, Engine::Intervals)));
    });
    let (theirs, order) = exported(&rows);
    let options = adya::Opts { transaction_order: Some(order), ..adya::Opts::default() };
    group.bench_function(BenchmarkId::new("adya", count), |b| {
        b.iter(|| black_box(adya::check(&theirs, adya::Workload::RwRegister, &options)));
    });
    group.finish();
}

criterion_group!(benches, valid, refuted, beside_adya);
criterion_main!(benches);
