//! The one translation between coord's types and etcd's protobuf messages, both ways.
//!
//! Nothing else sees a protobuf message. A client sends requests and reads answers; a server reads
//! requests and sends answers; so there are four directions, and nothing is lost in any:
//!
//! ```text
//!            coord's type  ->  the wire             the wire  ->  coord's type
//! requests   send (etcd-client's own builders)      request (FromWire)
//! answers    response, lease, watch (ToWire)        response, lease, watch (FromWire)
//! ```
//!
//! Two things are written differently and mean the same. Zero on the wire is `None` here, for a
//! lease. And a range sorted by key upwards is sent as a range that is not sorted, as Go's client
//! does: keys come in that order anyway, and the store need not fetch them all to sort them.
//!
//! What arrives may be nonsense, so reading is fallible: [`Malformed`] says what could not be
//! read. An unknown number in an enum is refused rather than guessed at.

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

/// A value of coord's that can be written as a message of etcd's protocol.
pub trait ToWire {
    /// The message.
    type Wire;

    /// Writes it. Keys and values are copied only where they are shared.
    fn to_wire(self) -> Self::Wire;
}

/// A value of coord's that can be read from a message of etcd's protocol.
pub trait FromWire<W>: Sized {
    /// Reads it. Keys and values are moved, not copied.
    ///
    /// # Errors
    /// [`Malformed`] when the message says something that etcd's protocol does not know.
    fn from_wire(wire: W) -> Result<Self, Malformed>;
}

/// A message that does not follow etcd's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub(crate) &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not a message of etcd's: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// Reads every element of a list.
fn all<W, T: FromWire<W>>(wire: Vec<W>) -> Result<Vec<T>, Malformed> {
    wire.into_iter().map(T::from_wire).collect()
}

/// Writes every element of a list.
fn each<T: ToWire>(values: Vec<T>) -> Vec<T::Wire> {
    values.into_iter().map(T::to_wire).collect()
}

/// A lease as the wire has it: zero for none.
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

/// A header that was left out is all zeros.
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
