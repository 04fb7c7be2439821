//! Judging a transaction against the history of the store.

use std::collections::BTreeMap;

use coord_core::stm::{Receipt, StmError};
use coord_core::{Error, Isolation, Outcome, Revision};

use super::program::{Seen, State, Step, key, reads, replay, writes};
use crate::stm::STRONG;

/// A transaction, and what came of it.
pub(super) struct Ran {
    pub(super) level: Isolation,
    pub(super) program: Vec<Step>,
    /// The tag of each attempt and what it saw.
    pub(super) attempts: Vec<(String, Vec<Seen>)>,
    /// The newest revision that anybody was told of before it began.
    pub(super) known: Revision,
    /// Where the store was when the last attempt had read for the first time.
    pub(super) after_first: Option<Revision>,
    pub(super) outcome: Result<Receipt, StmError<Error>>,
}

/// The state at a revision.
fn at(states: &BTreeMap<Revision, State>, revision: Revision) -> &State {
    states.range(..=revision).next_back().expect("nothing is older than the first").1
}

/// Whether a transaction was applied once, not at all, or as its outcome says.
pub(super) fn judge_outcome(ran: &Ran, tags: &BTreeMap<String, Revision>) {
    let applied: Vec<_> = ran.attempts.iter().filter_map(|(tag, _)| tags.get(tag)).collect();
    match &ran.outcome {
        Ok(receipt) if writes(&ran.program) => assert_eq!(applied, [&receipt.revision]),
        Ok(_) => assert!(applied.is_empty()),
        Err(error) if error.outcome() == Outcome::Unknown => assert!(applied.len() <= 1),
        Err(error) => assert!(applied.is_empty(), "applied in spite of: {error}"),
    }
    let gives_up = ran.program.iter().any(|step| matches!(step, Step::GiveUp));
    assert!(!gives_up || ran.outcome.is_err());
}

/// Whether a transaction that committed saw, and left, what its level promises.
pub(super) fn judge_commit(ran: &Ran, receipt: &Receipt, states: &BTreeMap<Revision, State>) {
    let (tag, seen) = ran.attempts.last().expect("there was one");
    let wrote = writes(&ran.program);
    if !wrote && seen.is_empty() {
        // It read nothing, so there is nothing to judge.
        return;
    }
    let before = if wrote { receipt.revision.previous() } else { receipt.revision };
    let (expected, left) = replay(&ran.program, tag, at(states, before));
    if ran.level != Isolation::ReadCommitted {
        assert_eq!(*seen, expected, "{} at {}", ran.level, receipt.revision);
    }
    if wrote {
        let now = at(states, receipt.revision).iter();
        let now: BTreeMap<_, _> =
            now.map(|(key, (value, _))| (key.clone(), value.clone())).collect();
        assert_eq!(now, left, "{} at {}", ran.level, receipt.revision);
    }
    if STRONG.contains(&ran.level) && !ran.attempts.last().expect("one").1.is_empty() {
        assert!(receipt.revision >= ran.known, "it began after {}", ran.known);
    }
    if let (Isolation::SerializableSnapshot, true, Some(first)) =
        (ran.level, wrote, ran.after_first)
    {
        for step in &ran.program {
            let (Step::Put(n) | Step::Delete(n)) = step else { continue };
            if reads(&ran.program, *n) {
                // What it saw is judged above.
                continue;
            }
            let put = |state: &State| state.get(key(*n).as_bytes()).map(|(_, put)| *put);
            // It was absent after the first read, or last put no later than that. That it was put
            // and deleted again in between no compare can tell.
            let seen = match put(at(states, before)) {
                Some(put) => put <= first,
                None => states.range(..=first).any(|(_, state)| put(state).is_none()),
            };
            assert!(seen, "{} was changed meanwhile", key(*n));
        }
    }
}

/// Whether each attempt at a strong level saw one state of the store.
pub(super) fn judge_attempts(ran: &Ran, states: &BTreeMap<Revision, State>) {
    for (tag, seen) in &ran.attempts {
        let fits = |state: &State| replay(&ran.program, tag, state).0.starts_with(seen);
        assert!(states.values().any(fits), "{}: {seen:?} never was", ran.level);
    }
}
