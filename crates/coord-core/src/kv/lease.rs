//! Leases: lease ids, and the requests and responses of etcd's Lease service.

use std::fmt;
use std::num::NonZeroI64;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;

use super::Header;
use crate::error::Error;

/// The id of a lease: any number except zero.
///
/// On the wire, zero means "no lease". Here that is `None`. The two convert without loss:
/// `LeaseId::new(wire)` and `lease.map_or(0, LeaseId::get)`.
///
/// It prints and parses in hexadecimal, as etcd prints it. With the feature `serde` it serializes
/// as that text, because some JSON readers do not keep all 64 bits of a number.
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
    /// The lease id `id`; `None` for zero.
    #[must_use]
    pub const fn new(id: i64) -> Option<Self> {
        match NonZeroI64::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// Returns the id as a number.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0.get()
    }
}

/// The error of parsing a lease id, or of converting zero into one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid lease id \"{0}\": must be a signed 64-bit number in hexadecimal, and not zero")]
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
    /// In hexadecimal, as Go's `%x`: lower case, no padding, a minus sign for a negative id.
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

/// The longest time to live (TTL) that etcd grants: 9,000,000,000 seconds, about 285 years.
pub const TTL_MAX: Duration = Duration::from_secs(9_000_000_000);

/// A request to grant a lease.
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
    /// The time to live: how long the lease lives without a keep-alive, in whole seconds. A
    /// fraction of a second is refused, and so is more than [`TTL_MAX`]. The store may grant more,
    /// never less. It raises a TTL below its minimum, zero included, to its minimum.
    pub ttl: Duration,
    /// The id of the lease; `None` lets the store choose.
    pub id: Option<LeaseId>,
}

impl LeaseGrant {
    /// Requests a lease with the time to live `ttl`, and an id that the store chooses.
    #[must_use]
    pub const fn new(ttl: Duration) -> Self {
        Self { ttl, id: None }
    }

    /// Requests this id.
    #[must_use]
    pub fn id(mut self, id: impl Into<Option<LeaseId>>) -> Self {
        self.id = id.into();
        self
    }

    /// Checks that the time to live is one that a store can grant.
    ///
    /// # Errors
    /// [`Error::TtlTooLarge`], [`Error::InvalidTtl`] for a fraction of a second, checked in this
    /// order. Not applied: nothing was sent.
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

/// The response to a [`LeaseGrant`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseGrantResponse {
    /// The header, with the current revision: granting a lease is no change.
    pub header: Header,
    /// The id of the lease.
    pub id: LeaseId,
    /// The granted time to live: at least the requested one.
    pub ttl: Duration,
}

/// The response to one keep-alive of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseKeepAliveResponse {
    /// The header: a keep-alive is no change. Its revision is that of the member that has received
    /// the request, which may be behind.
    pub header: Header,
    /// The id of the lease.
    pub id: LeaseId,
    /// The time to live from now on: the granted one.
    pub ttl: Duration,
}

/// The response to the revocation of a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseRevokeResponse {
    /// The header, with the revision that deleted the keys of the lease; the current revision if
    /// the lease had no keys.
    pub header: Header,
}

/// A request for the remaining time to live of a lease.
///
/// Source: `docs/etcd-contract.md` §7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTimeToLive {
    /// The id of the lease.
    pub id: LeaseId,
    /// Whether to return the keys that are attached to the lease.
    pub keys: bool,
}

impl LeaseTimeToLive {
    /// Requests the time to live of `id`, without its keys.
    #[must_use]
    pub const fn new(id: LeaseId) -> Self {
        Self { id, keys: false }
    }

    /// Requests the keys too.
    #[must_use]
    pub const fn with_keys(mut self) -> Self {
        self.keys = true;
        self
    }
}

/// The response to a [`LeaseTimeToLive`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseTimeToLiveResponse {
    /// The header, with the revision of the member that responds, which may be behind.
    pub header: Header,
    /// The lease; `None` if it does not exist, which is no error.
    pub lease: Option<LeaseStatus>,
}

/// The time to live and the keys of a lease that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseStatus {
    /// The granted time to live.
    pub granted: Duration,
    /// The remaining time to live, rounded down to whole seconds; zero for a lease that is overdue.
    pub remaining: Duration,
    /// The keys that are attached to the lease, if they were requested, in no defined order.
    pub keys: Vec<Bytes>,
}

/// The response to a request for all leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeasesResponse {
    /// The header, with the revision of the member that responds, which may be behind.
    pub header: Header,
    /// The leases, in no defined order.
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
