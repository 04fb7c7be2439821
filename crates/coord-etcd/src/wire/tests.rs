//! Round-trip tests of the translation: a server reads the request that a client wrote, and a
//! client reads the response that a server wrote.

use std::num::NonZeroU64;

use coord_core::kv::{
    Compact, Compare, CompareOp, CompareOperand, Delete, DeleteResponse, Event, EventKind, Header,
    KeyRange, KeyValue, LeaseGrantResponse, LeaseId, LeaseKeepAliveResponse, LeaseStatus,
    LeaseTimeToLiveResponse, LeasesResponse, Op, OpResponse, Put, PutResponse, Range,
    RangeResponse, Revision, SortOrder, SortTarget, Txn, TxnResponse, Watch, WatchFilter,
};
use etcd_client::proto::{
    PbCompactionRequest, PbLeaseTimeToLiveResponse, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp,
    PbTxnResponse, PbWatchRequest,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;
use std::time::Duration;

use super::*;
use crate::preflight::MAX_TXN_NESTING;

fn bytes() -> impl Strategy<Value = bytes::Bytes> {
    vec(any::<u8>(), 0..4).prop_map(Into::into)
}

fn keys() -> impl Strategy<Value = KeyRange> {
    (bytes(), bytes()).prop_map(|(key, end)| KeyRange::from_wire(key, end))
}

fn set_revision() -> impl Strategy<Value = Option<Revision>> {
    revision().prop_map(|revision| Some(revision).filter(|revision| *revision != Revision::ZERO))
}

fn revision() -> impl Strategy<Value = Revision> {
    any::<i64>().prop_map(Revision)
}

fn lease() -> impl Strategy<Value = LeaseId> {
    any::<i64>().prop_filter_map("zero is no lease", LeaseId::new)
}

fn time() -> impl Strategy<Value = Duration> {
    (1..=i64::MAX as u64).prop_map(Duration::from_secs)
}

fn range() -> impl Strategy<Value = Range> {
    let target = prop_oneof![
        Just(SortTarget::Key),
        Just(SortTarget::Version),
        Just(SortTarget::CreateRevision),
        Just(SortTarget::ModRevision),
        Just(SortTarget::Value),
    ];
    let order =
        prop_oneof![Just(SortOrder::None), Just(SortOrder::Ascending), Just(SortOrder::Descending)];
    let filters = (set_revision(), set_revision(), set_revision(), set_revision());
    let flags = any::<(bool, bool, bool)>();
    let limit = any::<Option<i64>>();
    (keys(), set_revision(), limit, target, order, flags, filters).prop_map(
        |(keys, revision, limit, sort_target, sort_order, flags, filters)| Range {
            keys,
            revision,
            limit: limit.and_then(|limit| NonZeroU64::new(limit.unsigned_abs() >> 1)),
            sort_target,
            // The default order of keys is not sent.
            sort_order: match (sort_target, sort_order) {
                (SortTarget::Key, SortOrder::Ascending) => SortOrder::None,
                (_, order) => order,
            },
            serializable: flags.0,
            keys_only: flags.1,
            count_only: flags.2,
            min_mod_revision: filters.0,
            max_mod_revision: filters.1,
            min_create_revision: filters.2,
            max_create_revision: filters.3,
        },
    )
}

fn put() -> impl Strategy<Value = Put> {
    (bytes(), bytes(), option::of(lease()), any::<(bool, bool, bool)>()).prop_map(
        |(key, value, lease, (prev_kv, ignore_value, ignore_lease))| Put {
            key,
            value,
            lease,
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    let op = prop_oneof![
        Just(CompareOp::Equal),
        Just(CompareOp::Greater),
        Just(CompareOp::Less),
        Just(CompareOp::NotEqual),
    ];
    let operand = prop_oneof![
        any::<i64>().prop_map(CompareOperand::Version),
        revision().prop_map(CompareOperand::CreateRevision),
        revision().prop_map(CompareOperand::ModRevision),
        bytes().prop_map(CompareOperand::Value),
        option::of(lease()).prop_map(CompareOperand::Lease),
    ];
    (keys(), op, operand).prop_map(|(keys, op, operand)| Compare { keys, op, operand })
}

fn op() -> impl Strategy<Value = Op> {
    let leaf = prop_oneof![
        range().prop_map(Op::Range),
        put().prop_map(Op::Put),
        (keys(), any::<bool>()).prop_map(|(keys, prev_kv)| Op::Delete(Delete { keys, prev_kv })),
    ];
    leaf.prop_recursive(3, 12, 3, |op| {
        (vec(compare(), 0..3), vec(op.clone(), 0..3), vec(op, 0..3))
            .prop_map(|(compares, success, failure)| Op::Txn(Txn { compares, success, failure }))
    })
}

fn header() -> impl Strategy<Value = Header> {
    (any::<u64>(), any::<u64>(), revision(), any::<u64>()).prop_map(
        |(cluster_id, member_id, revision, raft_term)| Header {
            cluster_id,
            member_id,
            revision,
            raft_term,
        },
    )
}

fn key_value() -> impl Strategy<Value = KeyValue> {
    (bytes(), bytes(), revision(), revision(), any::<i64>(), option::of(lease())).prop_map(
        |(key, value, create_revision, mod_revision, version, lease)| KeyValue {
            key,
            value,
            create_revision,
            mod_revision,
            version,
            lease,
        },
    )
}

fn response() -> impl Strategy<Value = OpResponse> {
    let leaf = prop_oneof![
        (header(), vec(key_value(), 0..3), any::<bool>(), any::<i64>()).prop_map(
            |(header, kvs, more, count)| {
                OpResponse::Range(RangeResponse { header, kvs, more, count })
            }
        ),
        (header(), option::of(key_value()))
            .prop_map(|(header, prev_kv)| OpResponse::Put(PutResponse { header, prev_kv })),
        (header(), any::<i64>(), vec(key_value(), 0..3)).prop_map(|(header, deleted, prev_kvs)| {
            OpResponse::Delete(DeleteResponse { header, deleted, prev_kvs })
        }),
    ];
    leaf.prop_recursive(3, 12, 3, |op| {
        (header(), any::<bool>(), vec(op, 0..3)).prop_map(|(header, succeeded, responses)| {
            OpResponse::Txn(TxnResponse { header, succeeded, responses })
        })
    })
}

proptest! {
    #[test]
    fn server_reads_the_sent_operation(op in op()) {
        let sent = PbTxnRequestOp { request: Some(PbTxnOpRequest::from(send::op(&op))) };
        let bytes = sent.encode_to_vec();
        let received = PbTxnRequestOp::decode(&bytes[..]).expect("the bytes were just encoded");
        prop_assert_eq!(Op::from_wire(received), Ok(op));
    }

    #[test]
    fn server_reads_the_sent_watch(
        keys in keys(),
        start_revision in set_revision(),
        flags in any::<(bool, bool)>(),
        filters in vec(prop_oneof![Just(WatchFilter::NoPut), Just(WatchFilter::NoDelete)], 0..3),
    ) {
        let (prev_kv, progress_notify) = flags;
        let request = Watch { keys, start_revision, prev_kv, filters, progress_notify };
        let (key, options) = send::watch(&request);
        let wire = PbWatchRequest::from(options.with_key(key));
        let read = WatchCall::Create { request, watch_id: 0, fragment: false };
        prop_assert_eq!(WatchCall::from_wire(wire), Ok(read));
    }

    #[test]
    fn client_reads_the_sent_response(response in response()) {
        prop_assert_eq!(OpResponse::from_wire(response.clone().to_wire()), Ok(response));
    }

    #[test]
    fn client_reads_the_sent_event(
        kv in key_value(),
        prev_kv in option::of(key_value()),
        deleted in any::<bool>(),
    ) {
        let kind = if deleted { EventKind::Delete } else { EventKind::Put };
        let event = Event { kind, kv, prev_kv };
        prop_assert_eq!(Event::from_wire(event.clone().to_wire()), Ok(event));
    }

    #[test]
    fn client_reads_the_sent_lease_response(
        header in header(),
        id in lease(),
        granted in time(),
        remaining in time(),
        keys in vec(bytes(), 0..3),
    ) {
        let grant = LeaseGrantResponse { header, id, ttl: granted };
        prop_assert_eq!(LeaseGrantResponse::from_wire(grant.to_wire()), Ok(grant));
        let alive = LeaseKeepAliveResponse { header, id, ttl: granted };
        prop_assert_eq!(LeaseKeepAliveResponse::from_wire(alive.to_wire()), Ok(alive));
        let all = LeasesResponse { header, leases: vec![id] };
        prop_assert_eq!(LeasesResponse::from_wire(all.clone().to_wire()), Ok(all));
        for lease in [None, Some(LeaseStatus { granted, remaining, keys })] {
            let status = LeaseTimeToLiveResponse { header, lease };
            let wire = (id, status.clone()).to_wire();
            prop_assert_eq!(LeaseTimeToLiveResponse::from_wire(wire), Ok(status));
        }
    }
}

#[test]
fn compaction_keeps_its_fields() {
    use tonic::IntoRequest as _;
    for request in [Compact::new(Revision(7)), Compact { revision: Revision(7), physical: true }] {
        let (revision, options) = send::compact(request);
        let sent = options.into_request().into_inner();
        let wire = PbCompactionRequest { revision, ..sent };
        assert_eq!(Compact::from_wire(wire), Ok(request));
    }
}

#[test]
fn expired_lease_has_no_time_left_and_missing_lease_is_none() {
    let wire = PbLeaseTimeToLiveResponse { ttl: -1, ..Default::default() };
    let missing = LeaseTimeToLiveResponse::from_wire(wire.clone()).expect("well formed");
    assert_eq!(missing.lease, None);
    let wire = PbLeaseTimeToLiveResponse { granted_ttl: 5, ..wire };
    let expired = LeaseTimeToLiveResponse::from_wire(wire).expect("well formed").lease;
    assert_eq!(expired.expect("the lease exists").remaining, Duration::ZERO);
}

#[test]
fn invalid_message_is_refused() {
    let empty = PbTxnRequestOp { request: None };
    assert!(Op::from_wire(empty).is_err());
    let mut wire = PbTxnRequest::from(send::txn(&Txn::new().when([Compare::absent("a")])));
    wire.compare[0].target = 9;
    assert!(Txn::from_wire(wire).is_err());
}

/// The deepest transaction that is sent is the deepest whose response prost decodes.
#[test]
fn response_to_the_deepest_transaction_can_be_decoded() {
    let decodes = |levels: usize| {
        let kvs = vec![KeyValue { key: "k".into(), lease: LeaseId::new(1), ..KeyValue::default() }];
        let range = OpResponse::Range(RangeResponse { kvs, ..RangeResponse::default() });
        let whole = (0..=levels).fold(range, |inner, _| {
            OpResponse::Txn(TxnResponse { responses: vec![inner], ..TxnResponse::default() })
        });
        let OpResponse::Txn(whole) = whole else { unreachable!("the last level is a transaction") };
        PbTxnResponse::decode(&whole.to_wire().encode_to_vec()[..]).is_ok()
    };
    assert!(decodes(MAX_TXN_NESTING));
    assert!(!decodes(MAX_TXN_NESTING + 1), "the limit could be higher");
}
