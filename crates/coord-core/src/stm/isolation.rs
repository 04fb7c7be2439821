//! What transactions may see of each other.

use std::fmt;

/// What a transaction may see of those that run beside it.
///
/// The names are Go's; two of them promise less, or more, than they say. What each level really
/// forbids is this, where *no* means that it cannot happen to a transaction that commits:
///
/// | | `SerializableSnapshot` | `Serializable` | `RepeatableReads` | `ReadCommitted` |
/// |---|---|---|---|---|
/// | dirty, aborted or intermediate reads | no | no | no | no |
/// | a key read twice differs | no | no | no | no |
/// | lost update | no | no | no | **yes** |
/// | write skew | no | no | no | **yes** |
/// | reads of several keys that never were together | no | no | no | **yes** |
/// | the same, in an attempt that will not commit | no | no | **yes** | **yes** |
/// | a key in a range that was read comes, goes or changes | no | no | **yes**: comes | **yes** |
/// | a read-only transaction sees old data | no | no | **yes** | **yes** |
/// | a key written unread was changed meanwhile | no | **yes** | **yes** | **yes** |
///
/// An example for each row is in `docs/guide/isolation.md`.
///
/// Source: etcd 3.5 `client/v3/concurrency/stm.go`, with the holes closed that
/// `docs/semantics.md` lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a closed set, and users match on it")]
pub enum Isolation {
    /// Strict serializability, and besides the first of two that write a key without reading it
    /// wins; but a key that was not there, was put and deleted again, counts as unchanged. Every
    /// attempt sees the store as it was at one revision.
    #[default]
    SerializableSnapshot,
    /// Strict serializability. Every attempt sees the store as it was at one revision.
    Serializable,
    /// Each key is read once, from whichever member is asked. Transactions that write are strictly
    /// serializable if they read single keys; those that only read may see old data, all of it from
    /// one revision.
    RepeatableReads,
    /// Each key is read once, from any one member, and the commit checks nothing that was read.
    /// All writes of the transaction appear at once. A transaction that reads the key of a lock is
    /// therefore not protected by that lock: it commits although the lock is lost meanwhile.
    ReadCommitted,
}

impl Isolation {
    /// Every attempt sees one revision.
    pub(super) const fn is_strong(self) -> bool {
        matches!(self, Self::SerializableSnapshot | Self::Serializable)
    }
}

impl fmt::Display for Isolation {
    /// As in `coord bench --isolation`: lower case, with dashes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SerializableSnapshot => "serializable-snapshot",
            Self::Serializable => "serializable",
            Self::RepeatableReads => "repeatable-reads",
            Self::ReadCommitted => "read-committed",
        })
    }
}
