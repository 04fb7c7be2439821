//! `KvBackend`: the contract that every backend implements.
//!
//! The trait is for implementors: few methods, one request type each, and a contract that the
//! conformance suite of `coord-testkit` checks, one named case per rule. Callers use a
//! [`Client`](crate::Client).

use std::fmt::Debug;

use async_trait::async_trait;

use crate::error::Result;
use crate::kv::{
    Compact, CompactResponse, Delete, DeleteResponse, LeaseGrant, LeaseGrantResponse, LeaseId,
    LeaseKeepAliveResponse, LeaseRevokeResponse, LeaseTimeToLive, LeaseTimeToLiveResponse,
    LeasesResponse, Limits, OpResponse, Put, PutResponse, Range, RangeResponse, Txn, TxnResponse,
    Watch, Watcher,
};
/// A store of keys with revisions, transactions, watches and leases.
///
/// Shared as `Arc<dyn KvBackend>`, which is a backend itself. A backend that wraps another one is
/// written with [`Layer`](crate::layer::Layer).
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
/// - A read at a revision always returns the same keys, until that revision is compacted.
///
/// *Transactions*
/// - All compares, also those of nested transactions, are evaluated before any operation.
/// - Operations are applied in order, and a range among them reads what earlier ones wrote.
/// - A transaction that fails changes nothing.
///
/// *Watches*
/// - [`watch`](Self::watch) returns once the watch is registered, with the revision at which it
///   was: every later change is delivered.
/// - Batches arrive in order, one per revision, none missing and none twice.
/// - A backend resumes after a lost connection by itself, from the revision after the last one
///   delivered.
/// - When changes to be delivered are compacted away, the stream yields
///   [`Compacted`](crate::Error::Compacted) and ends.
/// - Dropping the stream cancels the watch.
///
/// *Leases*
/// - A lease lives at least the time it was granted, counted from the last refresh.
/// - When it ends, its keys are deleted in one revision, in key order.
///
/// *Outcome*
/// - Every error reports whether the request surely was not applied, or may have been.
/// - A backend never repeats a mutation whose first attempt may have been applied.
/// - A request that no store would accept is refused before it is sent.
///
/// *Cancellation*
/// - Any future may be dropped at any time; whether its request was applied is then unknown.
///
/// Source: `docs/etcd-contract.md` §1 to §9.
#[async_trait]
pub trait KvBackend: Debug + Send + Sync + 'static {
    /// Reads keys, at the newest revision or at an older one.
    ///
    /// # Errors
    /// `EmptyKey`, `Compacted`, `FutureRevision`; `RequestTooLarge` when the keys in the request
    /// have more bytes than the backend takes in one message; `Unavailable`, `Timeout`. A read
    /// changes nothing.
    async fn range(&self, request: Range) -> Result<RangeResponse>;

    /// Applies one of two lists of operations, atomically.
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
    async fn watch(&self, request: Watch) -> Result<Watcher>;

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
    /// chosen by the caller, another attempt shows it.
    async fn lease_grant(&self, request: LeaseGrant) -> Result<LeaseGrantResponse>;

    /// Refreshes a lease once: it lives its whole TTL again.
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

    /// Returns how long a lease still lives. A lease that does not exist is no error.
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

    /// Compacts the history: revisions before a given one can no longer be read.
    ///
    /// # Errors
    /// Not applied: `Compacted` when that has been done already, `FutureRevision`, `Refused`.
    /// Perhaps applied: `Unavailable`, `Timeout`.
    ///
    /// # Cancel safety
    /// Dropping the future leaves unknown whether the store was compacted.
    async fn compact(&self, request: Compact) -> Result<CompactResponse>;

    /// Returns how large a request may be.
    fn limits(&self) -> Limits;

    /// Sets one key.
    ///
    /// Provided as a transaction of one operation. Override it where the store has a call of its
    /// own, whose response differs in one corner: of two reasons to refuse a put, a lease that does
    /// not exist comes before a key that does not exist.
    ///
    /// # Errors
    /// Not applied: what [`Put::check`] refuses, `RequestTooLarge`, `LeaseNotFound`,
    /// `KeyNotFound`. Perhaps applied: `Unavailable`, `Timeout`.
    ///
    /// # Cancel safety
    /// Dropping the future leaves unknown whether the key was set.
    async fn put(&self, request: Put) -> Result<PutResponse> {
        let TxnResponse { header, mut responses, .. } =
            self.txn(Txn::new().and_then([request])).await?;
        match responses.pop() {
            Some(OpResponse::Put(response)) => Ok(PutResponse { header, ..response }),
            other => unreachable!("a transaction of one put answered {other:?}"),
        }
    }

    /// Deletes the keys of a range.
    ///
    /// Provided as a transaction of one operation. Override it where the store has a call of its
    /// own.
    ///
    /// # Errors
    /// Not applied: `EmptyKey`, `RequestTooLarge`. Perhaps applied: `Unavailable`, `Timeout`.
    ///
    /// # Cancel safety
    /// Dropping the future leaves unknown whether the keys were deleted.
    async fn delete(&self, request: Delete) -> Result<DeleteResponse> {
        let TxnResponse { header, mut responses, .. } =
            self.txn(Txn::new().and_then([request])).await?;
        match responses.pop() {
            Some(OpResponse::Delete(response)) => Ok(DeleteResponse { header, ..response }),
            other => unreachable!("a transaction of one delete answered {other:?}"),
        }
    }
}
