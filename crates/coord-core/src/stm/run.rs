//! The loop of a transaction: attempts, until one commits or the budget is spent.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};
use tracing::Instrument as _;

use super::idempotency_key::{IdempotencyKey, Resolution};
use super::read_set::Snapshot;
use super::record::RecordedTransaction;
use super::transaction::{SnapshotRevision, Transaction, Yielding};
use super::{CommitInfo, Committed, Conflict, Isolation, Stm, StmError};
use crate::backoff::Backoff;
use crate::error::{Error, LossReason, Outcome, Result};
use crate::kv::{Range, Revision};
use crate::recording::AttemptEnd;
use crate::session::SessionState;
use crate::shared::HeldQueues;
use crate::telemetry::transaction;

/// Caps `Retry::time_max` so that the clock can represent the deadline: about 30 years.
const TIME_MAX: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// After this many yields, before a first request or before a commit, the attempts of a transaction
/// do not yield before their first request any more. Without a limit, a transaction that reads
/// other keys in each attempt could yield forever. A yield before a commit needs no limit of its
/// own, because at most one follows each conflict.
const YIELDS_BEFORE_REQUESTS_END: u8 = 4;

/// The outcome of an attempt.
enum AttemptOutcome {
    /// The writes were applied, or there were none to apply.
    Committed { revision: Revision, resolved: bool },
    /// Keys have changed since they were read. The next attempt can start with `found`.
    Conflict { conflicts: Vec<Conflict>, found: Snapshot },
    /// The keys `contended` have conflict queues that this transaction does not hold. No commit was
    /// sent.
    Queued { contended: Vec<Bytes>, read: Option<Snapshot> },
    /// The session of the idempotency keys is lost. Nothing was written.
    SessionLost(LossReason),
    /// The backend failed, and nothing was written.
    Failed(Error),
    /// The backend failed, and the writes may have been applied.
    Unknown(Error),
}

impl AttemptOutcome {
    /// How the attempt ended, for its record.
    const fn end(&self) -> AttemptEnd {
        match self {
            Self::Committed { revision, .. } => AttemptEnd::Committed { revision: *revision },
            Self::Conflict { .. } => AttemptEnd::Conflict,
            Self::Queued { .. } | Self::SessionLost(_) | Self::Failed(_) => AttemptEnd::Failed,
            Self::Unknown(_) => AttemptEnd::Unknown,
        }
    }
}

/// The progress of a transaction from optimistic attempts to the conflict queues.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    /// No attempt has conflicted so far.
    Optimistic,
    /// An attempt has conflicted, and the transaction now holds the queues of the keys in conflict.
    /// No attempt has conflicted since.
    Admitted,
    /// An attempt has yielded, and the transaction now holds the queues of the keys for which it
    /// yielded. An attempt yields again only before its first request.
    AdmittedAfterYield,
    /// An attempt has conflicted although the transaction held the queues, for example because
    /// another client writes to the same keys.
    Contended,
}

/// One transaction, between its attempts.
pub(super) struct Run<'a> {
    pub(super) stm: &'a Stm,
    pub(super) started: Instant,
    pub(super) deadline: Instant,
    pub(super) attempts: u32,
    /// The conflicts of all attempts so far.
    pub(super) conflicts: Vec<Conflict>,
    pub(super) phase: Phase,
    /// After how many further yields of either kind no attempt yields before its first request.
    yields_left: u8,
    pub(super) held: HeldQueues<'a>,
    /// The snapshot with which the next attempt starts.
    pub(super) start: Option<Snapshot>,
    pub(super) backoff: Backoff,
    idempotency_key: Option<IdempotencyKey>,
    recorded: Option<RecordedTransaction>,
}

