//! Isolation levels: what a transaction may see of concurrent transactions.

use std::fmt;

/// What a transaction may see of concurrent transactions.
///
/// The names are those of Go's package. Two of them promise less, or more, than they say. This
/// table shows what each level permits to a transaction that commits:
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
/// An example for each row is in `docs/guide/isolation.md`. The strong levels are
/// `SerializableSnapshot` and `Serializable`; the others are weak.
///
/// Source: etcd 3.5 `client/v3/concurrency/stm.go`. `docs/semantics.md` lists the anomalies of Go's
/// package that cannot happen here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a closed set, and users match on it")]
pub enum Isolation {
    /// Strict serializability, and besides the first of two blind writes to a key wins; but a key
    /// that did not exist, was put and deleted again, counts as unchanged. Every attempt sees one
    /// snapshot.
    #[default]
    SerializableSnapshot,
    /// Strict serializability. Every attempt sees one snapshot.
    Serializable,
    /// Each key is read once, from any member. A transaction that writes is strictly serializable
    /// if it reads single keys. A read-only transaction may see old data, all of it from one
    /// revision.
    RepeatableReads,
    /// Each key is read once, from any member, and the commit compares no key that was read. All
    /// writes of the transaction appear at once. A transaction that reads the key of a lock is
    /// therefore not protected by that lock: it commits although the lock is lost meanwhile.
    ReadCommitted,
}

impl Isolation {
    /// Whether every attempt sees one snapshot.
    pub(super) const fn is_strong(self) -> bool {
        matches!(self, Self::SerializableSnapshot | Self::Serializable)
    }
}

impl fmt::Display for Isolation {
    /// Lower case with dashes, as in `coord bench --isolation`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SerializableSnapshot => "serializable-snapshot",
            Self::Serializable => "serializable",
            Self::RepeatableReads => "repeatable-reads",
            Self::ReadCommitted => "read-committed",
        })
    }
}
