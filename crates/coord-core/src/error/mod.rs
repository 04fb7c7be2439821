//! Errors: what failed, whether the request was applied, and whether a retry may help.
//!
//! | question | where |
//! |---|---|
//! | What failed? | the variant of [`Error`], or its [`ErrorKind`] without the details |
//! | Was the request applied? | [`Error::outcome`]: surely not, or unknown |
//! | May a retry help? | [`Error::is_retryable`] |
//!
//! Primitives return [`PrimitiveError`], which distinguishes a loss from a failed request. A
//! release that was not confirmed returns [`ReleaseError`]. A recipe with errors of its own has an
//! error type of its own, which converts into [`PrimitiveError`].

mod kind;
mod loss;
mod release;

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::kv::{KeyRange, LeaseId, Revision, TTL_MAX};
pub use kind::ErrorKind;
pub use loss::{LossReason, PrimitiveError};
pub use release::ReleaseError;

/// The result of a request. The error type is [`Error`] unless another type is given.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The underlying cause of an [`Error`], shared so that errors can be cloned.
pub type Source = Arc<dyn StdError + Send + Sync>;

/// Whether a request that failed was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a third outcome would break every caller")]
pub enum Outcome {
    /// The request surely changed nothing.
    NotApplied,
    /// The request may have been applied, or may still be applied.
    Unknown,
}