impl Stm {
    /// Runs a transaction: calls `closure` until an attempt commits.
    ///
    /// The closure may be called several times, so it must have no irreversible side effects: send
    /// the e-mail after the commit. If it returns an error, nothing is written, and the error is
    /// returned as [`StmError::Aborted`], unless the attempt has failed, for example in a read, or
    /// its reads conflict. After a conflict the closure is called again. The error type is made
    /// from [`Error`], so that `?` can follow a read. After a failed read the attempt does not
    /// commit, whatever the closure returns: it is retried, or the error of the read is returned as
    /// [`StmError::Backend`].
    ///
    /// To cancel the transaction, drop the future. The future can be spawned if the closure owns
    /// what it uses, and all of that is `Send`:
    ///
    /// ```
    /// # use coord_core::Stm;
    /// # fn spawn<T: Send>(_: T) {}
    /// # fn example(stm: Stm) {
    /// let key = String::from("jobs");
    /// spawn(async move {
    ///     stm.run(async move |tx| tx.get(key.clone()).await).await
    /// });
    /// # }
    /// ```
    ///
    /// If the closure captures a reference, even a `&'static str`, the compiler rejects that with
    /// "implementation of `Send` is not general enough". Move an owned value into the closure, or
    /// create the reference inside it.
    ///
    /// ```compile_fail
    /// # use coord_core::Stm;
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
    /// `Aborted` with the error of the closure, `RetriesExhausted`, `Lost`, `Backend`: nothing was
    /// written. `OutcomeUnknown`: the writes may have been applied. `Backend(TooManyOps)` has the
    /// number of operations and the limit; no commit was sent.
    ///
    /// # Cancel safety
    /// If the future is dropped during a commit, it is unknown whether the writes were applied.
    /// Otherwise nothing was written.
    pub async fn run<T, E, F>(&self, closure: F) -> Result<Committed<T>, StmError<E>>
    where
        E: From<Error>,
        F: AsyncFnMut(&mut Transaction) -> Result<T, E>,
    {
        let span = transaction::run_span(self.isolation);
        let result = self.run_attempts(closure).instrument(span).await;
        transaction::ended(match &result {
            Ok(_) => "committed",
            Err(StmError::Aborted(_)) => "aborted",
            Err(StmError::RetriesExhausted { .. }) => "retries_exhausted",
            Err(StmError::OutcomeUnknown(_)) => "outcome_unknown",
            Err(StmError::Lost(_)) => "lost",
            Err(StmError::Backend(_)) => "failed",
        });
        result
    }

    async fn run_attempts<T, E, F>(&self, mut closure: F) -> Result<Committed<T>, StmError<E>>
    where
        E: From<Error>,
        F: AsyncFnMut(&mut Transaction) -> Result<T, E>,
    {
        let mut run = Run::new(self);
        loop {
            let span = transaction::attempt_span(run.attempts + 1);
            let attempt = async {
                let mut tx = run.start_attempt().await?;
                let returned = closure(&mut tx).await;
                if returned.is_err() {
                    // An aborted attempt writes nothing, but its reads are validated all the same.
                    tx.abort();
                }
                Ok((run.commit(tx).await, returned))
            };
            let (outcome, returned) = match attempt.instrument(span).await {
                Ok(attempted) => attempted,
                Err(error) => {
                    run.retry_after_failure(error).await?;
                    continue;
                }
            };
            match outcome {
                AttemptOutcome::Committed { revision, resolved } => {
                    let info = run.into_info(revision, resolved);
                    return match returned {
                        Ok(value) => Ok(Committed { value, info }),
                        Err(error) => Err(StmError::Aborted(error)),
                    };
                }
                AttemptOutcome::Conflict { conflicts, found } => {
                    run.retry_after_conflict(conflicts, found).await?;
                }
                AttemptOutcome::Queued { contended, read } => {
                    run.phase = Phase::AdmittedAfterYield;
                    run.yields_left = run.yields_left.saturating_sub(1);
                    // No commit was sent, so the attempt does not count.
                    run.attempts -= 1;
                    run.enter_queues(contended, read).await;
                }
                AttemptOutcome::SessionLost(reason) => return Err(StmError::Lost(reason)),
                AttemptOutcome::Failed(error) => run.retry_after_failure(error).await?,
                AttemptOutcome::Unknown(error) => return Err(StmError::OutcomeUnknown(error)),
            }
        }
    }
}

