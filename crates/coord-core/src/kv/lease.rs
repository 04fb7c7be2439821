//! Leases: keys that live as long as somebody keeps saying so.

use std::fmt;
use std::num::NonZeroI64;
use std::time::Duration;

use bytes::Bytes;

use super::Header;
use crate::error::{Error, Result};

/// The id of a lease: any number but zero.
///
/// On the wire zero stands for "no lease"; here that is `None`, and the two translate without
/// loss: `LeaseId::new(wire)` and `lease.map_or(0, LeaseId::get)`. Prints as etcd prints it: hex.
///
/// ```
/// use coord_core::LeaseId;
///
/// assert_eq!(LeaseId::new(0), None);
/// assert_eq!(LeaseId::new(255).unwrap().to_string(), "ff");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(NonZeroI64);

impl LeaseId {
    /// The lease with this id; `None` for zero.
    #[must_use]
    pub const fn new(id: i64) -> Option<Self> {
        match NonZeroI64::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The id as a number.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0.get()
    }
}

impl fmt::Display for LeaseId {
    /// Hex as Go's `%x` writes it: lower case, no padding, a minus sign for a negative id.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.get() < 0 { "-" } else { "" };
        write!(f, "{sign}{:x}", self.get().unsigned_abs())
    }
}

/// The longest time to live that etcd grants: 9,000,000,000 seconds, about 285 years.
pub const TTL_MAX: Duration = Duration::from_secs(9_000_000_000);

/// Asks for a lease.
///
/// ```
/// use coord_core::{LeaseGrant, LeaseId};
/// use std::time::Duration;
///
/// let grant = LeaseGrant::new(Duration::from_secs(10)).id(LeaseId::new(7));
/// assert_eq!(grant.id, LeaseId::new(7));
/// ```
///
/// Source: `docs/etcd-contract.md` §7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseGrant {
    /// How long it lives without a keep-alive, in whole seconds: a fraction is refused. The store
    /// may grant more, never less, and raises zero to its minimum; more than [`TTL_MAX`] is
    /// refused.
    pub ttl: Duration,
    /// The id it shall have; `None` lets the store choose.
    pub id: Option<LeaseId>,
}

impl LeaseGrant {
    /// Asks for a lease that lives `ttl`, with an id of the store's choice.
    #[must_use]
    pub const fn new(ttl: Duration) -> Self {
        Self { ttl, id: None }
    }

    /// Asks for this id.
    #[must_use]
    pub fn id(mut self, id: impl Into<Option<LeaseId>>) -> Self {
        self.id = id.into();
        self
    }

    /// Refuses a time to live that no store grants.
    ///
    /// # Errors
    /// [`Error::TtlTooLarge`], [`Error::InvalidTtl`] for a fraction of a second, tested in this
    /// order: nothing was sent, so nothing was applied.
    ///
    /// Source: `docs/etcd-contract.md` §7.
    pub const fn check(&self) -> Result<()> {
        let ttl = self.ttl;
        if ttl.as_nanos() > TTL_MAX.as_nanos() {
            return Err(Error::TtlTooLarge { ttl });
        }
        if ttl.subsec_nanos() != 0 {
            return Err(Error::InvalidTtl { ttl });
        }
        Ok(())
    }
}

/// The answer to a [`LeaseGrant`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseGrantResponse {
    /// At which revision; granting makes none.
    pub header: Header,
    /// The lease.
    pub id: LeaseId,
    /// How long it lives: at least what was asked for.
    pub ttl: Duration,
}

/// The answer to one refresh of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseKeepAliveResponse {
    /// At which revision; refreshing makes none.
    pub header: Header,
    /// The lease.
    pub id: LeaseId,
    /// How long it lives from now on: what was granted.
    pub ttl: Duration,
}

/// The answer to revoking a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseRevokeResponse {
    /// At which revision: the one that deleted the lease's keys, if it had any.
    pub header: Header,
}

/// Asks how long a lease still lives.
///
/// Source: `docs/etcd-contract.md` §7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTimeToLive {
    /// The lease.
    pub id: LeaseId,
    /// Return the keys that hang on it.
    pub keys: bool,
}

impl LeaseTimeToLive {
    /// Asks about `id`, without its keys.
    #[must_use]
    pub const fn new(id: LeaseId) -> Self {
        Self { id, keys: false }
    }

    /// Asks for the keys too.
    #[must_use]
    pub const fn with_keys(mut self) -> Self {
        self.keys = true;
        self
    }
}

/// The answer to [`LeaseTimeToLive`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseTimeToLiveResponse {
    /// At which revision.
    pub header: Header,
    /// The lease; `None` if there is none with that id, which is not an error.
    pub lease: Option<LeaseStatus>,
}

/// A lease that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseStatus {
    /// What was granted.
    pub granted: Duration,
    /// What is left, rounded down to whole seconds; zero for a lease that is overdue.
    pub remaining: Duration,
    /// The keys that hang on it, if asked for, in no order that can be relied on.
    pub keys: Vec<Bytes>,
}

/// The answer to listing all leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeasesResponse {
    /// At which revision.
    pub header: Header,
    /// The leases; in no order that can be relied on.
    pub leases: Vec<LeaseId>,
}