/// The error of a request to a backend.
///
/// A field is `None` if the store did not report the value: etcd, for example, does not report
/// which operation of a transaction failed.
///
/// ```
/// use coord_core::error::{Error, ErrorKind, Outcome};
///
/// let error = Error::TooManyOps { count: 130, limit: 128 };
/// assert_eq!(error.kind(), ErrorKind::TooManyOps);
/// assert_eq!(error.outcome(), Outcome::NotApplied);
/// assert!(error.to_string().contains("130 operations"));
/// ```
///
/// Source: `docs/etcd-contract.md` §8 and §9.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A request had an empty key.
    #[error("the key is empty: give a key of at least one byte")]
    EmptyKey,
    /// A put with `ignore_value` or `ignore_lease` named a key that does not exist.
    #[error(
        "{} does not exist: ignore_value and ignore_lease need a key that exists",
        describe_optional_key(.key)
    )]
    KeyNotFound {
        /// The key.
        key: Option<Bytes>,
    },
    /// A put had a value and `ignore_value`.
    #[error("the put of {} has both ignore_value and a value: remove one", describe_key(.key))]
    ValueProvided {
        /// The key.
        key: Bytes,
    },
    /// A put had a lease and `ignore_lease`.
    #[error("the put of {} has both ignore_lease and a lease: remove one", describe_key(.key))]
    LeaseProvided {
        /// The key.
        key: Bytes,
    },
    /// A transaction put a key twice, or put and deleted a key.
    #[error(
        "{} is put twice, or put and deleted, in one transaction: change each key once",
        describe_key(.key)
    )]
    DuplicateKey {
        /// The key.
        key: Bytes,
    },
    /// A transaction had too many compares, success operations or failure operations.
    #[error(
        "the transaction has {count} operations on one level, the limit is {limit}: split it, or \
         raise the limit of the store and of the client"
    )]
    TooManyOps {
        /// The largest of the three counts.
        count: usize,
        /// The largest allowed count: the backend's limit, less what the outer levels use of it.
        limit: usize,
    },
    /// A transaction had nested transactions on more levels than the backend accepts.
    #[error(
        "the transaction is nested {depth} levels deep, the limit is {limit}: send the innermost \
         levels as a transaction of their own"
    )]
    TxnTooDeep {
        /// The number of levels below the outermost transaction.
        depth: usize,
        /// The largest allowed number of levels.
        limit: usize,
    },
    /// A request was larger than the backend accepts.
    ///
    /// etcd has two limits. A change must fit into its log: that limit is
    /// [`Limits::max_request_bytes`](crate::kv::Limits::max_request_bytes), and the envelope of the
    /// log counts too. Every message, reads and watches included, must fit the limit of the
    /// transport, which is 512 KiB higher. `limit_bytes` is the lower of the limits that apply: the
    /// limit of the log for a change of any size, the limit of the transport for a read or a watch.
    #[error(
        "the request has {size_bytes} bytes, the limit is {limit_bytes}: split it, or raise the \
         limit of the store"
    )]
    RequestTooLarge {
        /// The size of the request in bytes, as the backend encodes it. For a change this may or
        /// may not include the envelope of the log, which has less than 32 bytes.
        size_bytes: usize,
        /// The largest allowed size, in bytes.
        limit_bytes: usize,
    },
    /// A watch had a range that can hold no key.
    #[error("the range to watch, {keys}, can hold no key: its end must be above its start")]
    EmptyWatchRange {
        /// The range.
        keys: KeyRange,
    },
    /// A time to live (TTL) had a fraction of a second, or was zero for a session.
    ///
    /// [`KvBackend::lease_grant`](crate::KvBackend::lease_grant) accepts zero: the store raises it
    /// to its minimum. [`SessionBuilder::open`](crate::session::SessionBuilder::open) refuses both.
    #[error("invalid TTL {ttl:?}: must be a whole number of seconds, at least 1")]
    InvalidTtl {
        /// The requested TTL.
        ttl: Duration,
    },
    /// A TTL, with the lock-delay of the session, was longer than any store grants.
    #[error("invalid TTL {ttl:?}: must be at most {TTL_MAX:?}")]
    TtlTooLarge {
        /// The requested TTL.
        ttl: Duration,
    },
    /// A lock-delay had a fraction of a second, or with its margin it is not shorter than the TTL
    /// of a lease to adopt. See
    /// [`SessionBuilder::lock_delay`](crate::session::SessionBuilder::lock_delay).
    #[error(
        "invalid lock-delay {lock_delay:?}: must be a whole number of seconds{}",
        within(.lease_ttl)
    )]
    InvalidLockDelay {
        /// The requested lock-delay.
        lock_delay: Duration,
        /// The TTL of the lease to adopt, if that is too short for the lock-delay.
        lease_ttl: Option<Duration>,
    },
    /// A value could not be encoded, or the bytes of a key could not be decoded as a value of the
    /// type.
    #[error("the value of {} cannot be encoded or decoded: {source}", describe_key(.key))]
    InvalidValue {
        /// The key.
        key: Bytes,
        /// The error of the type's [`Value`](crate::kv::Value) implementation.
        source: Source,
    },
    /// A request that is known to crash an etcd server, or to make it lose data, was not sent.
    #[error("refused because a real etcd server would crash or lose data: {hazard}")]
    Refused {
        /// What makes the request hazardous.
        hazard: &'static str,
    },
    /// The requested history is compacted.
    #[error(
        "revision {} is compacted{}: read at a newer one",
        or_unknown(.requested), oldest(.compact_revision)
    )]
    Compacted {
        /// The requested revision.
        requested: Option<Revision>,
        /// The oldest revision that can still be read.
        compact_revision: Option<Revision>,
    },
    /// The store, or the member that received the request, has not reached the requested revision.
    #[error(
        "revision {} is in the future{}: retry, or read at an older one",
        or_unknown(.requested), newest(.current)
    )]
    FutureRevision {
        /// The requested revision.
        requested: Option<Revision>,
        /// The newest revision of the store or member.
        current: Option<Revision>,
    },
    /// The history of the store was replaced: an older backup was restored, or an empty store took
    /// its place. Whatever was read, watched or held before must be read again.
    #[error(
        "the history of the store was replaced: received revision {found} after {newest}: \
         read everything again"
    )]
    HistoryReplaced {
        /// The newest revision that was received before.
        newest: Revision,
        /// The revision in a later response, or of the backup that was restored. It is usually
        /// lower.
        found: Revision,
    },
    /// The lease does not exist, or not any more.
    #[error(
        "lease {} not found: it expired, was revoked, or was never granted",
        or_unknown(.lease)
    )]
    LeaseNotFound {
        /// The lease.
        lease: Option<LeaseId>,
    },
    /// The requested lease id is in use.
    #[error("lease {lease} exists: choose another id, or let the store choose")]
    LeaseExists {
        /// The lease.
        lease: LeaseId,
    },
    /// The store has reached its space quota.
    #[error("the store is out of space: compact it, defragment it, then disarm its alarm")]
    NoSpace {
        /// Whether the request was applied; etcd may apply the write that reaches the quota.
        outcome: Outcome,
    },
    /// An attempt of a transaction read a key with a conflict queue before it had sent any request.
    /// The attempt ends, and [`Stm::run`](crate::Stm::run) retries it when its transaction holds
    /// the queue.
    #[error("the attempt yields to other transactions on {}, and is retried", describe_key(.key))]
    AttemptYielded {
        /// The key.
        key: Bytes,
    },
    /// The user lacks the permission for the request.
    #[error("permission denied: {reason}")]
    PermissionDenied {
        /// The reason that the backend reported.
        reason: String,
    },
    /// The credentials of the user are missing, invalid or expired.
    #[error("not authenticated: {reason}")]
    Unauthenticated {
        /// The reason that the backend reported.
        reason: String,
    },
    /// The backend is overloaded and rejected the request.
    #[error("the store is overloaded and rejected the request: retry later")]
    TooManyRequests,
    /// The backend, or its leader, cannot be reached.
    #[error("the store is unavailable: {reason}")]
    Unavailable {
        /// Whether the request was applied.
        outcome: Outcome,
        /// Why the store cannot be reached.
        reason: String,
        /// The cause.
        #[source]
        source: Option<Source>,
    },
    /// No response was received in time.
    #[error("no response within {after:?}")]
    Timeout {
        /// How long the caller waited.
        after: Duration,
    },
    /// Any other error of a backend.
    #[error("{backend}: {source}")]
    Backend {
        /// The name of the backend.
        backend: &'static str,
        /// Whether the request was applied.
        outcome: Outcome,
        /// The cause.
        #[source]
        source: Source,
    },
}

