//! A call of a backend method, as a value for rules and recorders.

use std::fmt;

use coord_core::kv::{
    Compact, Delete, LeaseGrant, LeaseId, LeaseTimeToLive, Put, Range, Txn, Watch,
};

/// A call of a [`KvBackend`](coord_core::KvBackend) method, with its arguments. A rule chooses an
/// action for each call, and a recorder stores the calls.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "one variant for each request of the trait")]
pub enum Call {
    /// `range`
    Range(Range),
    /// `put`
    Put(Put),
    /// `delete`
    Delete(Delete),
    /// `txn`
    Txn(Txn),
    /// `watch`
    Watch(Watch),
    /// `lease_grant`
    LeaseGrant(LeaseGrant),
    /// `lease_keep_alive`
    LeaseKeepAlive(LeaseId),
    /// `lease_revoke`
    LeaseRevoke(LeaseId),
    /// `lease_time_to_live`
    LeaseTimeToLive(LeaseTimeToLive),
    /// `leases`
    Leases,
    /// `compact`
    Compact(Compact),
}

impl Call {
    /// The name of the method: `range`, `put`, `delete`, `txn`, `watch`, `lease_grant` and so on.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Range(_) => "range",
            Self::Put(_) => "put",
            Self::Delete(_) => "delete",
            Self::Txn(_) => "txn",
            Self::Watch(_) => "watch",
            Self::LeaseGrant(_) => "lease_grant",
            Self::LeaseKeepAlive(_) => "lease_keep_alive",
            Self::LeaseRevoke(_) => "lease_revoke",
            Self::LeaseTimeToLive(_) => "lease_time_to_live",
            Self::Leases => "leases",
            Self::Compact(_) => "compact",
        }
    }
}

impl fmt::Display for Call {
    /// The name of the method, and the keys, the TTL, the lease or the revision: `put "a"`.
    ///
    /// For a transaction, the numbers of compares, success operations and failure operations:
    /// `txn if 1 then 2 else 0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match self {
            Self::Range(range) => write!(f, "{name} {}", range.keys),
            Self::Put(put) => write!(f, "{name} \"{}\"", put.key.escape_ascii()),
            Self::Delete(delete) => write!(f, "{name} {}", delete.keys),
            Self::Txn(txn) => {
                let (success, failure) = (txn.success.len(), txn.failure.len());
                write!(f, "{name} if {} then {success} else {failure}", txn.compares.len())
            }
            Self::Watch(watch) => write!(f, "{name} {}", watch.keys),
            Self::LeaseGrant(grant) => write!(f, "{name} {:?}", grant.ttl),
            Self::LeaseKeepAlive(id) | Self::LeaseRevoke(id) => write!(f, "{name} {id}"),
            Self::LeaseTimeToLive(request) => write!(f, "{name} {}", request.id),
            Self::Leases => f.write_str(name),
            Self::Compact(compact) => write!(f, "{name} {}", compact.revision),
        }
    }
}
