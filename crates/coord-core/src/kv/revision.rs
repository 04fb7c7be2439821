//! Revisions: the number of changes of a store.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

/// A point in the history of the whole store. Each change increments it. It decreases only if the
/// history of the store is replaced: [`Error::HistoryReplaced`](crate::Error::HistoryReplaced).
///
/// A new store is at revision 1, and its first write creates revision 2. A request without a
/// revision has `None`. In a compare, the revisions of a key that does not exist are
/// [`Revision::ZERO`].
///
/// It prints and parses as a decimal number, and with the feature `serde` serializes as a number.
///
/// ```
/// use coord_core::kv::Revision;
///
/// let revision = Revision(41);
/// assert_eq!(revision.next(), Revision(42));
/// assert_eq!(revision.to_string(), "41");
/// assert_eq!("41".parse(), Ok(revision));
/// assert_eq!(i64::from(revision), 41);
/// ```
///
/// Source: `docs/etcd-contract.md` §1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Revision(pub i64);

impl Revision {
    /// The create revision and mod revision of a key that does not exist, in compares.
    pub const ZERO: Self = Self(0);

    /// Returns the revision after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Returns the revision before this one.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl From<Revision> for i64 {
    fn from(revision: Revision) -> Self {
        revision.0
    }
}

impl From<i64> for Revision {
    fn from(revision: i64) -> Self {
        Self(revision)
    }
}

impl FromStr for Revision {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
