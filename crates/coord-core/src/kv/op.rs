//! Requests on keys: range, put, delete, compact.

use std::num::NonZeroU64;

use bytes::Bytes;

use super::{IntoBytes, KeyRange, LeaseId, Revision, Txn};

/// Reads the keys of a range, at the newest revision or at an older one.
///
/// The store evaluates a read in this order: the keys of the range are read at the revision;
/// [`count`](super::RangeResponse::count) is taken; the four revision filters drop keys; the rest
/// is sorted, then cut to the limit; values are left out. [`SortOrder::None`] is the one exception:
/// it may apply the limit before it sorts.
///
/// ```
/// use coord_core::kv::{Range, SortOrder, SortTarget};
///
/// let oldest_two = Range::prefix("jobs/")
///     .sorted(SortTarget::CreateRevision, SortOrder::Ascending)
///     .limit(2);
/// assert_eq!(oldest_two.limit.map(|limit| limit.get()), Some(2));
/// assert_eq!(oldest_two.revision, None, "the newest");
/// ```
///
/// Source: `docs/etcd-contract.md` §2; etcd 3.5 `server/etcdserver/apply.go`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// The keys to read. An empty key is refused.
    pub keys: KeyRange,
    /// The revision to read at; `None` is the newest. Outside of a transaction etcd takes a
    /// revision of zero or less for the newest too; inside of one a negative revision is before the
    /// first, and compacted.
    pub revision: Option<Revision>,
    /// The largest number of keys to return; `None` is no limit.
    pub limit: Option<NonZeroU64>,
    /// What to sort by.
    pub sort_target: SortTarget,
    /// Which way to sort.
    pub sort_order: SortOrder,
    /// Whether any member may respond from its own data, perhaps old data, without a quorum.
    pub serializable: bool,
    /// Whether to leave the values out, after sorting.
    pub keys_only: bool,
    /// Whether to count the keys and return none of them.
    pub count_only: bool,
    /// Drops keys that were last changed before this revision.
    pub min_mod_revision: Option<Revision>,
    /// Drops keys that were last changed after this revision.
    pub max_mod_revision: Option<Revision>,
    /// Drops keys that were created before this revision.
    pub min_create_revision: Option<Revision>,
    /// Drops keys that were created after this revision.
    pub max_create_revision: Option<Revision>,
}

impl Range {
    /// Reads `keys`: a single key, or any [`KeyRange`].
    pub fn new(keys: impl Into<KeyRange>) -> Self {
        Self {
            keys: keys.into(),
            revision: None,
            limit: None,
            sort_target: SortTarget::Key,
            sort_order: SortOrder::None,
            serializable: false,
            keys_only: false,
            count_only: false,
            min_mod_revision: None,
            max_mod_revision: None,
            min_create_revision: None,
            max_create_revision: None,
        }
    }

    /// Reads every key that starts with `prefix`.
    pub fn prefix(prefix: impl IntoBytes) -> Self {
        Self::new(KeyRange::prefix(prefix))
    }

    /// Reads at `revision`.
    #[must_use]
    pub fn at(mut self, revision: impl Into<Option<Revision>>) -> Self {
        self.revision = revision.into();
        self
    }

    /// Returns at most `limit` keys. Zero is no limit, as in etcd.
    #[must_use]
    pub const fn limit(mut self, limit: u64) -> Self {
        self.limit = NonZeroU64::new(limit);
        self
    }

    /// Sorts by `target`.
    #[must_use]
    pub const fn sorted(mut self, target: SortTarget, order: SortOrder) -> Self {
        self.sort_target = target;
        self.sort_order = order;
        self
    }

    /// Lets any one member answer from what it has.
    #[must_use]
    pub const fn serializable(mut self) -> Self {
        self.serializable = true;
        self
    }

