//! The kinds of edges of the dependency graph, by the names of the literature.

use std::fmt;

/// Why a transaction comes before another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum EdgeKind {
    /// `ww`: the second overwrote what the first wrote.
    WriteWrite,
    /// `wr`: the second read what the first wrote.
    WriteRead,
    /// `rw`: the second overwrote what the first read.
    ReadWrite,
    /// `wr` of a range: the second did not find a key in a range, because the first deleted it.
    PredicateWriteRead,
    /// `rw` of a range: the second created a key in a range that the first had read without it.
    PredicateReadWrite,
    /// The first ended before the second began, in the same process.
    Session,
    /// The first ended before the second began.
    RealTime,
}

impl EdgeKind {
    /// Whether the second transaction changed what the first one read.
    #[must_use]
    pub const fn is_anti_dependency(self) -> bool {
        matches!(self, Self::ReadWrite | Self::PredicateReadWrite)
    }

    /// Whether the edge is from an order in time, not from data.
    #[must_use]
    pub const fn is_order(self) -> bool {
        matches!(self, Self::Session | Self::RealTime)
    }

    /// Whether the edge is from a key of a range that the read of the range did not find.
    #[must_use]
    pub const fn is_predicate(self) -> bool {
        matches!(self, Self::PredicateWriteRead | Self::PredicateReadWrite)
    }
}

impl fmt::Display for EdgeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WriteWrite => "ww",
            Self::WriteRead => "wr",
            Self::ReadWrite => "rw",
            Self::PredicateWriteRead => "wr range",
            Self::PredicateReadWrite => "rw range",
            Self::Session => "session",
            Self::RealTime => "real time",
        })
    }
}
