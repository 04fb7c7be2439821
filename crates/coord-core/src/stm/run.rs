//! Attempt after attempt, until one commits or the budget is spent.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::marker::Resolved;
use super::retry::Pauses;
use super::transaction::{Known, Transaction};
use super::turns::Turn;
use super::{Again, Committed, Conflict, Isolation, Receipt, Slot, Stm, StmError};
use crate::backend::KvBackend;
use crate::error::{Error, Outcome, Result};
use crate::kv::Revision;
use crate::loss::LossReason;
use crate::session::SessionState;
use crate::telemetry::transaction;

/// What was known before a longer pause is not worth knowing after it.
const STALE_AFTER: Duration = Duration::from_millis(20);

/// Longer than any transaction takes, and short enough for the clock.
const TIME_MAX: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// What is known between attempts.
struct Progress {
    began: Instant,
    attempts: u32,
    conflicts: Vec<Conflict>,
    pauses: Pauses,
    turn: Turn,
    /// Whether nothing has been tried under this turn yet.
    turn_is_new: bool,
    /// Whether this attempt has let others go first.
    queued: bool,
    known: Option<Known>,
    slot: Option<Slot>,
}

/// A commit that was applied.
struct Applied {
    revision: Revision,
    resolved: bool,
}

impl Stm {
    /// Runs a transaction: calls `closure` until an attempt commits.
    ///
    /// The closure must be fit to be called several times, and must not do with the world what it
    /// cannot take back. If it fails, nothing was written, and its error comes back as it is. Its
    /// error type takes an [`Error`], so that reads can be followed by `?`; what the closure makes
    /// of an error of a read does not matter: that attempt will not commit.
    ///
    /// To stop it, drop the future. It can be spawned if the closure owns what it uses, and that
    /// can be sent:
    ///
    /// ```
    /// # use coord_core::{Error, Stm};
    /// # fn spawn<T: Send>(_: T) {}
    /// # fn example(stm: Stm) {
    /// let key = String::from("jobs");
    /// spawn(async move {
    ///     stm.run(async move |tx| tx.get(key.clone()).await).await
    /// });
    /// # }
    /// ```
    ///
    /// With a reference in it, even a `&'static str`, today's compiler refuses: "implementation of
    /// `Send` is not general enough". Own the string, or make the reference inside the closure.
    ///
    /// ```compile_fail
    /// # use coord_core::{Error, Stm};
    /// # fn spawn<T: Send>(_: T) {}
    /// # fn example(stm: Stm) {
    /// let key = "jobs";
    /// spawn(async move {
    ///     stm.run(async move |tx| tx.get(key).await).await
    /// });
    /// # }
    /// ```
    ///
    /// # Errors
    /// `GivenUp` with the closure's error, `Exhausted`, `Lost`, `Backend`: nothing was written.
    /// `OutcomeUnknown`: perhaps. `Backend(TooManyOps)` tells how many keys were read or written
    /// and how many can be; nothing was sent then.
    ///
    /// # Cancel safety
    /// If the future is dropped while a commit is under way, its outcome is unknown; else nothing
    /// was written.
    pub async fn run<T, E, F>(&self, closure: F) -> Result<Committed<T>, StmError<E>>
    where
        E: From<Error>,
        F: AsyncFnMut(&mut Transaction) -> Result<T, E>,
    {
        let result = self.attempts(closure).await;
        transaction::ended(match &result {
            Ok(_) => "committed",
            Err(StmError::Aborted(_)) => "given_up",
            Err(StmError::RetriesExhausted { .. }) => "exhausted",
            Err(StmError::OutcomeUnknown(_)) => "outcome_unknown",
            Err(StmError::Lost(_)) => "lost",
            Err(StmError::Backend(_)) => "failed",
        });
        result
    }

    async fn attempts<T, E, F>(&self, mut closure: F) -> Result<Committed<T>, StmError<E>>
    where
        E: From<Error>,
        F: AsyncFnMut(&mut Transaction) -> Result<T, E>,
    {
        let mut progress = self.begin();
        loop {
            progress.attempts += 1;
            let again = match self.attempt(&mut progress).await {
                Ok(mut tx) => {
                    let returned = closure(&mut tx).await;
                    if returned.is_err() {
                        // It writes nothing; but what made it give up must have been so.
                        tx.writes.clear();
                    }
                    match self.commit(&mut progress, tx).await {
                        Ok(Ok(applied)) => match returned {
                            Ok(value) => return Ok(self.committed(progress, value, &applied)),
                            Err(error) => return Err(StmError::Aborted(error)),
                        },
                        Ok(Err(again)) => again,
                        Err(error) => return Err(StmError::OutcomeUnknown(error)),
                    }
                }
                Err(error) => Again::Failed(error),
            };
            self.prepare_next(&mut progress, again).await?;
        }
    }

