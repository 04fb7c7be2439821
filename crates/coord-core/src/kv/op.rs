//! Requests that change keys: put, delete and compaction; and the operations of a transaction.

use bytes::Bytes;

use super::{IntoBytes, KeyRange, LeaseId, Range, Revision, Txn};

/// A request to set one key.
///
/// ```
/// use coord_core::kv::{LeaseId, Put};
///
/// let put = Put::new("jobs/7", "running").lease(LeaseId::new(99)).with_prev_kv();
/// assert!(put.prev_kv);
/// ```
///
/// Source: `docs/etcd-contract.md` §3.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Put {
    /// The key. An empty key is refused.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The lease to attach the key to; `None` detaches the key from its lease.
    pub lease: Option<LeaseId>,
    /// Whether to return the key before the put.
    pub prev_kv: bool,
    /// Whether to keep the key's value. The key must exist, and `value` must be empty.
    pub ignore_value: bool,
    /// Whether to keep the key's lease. The key must exist, and `lease` must be `None`.
    pub ignore_lease: bool,
}

impl Put {
    /// Sets `key` to `value`, without a lease.
    pub fn new(key: impl IntoBytes, value: impl IntoBytes) -> Self {
        Self {
            key: key.into_bytes(),
            value: value.into_bytes(),
            lease: None,
            prev_kv: false,
            ignore_value: false,
            ignore_lease: false,
        }
    }

    /// Attaches the key to `lease`.
    #[must_use]
    pub fn lease(mut self, lease: impl Into<Option<LeaseId>>) -> Self {
        self.lease = lease.into();
        self
    }

    /// Returns the key before the put.
    #[must_use]
    pub const fn with_prev_kv(mut self) -> Self {
        self.prev_kv = true;
        self
    }

    /// Keeps the key's value. The key must exist.
    #[must_use]
    pub const fn ignore_value(mut self) -> Self {
        self.ignore_value = true;
        self
    }

    /// Keeps the key's lease. The key must exist.
    #[must_use]
    pub const fn ignore_lease(mut self) -> Self {
        self.ignore_lease = true;
        self
    }
}

/// A request to delete the keys of a range. If the range has no key, it is no error and no change.
///
/// Source: `docs/etcd-contract.md` §3.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Delete {
    /// The keys to delete. An empty key is refused.
    pub keys: KeyRange,
    /// Whether to return the deleted keys.
    pub prev_kv: bool,
}

impl Delete {
    /// Deletes `keys`: a single key, or any [`KeyRange`].
    pub fn new(keys: impl Into<KeyRange>) -> Self {
        Self { keys: keys.into(), prev_kv: false }
    }

    /// Deletes every key that starts with `prefix`.
    pub fn prefix(prefix: impl IntoBytes) -> Self {
        Self::new(KeyRange::prefix(prefix))
    }

    /// Returns the deleted keys.
    #[must_use]
    pub const fn with_prev_kv(mut self) -> Self {
        self.prev_kv = true;
        self
    }
}

impl<K: Into<KeyRange>> From<K> for Delete {
    /// Deletes `keys`, without options.
    fn from(keys: K) -> Self {
        Self::new(keys)
    }
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "closed by etcd's protocol, and backends match on it")]
pub enum Op {
    /// A read. It reads the changes of earlier operations of the same transaction.
    Range(Range),
    /// A put.
    Put(Put),
    /// A delete.
    Delete(Delete),
    /// A nested transaction. Its compares are evaluated before *any* operation is executed.
    Txn(Txn),
}

impl From<Range> for Op {
    fn from(range: Range) -> Self {
        Self::Range(range)
    }
}

impl From<Put> for Op {
    fn from(put: Put) -> Self {
        Self::Put(put)
    }
}

impl From<Delete> for Op {
    fn from(delete: Delete) -> Self {
        Self::Delete(delete)
    }
}

impl From<Txn> for Op {
    fn from(txn: Txn) -> Self {
        Self::Txn(txn)
    }
}

/// A request to compact the history: reads at older revisions than `revision` fail from then on.
///
/// Source: `docs/etcd-contract.md` §5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Compact {
    /// The oldest revision that remains readable.
    pub revision: Revision,
    /// Whether to respond only when the space of the compacted history is released too.
    pub physical: bool,
}

impl Compact {
    /// Compacts at `revision`.
    #[must_use]
    pub const fn new(revision: Revision) -> Self {
        Self { revision, physical: false }
    }
}