impl<'a> Run<'a> {
    fn new(stm: &'a Stm) -> Self {
        let started = Instant::now();
        Self {
            stm,
            started,
            deadline: started + stm.retry.time_max.min(TIME_MAX),
            attempts: 0,
            conflicts: Vec::new(),
            phase: Phase::Optimistic,
            yields_left: YIELDS_BEFORE_REQUESTS_END,
            held: HeldQueues::default(),
            start: None,
            backoff: stm.retry.backoff(),
            idempotency_key: None,
            recorded: stm.client.recorder().map(RecordedTransaction::begin),
        }
    }

    async fn start_attempt(&mut self) -> Result<Transaction> {
        self.attempts += 1;
        let Stm { client, isolation, prefetch, .. } = self.stm;
        let start = self.start.take();
        let prefetches = start.is_none() && !prefetch.is_empty();
        let yielding = if self.yields_left == 0 || *isolation == Isolation::ReadCommitted {
            Yielding::No
        } else {
            Yielding::BeforeFirstRequest { held: self.held.keys().to_vec() }
        };
        let is_fresh = start.is_none();
        let mut tx = Transaction::new(client.clone(), *isolation, self.attempts, yielding, start);
        tx.recording =
            self.recorded.as_mut().map(|recorded| recorded.start_attempt(*isolation, is_fresh));
        if prefetches {
            tx.prefetch(prefetch).await?;
        }
        Ok(tx)
    }

    /// Commits an attempt, if it needs a commit and can be committed.
    async fn commit(&mut self, mut tx: Transaction) -> AttemptOutcome {
        let outcome = self.try_commit(&mut tx).await;
        tx.note_end(outcome.end());
        outcome
    }

    async fn try_commit(&mut self, tx: &mut Transaction) -> AttemptOutcome {
        if let Yielding::For(contended) = &mut tx.yielding {
            let contended = std::mem::take(contended);
            return AttemptOutcome::Queued { contended, read: tx.take_read_set() };
        }
        if let Some(error) = tx.failure.take() {
            return AttemptOutcome::Failed(error);
        }
        if tx.is_complete() {
            let revision = tx.snapshot.current().or(tx.newest_read).unwrap_or_default();
            return AttemptOutcome::Committed { revision, resolved: false };
        }
        if let SnapshotRevision::Stale { newer, .. } = &mut tx.snapshot {
            let found = std::mem::take(newer);
            return self.conflict(tx, found);
        }
        if let Err(error) = tx.prepare_commit(self.stm.idempotency_keys.is_some()).await {
            return AttemptOutcome::Failed(error);
        }
        let contended = self.contended_keys(tx);
        if !contended.is_empty() {
            return AttemptOutcome::Queued { contended, read: tx.take_read_set() };
        }
        if let Err(reason) = self.assign_idempotency_key(tx) {
            return AttemptOutcome::SessionLost(reason);
        }
        self.send_commit(tx).await
    }

    /// The keys of the attempt whose queues other transactions hold or wait for. A commit would
    /// overtake those transactions, and the first of them would conflict.
    fn contended_keys(&self, tx: &Transaction) -> Vec<Bytes> {
        if matches!(self.phase, Phase::AdmittedAfterYield)
            || self.stm.isolation == Isolation::ReadCommitted
        {
            return Vec::new();
        }
        let keys = tx.read_set.keys().chain(tx.write_set.keys());
        let keys = keys.filter(|key| !self.held.contains(key));
        self.stm.client.conflict_queues().contended_keys(keys)
    }

