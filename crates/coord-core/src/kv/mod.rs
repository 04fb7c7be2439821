//! The data model: what every backend is asked, and what it answers.
//!
//! Everything that etcd's KV, Watch and Lease services can say, these types can say, and nothing
//! else: requests are plain structs with public fields and builder methods, answers are plain
//! structs. A revision counts changes to the whole store; a key remembers the revision that
//! created it, the revision that changed it last, and how often it was put since.
//!
//! One example, carried through all the words. A fresh store is at revision 1.
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
//! Reading `a` *at* revision 3 gives `x` with version 1, at 5 nothing, at 6 `z`. Compacting at 4
//! forgets what only revisions 2 and 3 could tell; reading at 4 still works, reading at 3 fails.

mod compare;
mod event;
mod fencing_token;
mod key_range;
mod lease;
mod limits;
mod op;
mod response;
mod revision;
mod txn;

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
pub use op::{Compact, Delete, Op, Put, Range, SortOrder, SortTarget};
pub use response::{
    CompactResponse, DeleteResponse, Header, KeyValue, OpResponse, PutResponse, RangeResponse,
    TxnResponse,
};
pub use revision::Revision;
pub use txn::Txn;