    /// Leaves the values out.
    #[must_use]
    pub const fn keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }

    /// Returns the count alone.
    #[must_use]
    pub const fn count_only(mut self) -> Self {
        self.count_only = true;
        self
    }

    /// Drops keys that were created after `revision`.
    #[must_use]
    pub const fn max_create_revision(mut self, revision: Revision) -> Self {
        self.max_create_revision = Some(revision);
        self
    }

    /// Drops keys that were created before `revision`.
    #[must_use]
    pub const fn min_create_revision(mut self, revision: Revision) -> Self {
        self.min_create_revision = Some(revision);
        self
    }

    /// Drops keys that were last changed after `revision`.
    #[must_use]
    pub const fn max_mod_revision(mut self, revision: Revision) -> Self {
        self.max_mod_revision = Some(revision);
        self
    }

    /// Drops keys that were last changed before `revision`.
    #[must_use]
    pub const fn min_mod_revision(mut self, revision: Revision) -> Self {
        self.min_mod_revision = Some(revision);
        self
    }
}

/// What a [`Range`] sorts by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "closed by etcd's protocol, and backends match on it")]
pub enum SortTarget {
    /// The key, bytewise.
    #[default]
    Key,
    /// The number of puts since the key was created.
    Version,
    /// The revision that created the key.
    CreateRevision,
    /// The revision that changed the key last.
    ModRevision,
    /// The value, bytewise.
    Value,
}

/// Which way a [`Range`] sorts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "closed by etcd's protocol, and backends match on it")]
pub enum SortOrder {
    /// By key, ascending, when the target is the key. With another target, ascending by that
    /// target, but a filter decides when the limit applies:
    ///
    /// - Without a revision filter the first `limit` + 1 keys *by key* are read, then sorted, then
    ///   cut to the limit. Of the keys `a` (changed at 3) and `b`, `c` (changed at 2 and 1), sorted
    ///   by mod revision with a limit of 1, this returns `b`, not `c`.
    /// - With any of the four revision filters all keys are read, filtered, sorted and then cut, as
    ///   with `Ascending`: this returns `c`.
    ///
    /// That is etcd's behaviour. Give an order explicitly to sort by another target than the key.
    #[default]
    None,
    /// Smallest first.
    Ascending,
    /// Largest first.
    Descending,
}

/// Sets one key.
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
    /// The lease that the key hangs on from now on; `None` detaches it from the one it had.
    pub lease: Option<LeaseId>,
    /// Return the key as it was.
    pub prev_kv: bool,
    /// Keep the value that the key has; it must exist, and `value` must be empty.
    pub ignore_value: bool,
    /// Keep the lease that the key has; it must exist, and `lease` must be `None`.
    pub ignore_lease: bool,
}

impl Put {
    /// Sets `key` to `value`, on no lease.
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

    /// Hangs the key on `lease`.
    #[must_use]
    pub fn lease(mut self, lease: impl Into<Option<LeaseId>>) -> Self {
        self.lease = lease.into();
        self
    }

    /// Returns the key as it was.
    #[must_use]
    pub const fn with_prev_kv(mut self) -> Self {
        self.prev_kv = true;
        self
    }

    /// Keeps the value that the key has.
    #[must_use]
    pub const fn ignore_value(mut self) -> Self {
        self.ignore_value = true;
        self
    }

    /// Keeps the lease that the key has.
    #[must_use]
    pub const fn ignore_lease(mut self) -> Self {
        self.ignore_lease = true;
        self
    }
}

/// Deletes the keys of a range; deleting nothing is no error and no change.
///
/// Source: `docs/etcd-contract.md` §3.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Delete {
    /// The keys to delete. An empty key is refused.
    pub keys: KeyRange,
    /// Return the deleted keys.
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
    /// Reads, and sees what earlier steps of the same transaction did.
    Range(Range),
    /// Sets a key.
    Put(Put),
    /// Deletes a range.
    Delete(Delete),
    /// A transaction within the transaction. Its compares are judged before *any* step is taken.
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

/// Forgets what only revisions before `revision` could tell.
///
/// Source: `docs/etcd-contract.md` §5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Compact {
    /// The oldest revision that stays readable.
    pub revision: Revision,
    /// Answer only when the space is given back too, not just when the revisions are unreadable.
    pub physical: bool,
}

impl Compact {
    /// Compacts at `revision`.
    #[must_use]
    pub const fn new(revision: Revision) -> Self {
        Self { revision, physical: false }
    }
}
