//! Runs a sequence of operations on a backend and on the model, up to the first mismatch.

use std::fmt::Debug;
use std::time::Duration;

use coord_core::{
    Error, KvBackend, Result,
    error::{ErrorKind, Outcome},
    kv::{
        KeyRange, LeaseGrant, LeaseTimeToLive, LeaseTimeToLiveResponse, Range, Revision, Watch,
        Watcher,
    },
};
use coord_testkit::strategy::{Operation, Pace};
use futures_util::FutureExt;
use tokio::task::unconstrained;
use tokio::time::{Instant, advance, sleep};

use super::coverage::Coverage;
use super::state::{Model, ModelResult};
use super::watch::Watcher as ModelWatcher;

/// More than the delay of a timer of the runtime.
const TIMER_DELAY: Duration = Duration::from_millis(3);

/// The description of a mismatch: the expected and the actual result.
pub(super) type Mismatch = String;

/// A backend under test and the model.
struct Run<'a, B> {
    backend: &'a B,
    model: Model,
    /// Time zero of the model's clock.
    began: Instant,
    watches: Vec<(Watcher, ModelWatcher)>,
    /// Whether expired leases may still exist, because the last advance of the clock was a jump.
    jumped: bool,
    coverage: &'a mut Coverage,
}

/// Runs all operations on an empty backend, on the virtual time of the runtime.
///
/// # Errors
/// The first mismatch, with the operations that led to it.
pub(super) async fn run<B: KvBackend>(
    backend: &B,
    operations: &[Operation],
    coverage: &mut Coverage,
) -> Result<(), Mismatch> {
    let began = Instant::now();
    let identity = backend.leases().await.map_err(|error| error.to_string())?.header;
    let model = Model::new(identity, backend.limits());
    let mut run = Run { backend, model, began, watches: Vec::new(), jumped: false, coverage };
    let mut log = Vec::new();
    for operation in operations {
        log.push((run.model.revision(), operation));
        run.step(operation).await.map_err(|mismatch| report(&log, &mismatch))?;
    }
    run.finish()
        .await
        .map_err(|mismatch| report(&log, &format!("after the last operation\n{mismatch}")))
}

/// A mismatch with the operations that led to it, each with the revision before it.
fn report(log: &[(Revision, &Operation)], mismatch: &str) -> Mismatch {
    let log = log.iter().map(|(revision, operation)| format!("  @{revision} {operation}\n"));
    format!("the backend and the model differ:\n{}{mismatch}", log.collect::<String>())
}

