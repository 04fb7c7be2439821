//! Drives a sequence of operations to a backend and to the model, and stops where they differ.

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
use super::state::{Answer, Model};
use super::watch::Watcher as ModelWatcher;

/// How late the runtime's timers may be, and then some.
const TIMER_GRAIN: Duration = Duration::from_millis(3);

/// Why a run stopped: what was answered, and what should have been.
pub(super) type Difference = String;

/// A backend and the model, side by side.
struct Run<'a, B> {
    backend: &'a B,
    model: Model,
    /// Zero on the model's clock.
    began: Instant,
    watches: Vec<(Watcher, ModelWatcher)>,
    /// Whether time has jumped since the last call, so that nobody may have ended a lease yet.
    jumped: bool,
    coverage: &'a mut Coverage,
}

/// Runs all operations on an empty backend. Its virtual time is the runtime's.
///
/// # Errors
/// The first difference, with the operations that led to it.
pub(super) async fn run<B: KvBackend>(
    backend: &B,
    operations: &[Operation],
    coverage: &mut Coverage,
) -> Result<(), Difference> {
    let began = Instant::now();
    let identity = backend.leases().await.map_err(|error| error.to_string())?.header;
    let model = Model::new(identity, backend.limits());
    let mut run = Run { backend, model, began, watches: Vec::new(), jumped: false, coverage };
    let mut story = Vec::new();
    for operation in operations {
        story.push((run.model.revision(), operation));
        run.step(operation).await.map_err(|difference| tell(&story, &difference))?;
    }
    run.finish()
        .await
        .map_err(|difference| tell(&story, &format!("all has been done\n{difference}")))
}

/// The operations that led to a difference, each with the revision that it found.
fn tell(story: &[(Revision, &Operation)], difference: &str) -> Difference {
    let story = story.iter().map(|(revision, operation)| format!("  @{revision} {operation}\n"));
    format!("the backend and the model differ:\n{}{difference}", story.collect::<String>())
}

