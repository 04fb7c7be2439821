//! What can go wrong, and what became of the request.
//!
//! Each error answers three questions. *What happened?* The variant, or its [`ErrorKind`] where
//! the details do not matter. *Was the request applied?* The [`Outcome`]: surely not, or perhaps.
//! *Is it worth trying again?* [`is_retryable`](Error::is_retryable).
//!
//! The three are exhaustive matches with no wildcard: a new variant does not compile until
//! somebody has thought about all three.

mod loss;
mod release;

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::kv::{KeyRange, LeaseId, Revision, TTL_MAX};
pub use loss::{LossReason, PrimitiveError};
pub use release::ReleaseError;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The cause of an [`Error`] that came from below.
pub type Source = Arc<dyn StdError + Send + Sync>;

/// What became of a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a third answer would break every caller's decision")]
pub enum Outcome {
    /// It surely changed nothing.
    NotApplied,
    /// It may have been applied, or may be applied yet.
    Unknown,
}

/// Why a backend did not do as it was asked.
///
/// Fields that are `Option` are `None` where the backend was not told: etcd, for one, does not say
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
    /// A request named no key.
    #[error("the key is empty: give a key of at least one byte")]
    EmptyKey,
    /// A put wanted to keep the value or the lease of a key that does not exist.
    #[error("{} does not exist: ignore_value and ignore_lease need a key that exists", a_key(.key))]
    KeyNotFound {
        /// The key.
        key: Option<Bytes>,
    },
    /// A put gave a value and asked to ignore it.
    #[error("the put of {} has both ignore_value and a value: drop one", quoted(.key))]
    ValueProvided {
        /// The key.
        key: Bytes,
    },
    /// A put gave a lease and asked to ignore it.
    #[error("the put of {} has both ignore_lease and a lease: drop one", quoted(.key))]
    LeaseProvided {
        /// The key.
        key: Bytes,
    },
    /// A transaction put a key twice, or put and deleted it.
    #[error("{} is put twice, or put and deleted, in one transaction", quoted(.key))]
    DuplicateKey {
        /// The key.
        key: Bytes,
    },
    /// A transaction had too many compares, success steps or failure steps.
    #[error(
        "the transaction has {count} operations on one level, the limit there is {limit}: split it, or raise the limit of the store and of the client"
    )]
    TooManyOps {
        /// The largest of the three counts.
        count: usize,
        /// The most there may be: the backend's limit, less what outer levels used of it.
        limit: usize,
    },
    /// A transaction held transactions within transactions on more levels than the backend takes.
    #[error(
        "the transaction is nested {depth} levels deep, the limit is {limit}: take steps of the innermost levels in a transaction of their own"
    )]
    TxnTooDeep {
        /// How many levels there are below the outermost transaction.
        depth: usize,
        /// The most there may be.
        limit: usize,
    },
    /// A request was larger than the backend takes.
    ///
    /// etcd has two limits. A change must fit into its log: that limit is
    /// [`Limits::max_request_bytes`](crate::Limits::max_request_bytes), and the envelope of the log
    /// counts too. Every message, reads and watches included, must pass its transport, which takes
    /// 512 KiB more. `limit_bytes` is the lower of the limits that apply: that of the log for a
    /// change, however large the change is, and that of the transport for a read or a watch.
    #[error(
        "the request has {size_bytes} bytes, the limit is {limit_bytes}: split it, or raise the store's limit"
    )]
    RequestTooLarge {
        /// The size of the request in bytes, as the backend encodes it; for a change with or
        /// without the envelope of the log, which has less than 32 bytes.
        size_bytes: usize,
        /// The most it may be, in bytes.
        limit_bytes: usize,
    },
    /// A watch was asked for on a range that can hold no key.
    #[error("the range to watch, {keys}, can hold no key")]
    EmptyWatchRange {
        /// The range.
        keys: KeyRange,
    },
    /// A time to live had a fraction of a second, or was zero for a session.
    ///
    /// [`KvBackend::lease_grant`](crate::KvBackend::lease_grant) accepts zero: the store raises it
    /// to its minimum. [`SessionBuilder::open`](crate::session::SessionBuilder::open) refuses both.
    #[error("invalid TTL {ttl:?}: must be a whole number of seconds, at least 1")]
    InvalidTtl {
        /// The time to live.
        ttl: Duration,
    },
    /// A time to live was longer than any store grants.
    #[error("a time to live of {} s is above the limit of {} s", ttl.as_secs(), TTL_MAX.as_secs())]
    TtlTooLarge {
        /// The time to live.
        ttl: Duration,
    },
    /// A value cannot be written, or the bytes under a key are no such value.
    #[error("the value of {} is not of its type: {source}", quoted(.key))]
    InvalidValue {
        /// The key.
        key: Bytes,
        /// What the type says.
        source: Source,
    },
    /// A request that is known to crash an etcd server, or to make it lose data.
    #[error("refused, for it would crash a real etcd server: {hazard}")]
    Refused {
        /// What the request would have done.
        hazard: &'static str,
    },
    /// History that was needed is compacted away.
    #[error("revision {} is compacted{}: read at a newer one", maybe(.requested), since(.compact_revision))]
    Compacted {
        /// The revision that was asked for.
        requested: Option<Revision>,
        /// The oldest that can still be read.
        compact_revision: Option<Revision>,
    },
    /// A revision was asked for that the store has not reached.
    #[error("revision {} is in the future{}", maybe(.requested), now_at(.current))]
    FutureRevision {
        /// The revision that was asked for.
        requested: Option<Revision>,
        /// The newest there is.
        current: Option<Revision>,
    },
    /// The history of the store was replaced: an older backup was restored, or an empty store took
    /// its place. What was read, watched or held before has to be read anew.
    #[error(
        "the history of the store was replaced: it answered with revision {found} after {newest}: read anew"
    )]
    HistoryReplaced {
        /// The newest revision that was seen before.
        newest: Revision,
        /// The lower revision that the store answered with.
        found: Revision,
    },
    /// There is no such lease, or no longer.
    #[error("lease {} not found: it expired, was revoked, or never was", maybe(.lease))]
    LeaseNotFound {
        /// The lease.
        lease: Option<LeaseId>,
    },
    /// A lease was asked for under an id that is taken.
    #[error("lease {lease} exists: choose another id, or let the store choose")]
    LeaseExists {
        /// The lease.
        lease: LeaseId,
    },
    /// The store has no room left.
    #[error("the store is out of space: compact it, defragment it, then disarm its alarm")]
    NoSpace {
        /// What became of the request; etcd may apply the write that hits the quota.
        outcome: Outcome,
    },
    /// An attempt of a transaction reads a key that other transactions of the client queue for. The
    /// attempt is over, and [`Stm::run`](crate::Stm::run) repeats it after them.
    #[error("the attempt yields to other transactions on {}, and is repeated", quoted(.key))]
    AttemptYielded {
        /// The key.
        key: Bytes,
    },
    /// The user may not do this.
    #[error("permission denied: {reason}")]
    PermissionDenied {
        /// What the backend said.
        reason: String,
    },
    /// The backend does not know the user, or no longer.
    #[error("not authenticated: {reason}")]
    Unauthenticated {
        /// What the backend said.
        reason: String,
    },
    /// The backend has too much to do and did not take the request on.
    #[error("the store is overloaded and took no request: try again later")]
    TooManyRequests,
    /// The backend, or its leader, cannot be reached.
    #[error("the store is unavailable: {reason}")]
    Unavailable {
        /// What became of the request.
        outcome: Outcome,
        /// What is wrong.
        reason: String,
        /// The cause.
        #[source]
        source: Option<Source>,
    },
    /// No answer came in time.
    #[error("no answer within {after:?}")]
    Timeout {
        /// How long was waited.
        after: Duration,
    },
    /// Anything else that a backend met.
    #[error("{backend}: {source}")]
    Backend {
        /// Which backend.
        backend: &'static str,
        /// What became of the request.
        outcome: Outcome,
        /// The cause.
        #[source]
        source: Source,
    },
}

