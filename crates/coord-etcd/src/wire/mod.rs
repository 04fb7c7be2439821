//! The translation between coord's types and etcd's protobuf messages, in both directions.
//!
//! A client writes requests and reads responses; a server reads requests and writes responses. So
//! there are four directions, all without loss:
//!
//! ```text
//!             coord's type  ->  the wire             the wire  ->  coord's type
//! requests    send (etcd-client's own builders)      request, lease, watch (FromWire)
//! responses   response, lease, watch (ToWire)        response, lease, watch (FromWire)
//! ```
//!
//! Some values have a different form with the same meaning. For example, a lease of zero on the
//! wire is `None` here, and a negative limit is none. A range sorted by key in ascending order is
//! sent as an unsorted range, as Go's client does: etcd returns keys in that order anyway, and need
//! not fetch all of them to sort them.
//!
//! A received message may be invalid, so reading is fallible: [`Malformed`] states the invalid
//! part. An unknown number in an enum is refused.

mod lease;
mod request;
mod response;
pub(crate) mod send;
#[cfg(test)]
mod tests;
mod watch;

use coord_core::kv::{Header, KeyValue, LeaseId, Revision};
use etcd_client::proto::{PbKeyValue, PbResponseHeader};

pub use watch::WatchCall;

/// A type that can be written as a message of etcd's protocol.
pub trait ToWire {
    /// The message.
    type Wire;

    /// Writes the value. Keys and values are copied only if they are shared.
    fn to_wire(self) -> Self::Wire;
}

/// A type that can be read from a message of etcd's protocol.
pub trait FromWire<W>: Sized {
    /// Reads the message. Keys and values are moved, not copied.
    ///
    /// # Errors
    /// [`Malformed`] when the message is not valid in etcd's protocol.
    fn from_wire(wire: W) -> Result<Self, Malformed>;
}

/// A message that does not follow etcd's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub(crate) &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "malformed message, not from etcd: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// Reads every element of a list.
fn read_all<W, T: FromWire<W>>(wire: Vec<W>) -> Result<Vec<T>, Malformed> {
    wire.into_iter().map(T::from_wire).collect()
}

/// Writes every element of a list.
fn write_all<T: ToWire>(values: Vec<T>) -> Vec<T::Wire> {
    values.into_iter().map(T::to_wire).collect()
}

/// The lease id on the wire: zero if there is no lease.
fn lease_number(lease: Option<LeaseId>) -> i64 {
    lease.map_or(0, LeaseId::get)
}

impl ToWire for Header {
    type Wire = PbResponseHeader;

    fn to_wire(self) -> PbResponseHeader {
        PbResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision: self.revision.0,
            raft_term: self.raft_term,
        }
    }
}

/// A missing header is read as zeros.
impl FromWire<Option<PbResponseHeader>> for Header {
    fn from_wire(wire: Option<PbResponseHeader>) -> Result<Self, Malformed> {
        let PbResponseHeader { cluster_id, member_id, revision, raft_term } =
            wire.unwrap_or_default();
        Ok(Self { cluster_id, member_id, revision: Revision(revision), raft_term })
    }
}

impl ToWire for KeyValue {
    type Wire = PbKeyValue;

    fn to_wire(self) -> PbKeyValue {
        PbKeyValue {
            key: self.key.into(),
            create_revision: self.create_revision.0,
            mod_revision: self.mod_revision.0,
            version: self.version,
            value: self.value.into(),
            lease: lease_number(self.lease),
        }
    }
}

impl FromWire<PbKeyValue> for KeyValue {
    fn from_wire(wire: PbKeyValue) -> Result<Self, Malformed> {
        let PbKeyValue { key, create_revision, mod_revision, version, value, lease } = wire;
        Ok(Self {
            key: key.into(),
            value: value.into(),
            create_revision: Revision(create_revision),
            mod_revision: Revision(mod_revision),
            version,
            lease: LeaseId::new(lease),
        })
    }
}
