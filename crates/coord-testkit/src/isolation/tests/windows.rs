//! Checks with a window: the verdict is that of a check of the whole history, or unknown.

use std::time::Duration;

use coord_core::kv::Revision;

use super::generator::{execute, programs};
use super::{changed, transaction};
use crate::history::{AttemptEnd, Event, EventKind, History};
use crate::isolation::{Checker, Status, Values, Verdict};

fn checked(history: &History, values: Values, window: Option<usize>) -> Verdict {
    let mut checker = Checker::new().values(values);
    if let Some(window) = window {
        checker = checker.window(window);
    }
    history.0.iter().for_each(|event| checker.push(event));
    checker.finish()
}

/// Changes a history: values, revisions, outcomes and the order of events.
fn mutate(history: &mut History, rng: &mut fastrand::Rng) {
    let events = history.0.len();
    for _ in 0..rng.usize(0..4) {
        let other = rng.usize(..events);
        let transaction = match &history.0[other].kind {
            EventKind::Attempt(attempt) => Some((**attempt).clone()),
            _ => None,
        };
        let event = &mut history.0[rng.usize(..events)];
        match (&mut event.kind, rng.u8(..10)) {
            (EventKind::Attempt(attempt), 0..3) => attempt.end = AttemptEnd::Unknown,
            (EventKind::Attempt(attempt), 3) => attempt.end = AttemptEnd::Conflict,
            (EventKind::Attempt(attempt), 4) => {
                if let Some(other) = transaction {
                    attempt.writes = other.writes;
                }
            }
            (EventKind::Attempt(attempt), 5) => {
                if let AttemptEnd::Committed { revision } = &mut attempt.end {
                    revision.0 += rng.i64(0..2);
                }
            }
            (EventKind::Attempt(attempt), 6) => {
                if let Some(other) = transaction {
                    attempt.transaction = other.transaction;
                }
            }
            (EventKind::Attempt(attempt), 7) => {
                for read in &mut attempt.reads {
                    if let Some((revision, _)) = &mut read.found {
                        *revision = Revision(rng.i64(1..=revision.0));
                    }
                }
            }
            (EventKind::Changed(change), 0) => change.writes.clear(),
            // An event that comes late.
            (_, 8) => event.at += Duration::from_millis(rng.u64(..40)),
            (EventKind::Attempt(attempt), _) => {
                attempt.began = attempt.began.saturating_sub(Duration::from_millis(rng.u64(..40)));
            }
            _ => {}
        }
    }
    history.0.sort_by_key(|event| event.at);
}

/// How many levels a verdict with a window decides, or how it contradicts the whole history.
fn decided(whole: &Verdict, part: &Verdict) -> Result<usize, String> {
    let kind = |status: Status| if status.is_refuted() { Status::Not } else { status };
    let whole_levels = whole.levels().map(|(level, status)| (Some(level), status));
    let part_levels = part.levels().map(|(level, status)| (Some(level), status));
    let mut decided = 0;
    for ((level, expected), (_, status)) in whole_levels
        .chain([(None, whole.declared())])
        .zip(part_levels.chain([(None, part.declared())]))
    {
        let is_unknown = status == Status::Unknown;
        decided += usize::from(!is_unknown);
        let is_explained = part.coverage().beyond_window > 0 || expected == Status::Unknown;
        if (is_unknown && !is_explained) || (!is_unknown && kind(status) != kind(expected)) {
            return Err(format!("{level:?} is {status:?}, but of the whole history {expected:?}"));
        }
    }
    Ok(decided)
}

#[test]
fn verdict_with_a_window_contradicts_nothing() {
    let (mut decided, mut levels, mut refuted) = (0, 0, 0);
    let mut failures = Vec::new();
    for seed in 0..super::differential::cases(1000) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let age_max = if rng.bool() { 0 } else { rng.i64(1..8) };
        let count = rng.usize(1..80);
        let others = rng.bool();
        let programs = programs(&mut rng, count, age_max, others);
        let mut execution = execute(&programs, rng.bool());
        if rng.bool() && !execution.history.0.is_empty() {
            mutate(&mut execution.history, &mut rng);
        }
        let values = if rng.bool() { Values::Any } else { Values::Unique };
        let whole = checked(&execution.history, values, None);
        let wide = checked(&execution.history, values, Some(count + 1));
        assert_eq!(whole, wide, "seed {seed}\n{}", execution.history);
        for window in [1, 2, 3, 8, 50] {
            let part = checked(&execution.history, values, Some(window));
            match self::decided(&whole, &part) {
                Ok(count) => decided += count,
                Err(message) => failures.push(format!(
                    "seed {seed}, window {window}, {values:?}: {message}\n{}{whole}\n{part}",
                    execution.history
                )),
            }
            levels += 11;
            refuted += part.levels().filter(|(_, status)| status.is_refuted()).count();
        }
    }
    failures.sort_by_key(String::len);
    let count = failures.len();
    assert!(failures.is_empty(), "{count} contradictions\n{}", failures[..4.min(count)].join("\n"));
    // A checker that decides nothing would contradict nothing.
    assert!(decided * 2 > levels, "{decided} of {levels} levels are decided");
    assert!(refuted * 20 > levels, "{refuted} of {levels} levels are refuted");
}

/// One was subtracted from the lowest revision, and from a revision that is not known: a panic.
#[test]
fn extreme_revisions_are_no_overflow() {
    let mut events: Vec<Event> = Vec::new();
    for number in 1..40 {
        let mut event: Event =
            transaction(number).read("x", 1).put("x", 1).end(AttemptEnd::Conflict).into();
        if let EventKind::Attempt(attempt) = &mut event.kind {
            attempt.reads[0].found = Some((Revision(0), "x1".into()));
        }
        events.push(event);
        let extreme = if number % 2 == 0 { i64::MIN } else { i64::MAX };
        events.push(transaction(100 + number).put("x", 1).commit(extreme).into());
    }
    let without_changes = History(events.clone());
    events.push(changed(i64::MIN, &["x"]));
    for history in [without_changes, History(events)] {
        for window in [None, Some(1), Some(5)] {
            let verdict = checked(&history, Values::Any, window);
            assert!(verdict.coverage().attempts > 0, "{verdict}");
        }
    }
}
