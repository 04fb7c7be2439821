//! Files of histories: coord's own format and those of other checkers.

mod elle;
mod json_lines;
mod others;

use std::time::Duration;

use coord_core::kv::{KeyRange, Revision};
use coord_core::recording::{Attempt, AttemptEnd, KeyRead, KeyWrite, RangeRead};
use coord_core::stm::Isolation;
use coord_testkit::history::{Event, EventKind, History};

/// A committed attempt of its own transaction, without reads and writes. Times are nanoseconds.
fn attempt(transaction: u64, began: u64) -> Attempt {
    Attempt {
        transaction,
        number: 1,
        isolation: Isolation::default(),
        began: Duration::from_nanos(began),
        reads: Vec::new(),
        ranges: Vec::new(),
        writes: Vec::new(),
        end: AttemptEnd::Committed { revision: Revision(9) },
    }
}

/// Adds a read of a value at a mod revision.
fn reading(mut attempt: Attempt, key: &'static str, revision: i64, value: &'static str) -> Attempt {
    let found = Some((Revision(revision), value.into()));
    attempt.reads.push(KeyRead { key: key.into(), found });
    attempt
}

/// Adds a read of a key that does not exist.
fn reading_absent(mut attempt: Attempt, key: &'static str) -> Attempt {
    attempt.reads.push(KeyRead { key: key.into(), found: None });
    attempt
}

/// Adds a put.
fn putting(mut attempt: Attempt, key: &'static str, value: &'static str) -> Attempt {
    attempt.writes.push(KeyWrite { key: key.into(), value: Some(value.into()) });
    attempt
}

/// Adds a deletion.
fn deleting(mut attempt: Attempt, key: &'static str) -> Attempt {
    attempt.writes.push(KeyWrite { key: key.into(), value: None });
    attempt
}

/// Adds a range without keys.
fn reading_range(mut attempt: Attempt, prefix: &'static str) -> Attempt {
    attempt.ranges.push(RangeRead { range: KeyRange::prefix(prefix), found: Vec::new() });
    attempt
}

/// Sets the end.
fn ending(mut attempt: Attempt, end: AttemptEnd) -> Attempt {
    attempt.end = end;
    attempt
}

/// A history of attempts, each with its process and the time of its end.
fn history(attempts: impl IntoIterator<Item = (&'static str, u64, Attempt)>) -> History {
    let event = |(process, at, attempt): (&str, u64, Attempt)| Event {
        at: Duration::from_nanos(at),
        process: Some(process.into()),
        kind: EventKind::Attempt(Box::new(attempt)),
    };
    History(attempts.into_iter().map(event).collect())
}

/// The lines of a file.
fn lines(write: impl FnOnce(&mut Vec<u8>)) -> Vec<String> {
    let mut file = Vec::new();
    write(&mut file);
    String::from_utf8(file).unwrap().lines().map(ToOwned::to_owned).collect()
}
