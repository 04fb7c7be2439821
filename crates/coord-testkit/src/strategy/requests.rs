//! Strategies of single requests, valid and invalid.

use std::time::Duration;

use bytes::Bytes;
use coord_core::kv::{
    Delete, LeaseGrant, LeaseTimeToLive, Put, Range, SortOrder, SortTarget, TTL_MAX, Watch,
    WatchFilter,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::pools::{at_or_unset, key_or_empty, key_range_or_empty};
use super::{At, Clock, CompactDraft, RangeDraft, WatchDraft, at, lease_id, value};

/// A read of a range, with every option.
pub fn range() -> BoxedStrategy<RangeDraft> {
    let revision = prop_oneof![3 => Just(At::Absolute(0)), 2 => at()];
    let filters = prop_oneof![
        2 => Just([At::Absolute(0); 4]),
        1 => [at_or_unset(), at_or_unset(), at_or_unset(), at_or_unset()],
    ];
    let limit = prop_oneof![3 => Just(0), 3 => 1_u64..=3, 1 => Just(i64::MAX.cast_unsigned())];
    let order = select(&[SortOrder::None, SortOrder::Ascending, SortOrder::Descending][..]);
    let target = select(
        &[
            SortTarget::Key,
            SortTarget::Version,
            SortTarget::CreateRevision,
            SortTarget::ModRevision,
            SortTarget::Value,
        ][..],
    );
    let flags = (prop::bool::ANY, prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    (key_range_or_empty(), revision, filters, limit, order, target, flags)
        .prop_map(|(keys, revision, filters, limit, order, target, flags)| {
            let (serializable, keys_only, count_only) = flags;
            let request = Range::new(keys).limit(limit).sorted(target, order);
            let request = Range { serializable, keys_only, count_only, ..request };
            RangeDraft { request, revision, filters }
        })
        .boxed()
}

/// A put. Some puts keep the value or the lease. Some of these also set the field that they keep,
/// which is invalid.
pub fn put() -> BoxedStrategy<Put> {
    let lease = prop::option::weighted(0.3, lease_id());
    let keeps = (prop::bool::weighted(0.06), prop::bool::weighted(0.06));
    let contradicts = prop::bool::weighted(0.15);
    (key_or_empty(), value(), lease, prop::bool::ANY, keeps, contradicts)
        .prop_map(|(key, value, lease, prev_kv, (ignore_value, ignore_lease), contradicts)| {
            let value = if ignore_value && !contradicts { Bytes::new() } else { value };
            let lease = lease.filter(|_| !ignore_lease || contradicts);
            Put { key, value, lease, prev_kv, ignore_value, ignore_lease }
        })
        .boxed()
}

/// A delete of a key or a range.
pub fn delete() -> BoxedStrategy<Delete> {
    (key_range_or_empty(), prop::bool::ANY)
        .prop_map(|(keys, prev_kv)| Delete { keys, prev_kv })
        .boxed()
}

/// A lease grant, mostly with an id from the tiny set.
///
/// The TTL is a few seconds on a paused clock, and one to two hours on a real clock. A few TTLs are
/// the maximum or invalid, and, on a paused clock, zero.
pub fn grant(clock: Clock) -> BoxedStrategy<LeaseGrant> {
    let (shortest, longest) = if clock == Clock::Paused { (1_u64, 12) } else { (3_600, 7_200) };
    let fractional = Duration::from_millis(1_500);
    let invalid = [fractional, TTL_MAX + Duration::from_secs(1), Duration::from_secs(u64::MAX)];
    let zero_weight = u32::from(clock == Clock::Paused);
    let ttl = prop_oneof![
        20 => (shortest..=longest).prop_map(Duration::from_secs),
        zero_weight => Just(Duration::ZERO),
        1 => Just(TTL_MAX),
        2 => select(invalid.to_vec()),
    ];
    (ttl, prop::option::weighted(0.9, lease_id()))
        .prop_map(|(ttl, id)| LeaseGrant { ttl, id })
        .boxed()
}

/// A read of the remaining time of a lease, with its keys or without.
pub fn time_to_live() -> BoxedStrategy<LeaseTimeToLive> {
    (lease_id(), prop::bool::weighted(0.8))
        .prop_map(|(id, keys)| LeaseTimeToLive { id, keys })
        .boxed()
}

/// A compaction, mostly at a past revision.
pub fn compact() -> BoxedStrategy<CompactDraft> {
    let revision = prop_oneof![
        8 => (2_i64..=9).prop_map(At::Back),
        8 => (0_i64..=1).prop_map(At::Back),
        1 => (1_i64..=2).prop_map(At::Ahead),
        1 => select(&[0, -1, 1, i64::MAX, i64::MIN][..]).prop_map(At::Absolute),
    ];
    (revision, prop::bool::ANY)
        .prop_map(|(revision, physical)| CompactDraft { revision, physical })
        .boxed()
}

/// A watch of a key or a range, from a past revision, the current one or a future one.
pub fn watch() -> BoxedStrategy<WatchDraft> {
    let start = prop_oneof![4 => Just(At::Absolute(0)), 5 => at()];
    let filter = select(&[WatchFilter::NoPut, WatchFilter::NoDelete][..]);
    let filters = prop_oneof![3 => Just(Vec::new()), 1 => vec(filter, 1..=2)];
    let flags = (prop::bool::ANY, prop::bool::weighted(0.1));
    (key_range_or_empty(), start, filters, flags)
        .prop_map(|(keys, start, filters, (prev_kv, progress_notify))| {
            let request = Watch { prev_kv, filters, progress_notify, ..Watch::new(keys) };
            WatchDraft { request, start }
        })
        .boxed()
}
