//! Candidates of Go's package in the same election.

use coord_core::{Client, kv::Put};
use coord_mem::MemBackend;
use tokio::time::timeout;

use super::{election, leader, observe, some, take_yielded};
use crate::support::{enqueue_like_go, secs, settle};
use crate::while_waiting::while_waiting;

/// Go's clients use the key `name/<lease>`, in the order of create revisions. A Go candidate may be
/// before and behind a candidate of coord.
#[tokio::test(start_paused = true)]
async fn go_candidate_shares_the_election_queue() {
    let store = Client::new(MemBackend::new());
    let mut leaders = observe(&store);
    assert_eq!(take_yielded(&mut leaders).await, [None]);
    let (go_lease, go_key) = enqueue_like_go(&store, "e", "go").await;
    let candidate = election(&store).await.enter("coord").await.unwrap();
    assert_eq!(leader(&store).await, some("go"));
    let (leadership, ()) = while_waiting(candidate.elected(), async {
        // The put of Go's `Proclaim`.
        store.put_with(Put::new(&go_key, "go proclaims").lease(go_lease)).await.unwrap();
        settle().await;
        store.delete(&go_key).await.unwrap();
    })
    .await;
    let leadership = leadership.unwrap();
    assert_eq!(leadership.key(), &format!("e/{}-0", leadership.session().lease_id()));

    // The Go candidate enqueues again, under the same key.
    store.put_with(Put::new(&go_key, "go returns").lease(go_lease)).await.unwrap();
    assert_eq!(leader(&store).await, some("coord"));
    let last = election(&store).await.enter("last").await.unwrap();
    leadership.resign().await.unwrap();
    assert_eq!(leader(&store).await, some("go returns"));
    let (last, revoked) = while_waiting(last.elected(), store.lease_revoke(go_lease)).await;
    revoked.unwrap();
    last.unwrap().resign().await.unwrap();
    let values = ["go", "go proclaims", "coord", "go returns", "last"];
    let expected: Vec<_> = values.iter().map(|value| some(value)).chain([None]).collect();
    assert_eq!(take_yielded(&mut leaders).await, expected);
}

/// A Go candidate uses the same key again. Only the key with the earlier create revision is before
/// the candidate of coord.
#[tokio::test(start_paused = true)]
async fn returning_go_candidate_enqueues_last() {
    let store = Client::new(MemBackend::new());
    let first = election(&store).await.campaign("first").await.unwrap();
    let (go_lease, go_key) = enqueue_like_go(&store, "e", "go").await;
    let candidate = election(&store).await.enter("coord").await.unwrap();
    let (elected, ()) = while_waiting(timeout(secs(5), candidate.elected()), async {
        store.delete(&go_key).await.unwrap();
        store.put_with(Put::new(&go_key, "go returns").lease(go_lease)).await.unwrap();
        settle().await;
        first.resign().await.unwrap();
    })
    .await;
    let leadership = elected.expect("the new key of the Go candidate is behind").unwrap();
    assert_eq!(leader(&store).await, some("coord"));
    drop(leadership);
}
