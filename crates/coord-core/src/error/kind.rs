//! Classification of errors: kind, outcome, and whether a retry may help.
//!
//! Each classification is an exhaustive match without a wildcard, so a new variant of [`Error`]
//! does not compile before all three are decided.

use super::{Error, Outcome};

/// The variants of [`Error`] without their details, for comparison and for counting.
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
    InvalidLockDelay,
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
    /// The kind as the value of a metric label.
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
            Self::InvalidLockDelay => "invalid_lock_delay",
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
    /// Returns the kind: the variant without its details.
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
            Self::InvalidLockDelay { .. } => ErrorKind::InvalidLockDelay,
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

    /// Returns whether the request was surely not applied.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            // Refused before the request was sent, or by the checks that a store makes before it
            // changes anything; or the error of a watch, which changes nothing.
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
            | Self::InvalidLockDelay { .. }
            | Self::InvalidValue { .. }
            | Self::Refused { .. }
            | Self::Compacted { .. }
            | Self::FutureRevision { .. }
            | Self::HistoryReplaced { .. }
            | Self::LeaseNotFound { .. }
            | Self::LeaseExists { .. }
            | Self::AttemptYielded { .. } => Outcome::NotApplied,
            // Rejected by the store before any check of the request.
            Self::PermissionDenied { .. }
            | Self::Unauthenticated { .. }
            | Self::TooManyRequests => Outcome::NotApplied,
            // The caller stopped waiting; the request may still arrive.
            Self::Timeout { .. } => Outcome::Unknown,
            // Decided by the backend.
            Self::NoSpace { outcome }
            | Self::Unavailable { outcome, .. }
            | Self::Backend { outcome, .. } => *outcome,
        }
    }

    /// Returns whether the same request may succeed later, unchanged.
    ///
    /// It does not mean that a retry is safe: repeating a change whose outcome is
    /// [`Unknown`](Outcome::Unknown) may apply it twice.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            // The store or the network may recover; a stale member may catch up.
            Self::TooManyRequests
            | Self::Unavailable { .. }
            | Self::Timeout { .. }
            | Self::FutureRevision { .. }
            | Self::AttemptYielded { .. } => true,
            // The request is invalid.
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
            | Self::InvalidLockDelay { .. }
            | Self::InvalidValue { .. }
            | Self::Refused { .. } => false,
            // What the request needs is missing, compacted or in use: the caller must decide.
            Self::KeyNotFound { .. }
            | Self::Compacted { .. }
            | Self::HistoryReplaced { .. }
            | Self::LeaseNotFound { .. }
            | Self::LeaseExists { .. } => false,
            // An operator must act on the store.
            Self::NoSpace { .. } | Self::PermissionDenied { .. } | Self::Unauthenticated { .. } => {
                false
            }
            // An error without a kind of its own: no retry is known to help.
            Self::Backend { .. } => false,
        }
    }
}