impl<B: KvBackend> Run<'_, B> {
    async fn step(&mut self, operation: &Operation) -> Result<(), Difference> {
        self.pass_time();
        match operation {
            Operation::Range(_) | Operation::Put(_) | Operation::Delete(_) | Operation::Txn(_) => {
                self.on_keys(operation).await
            }
            Operation::LeaseGrant(_)
            | Operation::LeaseRevoke(_)
            | Operation::LeaseKeepAlive(_)
            | Operation::LeaseTimeToLive(_)
            | Operation::Leases => self.on_leases(operation).await,
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
                if let Some(at) = self.watch_number(*number) {
                    self.settle().await?;
                    self.read_watch(at)?;
                    drop(self.watches.remove(at));
                    self.coverage.operation(operation, None);
                }
                Ok(())
            }
            Operation::Progress(number) => {
                if let Some(at) = self.watch_number(*number) {
                    let (watch, watcher) = &mut self.watches[at];
                    watch.request_progress();
                    watcher.ask_for_bookmark();
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
                    // Time enough for a timer whose time has just come.
                    Pace::Sleep => sleep(*by + TIMER_GRAIN).await,
                }
                self.jumped = *pace == Pace::Jump;
                self.coverage.operation(operation, None);
                Ok(())
            }
        }
    }

    async fn on_keys(&mut self, operation: &Operation) -> Result<(), Difference> {
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
            other => unreachable!("{other} is not about keys"),
        }
    }

    async fn on_leases(&mut self, operation: &Operation) -> Result<(), Difference> {
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
            ref other => unreachable!("{other} is not about leases"),
        }
    }

    /// Moves the model's clock to where the runtime's is.
    fn pass_time(&mut self) {
        let ended = self.model.pass_time(self.began.elapsed());
        self.coverage.sight("lease ended by time", ended);
    }

    async fn grant(
        &mut self,
        operation: &Operation,
        request: LeaseGrant,
    ) -> Result<(), Difference> {
        let got = self.backend.lease_grant(request).await;
        // An id of the store's choice can be any that is free; that it is, the model checks.
        let chosen = got.as_ref().ok().map(|response| response.id);
        let expected = self.model.grant(&request, chosen);
        self.compare(operation, got, expected)
    }

    /// Has overdue leases ended, as any call does. After a sleep the backend's timer has done it.
    async fn settle(&mut self) -> Result<(), Difference> {
        if std::mem::take(&mut self.jumped) {
            let expected = self.model.list_leases();
            check(self.backend.leases().await, Ok(expected), &self.model)?;
        }
        Ok(())
    }

    async fn watch(&mut self, operation: &Operation, request: Watch) -> Result<(), Difference> {
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

    fn watch_number(&self, number: u8) -> Option<usize> {
        usize::from(number).checked_rem(self.watches.len())
    }

    async fn read_watches(&mut self) -> Result<(), Difference> {
        self.settle().await?;
        // One that has ended is read once more, to see that it has; then it is let go.
        for at in (0..self.watches.len()).rev() {
            self.read_watch(at)?;
            if self.watches[at].1.has_ended() {
                drop(self.watches.remove(at));
            }
        }
        Ok(())
    }

    /// Reads what a watch has to deliver, without waiting, and compares it batch by batch.
    fn read_watch(&mut self, at: usize) -> Result<(), Difference> {
        let (watch, watcher) = &mut self.watches[at];
        let (expected, current) = (self.model.deliver(watcher), self.model.revision());
        for delivery in &expected {
            self.coverage.delivery(delivery);
            // Without a budget, for a task that is out of it sees nothing though there is more.
            let got = unconstrained(watch.next()).now_or_never().flatten();
            let same = match (&got, delivery) {
                (Some(Ok(got)), Ok(batch)) => got == batch,
                (Some(Err(error)), Err(kind)) => {
                    is_that(error, *kind, watcher.compacted(), current)
                }
                _ => false,
            };
            if !same {
                return Err(format!("watch {watcher:?}\n{}", told(&got, delivery)));
            }
        }
        match (unconstrained(watch.next()).now_or_never(), watcher.has_ended()) {
            (None, false) | (Some(None), true) => Ok(()),
            (more, ended) => Err(format!(
                "watch {watcher:?}\n  expected no more (ended: {ended})\n  got      {more:?}"
            )),
        }
    }

    /// Reads every revision that there is, and the two next to them that there are not.
    async fn check_history(&mut self) -> Result<(), Difference> {
        self.pass_time();
        let oldest = self.model.compacted.max(1);
        for revision in oldest - 1..=self.model.revision().0 + 1 {
            let request = Range::new(KeyRange::all()).at(Revision(revision));
            let expected = self.model.range(&request);
            let got = self.backend.range(request).await;
            check(got, expected, &self.model)
                .map_err(|difference| format!("all keys at {revision}\n{difference}"))?;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<(), Difference> {
        self.pass_time();
        self.read_watches().await?;
        self.check_history().await
    }

    fn compare<T: Debug + PartialEq>(
        &mut self,
        operation: &Operation,
        got: Result<T>,
        expected: Answer<T>,
    ) -> Result<(), Difference> {
        self.coverage.operation(operation, expected.as_ref().err().copied());
        check(got, expected, &self.model)
    }
}

/// The order of a lease's keys means nothing.
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
    expected: Answer<T>,
    model: &Model,
) -> Result<(), Difference> {
    let same = match (&got, &expected) {
        (Ok(got), Ok(expected)) => got == expected,
        (Err(error), Err(kind)) => is_that(error, *kind, model.compacted, model.revision()),
        _ => false,
    };
    if same { Ok(()) } else { Err(told(&got, &expected)) }
}

/// Whether an error is of that kind, changed nothing, and has the right revisions in it.
fn is_that(error: &Error, kind: ErrorKind, compacted: i64, current: Revision) -> bool {
    let revision = match error {
        Error::Compacted { compact_revision, .. } => *compact_revision == Some(Revision(compacted)),
        Error::FutureRevision { current: told, .. } => *told == Some(current),
        _ => true,
    };
    error.kind() == kind && error.outcome() == Outcome::NotApplied && revision
}

/// The two answers, one under the other.
fn told(got: &impl Debug, expected: &impl Debug) -> String {
    let line = |answer: String| answer.chars().take(4_000).collect::<String>();
    format!("  expected {}\n  got      {}", line(format!("{expected:?}")), line(format!("{got:?}")))
}