/// The bound of a lock-delay on an adopted lease.
fn within(lease_ttl: &Option<Duration>) -> String {
    lease_ttl.map_or_else(String::new, |ttl| {
        format!(", and with its margin of a ninth less than the TTL of the adopted lease, {ttl:?}")
    })
}

fn describe_key(key: &Bytes) -> String {
    format!("key \"{}\"", key.escape_ascii())
}

fn describe_optional_key(key: &Option<Bytes>) -> String {
    key.as_ref().map_or_else(|| "the key".to_owned(), describe_key)
}

/// The value, or a placeholder if the store did not report it.
fn or_unknown(value: &Option<impl ToString>) -> String {
    value.as_ref().map_or_else(|| "(unknown)".to_owned(), ToString::to_string)
}

fn oldest(compact_revision: &Option<Revision>) -> String {
    compact_revision.map_or_else(String::new, |r| format!(", the oldest kept is {r}"))
}

fn newest(current: &Option<Revision>) -> String {
    current.map_or_else(String::new, |r| format!(", the newest is {r}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_names_the_value_and_the_remedy() {
        let compacted =
            Error::Compacted { requested: Some(Revision(3)), compact_revision: Some(Revision(9)) };
        assert_eq!(
            compacted.to_string(),
            "revision 3 is compacted, the oldest kept is 9: read at a newer one"
        );
        let without_id = Error::LeaseNotFound { lease: None };
        assert!(without_id.to_string().starts_with("lease (unknown) not found"));
        let key = Error::DuplicateKey { key: Bytes::from_static(b"a\xff") };
        assert!(key.to_string().contains(r#"key "a\xff""#));
    }

    #[test]
    fn unavailable_keeps_its_source() {
        let cause: Source = Arc::new(std::io::Error::other("wire cut"));
        let error = Error::Unavailable {
            outcome: Outcome::Unknown,
            reason: "connection lost".into(),
            source: Some(cause),
        };
        assert_eq!(error.source().expect("a cause was given").to_string(), "wire cut");
    }
}
