//! A test of the prefix layer beyond the contract of all backends.

use std::sync::Arc;

use coord_core::{
    Client, KvBackend as _,
    kv::{LeaseGrant, LeaseTimeToLive, Put},
    layer::PrefixLayer,
};
use coord_mem::MemBackend;

use crate::support::secs;

/// A lease belongs to the whole store, so it may have keys outside the prefix.
#[tokio::test(start_paused = true)]
async fn lease_keys_outside_the_prefix_are_not_returned() {
    let whole = Client::new(MemBackend::new());
    let prefixed = PrefixLayer::new(Arc::clone(whole.backend()), "p/");
    let lease = whole.lease_grant(LeaseGrant::new(secs(60))).await.unwrap().id;
    for key in ["a", "p", "p/", "p/mine", "p0"] {
        whole.put_with(Put::new(key, "").lease(lease)).await.unwrap();
    }
    let request = LeaseTimeToLive::new(lease).with_keys();
    let status = prefixed.lease_time_to_live(request).await.unwrap().lease.unwrap();
    assert_eq!(status.keys, ["mine"]);
}