    fn begin(&self) -> Progress {
        Progress {
            began: Instant::now(),
            attempts: 0,
            conflicts: Vec::new(),
            pauses: Pauses::new(&self.retry),
            turn: Turn::default(),
            turn_is_new: false,
            queued: false,
            known: None,
            slot: None,
        }
    }

    /// Begins an attempt, with what is known before it.
    async fn attempt(&self, progress: &mut Progress) -> Result<Transaction> {
        let (known, fresh) = (progress.known.take(), progress.attempts > 1);
        let mut tx = Transaction::new(Arc::clone(&self.backend), self.isolation, known, fresh);
        if tx.knows_nothing() && !self.prefetch.is_empty() {
            tx.prefetch(&self.prefetch).await?;
        }
        Ok(tx)
    }

    /// Commits an attempt. The outer error is that nobody knows.
    async fn commit(
        &self,
        progress: &mut Progress,
        mut tx: Transaction,
    ) -> Result<Result<Applied, Again>> {
        if let Err(error) = tx.prepare(self.markers.is_some()).await {
            return Ok(Err(Again::Failed(error)));
        }
        if tx.is_settled() {
            return Ok(Ok(Applied { revision: tx.read_at, resolved: false }));
        }
        if let Some(newer) = tx.newer.take() {
            return Ok(Err(self.conflicted(progress, &tx, newer)));
        }
        if let Some(again) = self.queue_up(progress, &mut tx) {
            return Ok(Err(again));
        }
        if !tx.writes.is_empty()
            && let Some(markers) = &self.markers
        {
            if let SessionState::Lost(reason) = markers.session().state() {
                markers.session().note_loss(reason, &markers.prefix());
                return Ok(Err(Again::Lost(reason)));
            }
            progress.slot.get_or_insert_with(|| markers.take());
        }
        let mut slot = progress.slot.as_mut().filter(|_| !tx.writes.is_empty());
        let next = progress.turn.next();
        let for_next = tx.wanted_by(&next);
        let commit = tx.commit(slot.as_deref_mut(), &for_next);
        match self.backend.txn(commit).await {
            Ok(answer) if answer.succeeded => {
                let revision = answer.header.revision;
                if let Some(slot) = slot {
                    slot.committed(revision);
                }
                tx.hand_on(&next, for_next, &answer);
                Ok(Ok(Applied { revision, resolved: false }))
            }
            Ok(answer) => {
                let found = tx.found(answer.header.revision, answer.responses);
                Ok(Err(self.conflicted(progress, &tx, found)))
            }
            Err(error) if tx.writes.is_empty() => Ok(Err(Again::Failed(error))),
            Err(error) if error.outcome() == Outcome::NotApplied => {
                if let Some(slot) = slot {
                    slot.refused();
                }
                Ok(Err(self.refused(error, &tx).await))
            }
            Err(error) => self.resolve(progress, error).await,
        }
    }

    /// Whether others stand in line for keys of this attempt. To commit now would be to push in,
    /// and to make whoever is first conflict.
    fn queue_up(&self, progress: &mut Progress, tx: &mut Transaction) -> Option<Again> {
        if progress.queued || self.isolation == Isolation::ReadCommitted {
            return None;
        }
        let keys = tx.reads.keys().chain(tx.writes.keys());
        let contended = progress.turn.missing(&self.backend, keys);
        if contended.is_empty() {
            return None;
        }
        progress.queued = true;
        // Nothing was sent, so it does not count.
        progress.attempts -= 1;
        let read = tx.reads.keys().cloned().collect();
        Some(Again::Queue { contended, read, known: tx.seen_so_far() })
    }

    fn conflicted(&self, progress: &mut Progress, tx: &Transaction, known: Known) -> Again {
        progress.queued = false;
        let conflicts = tx.conflicts(&known);
        if let Some(slot) = &mut progress.slot {
            slot.refused();
            if conflicts.is_empty() {
                // It can only have been the marker, which somebody has deleted. Have another.
                slot.discard();
                progress.slot = None;
            }
        }
        Again::Conflicts(conflicts, known)
    }

    /// Why a commit was refused: perhaps because the lease of the idempotency keys is gone.
    async fn refused(&self, error: Error, tx: &Transaction) -> Again {
        let (Error::LeaseNotFound { .. }, Some(markers)) = (&error, &self.markers) else {
            return Again::Failed(error);
        };
        let session = markers.session();
        let reason = match session.why_lost().await {
            // The lease could not be asked for, and there is no other.
            None if tx.puts_on_other_lease_than(session.lease_id()) => {
                return Again::Failed(error);
            }
            reason => reason.unwrap_or(LossReason::Revoked),
        };
        session.note_loss(reason, &markers.prefix());
        Again::Lost(reason)
    }