impl<B: KvBackend> Run<'_, B> {
    async fn step(&mut self, operation: &Operation) -> Result<(), Mismatch> {
        self.advance_clock();
        match operation {
            Operation::Range(_) | Operation::Put(_) | Operation::Delete(_) | Operation::Txn(_) => {
                self.run_on_keys(operation).await
            }
            Operation::LeaseGrant(_)
            | Operation::LeaseRevoke(_)
            | Operation::LeaseKeepAlive(_)
            | Operation::LeaseTimeToLive(_)
            | Operation::Leases => self.run_on_leases(operation).await,
            Operation::Compact(draft) => {
                let request = draft.resolve(self.model.revision());
                let got = self.backend.compact(request).await;
                let expected = self.model.compact(request);
                self.compare(operation, got, expected)
            }
            Operation::Watch(draft) => {
                self.watch(operation, draft.resolve(self.model.revision())).await
            }
            Operation::Unwatch(number) => {
                if let Some(at) = self.watch_index(*number) {
                    self.settle().await?;
                    self.read_watch(at)?;
                    drop(self.watches.remove(at));
                    self.coverage.operation(operation, None);
                }
                Ok(())
            }
            Operation::Progress(number) => {
                if let Some(at) = self.watch_index(*number) {
                    let (watch, watcher) = &mut self.watches[at];
                    watch.request_progress();
                    watcher.request_progress();
                    self.coverage.operation(operation, None);
                }
                Ok(())
            }
            Operation::ReadWatches => {
                self.coverage.operation(operation, None);
                self.read_watches().await?;
                self.check_history().await
            }
            Operation::Advance { by, pace } => {
                match pace {
                    Pace::Jump => advance(*by).await,
                    // A timer that is due then also runs.
                    Pace::Sleep => sleep(*by + TIMER_DELAY).await,
                }
                self.jumped = *pace == Pace::Jump;
                self.coverage.operation(operation, None);
                Ok(())
            }
        }
    }

    async fn run_on_keys(&mut self, operation: &Operation) -> Result<(), Mismatch> {
        let (backend, current) = (self.backend, self.model.revision());
        match operation {
            Operation::Range(draft) => {
                let request = draft.resolve(current);
                let expected = self.model.range(&request);
                self.compare(operation, backend.range(request).await, expected)
            }
            Operation::Put(request) => {
                let expected = self.model.put(request);
                self.compare(operation, backend.put(request.clone()).await, expected)
            }
            Operation::Delete(request) => {
                let expected = self.model.delete(request);
                self.compare(operation, backend.delete(request.clone()).await, expected)
            }
            Operation::Txn(draft) => {
                let request = draft.resolve(current);
                let expected = self.model.txn(&request);
                if let Ok(response) = &expected {
                    self.coverage.txn(response);
                }
                self.compare(operation, backend.txn(request).await, expected)
            }
            other => unreachable!("{other} is not an operation on keys"),
        }
    }

    async fn run_on_leases(&mut self, operation: &Operation) -> Result<(), Mismatch> {
        let backend = self.backend;
        match *operation {
            Operation::LeaseGrant(request) => self.grant(operation, request).await,
            Operation::LeaseRevoke(id) => {
                let expected = self.model.revoke(id);
                self.compare(operation, backend.lease_revoke(id).await, expected)
            }
            Operation::LeaseKeepAlive(id) => {
                let expected = self.model.keep_alive(id);
                self.compare(operation, backend.lease_keep_alive(id).await, expected)
            }
            Operation::LeaseTimeToLive(request) => {
                let expected = self.model.time_to_live(request);
                let got = time_to_live(backend, request).await;
                self.compare(operation, got, Ok(expected))
            }
            Operation::Leases => {
                let expected = self.model.list_leases();
                self.compare(operation, backend.leases().await, Ok(expected))
            }
            ref other => unreachable!("{other} is not an operation on leases"),
        }
    }

    /// Advances the model's clock to the runtime's clock.
    fn advance_clock(&mut self) {
        let expired = self.model.advance_clock(self.began.elapsed());
        self.coverage.observe("lease expired", expired);
    }

    async fn grant(&mut self, operation: &Operation, request: LeaseGrant) -> Result<(), Mismatch> {
        let got = self.backend.lease_grant(request).await;
        // The store may choose any free id. The model checks that the id is free.
        let chosen = got.as_ref().ok().map(|response| response.id);
        let expected = self.model.grant(&request, chosen);
        self.compare(operation, got, expected)
    }

    /// After a jump of the clock, makes a call, which expires overdue leases. After a sleep the
    /// backend's timer has expired them.
    async fn settle(&mut self) -> Result<(), Mismatch> {
        if std::mem::take(&mut self.jumped) {
            let expected = self.model.list_leases();
            check(self.backend.leases().await, Ok(expected), &self.model)?;
        }
        Ok(())
    }

    async fn watch(&mut self, operation: &Operation, request: Watch) -> Result<(), Mismatch> {
        let got = self.backend.watch(request.clone()).await;
        let expected = self.model.watch(request);
        let header = expected.as_ref().map(|(header, _)| *header).map_err(|kind| *kind);
        let got_header = got.as_ref().map(Watcher::header).map_err(Error::clone);
        self.compare(operation, got_header, header)?;
        if let (Ok(watch), Ok((_, watcher))) = (got, expected) {
            self.watches.push((watch, watcher));
        }
        Ok(())
    }

    /// The index of the watch that `number` selects, if there are watches.
    fn watch_index(&self, number: u8) -> Option<usize> {
        usize::from(number).checked_rem(self.watches.len())
    }

    async fn read_watches(&mut self) -> Result<(), Mismatch> {
        self.settle().await?;
        // A watch that has ended is read once more, to check that it has, and then dropped.
        for at in (0..self.watches.len()).rev() {
            self.read_watch(at)?;
            if self.watches[at].1.has_ended() {
                drop(self.watches.remove(at));
            }
        }
        Ok(())
    }

    /// Reads all batches that a watch has to deliver, without waiting, and compares each.
    fn read_watch(&mut self, at: usize) -> Result<(), Mismatch> {
        let (watch, watcher) = &mut self.watches[at];
        let (expected, current) = (self.model.take_deliveries(watcher), self.model.revision());
        for delivery in &expected {
            self.coverage.delivery(delivery);
            // Unconstrained, because a task without budget receives nothing although there is more.
            let got = unconstrained(watch.next()).now_or_never().flatten();
            let same = match (&got, delivery) {
                (Some(Ok(got)), Ok(batch)) => got == batch,
                (Some(Err(error)), Err(kind)) => {
                    is_expected_error(error, *kind, watcher.compact_revision(), current)
                }
                _ => false,
            };
            if !same {
                return Err(format!("watch {watcher:?}\n{}", describe_mismatch(&got, delivery)));
            }
        }
        match (unconstrained(watch.next()).now_or_never(), watcher.has_ended()) {
            (None, false) | (Some(None), true) => Ok(()),
            (more, ended) => Err(format!(
                "watch {watcher:?}\n  expected no more (ended: {ended})\n  got      {more:?}"
            )),
        }
    }

    /// Reads every readable revision, the revision before these and the revision after them.
    async fn check_history(&mut self) -> Result<(), Mismatch> {
        self.advance_clock();
        let oldest = self.model.compacted.max(1);
        for revision in oldest - 1..=self.model.revision().0 + 1 {
            let request = Range::new(KeyRange::all()).at(Revision(revision));
            let expected = self.model.range(&request);
            let got = self.backend.range(request).await;
            check(got, expected, &self.model)
                .map_err(|mismatch| format!("all keys at {revision}\n{mismatch}"))?;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<(), Mismatch> {
        self.advance_clock();
        self.read_watches().await?;
        self.check_history().await
    }

    fn compare<T: Debug + PartialEq>(
        &mut self,
        operation: &Operation,
        got: Result<T>,
        expected: ModelResult<T>,
    ) -> Result<(), Mismatch> {
        self.coverage.operation(operation, expected.as_ref().err().copied());
        check(got, expected, &self.model)
    }
}

/// The status of a lease, with its keys sorted, because a backend may return them in any order.
async fn time_to_live(
    backend: &impl KvBackend,
    request: LeaseTimeToLive,
) -> Result<LeaseTimeToLiveResponse> {
    let mut response = backend.lease_time_to_live(request).await?;
    if let Some(lease) = &mut response.lease {
        lease.keys.sort();
    }
    Ok(response)
}

fn check<T: Debug + PartialEq>(
    got: Result<T>,
    expected: ModelResult<T>,
    model: &Model,
) -> Result<(), Mismatch> {
    let same = match (&got, &expected) {
        (Ok(got), Ok(expected)) => got == expected,
        (Err(error), Err(kind)) => {
            is_expected_error(error, *kind, model.compacted, model.revision())
        }
        _ => false,
    };
    if same { Ok(()) } else { Err(describe_mismatch(&got, &expected)) }
}

/// Whether an error has this kind, the outcome `NotApplied`, and the right revisions.
fn is_expected_error(error: &Error, kind: ErrorKind, compacted: i64, current: Revision) -> bool {
    let revision = match error {
        Error::Compacted { compact_revision, .. } => *compact_revision == Some(Revision(compacted)),
        Error::FutureRevision { current: reported, .. } => *reported == Some(current),
        _ => true,
    };
    error.kind() == kind && error.outcome() == Outcome::NotApplied && revision
}

/// The expected and the actual result, one line each.
fn describe_mismatch(got: &impl Debug, expected: &impl Debug) -> String {
    let line = |result: String| result.chars().take(4_000).collect::<String>();
    format!("  expected {}\n  got      {}", line(format!("{expected:?}")), line(format!("{got:?}")))
}
