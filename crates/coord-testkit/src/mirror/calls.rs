//! One operation on both backends, and whether the answers are the same.

use std::time::Duration;

use coord_core::{
    KvBackend, Result,
    error::ErrorKind,
    kv::{Delete, KeyRange, LeaseGrant, LeaseId, LeaseTimeToLive, Range, Revision},
};
use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout};

use super::Mirror;
use super::mask::{Mask, same_error, told};
use super::pair::Pair;
use crate::strategy::{CompactDraft, Operation};

impl<L: KvBackend, R: KvBackend> Mirror<L, R> {
    /// Empties both stores, and sees that they stand at one revision.
    pub(super) async fn clear(&mut self) -> Result<(), String> {
        let left = in_time(self.patience, self.left.leases()).await?;
        let right = in_time(self.patience, self.right.leases()).await?;
        let leases = left.as_ref().map(|listed| listed.leases.clone()).unwrap_or_default();
        self.compare(left, right)?;
        for id in leases {
            self.revoke(id).await?;
        }
        let request = Delete::new(KeyRange::all());
        self.both(|kv| kv.delete(request.clone())).await
    }

    pub(super) async fn step(&mut self, operation: &Operation) -> Result<(), String> {
        let current = self.current;
        match operation {
            Operation::Range(draft) => {
                let request = draft.resolve(current);
                self.both(|kv| kv.range(request.clone())).await
            }
            Operation::Put(request) => self.both(|kv| kv.put_with(request.clone())).await,
            Operation::Delete(request) => self.both(|kv| kv.delete(request.clone())).await,
            Operation::Txn(draft) => {
                let request = draft.resolve(current);
                self.both(|kv| kv.txn(request.clone())).await
            }
            Operation::LeaseGrant(request) => self.grant(*request).await,
            Operation::LeaseRevoke(id) => self.revoke(*id).await,
            Operation::LeaseKeepAlive(id) => {
                let began = Instant::now();
                self.both(|kv| kv.lease_keep_alive(*id)).await?;
                self.refreshed.entry(*id).and_modify(|at| *at = (began, Instant::now()));
                Ok(())
            }
            Operation::LeaseTimeToLive(request) => self.time_to_live(*request).await,
            Operation::Leases => self.both(|kv| kv.leases()).await,
            Operation::Compact(draft) => self.compact(*draft).await,
            Operation::Watch(draft) => self.watch(draft.resolve(current)).await,
            Operation::Unwatch(number) => {
                self.read_watches()?;
                if let Some(at) = usize::from(*number).checked_rem(self.watches.len()) {
                    drop(self.watches.remove(at));
                }
                Ok(())
            }
            Operation::Progress(number) => {
                if let Some(at) = usize::from(*number).checked_rem(self.watches.len()) {
                    self.watches[at].request_progress();
                }
                Ok(())
            }
            Operation::ReadWatches => self.read_watches(),
            Operation::Advance { by, .. } => {
                tokio::time::sleep(*by).await;
                Ok(())
            }
        }
    }

    /// Grants a lease under the id that was asked for, or one that nobody uses.
    async fn grant(&mut self, mut request: LeaseGrant) -> Result<(), String> {
        let id = request.id.or_else(|| {
            self.next_lease += 1;
            LeaseId::new(self.next_lease)
        });
        request.id = id;
        let began = Instant::now();
        let granted = self.tally.refusals;
        self.both(|kv| kv.lease_grant(request)).await?;
        if let Some(id) = id.filter(|_| granted == self.tally.refusals) {
            self.refreshed.insert(id, (began, Instant::now()));
        }
        Ok(())
    }

    async fn revoke(&mut self, id: LeaseId) -> Result<(), String> {
        self.both(|kv| kv.lease_revoke(id)).await?;
        self.refreshed.remove(&id);
        Ok(())
    }

    /// Asks both for a lease's time, of which each may tell what was left when it was asked.
    async fn time_to_live(&mut self, request: LeaseTimeToLive) -> Result<(), String> {
        let began = Instant::now();
        let left = in_time(self.patience, self.left.lease_time_to_live(request)).await?;
        let mut right = in_time(self.patience, self.right.lease_time_to_live(request)).await?;
        let refresh = self.refreshed.get(&request.id).map(|(first, last)| *last - *first);
        let slack = began.elapsed() + refresh.unwrap_or_default() + Duration::from_secs(1);
        let of_left = left.as_ref().ok().and_then(|response| response.lease.as_ref());
        let of_right = right.as_mut().ok().and_then(|response| response.lease.as_mut());
        if let (Some(of_left), Some(of_right)) = (of_left, of_right) {
            // Both round down: what differs by less than a second may show as one.
            if of_left.remaining.abs_diff(of_right.remaining) <= slack {
                of_right.remaining = of_left.remaining;
            }
        }
        self.compare(left, right)
    }

    async fn compact(&mut self, draft: CompactDraft) -> Result<(), String> {
        // The revision is meant as it was before the markers.
        let request = draft.resolve(self.current);
        self.settle(Pair::minds_compaction).await?;
        self.let_go_of_the_deaf().await?;
        let refusals = self.tally.refusals;
        self.both(|kv| kv.compact(request)).await?;
        if refusals == self.tally.refusals {
            self.compacted = self.compacted.max(request.revision);
        }
        Ok(())
    }

    /// Reads all keys at every revision of this sequence, and at the two next to them.
    pub(super) async fn check_history(&mut self, first: Revision) -> Result<(), String> {
        let last = self.current.next();
        let first = first.max(self.compacted.previous()).max(Revision(1));
        for revision in first.0..=last.0 {
            let request = Range::new(KeyRange::all()).at(Revision(revision));
            self.both(|kv| kv.range(request.clone()))
                .await
                .map_err(|what| format!("all keys at {revision}\n{what}"))?;
        }
        Ok(())
    }

    /// Makes one call on both backends, left first.
    pub(super) async fn both<T: Mask>(
        &mut self,
        call: impl Fn(&dyn KvBackend) -> BoxFuture<'_, Result<T>> + Send,
    ) -> Result<(), String> {
        let left = in_time(self.patience, call(&self.left)).await?;
        if is_hazard(&left) {
            // What would crash the other side is not asked of it.
            return Ok(());
        }
        let right = in_time(self.patience, call(&self.right)).await?;
        self.compare(left, right)
    }

    pub(super) fn compare<T: Mask>(
        &mut self,
        left: Result<T>,
        right: Result<T>,
    ) -> Result<(), String> {
        let mask = |mut answer: T| {
            answer.mask();
            answer
        };
        if let Ok(answer) = &left {
            self.current = self.current.max(answer.revision());
        }
        let (left, right) = (left.map(mask), right.map(mask));
        let same = match (&left, &right) {
            (Ok(left), Ok(right)) => left == right,
            (Err(left), Err(right)) => {
                self.tally.refusals += 1;
                same_error(left, right)
            }
            _ => false,
        };
        self.tally.answers += 1;
        if same { Ok(()) } else { Err(told(&left, &right)) }
    }
}

pub(super) async fn in_time<T>(
    patience: Duration,
    call: impl Future<Output = T> + Send,
) -> Result<T, String> {
    timeout(patience, call).await.map_err(|_| format!("  no answer within {patience:?}"))
}

pub(super) fn is_hazard<T>(answer: &Result<T>) -> bool {
    answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Refused)
}
