//! The revision at which a lease passes from one session to the next: the keys that exist then
//! belong to the adopter.
//!
//! The header of a keep-alive does not show that revision. It is from the member that has received
//! the keep-alive, which forwards it to the leader and may itself be behind:
//!
//! ```text
//!                        leader                             follower, behind
//! former session         creates key 0 at 5, key 1 at 6     has applied 5
//! adopter: keep-alive    restarts the TTL                   responds with revision 5
//! adopter: transaction   6                                  applies 6, responds with revision 6
//! adopter: resume        finds both keys, as of 6
//! ```
//!
//! Source: etcd 3.5 `server/etcdserver/api/v3rpc/lease.go`, `leaseKeepAlive`.

use crate::backend::KvBackend;
use crate::error::{Error, Result};
use crate::kv::{Range, Revision, Txn};

/// Reads the current revision of the store. It costs 1 request.
///
/// A transaction with a nested transaction counts as a change, so no member serves it from its own
/// state. It needs no permission for any key, unlike a linearizable range. But etcd before 3.4.20
/// and 3.5.7 refuses every transaction when it is out of space: then a range is sent.
pub(super) async fn current_revision(backend: &dyn KvBackend) -> Result<Revision> {
    let nothing = Txn::new().and_then([Txn::new()]);
    match backend.txn(nothing).await {
        Err(Error::NoSpace { .. }) => {
            let nothing = Range::new("coord").count_only();
            Ok(backend.range(nothing).await?.header.revision)
        }
        response => Ok(response?.header.revision),
    }
}
