//! Operations of a mirror: each is sent to both backends, and the responses are compared.

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
        let left = with_timeout(self.timeout, self.left.leases()).await?;
        let right = with_timeout(self.timeout, self.right.leases()).await?;
        let leases = left.as_ref().map(|response| response.leases.clone()).unwrap_or_default();
        self.compare(left, right)?;
        for id in leases {
            self.revoke(id).await?;
        }
        let request = Delete::new(KeyRange::all());
        self.call_both(|kv| kv.delete(request.clone())).await
    }

    /// Runs one operation on both backends.
    pub(super) async fn run_operation(&mut self, operation: &Operation) -> Result<(), String> {
        let current = self.current;
        match operation {
            Operation::Range(draft) => {
                let request = draft.resolve(current);
                self.call_both(|kv| kv.range(request.clone())).await
            }
            Operation::Put(request) => self.call_both(|kv| kv.put(request.clone())).await,
            Operation::Delete(request) => self.call_both(|kv| kv.delete(request.clone())).await,
            Operation::Txn(draft) => {
                let request = draft.resolve(current);
                self.call_both(|kv| kv.txn(request.clone())).await
            }
            Operation::LeaseGrant(request) => self.grant(*request).await,
            Operation::LeaseRevoke(id) => self.revoke(*id).await,
            Operation::LeaseKeepAlive(id) => {
                let sent = Instant::now();
                self.call_both(|kv| kv.lease_keep_alive(*id)).await?;
                self.refreshed.entry(*id).and_modify(|at| *at = (sent, Instant::now()));
                Ok(())
            }
            Operation::LeaseTimeToLive(request) => self.time_to_live(*request).await,
            Operation::Leases => self.call_both(|kv| kv.leases()).await,
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
            // A store's responses must not depend on the pace, so a mirror always sleeps.
            Operation::Advance { by, .. } => {
                tokio::time::sleep(*by).await;
                Ok(())
            }
        }
    }

    /// Grants a lease with the requested id, or with an unused one that the mirror chooses.
    async fn grant(&mut self, mut request: LeaseGrant) -> Result<(), String> {
        let id = request.id.or_else(|| {
            self.last_chosen_lease += 1;
            LeaseId::new(self.last_chosen_lease)
        });
        request.id = id;
        let sent = Instant::now();
        let errors = self.tally.errors;
        self.call_both(|kv| kv.lease_grant(request)).await?;
        if let Some(id) = id.filter(|_| errors == self.tally.errors) {
            self.refreshed.insert(id, (sent, Instant::now()));
        }
        Ok(())
    }

    async fn revoke(&mut self, id: LeaseId) -> Result<(), String> {
        self.call_both(|kv| kv.lease_revoke(id)).await?;
        self.refreshed.remove(&id);
        Ok(())
    }

    /// Reads the remaining time of a lease on both sides. The times may differ by the duration of
    /// the calls.
    async fn time_to_live(&mut self, request: LeaseTimeToLive) -> Result<(), String> {
        let sent = Instant::now();
        let left = with_timeout(self.timeout, self.left.lease_time_to_live(request)).await?;
        let mut right = with_timeout(self.timeout, self.right.lease_time_to_live(request)).await?;
        let refresh = self.refreshed.get(&request.id).map(|(first, last)| *last - *first);
        let slack = sent.elapsed() + refresh.unwrap_or_default() + Duration::from_secs(1);
        let of_left = left.as_ref().ok().and_then(|response| response.lease.as_ref());
        let of_right = right.as_mut().ok().and_then(|response| response.lease.as_mut());
        if let (Some(of_left), Some(of_right)) = (of_left, of_right) {
            // Both sides round down, so a difference below one second can appear as one second.
            if of_left.remaining.abs_diff(of_right.remaining) <= slack {
                of_right.remaining = of_left.remaining;
            }
        }
        self.compare(left, right)
    }

    async fn compact(&mut self, draft: CompactDraft) -> Result<(), String> {
        // The revision is resolved before the markers are written, because they raise the revision.
        let request = draft.resolve(self.current);
        self.settle(WatchPair::is_affected_by_compaction).await?;
        self.drop_unmarkable_watches().await?;
        let errors = self.tally.errors;
        self.call_both(|kv| kv.compact(request)).await?;
        if errors == self.tally.errors {
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
            self.call_both(|kv| kv.range(request.clone()))
                .await
                .map_err(|detail| format!("all keys at {revision}\n{detail}"))?;
        }
        Ok(())
    }

    /// Makes one call on both backends, left first, and compares the responses.
    pub(super) async fn call_both<T: Mask>(
        &mut self,
        call: impl Fn(&dyn KvBackend) -> BoxFuture<'_, Result<T>> + Send,
    ) -> Result<(), String> {
        let left = with_timeout(self.timeout, call(&self.left)).await?;
        if is_hazard(&left) {
            // The request is not sent to the right side, because it could crash a server.
            return Ok(());
        }
        let right = with_timeout(self.timeout, call(&self.right)).await?;
        self.compare(left, right)
    }

    /// Compares the two responses to one request, and adds them to the tally.
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
                self.tally.errors += 1;
                same_error(left, right)
            }
            _ => false,
        };
        self.tally.responses += 1;
        if same { Ok(()) } else { Err(both_texts(&left, &right)) }
    }
}

/// Awaits a call, for at most `limit`.
pub(super) async fn with_timeout<T>(
    limit: Duration,
    call: impl Future<Output = T> + Send,
) -> Result<T, String> {
    timeout(limit, call).await.map_err(|_| format!("  no response within {limit:?}"))
}

/// Whether the left side refused a request because it would crash a real etcd server.
pub(super) fn is_hazard<T>(response: &Result<T>) -> bool {
    response.as_ref().is_err_and(|error| error.kind() == ErrorKind::Refused)
}
