//! Range requests: reads of the keys of a range, with filters, order and limit.

use std::num::NonZeroU64;

use super::{IntoBytes, KeyRange, Revision};

/// A request to read the keys of a range, at the newest revision or at an older one.
///
/// The store evaluates it in this order:
///
/// 1. read the keys of the range at the revision;
/// 2. count them: [`count`](super::RangeResponse::count);
/// 3. drop keys by the four revision filters;
/// 4. sort, then apply the limit; [`SortOrder::None`] may apply the limit before it sorts;
/// 5. drop the values, if only keys were requested.
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
    /// The revision to read at; `None` is the newest. Outside a transaction, etcd also reads a
    /// revision of zero or less as the newest. In a transaction, a negative revision is compacted,
    /// except -1 until the first compaction, which is the newest.
    pub revision: Option<Revision>,
    /// The largest number of keys to return; `None` is no limit.
    pub limit: Option<NonZeroU64>,
    /// The property to sort by.
    pub sort_target: SortTarget,
    /// The direction to sort in.
    pub sort_order: SortOrder,
    /// Whether the read is *serializable*: any member may respond from its own state, which may be
    /// old, without a quorum. By default a read is *linearizable*.
    pub serializable: bool,
    /// Whether to drop the values, after sorting.
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

    /// Sorts by `target`, in the direction `order`.
    #[must_use]
    pub const fn sorted(mut self, target: SortTarget, order: SortOrder) -> Self {
        self.sort_target = target;
        self.sort_order = order;
        self
    }

    /// Makes the read serializable: any member may respond from its own state, which may be old.
    #[must_use]
    pub const fn serializable(mut self) -> Self {
        self.serializable = true;
        self
    }

    /// Returns the keys without their values.
    #[must_use]
    pub const fn keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }

    /// Returns only the count.
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

/// The property that a [`Range`] sorts by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "closed by etcd's protocol, and backends match on it")]
pub enum SortTarget {
    /// The key, bytewise.
    #[default]
    Key,
    /// The version: the number of puts since the key was created.
    Version,
    /// The create revision.
    CreateRevision,
    /// The mod revision.
    ModRevision,
    /// The value, bytewise.
    Value,
}

/// The direction in which a [`Range`] sorts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "closed by etcd's protocol, and backends match on it")]
pub enum SortOrder {
    /// Ascending by the target. If the target is not the key, it depends on the filters when the
    /// limit is applied:
    ///
    /// - Without a revision filter, the first `limit` + 1 keys *in key order* are read, sorted, and
    ///   then limited. Example: `a` has mod revision 3, `b` 2 and `c` 1. Sorted by mod revision
    ///   with a limit of 1, this returns `b`, not `c`.
    /// - With any of the four revision filters, all keys are read, filtered, sorted, and then
    ///   limited, as with `Ascending`: this returns `c`.
    ///
    /// This is etcd's behaviour. To sort by another target than the key, set an explicit order.
    #[default]
    None,
    /// Smallest first.
    Ascending,
    /// Largest first.
    Descending,
}
