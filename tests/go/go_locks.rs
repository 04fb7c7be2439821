//! A copy of the locks and elections of Go's package over `Client`, with their faults, as a
//! reference for regression tests.
//!
//! A regression test first reproduces Go's fault on this copy, and then shows that coord does not
//! have it. A contender that waits sends the same requests in the same order as in Go's `mutex.go`,
//! `election.go` and `key.go`. Without contention, `lock` sends one request more here, and
//! `campaign` one fewer. Where a fault was fixed on etcd's main branch, both versions are here.
//! Cleanup after an error is omitted where no test depends on it.
//!
//! Source: etcd `client/v3/concurrency` at commit 2f59c9f, and at 3.4; the facts, not the text.

use bytes::Bytes;
use coord_core::{
    Client, Result,
    kv::{
        Compare, CompareOp, Delete, EventKind, LeaseId, Op, Put, Range, Revision, SortOrder,
        SortTarget, Txn, Watch,
    },
};

/// The result of `Lock` and `TryLock` in Go's package.
#[derive(Debug)]
pub(crate) enum LockResult {
    Held,
    /// `ErrLocked`.
    Locked,
    /// `ErrSessionExpired`.
    SessionExpired,
}

/// A contender of Go's package. Its key is named after its lease alone, so that two contenders of
/// one session share a key.
pub(crate) struct GoContender {
    kv: Client,
    pub(crate) lease: LeaseId,
    prefix: String,
    pub(crate) key: String,
    created: Revision,
    /// Whether `resign` deletes the key. A failed campaign and `resign` clear it.
    campaigned: bool,
}

impl GoContender {
    pub(crate) fn new(kv: Client, lease: LeaseId, name: &str) -> Self {
        let (prefix, key) = (format!("{name}/"), format!("{name}/{lease}"));
        Self { kv, lease, prefix, key, created: Revision::ZERO, campaigned: false }
    }

    /// Creates the key or finds it. Returns whether it is the first in the wait queue.
    async fn acquire(&mut self, value: &str) -> Result<bool> {
        let first = Range::prefix(self.prefix.clone())
            .sorted(SortTarget::CreateRevision, SortOrder::Ascending)
            .limit(1);
        let put = Put::new(self.key.clone(), value.to_owned()).lease(self.lease);
        let acquire = Txn::new()
            .when([Compare::absent(self.key.clone())])
            .and_then([Op::Put(put), Op::Range(first.clone())])
            .or_else([Op::Range(Range::new(self.key.clone())), Op::Range(first)]);
        let response = self.kv.txn(acquire).await?;
        let reads: Vec<_> = response.responses.iter().map(|response| response.as_range()).collect();
        self.created = match (response.succeeded, reads[0]) {
            (false, Some(own)) => own.kvs[0].create_revision,
            _ => response.header.revision,
        };
        Ok(reads[1].is_some_and(|first| first.kvs[0].create_revision == self.created))
    }

    /// Waits until every earlier key is deleted, without checking its own key.
    async fn wait_deletes(&self) -> Result<()> {
        let before = Range::prefix(self.prefix.clone())
            .sorted(SortTarget::CreateRevision, SortOrder::Descending)
            .max_create_revision(Revision(self.created.0 - 1))
            .limit(1);
        loop {
            let read = self.kv.range(before.clone()).await?;
            let Some(last) = read.kvs.first() else { return Ok(()) };
            self.wait_delete(last.key.clone(), read.header.revision).await?;
        }
    }

    async fn wait_delete(&self, key: Bytes, from: Revision) -> Result<()> {
        let mut watch = self.kv.watch(Watch::new(key).start_at(from)).await?;
        while let Some(batch) = watch.next().await {
            if batch?.events.iter().any(|event| event.kind == EventKind::Delete) {
                return Ok(());
            }
        }
        unreachable!("a watch ends with an error")
    }

    /// `Mutex.Lock` up to 3.4: reports success as soon as every earlier key is deleted.
    pub(crate) async fn lock_of_3_4(&mut self) -> Result<LockResult> {
        if !self.acquire("").await? {
            self.wait_deletes().await?;
        }
        Ok(LockResult::Held)
    }

    /// `Mutex.Lock` since 3.5: also checks that a key of its name exists.
    pub(crate) async fn lock(&mut self) -> Result<LockResult> {
        self.lock_of_3_4().await?;
        let exists = self.kv.get(self.key.clone()).await?.is_some();
        Ok(if exists { LockResult::Held } else { LockResult::SessionExpired })
    }

    /// `Mutex.TryLock`: enqueues, and deletes its key again if it is not the first.
    pub(crate) async fn try_lock(&mut self) -> Result<LockResult> {
        if self.acquire("").await? {
            return Ok(LockResult::Held);
        }
        self.unlock().await?;
        Ok(LockResult::Locked)
    }

    /// `Mutex.Unlock`: deletes the key by name, without a guard on its create revision.
    pub(crate) async fn unlock(&mut self) -> Result<()> {
        self.kv.delete(self.key.clone()).await?;
        Ok(())
    }

    /// `Election.Campaign`: reports success when every earlier key is deleted. An error clears
    /// `campaigned`, although the key stays.
    pub(crate) async fn campaign(&mut self, value: &str) -> Result<()> {
        let first = self.acquire(value).await?;
        self.campaigned = true;
        if !first && let Err(error) = self.wait_deletes().await {
            self.campaigned = false;
            return Err(error);
        }
        Ok(())
    }

    /// `Election.Resign`: clears `campaigned`, whether the request succeeds or not.
    pub(crate) async fn resign(&mut self) -> Result<()> {
        if !self.campaigned {
            return Ok(());
        }
        self.campaigned = false;
        let mine = Compare::create_revision(self.key.clone(), CompareOp::Equal, self.created);
        let resign = Txn::new().when([mine]).and_then([Delete::new(self.key.clone())]);
        self.kv.txn(resign).await.map(|_| ())
    }
}