/// The variants of [`Error`] without their details, to compare and to count by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is the variant of `Error` with the same name")]
pub enum ErrorKind {
    EmptyKey,
    KeyNotFound,
    ValueProvided,
    LeaseProvided,
    DuplicateKey,
    TooManyOps,
    TxnTooDeep,
    RequestTooLarge,
    EmptyWatchRange,
    InvalidTtl,
    TtlTooLarge,
    InvalidValue,
    Refused,
    Compacted,
    FutureRevision,
    HistoryReplaced,
    LeaseNotFound,
    LeaseExists,
    NoSpace,
    AttemptYielded,
    PermissionDenied,
    Unauthenticated,
    TooManyRequests,
    Unavailable,
    Timeout,
    Backend,
}

impl ErrorKind {
    /// The kind as the value of a label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::EmptyKey => "empty_key",
            Self::KeyNotFound => "key_not_found",
            Self::ValueProvided => "value_provided",
            Self::LeaseProvided => "lease_provided",
            Self::DuplicateKey => "duplicate_key",
            Self::TooManyOps => "too_many_ops",
            Self::TxnTooDeep => "txn_too_deep",
            Self::RequestTooLarge => "request_too_large",
            Self::EmptyWatchRange => "empty_watch_range",
            Self::InvalidTtl => "invalid_ttl",
            Self::TtlTooLarge => "ttl_too_large",
            Self::InvalidValue => "invalid_value",
            Self::Refused => "refused",
            Self::Compacted => "compacted",
            Self::FutureRevision => "future_revision",
            Self::HistoryReplaced => "history_replaced",
            Self::LeaseNotFound => "lease_not_found",
            Self::LeaseExists => "lease_exists",
            Self::NoSpace => "no_space",
            Self::AttemptYielded => "attempt_yielded",
            Self::PermissionDenied => "permission_denied",
            Self::Unauthenticated => "unauthenticated",
            Self::TooManyRequests => "too_many_requests",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Backend => "backend",
        }
    }
}

