//! A number by which late writers are told.

use std::fmt;

use crate::kv::Revision;

/// A number that grows with every holder of a line, for a resource to refuse late writers by.
///
/// It is the create revision of the holder's key: unique in the store, and larger for whoever
/// holds later. A resource that remembers the largest token it has seen, and refuses smaller ones,
/// is safe from a holder that was suspended, lost its lease without noticing, and woke up. Do not
/// compare tokens for equality, and do not use the lease for this: neither tells who came later.
///
/// ```
/// use coord_core::{FencingToken, Revision};
///
/// let (earlier, later) = (FencingToken(Revision(7)), FencingToken(Revision(9)));
/// assert!(later > earlier);
/// assert_eq!(later.to_string(), "9");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(pub Revision);

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