    /// Takes an idempotency key for an attempt that writes, if the transaction has none.
    fn assign_idempotency_key(&mut self, tx: &Transaction) -> Result<(), LossReason> {
        let Some(keys) = &self.stm.idempotency_keys else { return Ok(()) };
        if tx.write_set.is_empty() {
            return Ok(());
        }
        if let SessionState::Lost(reason) = keys.session().state() {
            keys.session().note_loss(reason, &keys.prefix());
            return Err(reason);
        }
        self.idempotency_key.get_or_insert_with(|| keys.take());
        Ok(())
    }

    async fn send_commit(&mut self, tx: &mut Transaction) -> AttemptOutcome {
        let writes = !tx.write_set.is_empty();
        let mut key = self.idempotency_key.as_mut().filter(|_| writes);
        let request = tx.commit_request(key.as_deref_mut());
        tx.note_commit_sent(key.as_deref());
        let room = self.stm.client.limits().max_txn_ops.saturating_sub(request.success.len());
        let wanted = self.held.wanted_keys(|key| tx.reads_or_writes(key), room);
        let request = request.and_then(wanted.iter().map(Range::new));
        match self.stm.client.backend().txn(request).await {
            Ok(response) if response.succeeded => {
                let revision = response.header.revision;
                if let Some(key) = key {
                    key.note_applied(revision);
                }
                tx.note_applied(&response.responses);
                if !self.held.is_empty() {
                    self.held.publish_post_image(tx.post_image(response, wanted));
                }
                AttemptOutcome::Committed { revision, resolved: false }
            }
            Ok(response) => self.conflict(tx, tx.found_snapshot(response)),
            Err(error) if !writes => AttemptOutcome::Failed(error),
            Err(error) if error.outcome() == Outcome::NotApplied => {
                if let Some(key) = key {
                    key.note_not_applied();
                }
                self.classify_rejection(error, tx).await
            }
            Err(error) => self.resolve(error).await,
        }
    }

    fn conflict(&mut self, tx: &Transaction, found: Snapshot) -> AttemptOutcome {
        let conflicts = tx.conflicts(&found);
        if conflicts.is_empty() {
            // The commit can only have failed because another client has changed the idempotency
            // key. The next attempt takes another one, and nothing reuses this one.
            self.idempotency_key = None;
        } else if let Some(key) = &mut self.idempotency_key {
            key.note_not_applied();
        }
        AttemptOutcome::Conflict { conflicts, found }
    }

    /// The outcome of an attempt whose commit was rejected, perhaps because the lease of the
    /// idempotency keys has ended.
    async fn classify_rejection(&self, error: Error, tx: &Transaction) -> AttemptOutcome {
        let (Error::LeaseNotFound { .. }, Some(keys)) = (&error, &self.stm.idempotency_keys) else {
            return AttemptOutcome::Failed(error);
        };
        let session = keys.session();
        let reason = match session.why_lost().await {
            // The lease exists, or its state is unknown: the error may be about another lease.
            None if tx.uses_lease_other_than(session.lease_id()) => {
                return AttemptOutcome::Failed(error);
            }
            reason => reason.unwrap_or(LossReason::Revoked),
        };
        session.note_loss(reason, &keys.prefix());
        AttemptOutcome::SessionLost(reason)
    }

    /// Resolves a commit without a response by its idempotency key.
    async fn resolve(&mut self, error: Error) -> AttemptOutcome {
        let Some(key) = &mut self.idempotency_key else { return AttemptOutcome::Unknown(error) };
        let resolution = key.resolve(&**self.stm.client.backend());
        match timeout(self.stm.retry.time_max, resolution).await {
            Ok(Ok(Resolution::Applied(revision))) => {
                AttemptOutcome::Committed { revision, resolved: true }
            }
            Ok(Ok(Resolution::NotApplied)) => AttemptOutcome::Failed(error),
            Ok(Ok(Resolution::Unknown) | Err(_)) | Err(_) => AttemptOutcome::Unknown(error),
        }
    }

    fn into_info(self, revision: Revision, resolved: bool) -> CommitInfo {
        CommitInfo { revision, attempts: self.attempts, conflicts: self.conflicts, resolved }
    }
}
