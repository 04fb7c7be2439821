//! The trait `KvBackend`: the contract of a key-value store that coord runs on.
//!
//! The trait is for implementors of a backend. It has few methods, a request type for each request
//! with options, and a contract that the conformance suite of `coord-testkit` checks, one named
//! case for each rule. Callers use a [`Client`](crate::Client).

use std::fmt::Debug;

use async_trait::async_trait;

use crate::error::Result;
use crate::kv::{
    Compact, CompactResponse, Delete, DeleteResponse, LeaseGrant, LeaseGrantResponse, LeaseId,
    LeaseKeepAliveResponse, LeaseRevokeResponse, LeaseTimeToLive, LeaseTimeToLiveResponse,
    LeasesResponse, Limits, OpResponse, Put, PutResponse, Range, RangeResponse, Txn, TxnResponse,
    Watch, Watcher,
};

/// A key-value store with revisions, transactions, watches and leases.
///
/// It is shared as `Arc<dyn KvBackend>`, which is a backend itself. To write a backend that wraps
/// another backend, implement [`Layer`](crate::layer::Layer).
///
/// # Errors
/// Each method lists its own errors. In addition, a backend of a remote store returns:
///
/// | error | from | outcome |
/// |---|---|---|
/// | `PermissionDenied`, `Unauthenticated`, `TooManyRequests` | any method | not applied |
/// | `NoSpace` | a method that changes the store | in the error |
/// | `Backend`, for an error without a kind of its own | any method | in the error |
///
/// # Contract
///
/// *Revisions*
/// - A transaction that changes a key creates exactly one revision, and so does the end of a lease
///   that has keys; nothing else creates a revision.
/// - All changes of a transaction share its revision, and no other transaction has that revision.
/// - A read at a revision always returns the same keys, until that revision is compacted.
///
/// *Transactions*
/// - All compares, also those of nested transactions, are evaluated before any operation.
/// - Operations are applied in order, and a range reads the changes of earlier operations.
/// - A transaction that fails changes nothing.
///
/// *Watches*
/// - [`watch`](Self::watch) returns once the watch is registered, with the revision of the
///   registration. Every later change is delivered.
/// - Batches arrive in order, one per revision, none missing and none twice.
/// - After a lost connection the backend resumes the watch by itself, from the revision after the
///   last one that was delivered.
/// - If events that were not delivered yet are compacted, the stream yields
///   [`Compacted`](crate::Error::Compacted) and ends.
/// - Dropping the stream cancels the watch.
///
/// *Leases*
/// - A lease lives at least for its granted TTL, counted from the last keep-alive.
/// - When it ends, its keys are deleted in one revision, in key order.
///
/// *Outcome*
/// - Every error reports whether the request was surely not applied, or may have been.
/// - A backend never repeats a mutation whose first attempt may have been applied.
/// - A request that every store would reject is refused before it is sent.
///
/// *Cancellation*
/// - Any future may be dropped at any time. It is then unknown whether its request was applied.
///
/// Source: `docs/etcd-contract.md` §1 to §9.
#[async_trait]
pub trait KvBackend: Debug + Send + Sync + 'static {
    /// Reads the keys of a range, at the newest revision or at an older one.
    ///
    /// # Errors
    /// - `EmptyKey`, `Compacted`, `FutureRevision`;
    /// - `RequestTooLarge` if the request has more bytes than the backend accepts in one message;
    /// - `Unavailable`, `Timeout`.
    ///
    /// # Cancel safety
    /// Safe: a read changes nothing.
    async fn range(&self, request: Range) -> Result<RangeResponse>;

    /// Evaluates the compares of a transaction, and executes one of its two branches, atomically.
    ///
    /// # Errors
    /// - Not applied: the errors of [`Txn::check`]; `TxnTooDeep`, `RequestTooLarge`, `KeyNotFound`,
    ///   `LeaseNotFound`, `Compacted`, `FutureRevision`, `Refused`.
    /// - Unknown unless the error reports otherwise: `Unavailable`, `Timeout`.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the transaction was applied.
    async fn txn(&self, request: Txn) -> Result<TxnResponse>;

    /// Registers a watch.
    ///
    /// # Errors
    /// - `EmptyWatchRange`; `Compacted` for a negative start revision; `RequestTooLarge`, as
    ///   [`range`](Self::range);
    /// - `Unavailable`, `Timeout`.
    ///
    /// If the start revision is compacted, the stream yields the error.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the watch.
    async fn watch(&self, request: Watch) -> Result<Watcher>;

    /// Grants a lease. The keys that are attached to it are deleted when it ends.
    ///
    /// The store raises a TTL below its minimum to the minimum, zero included, as etcd does. The
    /// response carries the granted TTL. etcd's minimum is 2 s by default. A
    /// [`Session`](crate::Session) refuses a TTL of zero, because there it is a mistake.
    ///
    /// # Errors
    /// - Not applied: `InvalidTtl` for a fraction of a second, `TtlTooLarge`, `LeaseExists`.
    /// - Unknown unless the error reports otherwise: `Unavailable`, `Timeout`.
    ///
    /// # Cancel safety
    /// If the future is dropped, the lease may have been granted; it then expires by itself. If the
    /// caller chose the id, a second request with it fails with `LeaseExists` in that case.
    async fn lease_grant(&self, request: LeaseGrant) -> Result<LeaseGrantResponse>;

    /// Sends one keep-alive: the lease lives for its whole TTL again.
    ///
    /// # Errors
    /// - Not applied: `LeaseNotFound` if the lease has ended.
    /// - Unknown unless the error reports otherwise: `Unavailable`, `Timeout`.
    ///
    /// # Cancel safety
    /// If the future is dropped, the lease may have been refreshed.
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseKeepAliveResponse>;

    /// Revokes a lease: ends it and deletes its keys, in one revision, in key order.
    ///
    /// # Errors
    /// - Not applied: `LeaseNotFound`.
    /// - Unknown unless the error reports otherwise: `Unavailable`, `Timeout`.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the lease was revoked.
    async fn lease_revoke(&self, id: LeaseId) -> Result<LeaseRevokeResponse>;

    /// Reads the remaining TTL of a lease, and on request its keys. A lease that does not exist is
    /// no error.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    async fn lease_time_to_live(&self, request: LeaseTimeToLive)
    -> Result<LeaseTimeToLiveResponse>;

    /// Lists the leases that exist.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    async fn leases(&self) -> Result<LeasesResponse>;

    /// Compacts the history: revisions before the requested one can no longer be read.
    ///
    /// # Errors
    /// - Not applied: `Compacted` if the history is compacted at this or a later revision already;
    ///   `FutureRevision`, `Refused`.
    /// - Unknown unless the error reports otherwise: `Unavailable`, `Timeout`.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the history was compacted.
    async fn compact(&self, request: Compact) -> Result<CompactResponse>;

    /// Returns the limits of requests.
    fn limits(&self) -> Limits;

    /// Sets one key.
    ///
    /// The provided implementation sends a transaction of one operation. Override it if the store
    /// has a request for it. That request differs in one case: if a put with `ignore_value` names a
    /// lease and a key that do not exist, the request fails with `LeaseNotFound`, and the
    /// transaction with `KeyNotFound`.
    ///
    /// # Errors
    /// - Not applied: the errors of [`Put::check`]; `RequestTooLarge`, `LeaseNotFound`,
    ///   `KeyNotFound`.
    /// - Unknown unless the error reports otherwise: `Unavailable`, `Timeout`.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the key was set.
    async fn put(&self, request: Put) -> Result<PutResponse> {
        let TxnResponse { header, mut responses, .. } =
            self.txn(Txn::new().and_then([request])).await?;
        match responses.pop() {
            Some(OpResponse::Put(response)) => Ok(PutResponse { header, ..response }),
            other => unreachable!("the response to a transaction of one put is {other:?}"),
        }
    }

    /// Deletes the keys of a range.
    ///
    /// The provided implementation sends a transaction of one operation. Override it if the store
    /// has a request for it.
    ///
    /// # Errors
    /// - Not applied: `EmptyKey`, `RequestTooLarge`.
    /// - Unknown unless the error reports otherwise: `Unavailable`, `Timeout`.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the keys were deleted.
    async fn delete(&self, request: Delete) -> Result<DeleteResponse> {
        let TxnResponse { header, mut responses, .. } =
            self.txn(Txn::new().and_then([request])).await?;
        match responses.pop() {
            Some(OpResponse::Delete(response)) => Ok(DeleteResponse { header, ..response }),
            other => unreachable!("the response to a transaction of one delete is {other:?}"),
        }
    }
}
