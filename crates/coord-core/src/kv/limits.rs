//! How much a backend takes in one request.

/// The limits of a backend, so that callers can stay below them and say so before sending.
///
/// Source: `docs/etcd-contract.md` §4 and §8; etcd's flags `--max-txn-ops` and
/// `--max-request-bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most compares, success steps or failure steps in one transaction, each counted alone.
    pub max_txn_ops: usize,
    /// The size of the largest change in bytes: a put, a delete, or a transaction with all its
    /// compares and both branches, even where only one is taken.
    ///
    /// etcd measures a change as it lies in its log: the request in protobuf, and an envelope of
    /// less than 32 bytes around it. Reads and watches do not go into the log; they only have to
    /// pass the transport, which takes 512 KiB more.
    pub max_request_bytes: usize,
}

impl Default for Limits {
    /// etcd's defaults: 128 operations, 1.5 MiB.
    fn default() -> Self {
        Self { max_txn_ops: 128, max_request_bytes: 3 << 19 }
    }
}
