//! Encoded size of a request in bytes. etcd limits requests by this size.
//!
//! etcd limits a change by the size of its entry in the raft log: the protobuf request inside an
//! envelope. To reject exactly what etcd rejects, this module computes that size field by field,
//! without encoding anything. A protobuf field takes its tag (one byte up to field number 15, two
//! bytes above), and then
//!
//! ```text
//! a number          a varint: seven bits per byte; not encoded when zero
//! bytes             the length as a varint, then the bytes; not encoded when empty
//! a message         the length as a varint, then the message; encoded even when empty
//! a oneof member    like its type, but encoded even when zero or empty
//! ```
//!
//! Example: `put abc = <1,572,838 bytes>` takes 5 bytes for the key field, 4 + 1,572,838 for the
//! value field, 1 + 3 to wrap these 1,572,847 bytes as the envelope's put, and 13 for the
//! envelope's header: 1,572,864 bytes, which is exactly 1.5 MiB. So this put is accepted, and a put
//! with one more byte is rejected.
//!
//! Source: `docs/etcd-contract.md` §8; etcd 3.5 `api/etcdserverpb/rpc.proto` and
//! `raft_internal.proto`.

use coord_core::kv::{
    Compare, CompareOperand, Delete, KeyRange, LeaseId, Op, Put, Range, Revision, Txn, Watch,
};

/// The size in bytes of a request as an entry of the raft log.
///
/// The envelope's header is field 100 (a tag of two bytes), a length of one byte, and a request id:
/// a tag and nine varint bytes. Some members of a real cluster use ids of ten bytes, so their limit
/// is one byte lower.
pub(crate) const fn replicated_size(request_bytes: usize) -> usize {
    const ENVELOPE_HEADER_BYTES: usize = 2 + 1 + 1 + 9;
    ENVELOPE_HEADER_BYTES + message_field(request_bytes)
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
    let revision = |revision: Option<Revision>| revision.map_or(0, i64::from);
    let numbers = [
        revision(range.revision),
        range.limit.map_or(0, |limit| limit.get().cast_signed()),
        range.sort_order as i64,
        range.sort_target as i64,
        revision(range.min_mod_revision),
        revision(range.max_mod_revision),
        revision(range.min_create_revision),
        revision(range.max_create_revision),
    ];
    keys_size(&range.keys)
        + numbers.into_iter().map(varint_field).sum::<usize>()
        + bool_fields([range.serializable, range.keys_only, range.count_only])
}

pub(crate) fn put_size(put: &Put) -> usize {
    let lease = put.lease.map_or(0, LeaseId::get);
    bytes_field(put.key.len())
        + bytes_field(put.value.len())
        + varint_field(lease)
        + bool_fields([put.prev_kv, put.ignore_value, put.ignore_lease])
}

pub(crate) fn delete_size(delete: &Delete) -> usize {
    keys_size(&delete.keys) + bool_fields([delete.prev_kv])
}

pub(crate) fn txn_size(txn: &Txn) -> usize {
    let compares = txn.compares.iter().map(|compare| message_field(compare_size(compare)));
    let ops = txn.success.iter().chain(&txn.failure);
    // Each operation is a message that contains the request as a message.
    compares.chain(ops.map(|op| message_field(message_field(op_size(op))))).sum()
}

pub(crate) fn watch_size(watch: &Watch) -> usize {
    let create = keys_size(&watch.keys)
        + varint_field(watch.start_revision.map_or(0, i64::from))
        + bool_fields([watch.progress_notify, watch.prev_kv])
        // The filters are packed into one bytes field, one byte for each.
        + bytes_field(watch.filters.len());
    message_field(create)
}

fn compare_size(compare: &Compare) -> usize {
    let (target, operand) = match &compare.operand {
        CompareOperand::Version(version) => (0, 1 + varint_size(*version)),
        CompareOperand::CreateRevision(revision) => (1, 1 + varint_size(revision.0)),
        CompareOperand::ModRevision(revision) => (2, 1 + varint_size(revision.0)),
        CompareOperand::Value(value) => (3, message_field(value.len())),
        CompareOperand::Lease(lease) => (4, 1 + varint_size(lease.map_or(0, LeaseId::get))),
    };
    // The range end is field 64, whose tag has two bytes.
    let range_end = compare.keys.range_end().len();
    let second_tag_byte = usize::from(range_end > 0);
    varint_field(compare.op as i64)
        + varint_field(target)
        + bytes_field(compare.keys.start().len())
        + operand
        + bytes_field(range_end)
        + second_tag_byte
}

/// Encoded size of the two fields of a key range: start and end.
fn keys_size(keys: &KeyRange) -> usize {
    bytes_field(keys.start().len()) + bytes_field(keys.range_end().len())
}

/// Encoded size of bool fields; false is not encoded.
fn bool_fields<const N: usize>(flags: [bool; N]) -> usize {
    flags.into_iter().filter(|&flag| flag).count() * 2
}

/// Encoded size of a varint field; zero is not encoded.
const fn varint_field(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + varint_size(value) }
}

/// Encoded size of a bytes field; an empty one is not encoded.
const fn bytes_field(len: usize) -> usize {
    if len == 0 { 0 } else { message_field(len) }
}

/// Encoded size of a message field.
const fn message_field(len: usize) -> usize {
    1 + varint_size(len as i64) + len
}

/// Encoded size of a varint: seven bits per byte. A negative number is encoded as 64 bits.
const fn varint_size(value: i64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_accepted_put_matches_real_etcd() {
        let size = |value: usize| replicated_size(put_size(&Put::new("abc", vec![0; value])));
        assert_eq!(size(1_572_838), 1_572_864);
        assert_eq!(size(1_572_839), 1_572_865);
    }

    #[test]
    fn varint_size_grows_every_seven_bits() {
        let sizes = [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (i64::MAX, 9), (-1, 10)];
        for (value, size) in sizes {
            assert_eq!(varint_size(value), size, "{value}");
        }
    }
}
