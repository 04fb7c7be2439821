//! Faults of Go's package that coord does not have.
//!
//! Each test shows a fault on a copy of Go's package, where it can, and then that coord does not
//! have it. `docs/go.md` lists all faults and their tests, which include tests of other files.
//! Numbers are issues of etcd-io/etcd, unless a repository is named.

mod election;
#[path = "../../go/go_locks.rs"]
mod go_locks;
mod mutex;
mod stm;

use coord_core::{Client, kv::LeaseGrant};

use crate::support::{secs, separate_client};
use go_locks::GoContender;

/// A contender of Go's package on a client of its own, with a lease that does not expire.
async fn go_contender(store: &Client, name: &str) -> GoContender {
    go_contender_on(separate_client(store), name).await
}

/// A contender of Go's package on `kv`, with a lease that does not expire.
async fn go_contender_on(kv: Client, name: &str) -> GoContender {
    let lease = kv.lease_grant(LeaseGrant::new(secs(100_000))).await.unwrap().id;
    GoContender::new(kv, lease, name)
}