    /// Finds out what became of a commit whose answer was lost.
    async fn resolve(
        &self,
        progress: &mut Progress,
        error: Error,
    ) -> Result<Result<Applied, Again>> {
        let Some(slot) = &mut progress.slot else { return Err(error) };
        match timeout(self.retry.time_max, slot.resolve(&*self.backend)).await {
            Ok(Ok(Resolved::Applied(revision))) => Ok(Ok(Applied { revision, resolved: true })),
            Ok(Ok(Resolved::NotApplied)) => Ok(Err(Again::Failed(error))),
            Ok(Ok(Resolved::Unknown) | Err(_)) | Err(_) => Err(error),
        }
    }

    fn committed<T>(&self, progress: Progress, value: T, applied: &Applied) -> Committed<T> {
        let receipt = Receipt {
            revision: applied.revision,
            attempts: progress.attempts,
            conflicts: progress.conflicts,
            resolved: applied.resolved,
        };
        if let Some(hooks) = &self.hooks {
            hooks.committed(&receipt);
        }
        Committed { value, receipt }
    }

    /// Waits until another attempt is worth making, if there may be another.
    async fn prepare_next<E>(
        &self,
        progress: &mut Progress,
        again: Again,
    ) -> Result<(), StmError<E>> {
        let deadline = progress.began + self.retry.time_max.min(TIME_MAX);
        let spent = progress.attempts >= self.retry.attempts_max || Instant::now() >= deadline;
        let (conflicts, known) = match again {
            Again::Lost(reason) => return Err(StmError::Lost(reason)),
            Again::Failed(error) if spent || !is_worth_another(&error) => {
                return Err(StmError::Backend(error));
            }
            Again::Failed(error) => {
                let paused = progress.pause(deadline).await;
                return paused.map(drop).ok_or(StmError::Backend(error));
            }
            Again::Queue { contended, read, known } => {
                progress.take_turn(&self.backend, contended, read, known, deadline).await;
                return Ok(());
            }
            Again::Conflicts(conflicts, known) => (conflicts, known),
        };
        transaction::conflicted(progress.attempts, &conflicts);
        if let Some(hooks) = &self.hooks {
            hooks.conflicted(progress.attempts, &conflicts);
        }
        if spent {
            return Err(exhausted(progress, conflicts));
        }
        let keys = || conflicts.iter().map(|conflict| &conflict.key);
        if progress.turn.covers(keys()) && std::mem::take(&mut progress.turn_is_new) {
            // What was known when the turn began was too old; this is not.
            progress.known = Some(known);
        } else if progress.turn.covers(keys()) {
            let Some(pause) = progress.pause(deadline).await else {
                return Err(exhausted(progress, conflicts));
            };
            progress.known = (pause < STALE_AFTER).then_some(known);
        } else {
            let (keys, wanted) = (keys().cloned().collect(), known.keys.keys().cloned().collect());
            progress.take_turn(&self.backend, keys, wanted, Some(known), deadline).await;
            if Instant::now() >= deadline {
                return Err(exhausted(progress, conflicts));
            }
        }
        progress.conflicts.extend(conflicts);
        Ok(())
    }
}

impl Progress {
    /// Pauses, and tells for how long; unless there will be no time for another attempt then.
    async fn pause(&mut self, deadline: Instant) -> Option<Duration> {
        let pause = self.pauses.next();
        if pause >= deadline.saturating_duration_since(Instant::now()) {
            return None;
        }
        sleep(pause).await;
        Some(pause)
    }

    /// Waits for a turn for these keys and those that there is a turn for already. `wanted` is what
    /// there will be to read then.
    async fn take_turn(
        &mut self,
        backend: &Arc<dyn KvBackend>,
        mut keys: Vec<Bytes>,
        wanted: Vec<Bytes>,
        known: Option<Known>,
        deadline: Instant,
    ) {
        // Whoever holds some and waits for others may be waited for.
        keys.extend(std::mem::take(&mut self.turn).keys().iter().cloned());
        if let Ok(turn) = timeout_at(deadline, Turn::wait(backend, keys, wanted)).await {
            self.known = turn.take_up(known);
            self.turn = turn;
            self.turn_is_new = true;
        }
    }
}

fn exhausted<E>(progress: &Progress, conflicts: Vec<Conflict>) -> StmError<E> {
    let (attempts, elapsed) = (progress.attempts, progress.began.elapsed());
    StmError::RetriesExhausted { attempts, elapsed, conflicts }
}

/// Whether another attempt may not meet the same error.
fn is_worth_another(error: &Error) -> bool {
    // The base was compacted, or the member that was asked lags behind: the next base is newer.
    matches!(error, Error::Compacted { .. } | Error::FutureRevision { .. }) || error.is_retryable()
}
