//! What the prefix layer promises beyond the contract of every backend.

use coord_core::Client;
use coord_core::layer::PrefixLayer;
use coord_core::{
    KvBackend as _,
    kv::{LeaseGrant, LeaseTimeToLive, Put},
};
use coord_mem::MemBackend;
use std::sync::Arc;

use crate::support::secs;

/// A lease belongs to the whole store, and keys of others may hang on it.
#[tokio::test(start_paused = true)]
async fn keys_of_a_lease_outside_the_prefix_are_not_shown() {
    let whole = Client::new(MemBackend::new());
    let corner = PrefixLayer::new(Arc::clone(whole.backend()), "p/");
    let lease = whole.lease_grant(LeaseGrant::new(secs(60))).await.unwrap().id;
    for key in ["a", "p", "p/", "p/mine", "p0"] {
        whole.put_with(Put::new(key, "").lease(lease)).await.unwrap();
    }
    let asked = LeaseTimeToLive::new(lease).with_keys();
    let status = corner.lease_time_to_live(asked).await.unwrap().lease.unwrap();
    assert_eq!(status.keys, ["mine"]);
}
