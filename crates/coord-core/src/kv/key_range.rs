//! Which keys a request is about, in etcd's own two fields.
//!
//! etcd says "these keys" with a key and a range end, and hides four meanings in the end. The
//! type keeps the two fields as they are, so that translating it to the wire and back loses
//! nothing, and gives each meaning a constructor:
//!
//! ```text
//! key   range end   keys                                          constructor
//! a     (empty)     a alone                                       KeyRange::key("a")
//! a     c           a ≤ key < c                                   KeyRange::between("a", "c")
//! a     b           every key that starts with a                  KeyRange::prefix("a")
//! a     \0          every key from a on                           KeyRange::starting_at("a")
//! \0    \0          every key                                     KeyRange::all()
//! c     a           none: an end at or below the key is no error  KeyRange::from_wire("c", "a")
//! ```

use std::{fmt, ops};

use bytes::Bytes;

/// What can be a key or a value: copied when it is borrowed, moved when it is owned.
///
/// ```
/// use coord_core::kv::IntoBytes;
///
/// let name = String::from("jobs");
/// assert_eq!((&name).into_bytes(), "jobs".into_bytes());
/// assert_eq!(name.into_bytes(), b"jobs".into_bytes());
/// ```
pub trait IntoBytes {
    /// The bytes.
    fn into_bytes(self) -> Bytes;
}

/// Implements [`IntoBytes`] by an expression over `self`.
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

/// The range end that means "no end".
const UNBOUNDED: &[u8] = b"\0";

/// A set of neighbouring keys: one key, an interval, a prefix, or all of them.
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
    /// One key.
    pub fn key(key: impl IntoBytes) -> Self {
        Self { key: key.into_bytes(), range_end: Bytes::new() }
    }

    /// The keys from `start` on, up to and without `end`; no key when `end` is not above `start`.
    ///
    /// An empty `start` means the smallest key.
    pub fn between(start: impl IntoBytes, end: impl IntoBytes) -> Self {
        let (start, end) = (start.into_bytes(), end.into_bytes());
        let key = if start.is_empty() { Bytes::from_static(b"\0") } else { start };
        if end <= key {
            // Written as it stands, an empty end would mean one key and a zero byte no end at
            // all. Any end at or below its key means no keys.
            return Self::from_wire("\u{1}", "\u{1}");
        }
        Self { key, range_end: end }
    }

    /// Every key that starts with `prefix`; every key at all when it is empty.
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

    /// The range as etcd's `key` and `range_end` fields say it, whatever they say.
    pub fn from_wire(key: impl IntoBytes, range_end: impl IntoBytes) -> Self {
        Self { key: key.into_bytes(), range_end: range_end.into_bytes() }
    }

    /// The first key of the range: etcd's `key` field.
    #[must_use]
    pub const fn start(&self) -> &Bytes {
        &self.key
    }

    /// etcd's `range_end` field: empty for one key, a zero byte for no end, else the end.
    #[must_use]
    pub const fn range_end(&self) -> &Bytes {
        &self.range_end
    }

    /// The end as a bound: the first key that is above the range, or `None` where there is none.
    ///
    /// Meaningless for a single key; ask [`is_single`](Self::is_single) first.
    #[must_use]
    pub fn upper_bound(&self) -> Option<&Bytes> {
        (self.range_end != UNBOUNDED).then_some(&self.range_end)
    }

    /// Whether this names one key rather than an interval.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.range_end.is_empty()
    }

    /// Whether no key can be in the range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.is_single() && self.upper_bound().is_some_and(|end| *end <= self.key)
    }

    /// The keys of an interval that are above `key`.
    pub(crate) fn after(&self, key: &[u8]) -> Self {
        let start = [key, b"\0"].concat();
        Self { key: start.into(), range_end: self.range_end.clone() }
    }

    /// Whether `key` is in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        if self.is_single() {
            return self.key == key;
        }
        key >= &self.key[..] && self.upper_bound().is_none_or(|end| key < &end[..])
    }
}

/// The smallest key above every key that starts with `prefix`, as a range end.
///
/// That is the prefix with its last byte raised, once trailing `0xff` bytes are cut; there is none
/// when nothing is left.
fn end_of_prefix(prefix: &Bytes) -> Bytes {
    let Some(last) = prefix.iter().rposition(|&byte| byte != 0xff) else {
        return Bytes::from_static(UNBOUNDED);
    };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end.into()
}

impl<K: IntoBytes> From<K> for KeyRange {
    /// One key.
    fn from(key: K) -> Self {
        Self::key(key)
    }
}

/// Implements the conversion from Rust's ranges of one type of key.
macro_rules! from_ranges {
    ($($key:ty),*) => {
        $(impl From<ops::Range<$key>> for KeyRange {
            /// `"a".."c"`: the keys from the start up to, but without, the end.
            fn from(range: ops::Range<$key>) -> Self {
                Self::between(range.start, range.end)
            }
        }

        impl From<ops::RangeFrom<$key>> for KeyRange {
            /// `"a"..`: the keys from the start on.
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
    /// `"a"` for a key, `["a", "c")` for an interval, `["a", ∞)` where there is no end.
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
    fn prefix_ends_above_its_last_byte_and_skips_trailing_ff() {
        let end = |prefix: &[u8]| KeyRange::prefix(prefix).range_end().clone();
        assert_eq!(end(b"a/"), "a0");
        assert_eq!(end(b"a\xff\xff"), "b");
        assert_eq!(end(b"\xff\xff"), "\0", "nothing lies above all-ff: the range has no end");
        assert_eq!(KeyRange::prefix(""), KeyRange::all());
    }

    #[test]
    fn between_with_nothing_between_has_no_keys() {
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
