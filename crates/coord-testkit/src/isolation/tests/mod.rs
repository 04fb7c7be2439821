//! Tests of the isolation checker: known anomalies, integrity, and random histories against the
//! definition of each level.

mod differential;
mod elle;
mod generator;
mod integrity;
mod lists;
mod mutants;
mod oracle;
mod windows;
mod witnesses;

use std::time::Duration;

use bytes::Bytes;
use coord_core::kv::{KeyRange, Revision};
use coord_core::stm::Isolation;

use super::{Checker, Engine, Level, Status, Values, Verdict};
use crate::history::{
    Attempt, AttemptEnd, Event, EventKind, History, KeyRead, KeyWrite, RangeRead, StoreChange,
};

/// A transaction of one attempt, written down by hand.
#[derive(Clone, Debug)]
struct Written {
    attempt: Attempt,
    ended: u64,
    process: Option<&'static str>,
}

/// Transaction `number`, from time 0 to 100.
fn transaction(number: u64) -> Written {
    Written {
        attempt: Attempt {
            transaction: number,
            number: 1,
            isolation: Isolation::default(),
            began: Duration::ZERO,
            reads: Vec::new(),
            ranges: Vec::new(),
            writes: Vec::new(),
            end: AttemptEnd::Committed { revision: Revision(0) },
        },
        ended: 100,
        process: None,
    }
}

impl Written {
    fn span(mut self, began: u64, ended: u64) -> Self {
        self.attempt.began = Duration::from_millis(began);
        self.ended = ended;
        self
    }

    fn process(mut self, process: &'static str) -> Self {
        self.process = Some(process);
        self
    }

    fn isolation(mut self, isolation: Isolation) -> Self {
        self.attempt.isolation = isolation;
        self
    }

    /// Reads the version of a key; 0 if it is absent.
    fn read(mut self, key: &'static str, revision: i64) -> Self {
        let value = Bytes::from(format!("{key}{revision}"));
        let found = (revision > 0).then_some((Revision(revision), value));
        self.attempt.reads.push(KeyRead { key: key.into(), found });
        self
    }

    /// Reads the keys with a prefix.
    fn range(mut self, prefix: &'static str, found: &[(&'static str, i64)]) -> Self {
        let found = found.iter().map(|(key, revision)| ((*key).into(), Revision(*revision)));
        self.attempt
            .ranges
            .push(RangeRead { range: KeyRange::prefix(prefix), found: found.collect() });
        self
    }

    /// Puts the value that [`read`](Self::read) expects at this revision.
    fn put(mut self, key: &'static str, revision: i64) -> Self {
        self.attempt.writes.push(put(key, revision));
        self
    }

    fn delete(mut self, key: &'static str) -> Self {
        self.attempt.writes.push(KeyWrite { key: key.into(), value: None });
        self
    }

    fn commit(mut self, revision: i64) -> Self {
        self.attempt.end = AttemptEnd::Committed { revision: Revision(revision) };
        self
    }

    fn end(mut self, end: AttemptEnd) -> Self {
        self.attempt.end = end;
        self
    }
}

impl From<Written> for Event {
    fn from(written: Written) -> Self {
        Self {
            at: Duration::from_millis(written.ended),
            process: written.process.map(Into::into),
            kind: EventKind::Attempt(Box::new(written.attempt)),
        }
    }
}

fn put(key: &'static str, revision: i64) -> KeyWrite {
    KeyWrite { key: key.into(), value: Some(format!("{key}{revision}").into()) }
}

/// A change of the store: puts of keys, or deletions of keys that start with `-`.
fn changed(revision: i64, keys: &[&'static str]) -> Event {
    let write = |key: &&'static str| match key.strip_prefix('-') {
        Some(key) => KeyWrite { key: key.into(), value: None },
        None => put(key, revision),
    };
    let writes = keys.iter().map(write).collect();
    let change = StoreChange { revision: Revision(revision), writes };
    Event { at: Duration::ZERO, process: None, kind: EventKind::Changed(change) }
}

/// The verdict about events, after a comparison of the two engines.
fn verdict_with(events: Vec<Event>, values: Values) -> Verdict {
    let check = |engine| {
        let mut checker = Checker::new().values(values).engine(engine);
        events.iter().for_each(|event| checker.push(event));
        checker.finish()
    };
    let (intervals, whole) = (check(Engine::Intervals), check(Engine::WholeGraph));
    assert_same_levels(&intervals, &whole, &History(events.clone()));
    for line in intervals.to_string().lines() {
        assert!(line.chars().count() <= 80, "over 80 columns: {line}");
    }
    intervals
}

fn verdict(events: impl IntoIterator<Item = Event>) -> Verdict {
    verdict_with(events.into_iter().collect(), Values::Any)
}

fn assert_same_levels(intervals: &Verdict, whole: &Verdict, history: &History) {
    let levels = |verdict: &Verdict| verdict.levels().collect::<Vec<_>>();
    assert_eq!(levels(intervals), levels(whole), "the engines differ on\n{history}");
    assert_eq!(intervals.declared(), whole.declared(), "the engines differ on\n{history}");
}

/// The weakest levels that are refuted, and the names of the anomalies.
fn summary(verdict: &Verdict) -> String {
    let refuted = verdict.levels().filter(|(_, status)| *status == Status::Not);
    let levels: Vec<_> = refuted.map(|(level, _)| level.to_string()).collect();
    let names = verdict.anomalies().iter().map(|anomaly| match anomaly.name {
        Some(name) => format!("{name} ({})", anomaly.elle_name()),
        None => anomaly.elle_name(),
    });
    format!("{}: {}", levels.join(", "), names.collect::<Vec<_>>().join("; "))
}

/// Asserts that nothing is refuted, and nothing unknown.
#[track_caller]
fn assert_all_hold(verdict: &Verdict) {
    for (level, status) in verdict.levels() {
        assert_eq!(status, Status::Holds, "{level}:\n{verdict}");
    }
    assert_eq!(verdict.declared(), Status::Holds, "{verdict}");
    assert!(verdict.anomalies().is_empty(), "{verdict}");
}

/// Whether a level is refuted.
fn is_refuted(verdict: &Verdict, level: Level) -> bool {
    verdict.status(level).is_refuted()
}
