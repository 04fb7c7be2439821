//! Conditions of a transaction.

use bytes::Bytes;

use super::{IntoBytes, KeyRange, KeyValue, LeaseId, Revision};

/// A condition on a key, or on every key of a range, judged against the state before the
/// transaction.
///
/// If the key does **not exist**, its version, its revisions and its lease compare as zero, and a
/// condition on its value is false whatever the operator. If a range holds **no key**, it counts
/// as one key that does not exist. If it holds several, each must meet the condition.
///
/// ```
/// use coord_core::kv::{Compare, CompareOp, KeyRange, Revision};
///
/// let untouched = Compare::mod_revision("a", CompareOp::Equal, Revision(7));
/// let nobody_there = Compare::absent(KeyRange::prefix("line/"));
/// assert_ne!(untouched, nobody_there);
/// ```
///
/// Source: `docs/etcd-contract.md` §4; etcd 3.5 `server/etcdserver/apply.go`, `applyCompare`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Compare {
    /// The key, or the keys, that are looked at. An empty key is refused.
    pub keys: KeyRange,
    /// How the key stands to the operand: `Less` is "the key's is less than the operand".
    pub op: CompareOp,
    /// What of the key is compared, and with what.
    pub operand: CompareOperand,
}

/// The operator of a [`Compare`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "closed by etcd's protocol, and backends match on it")]
pub enum CompareOp {
    /// The same.
    Equal,
    /// The key's is greater.
    Greater,
    /// The key's is less.
    Less,
    /// Different.
    NotEqual,
}

/// The target of a [`Compare`] with the operand it is held against.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "closed by etcd's protocol, and backends match on it")]
pub enum CompareOperand {
    /// The number of puts since the key was created.
    Version(i64),
    /// The revision that created the key.
    CreateRevision(Revision),
    /// The revision that changed the key last.
    ModRevision(Revision),
    /// The value, bytewise.
    Value(Bytes),
    /// The lease; `None` compares as zero, below or above other leases by their signed id.
    Lease(Option<LeaseId>),
}

impl Compare {
    /// Compares the number of puts since the key was created.
    pub fn version(keys: impl Into<KeyRange>, op: CompareOp, version: i64) -> Self {
        Self { keys: keys.into(), op, operand: CompareOperand::Version(version) }
    }

    /// Compares the revision that created the key.
    pub fn create_revision(keys: impl Into<KeyRange>, op: CompareOp, revision: Revision) -> Self {
        Self { keys: keys.into(), op, operand: CompareOperand::CreateRevision(revision) }
    }

    /// Compares the revision that changed the key last.
    pub fn mod_revision(keys: impl Into<KeyRange>, op: CompareOp, revision: Revision) -> Self {
        Self { keys: keys.into(), op, operand: CompareOperand::ModRevision(revision) }
    }

    /// Compares the value.
    pub fn value(keys: impl Into<KeyRange>, op: CompareOp, value: impl IntoBytes) -> Self {
        Self { keys: keys.into(), op, operand: CompareOperand::Value(value.into_bytes()) }
    }

    /// Compares the lease that the key hangs on.
    pub fn lease(
        keys: impl Into<KeyRange>,
        op: CompareOp,
        lease: impl Into<Option<LeaseId>>,
    ) -> Self {
        Self { keys: keys.into(), op, operand: CompareOperand::Lease(lease.into()) }
    }

    /// The key does not exist; for a range, none of its keys does.
    pub fn absent(keys: impl Into<KeyRange>) -> Self {
        Self::version(keys, CompareOp::Equal, 0)
    }

    /// The key exists; for a range, at least one of its keys does.
    pub fn exists(keys: impl Into<KeyRange>) -> Self {
        Self::version(keys, CompareOp::Greater, 0)
    }

    /// Whether a key meets the condition: as it is, or `None` if it does not exist. This is for
    /// backends, which know the keys.
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
        let there = kv.unwrap_or(&absent);
        let wire = |lease: Option<LeaseId>| lease.map_or(0, LeaseId::get);
        let order = match &self.operand {
            CompareOperand::Version(version) => there.version.cmp(version),
            CompareOperand::CreateRevision(revision) => there.create_revision.cmp(revision),
            CompareOperand::ModRevision(revision) => there.mod_revision.cmp(revision),
            CompareOperand::Value(_) if kv.is_none() => return false,
            CompareOperand::Value(value) => there.value.cmp(value),
            CompareOperand::Lease(lease) => wire(there.lease).cmp(&wire(*lease)),
        };
        match self.op {
            CompareOp::Equal => order.is_eq(),
            CompareOp::Greater => order.is_gt(),
            CompareOp::Less => order.is_lt(),
            CompareOp::NotEqual => order.is_ne(),
        }
    }
}
