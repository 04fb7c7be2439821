//! Isolation levels: what a transaction may see of concurrent transactions.

use std::fmt;
use std::str::FromStr;

/// What a transaction may see of concurrent transactions.
///
/// The names are those of Go's package `concurrency`. Two of the levels guarantee less or more than
/// the standard meaning of their names. This table shows the anomalies that each level permits to a
/// transaction that commits, and in one row to an attempt that does not commit:
///
/// | | `SerializableSnapshot` | `Serializable` | `RepeatableReads` | `ReadCommitted` |
/// |---|---|---|---|---|
/// | dirty, aborted or intermediate reads | no | no | no | no |
/// | a key read twice differs | no | no | no | no |
/// | lost update | no | no | no | **yes** |
/// | write skew | no | no | no | **yes** |
/// | read skew: values of two keys that never existed together | no | no | no | **yes** |
/// | read skew in an attempt that does not commit | no | no | **yes** | **yes** |
/// | phantom: a key in a range created, deleted or changed | no | no | **yes**: created | **yes** |
/// | a read-only transaction sees old data | no | no | **yes** | **yes** |
/// | the key of a blind write was changed meanwhile | no | **yes** | **yes** | **yes** |
///
/// An example for each row is in `docs/guide/isolation.md`. The strong levels are
/// `SerializableSnapshot` and `Serializable`; the others are weak.
///
/// It prints and parses as its name:
///
/// ```
/// use coord_core::stm::Isolation;
///
/// assert_eq!(Isolation::default().to_string(), "serializable-snapshot");
/// assert_eq!("repeatable-reads".parse(), Ok(Isolation::RepeatableReads));
/// ```
///
/// Source: etcd 3.5 `client/v3/concurrency/stm.go`. `docs/semantics.md` lists the anomalies of Go's
/// package that cannot happen here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a closed set, and callers match on it")]
pub enum Isolation {
    /// Strict serializability, and the first of two concurrent blind writes to a key wins, unless
    /// the second transaction reads nothing. A key that did not exist, and was put and deleted
    /// again, counts as unchanged. Every attempt sees one snapshot.
    #[default]
    SerializableSnapshot,
    /// Strict serializability. Every attempt sees one snapshot.
    Serializable,
    /// Each key is read once, from any member. A transaction that writes is strictly serializable
    /// if it reads single keys. A read-only transaction may see old data; if it reads single keys,
    /// all of it is from one revision.
    RepeatableReads,
    /// Each key is read once, from any member, and the commit compares no key that was read. All
    /// writes of the transaction appear at once. A transaction that reads the key of a lock is
    /// therefore not protected by that lock: it commits although the lock is lost meanwhile.
    ReadCommitted,
}

impl Isolation {
    /// All levels, the strongest first.
    pub const ALL: [Self; 4] = [
        Self::SerializableSnapshot,
        Self::Serializable,
        Self::RepeatableReads,
        Self::ReadCommitted,
    ];

    /// Returns the name, in lower case with dashes, such as `repeatable-reads`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SerializableSnapshot => "serializable-snapshot",
            Self::Serializable => "serializable",
            Self::RepeatableReads => "repeatable-reads",
            Self::ReadCommitted => "read-committed",
        }
    }

    /// Whether every attempt sees one snapshot.
    pub(super) const fn is_strong(self) -> bool {
        matches!(self, Self::SerializableSnapshot | Self::Serializable)
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isolation {
    type Err = IsolationError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let level = Self::ALL.into_iter().find(|level| level.name() == name);
        level.ok_or_else(|| IsolationError { name: name.to_owned() })
    }
}

/// The error of a text that names no isolation level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown isolation level {name:?}: must be {}", Isolation::ALL.map(Isolation::name).join(", "))]
pub struct IsolationError {
    name: String,
}