impl Error {
    /// Which kind of error this is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::EmptyKey => ErrorKind::EmptyKey,
            Self::KeyNotFound { .. } => ErrorKind::KeyNotFound,
            Self::ValueProvided { .. } => ErrorKind::ValueProvided,
            Self::LeaseProvided { .. } => ErrorKind::LeaseProvided,
            Self::DuplicateKey { .. } => ErrorKind::DuplicateKey,
            Self::TooManyOps { .. } => ErrorKind::TooManyOps,
            Self::TxnTooDeep { .. } => ErrorKind::TxnTooDeep,
            Self::RequestTooLarge { .. } => ErrorKind::RequestTooLarge,
            Self::EmptyWatchRange { .. } => ErrorKind::EmptyWatchRange,
            Self::InvalidTtl { .. } => ErrorKind::InvalidTtl,
            Self::TtlTooLarge { .. } => ErrorKind::TtlTooLarge,
            Self::InvalidValue { .. } => ErrorKind::InvalidValue,
            Self::Refused { .. } => ErrorKind::Refused,
            Self::Compacted { .. } => ErrorKind::Compacted,
            Self::FutureRevision { .. } => ErrorKind::FutureRevision,
            Self::HistoryReplaced { .. } => ErrorKind::HistoryReplaced,
            Self::LeaseNotFound { .. } => ErrorKind::LeaseNotFound,
            Self::LeaseExists { .. } => ErrorKind::LeaseExists,
            Self::NoSpace { .. } => ErrorKind::NoSpace,
            Self::AttemptYielded { .. } => ErrorKind::AttemptYielded,
            Self::PermissionDenied { .. } => ErrorKind::PermissionDenied,
            Self::Unauthenticated { .. } => ErrorKind::Unauthenticated,
            Self::TooManyRequests => ErrorKind::TooManyRequests,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::Timeout { .. } => ErrorKind::Timeout,
            Self::Backend { .. } => ErrorKind::Backend,
        }
    }

    /// What became of the request.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            // The request was refused before anything was sent, or by the checks that a store
            // makes before it changes anything.
            Self::EmptyKey
            | Self::KeyNotFound { .. }
            | Self::ValueProvided { .. }
            | Self::LeaseProvided { .. }
            | Self::DuplicateKey { .. }
            | Self::TooManyOps { .. }
            | Self::TxnTooDeep { .. }
            | Self::RequestTooLarge { .. }
            | Self::EmptyWatchRange { .. }
            | Self::InvalidTtl { .. }
            | Self::TtlTooLarge { .. }
            | Self::InvalidValue { .. }
            | Self::Refused { .. }
            | Self::Compacted { .. }
            | Self::FutureRevision { .. }
            | Self::HistoryReplaced { .. }
            | Self::LeaseNotFound { .. }
            | Self::LeaseExists { .. }
            | Self::AttemptYielded { .. } => Outcome::NotApplied,
            // The store would not even look at it.
            Self::PermissionDenied { .. }
            | Self::Unauthenticated { .. }
            | Self::TooManyRequests => Outcome::NotApplied,
            // Whoever waited stopped waiting; the request may be on its way yet.
            Self::Timeout { .. } => Outcome::Unknown,
            // Only the backend can tell.
            Self::NoSpace { outcome }
            | Self::Unavailable { outcome, .. }
            | Self::Backend { outcome, .. } => *outcome,
        }
    }

    /// Whether the same request may succeed later with nothing changed by the caller.
    ///
    /// This says nothing about safety: repeating a change whose outcome is
    /// [`Unknown`](Outcome::Unknown) may apply it twice.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            // The store, or the way to it, may recover; a member that lags may catch up.
            Self::TooManyRequests
            | Self::Unavailable { .. }
            | Self::Timeout { .. }
            | Self::FutureRevision { .. }
            | Self::AttemptYielded { .. } => true,
            // The request itself is wrong, and stays wrong.
            Self::EmptyKey
            | Self::ValueProvided { .. }
            | Self::LeaseProvided { .. }
            | Self::DuplicateKey { .. }
            | Self::TooManyOps { .. }
            | Self::TxnTooDeep { .. }
            | Self::RequestTooLarge { .. }
            | Self::EmptyWatchRange { .. }
            | Self::InvalidTtl { .. }
            | Self::TtlTooLarge { .. }
            | Self::InvalidValue { .. }
            | Self::Refused { .. } => false,
            // What it needs is gone, missing or taken: the caller must look and decide.
            Self::KeyNotFound { .. }
            | Self::Compacted { .. }
            | Self::HistoryReplaced { .. }
            | Self::LeaseNotFound { .. }
            | Self::LeaseExists { .. } => false,
            // Somebody must act on the store.
            Self::NoSpace { .. } | Self::PermissionDenied { .. } | Self::Unauthenticated { .. } => {
                false
            }
            // Nobody knows.
            Self::Backend { .. } => false,
        }
    }
}

