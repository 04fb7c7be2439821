//! Request limits of a backend.

/// The request limits of a backend. A caller can check them before it sends a request.
///
/// Source: `docs/etcd-contract.md` §4 and §8; etcd's flags `--max-txn-ops` and
/// `--max-request-bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest number of compares, of success operations, and of failure operations in one
    /// transaction, each counted by itself.
    pub max_txn_ops: usize,
    /// The largest size of a change, in bytes: a put, a delete, or a transaction with all its
    /// compares and both branches, although only one branch is executed.
    ///
    /// etcd measures a change as its log stores it: the request in protobuf, and an envelope of
    /// less than 32 bytes around it. The log does not store reads and watches: only the limit of
    /// the transport applies to them, which is 512 KiB higher.
    pub max_request_bytes: usize,
}

impl Default for Limits {
    /// etcd's defaults: 128 operations, 1.5 MiB.
    fn default() -> Self {
        Self { max_txn_ops: 128, max_request_bytes: 3 << 19 }
    }
}
