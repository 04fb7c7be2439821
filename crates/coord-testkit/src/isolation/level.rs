//! Isolation levels that a history is checked against, and which of them implies which.
//!
//! ```text
//! strict serializable ─ serializable ─┬─ repeatable read ────┬─ read committed ─ read uncommitted
//!                                     └─ snapshot isolation ─┘
//! ```
//!
//! A level on the left implies the levels on its right. coord's four levels are those of
//! [`Isolation`](coord_core::stm::Isolation), with what its table promises.

use std::fmt;

/// An isolation level.
///
/// The first six are the levels of Adya's thesis, named as in SQL where SQL has a name. A history
/// has a level if its dependency graph has no cycle of the kind that the level forbids:
///
/// | level | forbidden | name in Elle, the checker of Jepsen |
/// |---|---|---|
/// | `ReadUncommitted` | cycles of `ww`; lost and doubled writes, elements twice | PL-1 |
/// | `ReadCommitted` | also `wr`; aborted, intermediate and garbage reads | PL-2 |
/// | `RepeatableRead` | also `rw` of single keys | PL-2.99 |
/// | `SnapshotIsolation` | as `ReadCommitted`, and cycles without two adjacent `rw` | PL-SI |
/// | `Serializable` | as `RepeatableRead`, and `rw` of ranges | PL-3 |
/// | `StrictSerializable` | also the order in real time | PL-SS |
///
/// `SnapshotIsolation` also forbids [internal](super::AnomalyKind::Internal) anomalies. The other
/// four levels are coord's. The letters are explained at [`EdgeKind`](super::EdgeKind).
///
/// Source: Adya, *Weak Consistency* (1999), for the levels; Cerone and Gotsman, *Analysing Snapshot
/// Isolation* (2016), for snapshot isolation as a condition on cycles. Their condition also counts
/// the order of each session, which this one leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Level {
    /// Writes are not interleaved.
    ReadUncommitted,
    /// Only committed, final values are read.
    ReadCommitted,
    /// What was read does not change, except for keys that appear in a range.
    RepeatableRead,
    /// Reads are from one snapshot, and concurrent writes to a key conflict.
    SnapshotIsolation,
    /// Equivalent to an order of the transactions, one after the other.
    Serializable,
    /// Equivalent to an order that agrees with real time.
    StrictSerializable,
    /// coord's `ReadCommitted`: `ReadCommitted`, and all writes appear at once. Split commits and
    /// writes of aborted attempts refute it.
    CoordReadCommitted,
    /// coord's `RepeatableReads`: `RepeatableRead` for single keys, and transactions that write are
    /// in an order that agrees with real time.
    CoordRepeatableReads,
    /// coord's `Serializable`: `StrictSerializable`, and every attempt sees one snapshot.
    CoordSerializable,
    /// coord's `SerializableSnapshot`. What it promises beyond `Serializable`, that the first of
    /// two concurrent blind writes wins, depends on when an attempt took its snapshot, which a
    /// history does not have: the checker gives both levels the same verdict.
    CoordSerializableSnapshot,
}

impl Level {
    /// All levels; a level comes after those that it implies.
    pub const ALL: [Self; 10] = [
        Self::ReadUncommitted,
        Self::ReadCommitted,
        Self::RepeatableRead,
        Self::SnapshotIsolation,
        Self::Serializable,
        Self::StrictSerializable,
        Self::CoordReadCommitted,
        Self::CoordRepeatableReads,
        Self::CoordSerializable,
        Self::CoordSerializableSnapshot,
    ];

    /// The strongest levels that this level implies.
    pub(super) const fn implied(self) -> &'static [Self] {
        match self {
            Self::ReadUncommitted => &[],
            Self::ReadCommitted => &[Self::ReadUncommitted],
            Self::RepeatableRead | Self::SnapshotIsolation | Self::CoordReadCommitted => {
                &[Self::ReadCommitted]
            }
            Self::Serializable => &[Self::RepeatableRead, Self::SnapshotIsolation],
            Self::StrictSerializable => &[Self::Serializable],
            Self::CoordRepeatableReads => &[Self::RepeatableRead, Self::CoordReadCommitted],
            Self::CoordSerializable => &[Self::StrictSerializable, Self::CoordRepeatableReads],
            Self::CoordSerializableSnapshot => &[Self::CoordSerializable],
        }
    }

    /// Whether a history that has this level also has `other`.
    #[must_use]
    pub fn implies(self, other: Self) -> bool {
        self == other || self.implied().iter().any(|weaker| weaker.implies(other))
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadUncommitted => "read uncommitted",
            Self::ReadCommitted => "read committed",
            Self::RepeatableRead => "repeatable read",
            Self::SnapshotIsolation => "snapshot isolation",
            Self::Serializable => "serializable",
            Self::StrictSerializable => "strict serializable",
            Self::CoordReadCommitted => "coord read-committed",
            Self::CoordRepeatableReads => "coord repeatable-reads",
            Self::CoordSerializable => "coord serializable",
            Self::CoordSerializableSnapshot => "coord serializable-snapshot",
        })
    }
}

/// What a history shows about a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// Nothing that was recorded contradicts the level. The coverage of the verdict states how much
    /// was recorded.
    Holds,
    /// The history refutes the level, and no weaker one.
    Not,
    /// The history refutes the level, because it refutes a weaker one.
    AlsoNot,
    /// The history neither refutes the level nor shows that it holds.
    Unknown,
}

impl Status {
    /// Whether the level is refuted.
    #[must_use]
    pub const fn is_refuted(self) -> bool {
        matches!(self, Self::Not | Self::AlsoNot)
    }
}
