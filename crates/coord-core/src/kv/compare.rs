//! Compares: the conditions of a transaction.

use bytes::Bytes;

use super::{IntoBytes, KeyRange, KeyValue, LeaseId, Revision};

/// A condition on a key, or on every key of a range, evaluated on the state before the transaction.
///
/// If the key does **not exist**, its version, its revisions and its lease compare as zero, and a
/// condition on its value is false with every operator. A range with **no key** counts as one key
/// that does not exist. In a range with several keys, each must meet the condition.
///
/// ```
/// use coord_core::kv::{Compare, CompareOp, KeyRange, Revision};
///
/// let untouched = Compare::mod_revision("a", CompareOp::Equal, Revision(7));
/// let empty = Compare::absent(KeyRange::prefix("queue/"));
/// assert_ne!(untouched, empty);
/// ```
///
/// Source: `docs/etcd-contract.md` §4; etcd 3.5 `server/etcdserver/apply.go`, `applyCompare`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Compare {
    /// The key or the range to compare. An empty key is refused.
    pub keys: KeyRange,
    /// The operator. Its left side is the property of the key, its right side is the operand.
    pub op: CompareOp,
    /// Which property of the key is compared, and with which operand.
    pub operand: CompareOperand,
}

/// The operator of a [`Compare`]: how the property of the key must relate to the operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "closed by etcd's protocol, and backends match on it")]
pub enum CompareOp {
    /// The property is equal to the operand.
    Equal,
    /// The property is greater than the operand.
    Greater,
    /// The property is less than the operand.
    Less,
    /// The property is different from the operand.
    NotEqual,
}

/// The compared property of a [`Compare`], with the operand.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "closed by etcd's protocol, and backends match on it")]
pub enum CompareOperand {
    /// The version: the number of puts since the key was created.
    Version(i64),
    /// The create revision.
    CreateRevision(Revision),
    /// The mod revision.
    ModRevision(Revision),
    /// The value, bytewise.
    Value(Bytes),
    /// The lease, ordered by its signed id; `None` compares as zero.
    Lease(Option<LeaseId>),
}

impl Compare {
    /// Compares the version: the number of puts since the key was created.
    pub fn version(keys: impl Into<KeyRange>, op: CompareOp, version: i64) -> Self {
        Self { keys: keys.into(), op, operand: CompareOperand::Version(version) }
    }

    /// Compares the create revision.
    pub fn create_revision(keys: impl Into<KeyRange>, op: CompareOp, revision: Revision) -> Self {
        Self { keys: keys.into(), op, operand: CompareOperand::CreateRevision(revision) }
    }

    /// Compares the mod revision.
    pub fn mod_revision(keys: impl Into<KeyRange>, op: CompareOp, revision: Revision) -> Self {
        Self { keys: keys.into(), op, operand: CompareOperand::ModRevision(revision) }
    }

    /// Compares the value.
    pub fn value(keys: impl Into<KeyRange>, op: CompareOp, value: impl IntoBytes) -> Self {
        Self { keys: keys.into(), op, operand: CompareOperand::Value(value.into_bytes()) }
    }

    /// Compares the lease that the key is attached to.
    pub fn lease(
        keys: impl Into<KeyRange>,
        op: CompareOp,
        lease: impl Into<Option<LeaseId>>,
    ) -> Self {
        Self { keys: keys.into(), op, operand: CompareOperand::Lease(lease.into()) }
    }

    /// The condition that the key does not exist; for a range, that it has no key.
    pub fn absent(keys: impl Into<KeyRange>) -> Self {
        Self::version(keys, CompareOp::Equal, 0)
    }

    /// The condition that the key exists; for a range, that it has at least one key.
    pub fn exists(keys: impl Into<KeyRange>) -> Self {
        Self::version(keys, CompareOp::Greater, 0)
    }

    /// Returns whether a key meets the condition; `None` is a key that does not exist. Backends use
    /// this to evaluate compares.
    ///
    /// ```
    /// use coord_core::kv::{Compare, CompareOp, KeyValue};
    ///
    /// let kv = KeyValue { key: "a".into(), value: "1".into(), version: 3, ..Default::default() };
    /// assert!(Compare::exists("a").is_met_by(Some(&kv)));
    /// assert!(Compare::absent("a").is_met_by(None));
    /// assert!(!Compare::value("a", CompareOp::NotEqual, "2").is_met_by(None), "it has no value");
    /// ```
    #[must_use]
    pub fn is_met_by(&self, kv: Option<&KeyValue>) -> bool {
        let absent = KeyValue::default();
        let found = kv.unwrap_or(&absent);
        let wire_id = |lease: Option<LeaseId>| lease.map_or(0, LeaseId::get);
        let order = match &self.operand {
            CompareOperand::Version(version) => found.version.cmp(version),
            CompareOperand::CreateRevision(revision) => found.create_revision.cmp(revision),
            CompareOperand::ModRevision(revision) => found.mod_revision.cmp(revision),
            CompareOperand::Value(_) if kv.is_none() => return false,
            CompareOperand::Value(value) => found.value.cmp(value),
            CompareOperand::Lease(lease) => wire_id(found.lease).cmp(&wire_id(*lease)),
        };
        match self.op {
            CompareOp::Equal => order.is_eq(),
            CompareOp::Greater => order.is_gt(),
            CompareOp::Less => order.is_lt(),
            CompareOp::NotEqual => order.is_ne(),
        }
    }
}
