//! Lease messages: requests as a server reads them, and responses in both directions.
//!
//! TTLs are whole seconds on the wire. For a lease that does not exist, etcd responds to a
//! keep-alive with a TTL of 0, and to a request for its state with a TTL of -1 and a granted TTL of
//! 0. For an expired lease that is not yet revoked, the TTL is -1 too, but the granted TTL is
//! positive.

use std::time::Duration;

use coord_core::kv::{
    Header, LeaseGrant, LeaseGrantResponse, LeaseId, LeaseKeepAliveResponse, LeaseRevokeResponse,
    LeaseStatus, LeaseTimeToLive, LeaseTimeToLiveResponse, LeasesResponse,
};
use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse,
    PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbLeaseStatus,
    PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse,
};

use super::{FromWire, Malformed, ToWire};

const MISSING_LEASE_ID: Malformed = Malformed("a lease without an id");

fn seconds(wire: i64) -> Duration {
    Duration::from_secs(u64::try_from(wire).unwrap_or(0))
}

fn whole_seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// A negative TTL is read as zero, because the store raises both to its minimum.
impl FromWire<PbLeaseGrantRequest> for LeaseGrant {
    fn from_wire(wire: PbLeaseGrantRequest) -> Result<Self, Malformed> {
        Ok(Self { ttl: seconds(wire.ttl), id: LeaseId::new(wire.id) })
    }
}

impl ToWire for LeaseGrantResponse {
    type Wire = PbLeaseGrantResponse;

    fn to_wire(self) -> PbLeaseGrantResponse {
        PbLeaseGrantResponse {
            header: Some(self.header.to_wire()),
            id: self.id.get(),
            ttl: whole_seconds(self.ttl),
            error: String::new(),
        }
    }
}

impl FromWire<PbLeaseGrantResponse> for LeaseGrantResponse {
    fn from_wire(wire: PbLeaseGrantResponse) -> Result<Self, Malformed> {
        let id = LeaseId::new(wire.id).ok_or(MISSING_LEASE_ID)?;
        Ok(Self { header: Header::from_wire(wire.header)?, id, ttl: seconds(wire.ttl) })
    }
}

/// `None` for lease 0, which does not exist.
impl FromWire<PbLeaseKeepAliveRequest> for Option<LeaseId> {
    fn from_wire(wire: PbLeaseKeepAliveRequest) -> Result<Self, Malformed> {
        Ok(LeaseId::new(wire.id))
    }
}

impl ToWire for LeaseKeepAliveResponse {
    type Wire = PbLeaseKeepAliveResponse;

    fn to_wire(self) -> PbLeaseKeepAliveResponse {
        PbLeaseKeepAliveResponse {
            header: Some(self.header.to_wire()),
            id: self.id.get(),
            ttl: whole_seconds(self.ttl),
        }
    }
}

/// The TTL is zero if the lease does not exist.
impl FromWire<PbLeaseKeepAliveResponse> for LeaseKeepAliveResponse {
    fn from_wire(wire: PbLeaseKeepAliveResponse) -> Result<Self, Malformed> {
        let id = LeaseId::new(wire.id).ok_or(MISSING_LEASE_ID)?;
        Ok(Self { header: Header::from_wire(wire.header)?, id, ttl: seconds(wire.ttl) })
    }
}

/// `None` for lease 0, which does not exist.
impl FromWire<PbLeaseRevokeRequest> for Option<LeaseId> {
    fn from_wire(wire: PbLeaseRevokeRequest) -> Result<Self, Malformed> {
        Ok(LeaseId::new(wire.id))
    }
}

impl ToWire for LeaseRevokeResponse {
    type Wire = PbLeaseRevokeResponse;

    fn to_wire(self) -> PbLeaseRevokeResponse {
        PbLeaseRevokeResponse { header: Some(self.header.to_wire()) }
    }
}

impl FromWire<PbLeaseRevokeResponse> for LeaseRevokeResponse {
    fn from_wire(wire: PbLeaseRevokeResponse) -> Result<Self, Malformed> {
        Ok(Self { header: Header::from_wire(wire.header)? })
    }
}

/// `None` for lease 0, which does not exist.
impl FromWire<PbLeaseTimeToLiveRequest> for Option<LeaseTimeToLive> {
    fn from_wire(wire: PbLeaseTimeToLiveRequest) -> Result<Self, Malformed> {
        Ok(LeaseId::new(wire.id).map(|id| LeaseTimeToLive { id, keys: wire.keys }))
    }
}

/// The id is part of the request in coord, and of the response too on the wire.
impl ToWire for (LeaseId, LeaseTimeToLiveResponse) {
    type Wire = PbLeaseTimeToLiveResponse;

    fn to_wire(self) -> PbLeaseTimeToLiveResponse {
        let (id, LeaseTimeToLiveResponse { header, lease }) = self;
        let (ttl, granted_ttl, keys) = match lease {
            None => (-1, 0, Vec::new()),
            Some(LeaseStatus { granted, remaining, keys }) => {
                let keys = keys.into_iter().map(Into::into).collect();
                (whole_seconds(remaining), whole_seconds(granted), keys)
            }
        };
        PbLeaseTimeToLiveResponse {
            header: Some(header.to_wire()),
            id: id.get(),
            ttl,
            granted_ttl,
            keys,
        }
    }
}

impl FromWire<PbLeaseTimeToLiveResponse> for LeaseTimeToLiveResponse {
    fn from_wire(wire: PbLeaseTimeToLiveResponse) -> Result<Self, Malformed> {
        let exists = wire.ttl >= 0 || wire.granted_ttl > 0;
        let lease = exists.then(|| LeaseStatus {
            granted: seconds(wire.granted_ttl),
            remaining: seconds(wire.ttl),
            keys: wire.keys.into_iter().map(Into::into).collect(),
        });
        Ok(Self { header: Header::from_wire(wire.header)?, lease })
    }
}

impl ToWire for LeasesResponse {
    type Wire = PbLeaseLeasesResponse;

    fn to_wire(self) -> PbLeaseLeasesResponse {
        let leases = self.leases.into_iter().map(|id| PbLeaseStatus { id: id.get() }).collect();
        PbLeaseLeasesResponse { header: Some(self.header.to_wire()), leases }
    }
}

impl FromWire<PbLeaseLeasesResponse> for LeasesResponse {
    fn from_wire(wire: PbLeaseLeasesResponse) -> Result<Self, Malformed> {
        let leases =
            wire.leases.into_iter().map(|lease| LeaseId::new(lease.id).ok_or(MISSING_LEASE_ID));
        Ok(Self {
            header: Header::from_wire(wire.header)?,
            leases: leases.collect::<Result<_, _>>()?,
        })
    }
}
