//! The one trait that everything is written against.
//!
//! [`KvBackend`] is for implementors: few methods, one request type each, and a contract.
//! [`KvBackendExt`] is for callers: the same operations with less to type. Whoever implements the
//! first proves it with the conformance suite of `coord-testkit`, whose promises are named after
//! the bullets below.

use std::sync::Arc;

use async_trait::async_trait;

use crate::error::Result;
use crate::kv::{
    Compact, CompactResponse, Delete, DeleteResponse, IntoBytes, KeyRange, KeyValue, LeaseGrant,
    LeaseGrantResponse, LeaseId, LeaseKeepAliveResponse, LeaseRevokeResponse, LeaseTimeToLive,
    LeaseTimeToLiveResponse, LeasesResponse, Limits, OpResponse, Put, PutResponse, Range,
    RangeResponse, Txn, TxnResponse, Watch, WatchRequest,
};

/// A store of keys with revisions, transactions, watches and leases.
///
/// Shared as `Arc<dyn KvBackend>`, which is a backend itself.
///
/// # Errors
/// Each method lists its own errors. In addition a backend on a server returns, from any method,
/// `PermissionDenied`, `Unauthenticated` and `TooManyRequests`, all of them not applied, and
/// `Backend` for an error that has no kind of its own; from a method that changes the store also
/// `NoSpace`. The last two carry their outcome.
///
/// # Contract
///
/// *Revisions*
/// - A transaction that changes anything makes exactly one revision; nothing else makes any.
/// - All changes of a transaction share its revision, and no other transaction's.
/// - A read at a revision always gives the same answer, until that revision is compacted.
///
/// *Transactions*
/// - All compares, also those of nested transactions, are judged before any step is taken.
/// - Steps are taken in order, and a range among them sees what earlier steps did.
/// - A transaction that fails changed nothing.
///
/// *Watches*
/// - [`watch`](Self::watch) returns once the watch is registered, with the revision at which it
///   was: every later change is delivered.
/// - Batches arrive in order, one per revision, none missing and none twice.
/// - A backend mends a lost connection by itself, from the revision after the last one delivered.
/// - When changes to be delivered are compacted away, the stream yields
///   [`Compacted`](crate::Error::Compacted) and ends.
/// - Dropping the stream cancels the watch.
///
/// *Leases*
/// - A lease lives at least the time it was granted, counted from the last refresh.
/// - When it ends, its keys are deleted in one revision, in key order.
///
/// *Outcome*
/// - Every error tells whether the request surely changed nothing, or may have.
/// - A backend never repeats a change whose first try may have been applied.
/// - What no store would accept is refused before anything is sent.
///
/// *Cancellation*
/// - Any future may be dropped at any time; whether its request was applied is then unknown.
///
/// Source: `docs/etcd-contract.md` §1 to §9.
#[async_trait]
pub trait KvBackend: Send + Sync + 'static {
    /// Reads keys, now or as they were.
    ///
    /// # Errors
    /// `EmptyKey`, `Compacted`, `FutureRevision`; `RequestTooLarge` when the keys in the request
    /// have more bytes than the backend takes in one message; `Unavailable`, `Timeout`. A read
    /// changes nothing.
    async fn range(&self, request: Range) -> Result<RangeResponse>;

    /// Takes one of two lists of steps, atomically.
    ///
    /// # Errors
    /// Not applied: what [`Txn::check`] refuses, `RequestTooLarge`, `KeyNotFound`,
    /// `LeaseNotFound`, `Compacted`, `FutureRevision`, `Refused`. Perhaps applied: `Unavailable`,
    /// `Timeout`, as their outcome says.
    ///
    /// # Cancel safety
    /// Dropping the future leaves unknown whether the transaction was applied.
    async fn txn(&self, request: Txn) -> Result<TxnResponse>;

    /// Registers a watch.
    ///
    /// # Errors
    /// `EmptyWatchRange`; `Compacted` for a negative start; `RequestTooLarge`, as
    /// [`range`](Self::range); `Unavailable`, `Timeout`. When a start is compacted, the stream
    /// reports it.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the watch.
    async fn watch(&self, request: WatchRequest) -> Result<Watch>;

    /// Grants a lease: keys put with it are deleted when it ends.
    ///
    /// The store raises a TTL below its minimum to the minimum, and a TTL of zero too, as etcd
    /// does; the response carries the TTL that was granted. etcd's minimum is 2 s by default. A
    /// [`Session`](crate::Session) refuses a TTL of zero itself, because it is a mistake there.
    ///
    /// # Errors
    /// Not applied: `InvalidTtl` for a fraction of a second, `TtlTooLarge`, `LeaseExists`. Perhaps
    /// applied: `Unavailable`, `Timeout`.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the lease granted; it then expires by itself. With an id
    /// chosen by the caller it can be told, by trying again.
    async fn lease_grant(&self, request: LeaseGrant) -> Result<LeaseGrantResponse>;

    /// Refreshes a lease once: it lives its whole time again.
    ///
    /// # Errors
    /// `LeaseNotFound` when it has ended; `Unavailable`, `Timeout` leave it unknown.
    ///
    /// # Cancel safety
    /// Dropping the future may have refreshed the lease.
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseKeepAliveResponse>;

    /// Ends a lease: deletes its keys, in one revision, in key order.
    ///
    /// # Errors
    /// `LeaseNotFound`, not applied; `Unavailable`, `Timeout`, perhaps applied.
    ///
    /// # Cancel safety
    /// Dropping the future leaves unknown whether the lease was ended.
    async fn lease_revoke(&self, id: LeaseId) -> Result<LeaseRevokeResponse>;

    /// Tells how long a lease still lives. A lease that does not exist is no error.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`.
    async fn lease_time_to_live(&self, request: LeaseTimeToLive)
    -> Result<LeaseTimeToLiveResponse>;

    /// Lists the leases that exist.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`.
    async fn leases(&self) -> Result<LeasesResponse>;

    /// Forgets what only revisions before a given one could tell.
    ///
    /// # Errors
    /// Not applied: `Compacted` when that has been done already, `FutureRevision`, `Refused`.
    /// Perhaps applied: `Unavailable`, `Timeout`.
    ///
    /// # Cancel safety
    /// Dropping the future leaves unknown whether the store was compacted.
    async fn compact(&self, request: Compact) -> Result<CompactResponse>;

    /// How much the backend takes in one request.
    fn limits(&self) -> Limits;

    /// Sets one key.
    ///
    /// Provided as a transaction of one step. Override it where the store has a call of its own,
    /// whose answer differs in one corner: of two reasons to refuse a put, a lease that is not
    /// there comes before a key that is not there.
    ///
    /// # Errors
    /// Not applied: what [`Put::check`] refuses, `RequestTooLarge`, `LeaseNotFound`,
    /// `KeyNotFound`. Perhaps applied: `Unavailable`, `Timeout`.
    ///
    /// # Cancel safety
    /// Dropping the future leaves unknown whether the key was set.
    async fn put_with(&self, request: Put) -> Result<PutResponse> {
        let TxnResponse { header, mut responses, .. } =
            self.txn(Txn::new().and_then([request])).await?;
        match responses.pop() {
            Some(OpResponse::Put(response)) => Ok(PutResponse { header, ..response }),
            other => unreachable!("a transaction of one put answered {other:?}"),
        }
    }

    /// Deletes the keys of a range.
    ///
    /// Provided as a transaction of one step. Override it where the store has a call of its own.
    ///
    /// # Errors
    /// Not applied: `EmptyKey`, `RequestTooLarge`. Perhaps applied: `Unavailable`, `Timeout`.
    ///
    /// # Cancel safety
    /// Dropping the future leaves unknown whether the keys were deleted.
    async fn delete_with(&self, request: Delete) -> Result<DeleteResponse> {
        let TxnResponse { header, mut responses, .. } =
            self.txn(Txn::new().and_then([request])).await?;
        match responses.pop() {
            Some(OpResponse::Delete(response)) => Ok(DeleteResponse { header, ..response }),
            other => unreachable!("a transaction of one delete answered {other:?}"),
        }
    }
}

