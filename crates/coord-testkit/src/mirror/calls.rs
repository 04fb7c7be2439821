//! One operation of a mirror: sends it to both backends and compares the responses.

use std::time::Duration;

use coord_core::{
    KvBackend, Result,
    error::ErrorKind,
    kv::{Delete, KeyRange, LeaseGrant, LeaseId, LeaseTimeToLive, Range, Revision},
};
use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout};

use super::Mirror;
use super::mask::{Mask, both_texts, same_error};
use super::pair::WatchPair;
use crate::strategy::{CompactDraft, Operation};

impl<L: KvBackend, R: KvBackend> Mirror<L, R> {
    /// Revokes all leases and deletes all keys, and checks that both stores are at one revision.
    pub(super) async fn clear(&mut self) -> Result<(), String> {
        let left = within(self.timeout, self.left.leases()).await?;
        let right = within(self.timeout, self.right.leases()).await?;
        let leases = left.as_ref().map(|response| response.leases.clone()).unwrap_or_default();
        self.compare(left, right)?;
        for id in leases {
            self.revoke(id).await?;
        }
        let request = Delete::new(KeyRange::all());
        self.both(|kv| kv.delete(request.clone())).await
    }

    /// Runs one operation on both backends.
    pub(super) async fn step(&mut self, operation: &Operation) -> Result<(), String> {
        let current = self.current;
        match operation {
            Operation::Range(draft) => {
                let request = draft.resolve(current);
                self.both(|kv| kv.range(request.clone())).await
            }
            Operation::Put(request) => self.both(|kv| kv.put(request.clone())).await,
            Operation::Delete(request) => self.both(|kv| kv.delete(request.clone())).await,
            Operation::Txn(draft) => {
                let request = draft.resolve(current);
                self.both(|kv| kv.txn(request.clone())).await
            }
            Operation::LeaseGrant(request) => self.grant(*request).await,
            Operation::LeaseRevoke(id) => self.revoke(*id).await,
            Operation::LeaseKeepAlive(id) => {
                let sent = Instant::now();
                self.both(|kv| kv.lease_keep_alive(*id)).await?;
                self.refreshed.entry(*id).and_modify(|at| *at = (sent, Instant::now()));
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

    /// Grants a lease with the requested id, or with an unused one that the mirror chooses.
    async fn grant(&mut self, mut request: LeaseGrant) -> Result<(), String> {
        let id = request.id.or_else(|| {
            self.last_lease += 1;
            LeaseId::new(self.last_lease)
        });
        request.id = id;
        let sent = Instant::now();
        let refusals = self.tally.refusals;
        self.both(|kv| kv.lease_grant(request)).await?;
        if let Some(id) = id.filter(|_| refusals == self.tally.refusals) {
            self.refreshed.insert(id, (sent, Instant::now()));
        }
        Ok(())
    }

    async fn revoke(&mut self, id: LeaseId) -> Result<(), String> {
        self.both(|kv| kv.lease_revoke(id)).await?;
        self.refreshed.remove(&id);
        Ok(())
    }

    /// Reads the remaining time of a lease on both sides, which may differ by the time between the
    /// calls.
    async fn time_to_live(&mut self, request: LeaseTimeToLive) -> Result<(), String> {
        let sent = Instant::now();
        let left = within(self.timeout, self.left.lease_time_to_live(request)).await?;
        let mut right = within(self.timeout, self.right.lease_time_to_live(request)).await?;
        let refresh = self.refreshed.get(&request.id).map(|(first, last)| *last - *first);
        let slack = sent.elapsed() + refresh.unwrap_or_default() + Duration::from_secs(1);
        let of_left = left.as_ref().ok().and_then(|response| response.lease.as_ref());
        let of_right = right.as_mut().ok().and_then(|response| response.lease.as_mut());
        if let (Some(of_left), Some(of_right)) = (of_left, of_right) {
            // Both sides round down, so that a smaller difference can show as one second.
            if of_left.remaining.abs_diff(of_right.remaining) <= slack {
                of_right.remaining = of_left.remaining;
            }
        }
        self.compare(left, right)
    }

    async fn compact(&mut self, draft: CompactDraft) -> Result<(), String> {
        // Resolved before the markers are written, which raise the revision.
        let request = draft.resolve(self.current);
        self.settle(WatchPair::is_affected_by_compaction).await?;
        self.drop_unmarkable_watches().await?;
        let refusals = self.tally.refusals;
        self.both(|kv| kv.compact(request)).await?;
        if refusals == self.tally.refusals {
            self.compacted = self.compacted.max(request.revision);
        }
        Ok(())
    }

    /// Reads all keys at every readable revision since `first`, at the newest compacted revision,
    /// and at the next future one.
    pub(super) async fn check_history(&mut self, first: Revision) -> Result<(), String> {
        let last = self.current.next();
        let first = first.max(self.compacted.previous()).max(Revision(1));
        for revision in first.0..=last.0 {
            let request = Range::new(KeyRange::all()).at(Revision(revision));
            self.both(|kv| kv.range(request.clone()))
                .await
                .map_err(|detail| format!("all keys at {revision}\n{detail}"))?;
        }
        Ok(())
    }

    /// Makes one call on both backends, left first.
    pub(super) async fn both<T: Mask>(
        &mut self,
        call: impl Fn(&dyn KvBackend) -> BoxFuture<'_, Result<T>> + Send,
    ) -> Result<(), String> {
        let left = within(self.timeout, call(&self.left)).await?;
        if is_hazard(&left) {
            // The request would crash the right side, so it is not sent there.
            return Ok(());
        }
        let right = within(self.timeout, call(&self.right)).await?;
        self.compare(left, right)
    }

    /// Compares two responses to one request, and counts them.
    pub(super) fn compare<T: Mask>(
        &mut self,
        left: Result<T>,
        right: Result<T>,
    ) -> Result<(), String> {
        let mask = |mut response: T| {
            response.mask();
            response
        };
        if let Ok(response) = &left {
            self.current = self.current.max(response.revision());
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
        if same { Ok(()) } else { Err(both_texts(&left, &right)) }
    }
}

/// Awaits a call, for at most `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = T> + Send,
) -> Result<T, String> {
    timeout(limit, call).await.map_err(|_| format!("  no response within {limit:?}"))
}

/// Whether the left side refused a request that would crash a real etcd server.
pub(super) fn is_hazard<T>(response: &Result<T>) -> bool {
    response.as_ref().is_err_and(|error| error.kind() == ErrorKind::Refused)
}
