//! The store's clock: a count of changes.

use std::fmt;

/// A point in the history of a whole store: one more for every change, never one less.
///
/// A fresh store is at revision 1, its first write makes revision 2. Requests and compares use
/// [`Revision::ZERO`] for "not set": no revision of a store is zero, but the revision of a key
/// that does not exist compares as zero, which is why this is a plain number and not an option.
///
/// ```
/// use coord_core::Revision;
///
/// let revision = Revision(41);
/// assert_eq!(revision.next(), Revision(42));
/// assert_eq!(revision.to_string(), "41");
/// ```
///
/// Source: `docs/etcd-contract.md` §1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

impl Revision {
    /// Not set; also the revision of a key that does not exist, in compares.
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

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
