//! The data model: keys, revisions, requests, responses, watches and leases.
//!
//! The types express the requests and responses of etcd's KV, Watch and Lease services, without
//! what belongs to the gRPC stream of watches: their ids and fragments. Requests are plain structs
//! with public fields and builder methods; responses are plain structs.
//!
//! A *revision* counts the changes of the whole store. A key carries its *create revision*, its
//! *mod revision* (of its last change) and its *version* (the number of puts since it was created).
//! An example, on a new store, which is at revision 1:
//!
//! ```text
//! revision   change                 key a afterwards
//!        2   put a = x              create 2, mod 2, version 1
//!        3   put b = y              (unchanged)
//!        4   put a = x              create 2, mod 4, version 2     same value, still a change
//!        5   delete a               none: a tombstone at 5
//!        6   put a = z, put c = z   create 6, mod 6, version 1     one transaction, one revision
//! ```
//!
//! A read of `a` *at* revision 3 returns `x` with version 1, at 5 no key, at 6 `z`. A *compaction*
//! at 4 removes the history that only reads at 2 and 3 need: a read at 4 still succeeds, a read at
//! 3 fails.

mod compare;
mod event;
mod fencing_token;
mod key_range;
mod lease;
mod limits;
mod op;
mod range;
mod response;
mod revision;
mod txn;
mod value;

pub use compare::{Compare, CompareOp, CompareOperand};
pub use event::{Event, EventKind, Watch, WatchBatch, WatchFilter, WatchStream, Watcher};
pub use fencing_token::FencingToken;
pub use key_range::{IntoBytes, KeyRange};
pub use lease::{
    InvalidLeaseId, LeaseGrant, LeaseGrantResponse, LeaseId, LeaseKeepAliveResponse,
    LeaseRevokeResponse, LeaseStatus, LeaseTimeToLive, LeaseTimeToLiveResponse, LeasesResponse,
    TTL_MAX,
};
pub use limits::Limits;
pub use op::{Compact, Delete, Op, Put};
pub use range::{Range, SortOrder, SortTarget};
pub use response::{
    CompactResponse, DeleteResponse, Header, KeyValue, OpResponse, PutResponse, RangeResponse,
    TxnResponse,
};
pub use revision::Revision;
pub use txn::Txn;
#[cfg(feature = "json")]
pub use value::Json;
pub use value::{InvalidNumber, Value};
