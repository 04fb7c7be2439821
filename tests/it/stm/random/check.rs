//! Checks of a transaction against the history of the store.

use std::collections::BTreeMap;

use coord_core::{
    Error,
    error::Outcome,
    kv::Revision,
    stm::{CommitInfo, Isolation, StmError},
};

use super::program::{Observation, Step, StoreState, key, may_read, replay, writes};
use crate::stm::STRONG_LEVELS;

/// One attempt of a transaction.
pub(super) struct ProgramAttempt {
    /// The steps of the attempt, which may differ from the steps of the previous attempt.
    pub(super) program: Vec<Step>,
    /// A value that identifies the attempt in the history of the store.
    pub(super) tag: String,
    pub(super) observed: Vec<Observation>,
}

/// A completed transaction.
pub(super) struct TransactionRun {
    pub(super) level: Isolation,
    /// All attempts, in order.
    pub(super) attempts: Vec<ProgramAttempt>,
    /// The newest revision that any client had received when the transaction started.
    pub(super) known_at_start: Revision,
    /// The revision of the store after the first read of the last attempt.
    pub(super) after_first_read: Option<Revision>,
    pub(super) result: Result<CommitInfo, StmError<Error>>,
}

/// The state of the store at a revision.
fn state_at(states: &BTreeMap<Revision, StoreState>, revision: Revision) -> &StoreState {
    states.range(..=revision).next_back().unwrap().1
}

/// Checks that the number of applied attempts agrees with the result: one, none, or unknown.
pub(super) fn check_outcome(run: &TransactionRun, tags: &BTreeMap<String, Revision>) {
    let revision_of = |attempt: &ProgramAttempt| tags.get(&attempt.tag).copied();
    let applied: Vec<_> = run.attempts.iter().filter_map(revision_of).collect();
    let last = run.attempts.last().map_or(&[][..], |last| &last.program);
    match &run.result {
        Ok(info) if writes(last) => assert_eq!(applied, [info.revision]),
        Ok(_) => assert!(applied.is_empty()),
        Err(error) if error.outcome() == Outcome::Unknown => assert!(applied.len() <= 1),
        Err(error) => assert!(applied.is_empty(), "applied in spite of: {error}"),
    }
    let aborts = last.iter().any(|step| matches!(step, Step::Abort));
    assert!(!aborts || run.result.is_err());
}

/// Checks that a committed transaction observed and wrote what its level guarantees.
pub(super) fn check_commit(
    run: &TransactionRun,
    info: &CommitInfo,
    states: &BTreeMap<Revision, StoreState>,
) {
    let ProgramAttempt { program, tag, observed } = run.attempts.last().unwrap();
    let wrote = writes(program);
    if !wrote && observed.is_empty() {
        return;
    }
    let before = if wrote { info.revision.previous() } else { info.revision };
    let (expected, written) = replay(program, tag, state_at(states, before));
    if run.level != Isolation::ReadCommitted {
        assert_eq!(*observed, expected, "{} at {}", run.level, info.revision);
    }
    if wrote {
        let after = state_at(states, info.revision).iter();
        let after: BTreeMap<_, _> =
            after.map(|(key, (value, _))| (key.clone(), value.clone())).collect();
        assert_eq!(after, written, "{} at {}", run.level, info.revision);
    }
    if STRONG_LEVELS.contains(&run.level) && !observed.is_empty() {
        assert!(info.revision >= run.known_at_start, "it started after {}", run.known_at_start);
    }
    if let (Isolation::SerializableSnapshot, true, Some(first_read)) =
        (run.level, wrote, run.after_first_read)
    {
        check_blind_writes(program, states, before, first_read);
    }
}

/// Checks that no other transaction changed the keys of blind writes between the first read and the
/// commit.
fn check_blind_writes(
    program: &[Step],
    states: &BTreeMap<Revision, StoreState>,
    before: Revision,
    first_read: Revision,
) {
    for step in program {
        let (Step::Put(n) | Step::Delete(n)) = step else { continue };
        if may_read(program, *n) {
            continue;
        }
        let put = |state: &StoreState| state.get(key(*n).as_bytes()).map(|(_, put)| *put);
        // The key was last put before the first read, or it was absent at a revision up to the
        // first read. No compare can detect that it was put and deleted again in between.
        let unchanged = match put(state_at(states, before)) {
            Some(put) => put <= first_read,
            None => states.range(..=first_read).any(|(_, state)| put(state).is_none()),
        };
        assert!(unchanged, "{} was changed after the first read", key(*n));
    }
}

/// Checks that each attempt at a strong level, committed or not, observed one state of the store,
/// which was not replaced before the transaction started.
pub(super) fn check_attempts(run: &TransactionRun, states: &BTreeMap<Revision, StoreState>) {
    let oldest =
        states.range(..=run.known_at_start).next_back().map_or(Revision::ZERO, |(at, _)| *at);
    for ProgramAttempt { program, tag, observed } in &run.attempts {
        let fits = |state: &StoreState| replay(program, tag, state).0.starts_with(observed);
        let found = states.range(oldest..).any(|(_, state)| fits(state));
        assert!(found, "{}: no state since {oldest} matches {observed:?}", run.level);
    }
}
