//! Key ranges: the keys of a request, in etcd's two wire fields.
//!
//! etcd encodes a set of keys as a key and a range end, and the end has four meanings. [`KeyRange`]
//! keeps the two fields unchanged, so that it converts to the wire format and back without loss,
//! and has a constructor for each meaning:
//!
//! ```text
//! key   range end   keys                                          constructor
//! a     (empty)     a alone                                       KeyRange::key("a")
//! a     c           a ≤ key < c                                   KeyRange::between("a", "c")
//! a     b           every key that starts with a                  KeyRange::prefix("a")
//! a     \0          every key from a on                           KeyRange::starting_at("a")
//! \0    \0          every key                                     KeyRange::all()
//! c     a           none: an end at or below the key is valid     KeyRange::from_wire("c", "a")
//! ```

use std::{fmt, ops};

use bytes::Bytes;

/// Conversion into the bytes of a key or a value: moves owned data, copies borrowed data, and
/// shares the data of a `&Bytes`.
///
/// ```
/// use coord_core::kv::IntoBytes;
///
/// let name = String::from("jobs");
/// assert_eq!((&name).into_bytes(), "jobs".into_bytes());
/// assert_eq!(name.into_bytes(), b"jobs".into_bytes());
/// ```
pub trait IntoBytes {
    /// Returns the bytes.
    fn into_bytes(self) -> Bytes;
}

/// Implements [`IntoBytes`] for types, each with an expression over `self`.
macro_rules! into_bytes {
    ($($from:ty: |$this:ident| $body:expr;)*) => {
        $(impl IntoBytes for $from {
            fn into_bytes(self) -> Bytes {
                let $this = self;
                $body
            }
        })*
    };
}

into_bytes! {
    Bytes: |this| this;
    &Bytes: |this| this.clone();
    Vec<u8>: |this| this.into();
    String: |this| this.into();
    &String: |this| Bytes::copy_from_slice(this.as_bytes());
    &str: |this| Bytes::copy_from_slice(this.as_bytes());
    &[u8]: |this| Bytes::copy_from_slice(this);
}

impl<const N: usize> IntoBytes for &[u8; N] {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

/// The range end that means "no upper bound".
const UNBOUNDED: &[u8] = b"\0";

/// A contiguous set of keys: one key, an interval, a prefix, or all keys.
///
/// ```
/// use coord_core::kv::KeyRange;
///
/// let jobs = KeyRange::prefix("jobs/");
/// assert!(jobs.contains(b"jobs/7"));
/// assert!(!jobs.contains(b"jobs0"));
/// assert_eq!(KeyRange::from("a"), KeyRange::key("a"));
/// assert_eq!(KeyRange::from("a".."c"), KeyRange::between("a", "c"));
/// assert_eq!(KeyRange::from("a"..), KeyRange::starting_at("a"));
/// ```
///
/// Source: `docs/etcd-contract.md` §2.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRange {
    key: Bytes,
    range_end: Bytes,
}

impl KeyRange {
    /// The single key `key`.
    pub fn key(key: impl IntoBytes) -> Self {
        Self { key: key.into_bytes(), range_end: Bytes::new() }
    }

    /// The keys from `start` up to, but not including, `end`; no key if `end` is not above `start`.
    ///
    /// An empty `start` means the smallest key.
    pub fn between(start: impl IntoBytes, end: impl IntoBytes) -> Self {
        let (start, end) = (start.into_bytes(), end.into_bytes());
        let key = if start.is_empty() { Bytes::from_static(b"\0") } else { start };
        if end <= key {
            // Not passed on unchanged: an empty end would mean a single key, and a zero byte no
            // upper bound. Any end at or below its key means no keys.
            return Self::from_wire("\u{1}", "\u{1}");
        }
        Self { key, range_end: end }
    }

    /// Every key that starts with `prefix`; every key if it is empty.
    pub fn prefix(prefix: impl IntoBytes) -> Self {
        let prefix = prefix.into_bytes();
        if prefix.is_empty() {
            return Self::all();
        }
        let range_end = end_of_prefix(&prefix);
        Self { key: prefix, range_end }
    }

    /// Every key from `start` on; an empty `start` means the smallest key.
    pub fn starting_at(start: impl IntoBytes) -> Self {
        let start = start.into_bytes();
        let key = if start.is_empty() { Bytes::from_static(b"\0") } else { start };
        Self { key, range_end: Bytes::from_static(UNBOUNDED) }
    }

    /// Every key.
    #[must_use]
    pub fn all() -> Self {
        Self::starting_at("")
    }

    /// The range of etcd's `key` and `range_end` fields, unchanged and unchecked.
    pub fn from_wire(key: impl IntoBytes, range_end: impl IntoBytes) -> Self {
        Self { key: key.into_bytes(), range_end: range_end.into_bytes() }
    }

