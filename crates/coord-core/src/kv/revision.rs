//! Revisions: the store's count of changes.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

/// A point in the history of a whole store: one more for every change, never one less.
///
/// A fresh store is at revision 1, and its first write creates revision 2. Requests without a
/// revision have `None`. But the revision of a key that does not exist *compares* as zero, which
/// is why [`Revision::ZERO`] exists.
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
    /// The revision of a key that does not exist, in compares.
    pub const ZERO: Self = Self(0);

    /// The revision after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The revision before this one.
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