fn quoted(key: &Bytes) -> String {
    format!("key \"{}\"", key.escape_ascii())
}

fn a_key(key: &Option<Bytes>) -> String {
    key.as_ref().map_or_else(|| "the key".to_owned(), quoted)
}

fn maybe(value: &Option<impl ToString>) -> String {
    value.as_ref().map_or_else(|| "(not told which)".to_owned(), ToString::to_string)
}

fn since(compact_revision: &Option<Revision>) -> String {
    compact_revision.map_or_else(String::new, |r| format!(", the oldest kept is {r}"))
}

fn now_at(current: &Option<Revision>) -> String {
    current.map_or_else(String::new, |r| format!(", the newest is {r}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_value_and_what_to_do() {
        let compacted =
            Error::Compacted { requested: Some(Revision(3)), compact_revision: Some(Revision(9)) };
        assert_eq!(
            compacted.to_string(),
            "revision 3 is compacted, the oldest kept is 9: read at a newer one"
        );
        let blind = Error::LeaseNotFound { lease: None };
        assert!(blind.to_string().starts_with("lease (not told which) not found"));
        let key = Error::DuplicateKey { key: Bytes::from_static(b"a\xff") };
        assert!(key.to_string().contains(r#"key "a\xff""#));
    }

    #[test]
    fn sources_are_kept() {
        let cause: Source = Arc::new(std::io::Error::other("wire cut"));
        let error = Error::Unavailable {
            outcome: Outcome::Unknown,
            reason: "connection lost".into(),
            source: Some(cause),
        };
        assert_eq!(error.source().expect("a cause was given").to_string(), "wire cut");
    }
}
