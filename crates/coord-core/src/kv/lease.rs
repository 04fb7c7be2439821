//! Leases: ids, and the requests and responses of etcd's Lease service.

use std::fmt;
use std::num::NonZeroI64;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;

use super::Header;
use crate::error::Error;

/// The id of a lease: any number but zero.
///
/// On the wire zero stands for "no lease"; here that is `None`, and the two translate without
/// loss: `LeaseId::new(wire)` and `lease.map_or(0, LeaseId::get)`.
///
/// It prints and parses as etcd prints it, in hexadecimal, and with the feature `serde` serializes
/// as that text, because not every JSON reader keeps a number of 64 bits.
///
/// ```
/// use coord_core::kv::LeaseId;
///
/// assert_eq!(LeaseId::new(0), None);
/// let lease = LeaseId::new(255).expect("not zero");
/// assert_eq!(lease.to_string(), "ff");
/// assert_eq!("ff".parse(), Ok(lease));
/// assert_eq!(LeaseId::try_from(255), Ok(lease));
/// assert_eq!(i64::from(lease), 255);
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

/// Text or a number that is no lease id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid lease id \"{0}\": must be hexadecimal, up to 16 digits, and not zero")]
pub struct InvalidLeaseId(String);

impl From<LeaseId> for i64 {
    fn from(lease: LeaseId) -> Self {
        lease.get()
    }
}

impl TryFrom<i64> for LeaseId {
    type Error = InvalidLeaseId;

    fn try_from(id: i64) -> Result<Self, Self::Error> {
        Self::new(id).ok_or_else(|| InvalidLeaseId(id.to_string()))
    }
}

impl FromStr for LeaseId {
    type Err = InvalidLeaseId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = i64::from_str_radix(text, 16).ok().and_then(Self::new);
        id.ok_or_else(|| InvalidLeaseId(text.to_owned()))
    }
}

impl fmt::Display for LeaseId {
    /// Hexadecimal as Go's `%x` writes it: lower case, no padding, a minus sign for a negative id.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.get() < 0 { "-" } else { "" };
        write!(f, "{sign}{:x}", self.get().unsigned_abs())
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for LeaseId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for LeaseId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The longest time to live that etcd grants: 9,000,000,000 seconds, about 285 years.
pub const TTL_MAX: Duration = Duration::from_secs(9_000_000_000);

/// Asks for a lease.
///
/// ```
/// use coord_core::kv::{LeaseGrant, LeaseId};
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
    pub const fn check(&self) -> Result<(), Error> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_id_parses_what_it_prints() {
        for id in [1, 0x694d_82a1, i64::MAX, -1, i64::MIN] {
            let lease = LeaseId::new(id).expect("not zero");
            assert_eq!(lease.to_string().parse(), Ok(lease));
        }
        for text in ["", "0", "-", "xyz", "11112222333344445"] {
            let error = text.parse::<LeaseId>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("invalid lease id \"{text}\"")), "{error}");
        }
    }

    #[cfg(feature = "serde")]
    #[test]
    fn lease_id_serializes_as_text() {
        let lease = LeaseId::new(255).expect("not zero");
        let json = serde_json::to_string(&lease).unwrap();
        assert_eq!(json, "\"ff\"");
        assert_eq!(serde_json::from_str::<LeaseId>(&json).unwrap(), lease);
        assert!(serde_json::from_str::<LeaseId>("\"0\"").is_err());
    }
}
