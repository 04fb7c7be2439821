//! Fencing tokens: numbers by which a resource rejects writes of earlier lock holders.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use super::Revision;

/// A number that grows with every holder of a lock or leadership, so that a resource can reject
/// writes of an earlier holder.
///
/// It is the create revision of the holder's key: unique in its queue, and larger for every later
/// holder. A resource that stores the largest token it has received, and rejects smaller ones, is
/// protected from a holder that was suspended and lost its lease without noticing. Compare tokens
/// by order, not for equality. If the history of the store is replaced, for example because an
/// older backup was restored, the tokens of later holders may be smaller.
///
/// It prints and parses as a decimal number, and with the feature `serde` serializes as a number.
///
/// ```
/// use coord_core::kv::{FencingToken, Revision};
///
/// let (earlier, later) = (FencingToken(Revision(7)), FencingToken(Revision(9)));
/// assert!(later > earlier);
/// assert_eq!(later.to_string(), "9");
/// assert_eq!("9".parse(), Ok(later));
/// assert_eq!(i64::from(later), 9);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct FencingToken(pub Revision);

impl From<FencingToken> for i64 {
    fn from(token: FencingToken) -> Self {
        token.0.0
    }
}

impl FromStr for FencingToken {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