    /// Returns the first key of the range: etcd's `key` field.
    #[must_use]
    pub const fn start(&self) -> &Bytes {
        &self.key
    }

    /// Returns etcd's `range_end` field: empty for a single key, a zero byte for no upper bound,
    /// otherwise the first key above the range.
    #[must_use]
    pub const fn range_end(&self) -> &Bytes {
        &self.range_end
    }

    /// Returns the upper bound: the first key above the range; `None` if there is no bound.
    ///
    /// It has no meaning for a single key: check [`is_single`](Self::is_single) first.
    #[must_use]
    pub fn upper_bound(&self) -> Option<&Bytes> {
        (self.range_end != UNBOUNDED).then_some(&self.range_end)
    }

    /// Returns whether the range is a single key, not an interval.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.range_end.is_empty()
    }

    /// Returns whether no key can be in the range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.is_single() && self.upper_bound().is_some_and(|end| *end <= self.key)
    }

    /// The keys of the interval above `key`.
    pub(crate) fn after(&self, key: &[u8]) -> Self {
        let start = [key, b"\0"].concat();
        Self { key: start.into(), range_end: self.range_end.clone() }
    }

    /// Returns whether `key` is in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        if self.is_single() {
            return self.key == key;
        }
        key >= &self.key[..] && self.upper_bound().is_none_or(|end| key < &end[..])
    }
}

/// The range end of a prefix: the smallest key above all keys that start with `prefix`.
///
/// It is the prefix without trailing `0xff` bytes and with its last byte incremented. If the prefix
/// has only `0xff` bytes, there is no upper bound.
fn end_of_prefix(prefix: &Bytes) -> Bytes {
    let Some(last) = prefix.iter().rposition(|&byte| byte != 0xff) else {
        return Bytes::from_static(UNBOUNDED);
    };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end.into()
}

impl<K: IntoBytes> From<K> for KeyRange {
    /// A single key.
    fn from(key: K) -> Self {
        Self::key(key)
    }
}

/// Implements the conversions from Rust's range types, for each type of key.
macro_rules! from_ranges {
    ($($key:ty),*) => {
        $(impl From<ops::Range<$key>> for KeyRange {
            /// `"a".."c"`: the keys from the start up to, but not including, the end.
            fn from(range: ops::Range<$key>) -> Self {
                Self::between(range.start, range.end)
            }
        }

        impl From<ops::RangeFrom<$key>> for KeyRange {
            /// `"a"..`: every key from the start on.
            fn from(range: ops::RangeFrom<$key>) -> Self {
                Self::starting_at(range.start)
            }
        })*
    };
}

from_ranges!(&str, String, &String, Bytes, &Bytes, Vec<u8>, &[u8]);

impl From<ops::RangeFull> for KeyRange {
    /// `..`: every key.
    fn from(_: ops::RangeFull) -> Self {
        Self::all()
    }
}

impl From<&Self> for KeyRange {
    fn from(range: &Self) -> Self {
        range.clone()
    }
}

impl fmt::Debug for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for KeyRange {
    /// `"a"` for a single key, `["a", "c")` for an interval, `["a", ∞)` without an upper bound.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &Bytes| format!("\"{}\"", bytes.escape_ascii());
        match self.upper_bound() {
            _ if self.is_single() => write!(f, "{}", text(&self.key)),
            Some(end) => write!(f, "[{}, {})", text(&self.key), text(end)),
            None => write!(f, "[{}, ∞)", text(&self.key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_end_increments_last_byte_and_drops_trailing_ff() {
        let end = |prefix: &[u8]| KeyRange::prefix(prefix).range_end().clone();
        assert_eq!(end(b"a/"), "a0");
        assert_eq!(end(b"a\xff\xff"), "b");
        assert_eq!(end(b"\xff\xff"), "\0", "no key is above: the range has no upper bound");
        assert_eq!(KeyRange::prefix(""), KeyRange::all());
    }

    #[test]
    fn between_with_end_at_or_below_start_has_no_keys() {
        for (start, end) in [("b", "a"), ("a", "a"), ("a", ""), ("", "\0"), ("\0", "\0"), ("", "")]
        {
            let range = KeyRange::between(start, end);
            assert!(range.is_empty(), "{start:?}..{end:?} gave {range}");
            assert!(!range.contains(b"a") && !range.contains(b"\x01"));
        }
    }

    #[test]
    fn ranges_print_as_intervals() {
        assert_eq!(KeyRange::key("a").to_string(), r#""a""#);
        assert_eq!(KeyRange::between("a", b"\xff").to_string(), r#"["a", "\xff")"#);
        assert_eq!(KeyRange::all().to_string(), r#"["\x00", ∞)"#);
    }
}
