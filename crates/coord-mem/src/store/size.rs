//! How large etcd would find a request.
//!
//! etcd measures a change as it lies in the raft log: the request in protobuf, inside an envelope.
//! To refuse exactly what etcd refuses, the size is computed here field by field; nothing is
//! encoded. A protobuf field costs its tag (one byte up to field number 15, two above), and then
//!
//! ```text
//! a number          as a varint: seven bits a byte; not sent at all when it is zero
//! bytes             their length as a varint, then the bytes; not sent when empty
//! a message         its length as a varint, then the message; sent even when empty
//! a member of oneof like its type, but sent even when zero or empty
//! ```
//!
//! Carried through: `put abc = <1,572,838 bytes>` is 5 bytes of key field, 4 + 1,572,838 of value
//! field, 1 + 3 to wrap that 1,572,847 up as the envelope's put, and 13 for the envelope's header:
//! 1,572,864 bytes together, which is 1.5 MiB to the byte, so it passes and one more does not.
//!
//! Source: `docs/etcd-contract.md` §8; etcd 3.5 `api/etcdserverpb/rpc.proto` and
//! `raft_internal.proto`.

use coord_core::{
    Compare, CompareOperand, Delete, KeyRange, LeaseId, Op, Put, Range, Txn, WatchRequest,
};

/// The size of a request of `size` bytes once it lies in the log.
///
/// The envelope's header is field 100 (a tag of two bytes), a byte of length, and a request id of
/// nine varint bytes after its tag. Some members of a real cluster use ids of ten bytes, and so
/// refuse one byte earlier.
pub(crate) const fn replicated_size(size: usize) -> usize {
    const HEADER: usize = 2 + 1 + 1 + 9;
    HEADER + message(size)
}

fn op_size(op: &Op) -> usize {
    match op {
        Op::Range(range) => range_size(range),
        Op::Put(put) => put_size(put),
        Op::Delete(delete) => delete_size(delete),
        Op::Txn(txn) => txn_size(txn),
    }
}

pub(crate) fn range_size(range: &Range) -> usize {
    let numbers = [
        range.revision.0,
        range.limit,
        range.sort_order as i64,
        range.sort_target as i64,
        range.min_mod_revision.0,
        range.max_mod_revision.0,
        range.min_create_revision.0,
        range.max_create_revision.0,
    ];
    keys_size(&range.keys)
        + numbers.into_iter().map(number).sum::<usize>()
        + flags([range.serializable, range.keys_only, range.count_only])
}

pub(crate) fn put_size(put: &Put) -> usize {
    let lease = put.lease.map_or(0, LeaseId::get);
    bytes(put.key.len())
        + bytes(put.value.len())
        + number(lease)
        + flags([put.prev_kv, put.ignore_value, put.ignore_lease])
}

pub(crate) fn delete_size(delete: &Delete) -> usize {
    keys_size(&delete.keys) + flags([delete.prev_kv])
}

pub(crate) fn txn_size(txn: &Txn) -> usize {
    let compares = txn.compares.iter().map(|compare| message(compare_size(compare)));
    let ops = txn.success.iter().chain(&txn.failure);
    // Each step is a message that holds the request as a message.
    compares.chain(ops.map(|op| message(message(op_size(op))))).sum()
}

pub(crate) fn watch_size(watch: &WatchRequest) -> usize {
    let create = keys_size(&watch.keys)
        + number(watch.start_revision.0)
        + flags([watch.progress_notify, watch.prev_kv])
        // Repeated numbers are packed into one field of bytes; each filter's takes one.
        + bytes(watch.filters.len());
    message(create)
}

fn compare_size(compare: &Compare) -> usize {
    let (target, operand) = match &compare.operand {
        CompareOperand::Version(version) => (0, 1 + varint(*version)),
        CompareOperand::CreateRevision(revision) => (1, 1 + varint(revision.0)),
        CompareOperand::ModRevision(revision) => (2, 1 + varint(revision.0)),
        CompareOperand::Value(value) => (3, message(value.len())),
        CompareOperand::Lease(lease) => (4, 1 + varint(lease.map_or(0, LeaseId::get))),
    };
    // The range end is field 64: a second byte of tag.
    let range_end = compare.keys.range_end().len();
    let wide_tag = usize::from(range_end > 0);
    number(compare.op as i64)
        + number(target)
        + bytes(compare.keys.start().len())
        + operand
        + bytes(range_end)
        + wide_tag
}

fn keys_size(keys: &KeyRange) -> usize {
    bytes(keys.start().len()) + bytes(keys.range_end().len())
}

fn flags<const N: usize>(flags: [bool; N]) -> usize {
    flags.into_iter().filter(|&flag| flag).count() * 2
}

const fn number(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + varint(value) }
}

const fn bytes(len: usize) -> usize {
    if len == 0 { 0 } else { message(len) }
}

const fn message(len: usize) -> usize {
    1 + varint(len as i64) + len
}

/// A varint has seven bits a byte; negative numbers are sent as 64 bits.
const fn varint(value: i64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_put_of_a_three_byte_key_is_the_one_measured_on_etcd() {
        let size = |value: usize| replicated_size(put_size(&Put::new("abc", vec![0; value])));
        assert_eq!(size(1_572_838), 1_572_864);
        assert_eq!(size(1_572_839), 1_572_865);
    }

    #[test]
    fn varints_have_seven_bits_a_byte_and_negative_ones_ten_bytes() {
        let sizes = [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (i64::MAX, 9), (-1, 10)];
        for (value, size) in sizes {
            assert_eq!(varint(value), size, "{value}");
        }
    }
}
