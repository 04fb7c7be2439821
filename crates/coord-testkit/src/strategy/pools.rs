//! The tiny sets of keys, values, leases and revisions from which random requests are drawn.
//!
//! Shrinking moves towards the first element of each set: key `a`, the empty value, lease 1, and
//! the revision "not set" or, in a compare, the current one.

use bytes::Bytes;
use coord_core::kv::{KeyRange, LeaseId};
use proptest::prelude::*;
use proptest::sample::select;

use super::At;

/// The size of the only large value: above the request limit of a store whose limit is set to about
/// 16 KiB.
pub const BIG_VALUE_BYTES: usize = 20 * 1024;

/// The keys. Some keys are prefixes of others, and the smallest and the largest byte occur.
const KEYS: [&[u8]; 6] = [b"a", b"ab", b"b", b"a\xff", b"\0", b"\xff"];

/// The small values that are not empty.
const SMALL_VALUES: &[&[u8]] = &[b"x", b"y", b"\0"];

/// The lease ids. One id is negative, because ids are signed and compared as signed numbers.
const LEASE_IDS: [LeaseId; 3] = [const_lease_id(1), const_lease_id(2), const_lease_id(-3)];

const fn const_lease_id(id: i64) -> LeaseId {
    LeaseId::new(id).expect("the id is not zero")
}

/// A key.
pub fn key() -> BoxedStrategy<Bytes> {
    prop_oneof![
        5 => Just(KEYS[0]),
        2 => Just(KEYS[1]),
        2 => Just(KEYS[2]),
        1 => select(&KEYS[3..]),
    ]
    .prop_map(Bytes::from_static)
    .boxed()
}

/// A key, rarely the empty key.
pub(super) fn key_or_empty() -> BoxedStrategy<Bytes> {
    prop_oneof![149 => key(), 1 => Just(Bytes::new())].boxed()
}

/// A range: one key, a prefix, an unbounded range, all keys, an interval that may be inverted.
pub fn key_range() -> BoxedStrategy<KeyRange> {
    prop_oneof![
        12 => key().prop_map(KeyRange::key),
        4 => key().prop_map(KeyRange::prefix),
        3 => key().prop_map(KeyRange::starting_at),
        2 => Just(KeyRange::all()),
        3 => (key(), key()).prop_map(|(start, end)| KeyRange::between(start, end)),
        2 => (key(), key()).prop_map(|(start, end)| KeyRange::from_wire(start, end)),
    ]
    .boxed()
}

/// A range as in [`key_range`], rarely with an empty start key.
pub(super) fn key_range_or_empty() -> BoxedStrategy<KeyRange> {
    let empty = (Just(Bytes::new()), prop_oneof![Just(Bytes::new()), key()])
        .prop_map(|(start, end)| KeyRange::from_wire(start, end));
    prop_oneof![119 => key_range(), 1 => empty].boxed()
}

/// A value: empty, small, or rarely large. A small value has one byte, a large value
/// [`BIG_VALUE_BYTES`] bytes.
pub fn value() -> BoxedStrategy<Bytes> {
    static BIG: [u8; BIG_VALUE_BYTES] = [b'+'; BIG_VALUE_BYTES];
    prop_oneof![
        50 => Just(Bytes::new()),
        100 => select(SMALL_VALUES).prop_map(Bytes::from_static),
        1 => Just(Bytes::from_static(&BIG)),
    ]
    .boxed()
}

/// A lease id, mostly the first one.
pub fn lease_id() -> BoxedStrategy<LeaseId> {
    prop_oneof![10 => Just(LEASE_IDS[0]), 2 => Just(LEASE_IDS[1]), 1 => Just(LEASE_IDS[2])].boxed()
}

/// A revision: the current one, an earlier one, a later one, or an extreme value. An earlier one is
/// up to 20 before the current one, a later one up to 3 after it.
pub fn at() -> BoxedStrategy<At> {
    prop_oneof![
        4 => Just(At::Current),
        12 => (0_i64..=4).prop_map(At::Back),
        4 => (5_i64..=20).prop_map(At::Back),
        2 => (1_i64..=3).prop_map(At::Ahead),
        1 => select(&[0, 1, -1, -2, i64::MAX, i64::MIN][..]).prop_map(At::Absolute),
    ]
    .boxed()
}

/// A revision that is mostly "not set".
pub(super) fn at_or_unset() -> BoxedStrategy<At> {
    prop_oneof![3 => Just(At::Absolute(0)), 1 => at()].boxed()
}