/// A shared backend is a backend: every call is passed on.
#[async_trait]
#[deny(clippy::missing_trait_methods, reason = "a provided method must not hide an override")]
impl<B: KvBackend + ?Sized> KvBackend for Arc<B> {
    async fn range(&self, request: Range) -> Result<RangeResponse> {
        (**self).range(request).await
    }

    async fn txn(&self, request: Txn) -> Result<TxnResponse> {
        (**self).txn(request).await
    }

    async fn watch(&self, request: WatchRequest) -> Result<Watch> {
        (**self).watch(request).await
    }

    async fn lease_grant(&self, request: LeaseGrant) -> Result<LeaseGrantResponse> {
        (**self).lease_grant(request).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseKeepAliveResponse> {
        (**self).lease_keep_alive(id).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<LeaseRevokeResponse> {
        (**self).lease_revoke(id).await
    }

    async fn lease_time_to_live(
        &self,
        request: LeaseTimeToLive,
    ) -> Result<LeaseTimeToLiveResponse> {
        (**self).lease_time_to_live(request).await
    }

    async fn leases(&self) -> Result<LeasesResponse> {
        (**self).leases().await
    }

    async fn compact(&self, request: Compact) -> Result<CompactResponse> {
        (**self).compact(request).await
    }

    fn limits(&self) -> Limits {
        (**self).limits()
    }

    async fn put_with(&self, request: Put) -> Result<PutResponse> {
        (**self).put_with(request).await
    }

    async fn delete_with(&self, request: Delete) -> Result<DeleteResponse> {
        (**self).delete_with(request).await
    }
}

/// What callers write most often, in few words. Every backend has it.
///
/// ```
/// use coord_core::{Compare, KvBackend, KvBackendExt, Put, Txn};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_core::Result<()> {
/// let kv = MemBackend::new();
/// kv.put("jobs/1", "sweep").await?;
/// kv.put("jobs/2", "mop").await?;
///
/// let first = kv.get("jobs/1").await?.expect("just put");
/// assert_eq!(first.value, "sweep");
/// assert_eq!(kv.get_prefix("jobs/").await?.len(), 2);
///
/// let taken = kv.txn(Txn::new().when([Compare::absent("owner")]).and_then([Put::new("owner", "me")]));
/// assert!(taken.await?.succeeded);
///
/// assert_eq!(kv.delete("jobs/1").await?.deleted, 1);
/// assert_eq!(kv.get("jobs/1").await?, None);
/// # Ok(())
/// # }
/// ```
pub trait KvBackendExt: KvBackend {
    /// The key as it is now; `None` if it does not exist.
    ///
    /// # Errors
    /// As [`KvBackend::range`].
    ///
    /// # Cancel safety
    /// Safe: a read changes nothing.
    fn get(&self, key: impl IntoBytes) -> impl Future<Output = Result<Option<KeyValue>>> + Send {
        let range = Range::new(KeyRange::key(key));
        async { Ok(self.range(range).await?.kvs.pop()) }
    }

    /// The keys that start with `prefix`, in key order.
    ///
    /// # Errors
    /// As [`KvBackend::range`].
    ///
    /// # Cancel safety
    /// Safe: a read changes nothing.
    fn get_prefix(
        &self,
        prefix: impl IntoBytes,
    ) -> impl Future<Output = Result<Vec<KeyValue>>> + Send {
        let range = Range::prefix(prefix);
        async { Ok(self.range(range).await?.kvs) }
    }

    /// Sets a key, on no lease. For anything more there is [`KvBackend::put_with`].
    ///
    /// # Errors
    /// As [`KvBackend::put_with`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves unknown whether the key was set.
    fn put(
        &self,
        key: impl IntoBytes,
        value: impl IntoBytes,
    ) -> impl Future<Output = Result<PutResponse>> + Send {
        self.put_with(Put::new(key, value))
    }

    /// Deletes a key, or a whole [`KeyRange`].
    ///
    /// # Errors
    /// As [`KvBackend::delete_with`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves unknown whether the key was deleted.
    fn delete(
        &self,
        keys: impl Into<KeyRange>,
    ) -> impl Future<Output = Result<DeleteResponse>> + Send {
        self.delete_with(Delete::new(keys))
    }
}

impl<B: KvBackend + ?Sized> KvBackendExt for B {}

/// What tells those apart who share a backend within a process. It is good as long as one of them
/// has it.
pub(crate) fn address(backend: &Arc<dyn KvBackend>) -> usize {
    Arc::as_ptr(backend).cast::<()>().addr()
}
