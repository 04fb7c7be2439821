//! Judging a transaction against the history of the store.

use std::collections::BTreeMap;

use coord_core::stm::{CommitInfo, StmError};
use coord_core::{Error, error::Outcome, kv::Revision, stm::Isolation};

use super::program::{Seen, State, Step, key, reads, replay, writes};
use crate::stm::STRONG_LEVELS;

/// One attempt of a transaction.
pub(super) struct Attempt {
    /// What the attempt did: another path than the attempt before, perhaps.
    pub(super) program: Vec<Step>,
    /// Identifies the attempt in the history of the store.
    pub(super) tag: String,
    pub(super) seen: Vec<Seen>,
}

/// A transaction, and what came of it.
pub(super) struct Ran {
    pub(super) level: Isolation,
    /// The attempts, the last one last.
    pub(super) attempts: Vec<Attempt>,
    /// The newest revision that anybody was told of before it began.
    pub(super) known: Revision,
    /// Where the store was when the last attempt had read for the first time.
    pub(super) after_first: Option<Revision>,
    pub(super) outcome: Result<CommitInfo, StmError<Error>>,
}

/// The state at a revision.
fn at(states: &BTreeMap<Revision, State>, revision: Revision) -> &State {
    states.range(..=revision).next_back().expect("nothing is older than the first").1
}

/// Whether a transaction was applied interfere, not at all, or as its outcome says.
pub(super) fn judge_outcome(ran: &Ran, tags: &BTreeMap<String, Revision>) {
    let tags_of = |attempt: &Attempt| tags.get(&attempt.tag).copied();
    let applied: Vec<_> = ran.attempts.iter().filter_map(tags_of).collect();
    let last = ran.attempts.last().map_or(&[][..], |last| &last.program);
    match &ran.outcome {
        Ok(info) if writes(last) => assert_eq!(applied, [info.revision]),
        Ok(_) => assert!(applied.is_empty()),
        Err(error) if error.outcome() == Outcome::Unknown => assert!(applied.len() <= 1),
        Err(error) => assert!(applied.is_empty(), "applied in spite of: {error}"),
    }
    let gives_up = last.iter().any(|step| matches!(step, Step::GiveUp));
    assert!(!gives_up || ran.outcome.is_err());
}

/// Whether a transaction that committed saw, and left, what its level promises.
pub(super) fn judge_commit(ran: &Ran, info: &CommitInfo, states: &BTreeMap<Revision, State>) {
    let Attempt { program, tag, seen } = ran.attempts.last().unwrap();
    let wrote = writes(program);
    if !wrote && seen.is_empty() {
        // It read nothing, so there is nothing to judge.
        return;
    }
    let before = if wrote { info.revision.previous() } else { info.revision };
    let (expected, left) = replay(program, tag, at(states, before));
    if ran.level != Isolation::ReadCommitted {
        assert_eq!(*seen, expected, "{} at {}", ran.level, info.revision);
    }
    if wrote {
        let now = at(states, info.revision).iter();
        let now: BTreeMap<_, _> =
            now.map(|(key, (value, _))| (key.clone(), value.clone())).collect();
        assert_eq!(now, left, "{} at {}", ran.level, info.revision);
    }
    if STRONG_LEVELS.contains(&ran.level) && !seen.is_empty() {
        assert!(info.revision >= ran.known, "it began after {}", ran.known);
    }
    if let (Isolation::SerializableSnapshot, true, Some(first)) =
        (ran.level, wrote, ran.after_first)
    {
        for step in program {
            let (Step::Put(n) | Step::Delete(n)) = step else { continue };
            if reads(program, *n) {
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

/// Whether each attempt at a strong level, committed or not, saw one state of the store, and none
/// that was over before the transaction began.
pub(super) fn judge_attempts(ran: &Ran, states: &BTreeMap<Revision, State>) {
    let oldest = states.range(..=ran.known).next_back().map_or(Revision::ZERO, |(at, _)| *at);
    for Attempt { program, tag, seen } in &ran.attempts {
        let fits = |state: &State| replay(program, tag, state).0.starts_with(seen);
        let found = states.range(oldest..).any(|(_, state)| fits(state));
        assert!(found, "{}: {seen:?} never was from {oldest} on", ran.level);
    }
}
