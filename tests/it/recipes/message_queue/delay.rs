//! The leases of delays.

use coord_core::Client;
use coord_core::error::{Error, Outcome};
use coord_core::recipes::{Message, MessageQueue};
use coord_testkit::Action;
use tokio::time::timeout;

use super::store;
use crate::support::{intercepted, nth, only, secs, session_on, settle};

/// How many leases there are beside that of the only session.
pub(super) async fn leases(store: &Client) -> usize {
    settle().await;
    store.leases().await.unwrap().leases.len() - 1
}

#[tokio::test(start_paused = true)]
async fn delay_has_one_lease_after_a_lost_response() {
    for action in [Action::DropResponse, Action::DropRequest] {
        let store = store();
        // The first lease is that of the session.
        let client = intercepted(&store, nth("lease_grant", 2, 2, action));
        let queue = MessageQueue::new(&session_on(client).await, "q");
        queue.put(Message::new("a").delay(secs(600))).await.unwrap();
        assert_eq!(leases(&store).await, 1);
        assert_eq!(queue.counts().await.unwrap().claimed, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn lease_of_a_refused_put_is_revoked() {
    let store = store();
    let refused = Error::PermissionDenied { reason: "no".to_owned() };
    let client = intercepted(&store, only("txn", Action::Fail(refused)));
    let queue = MessageQueue::new(&session_on(client).await, "q");
    let error = queue.put(Message::new("a").delay(secs(600))).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotApplied);
    assert_eq!(leases(&store).await, 0);
}

#[tokio::test(start_paused = true)]
async fn lease_of_a_dropped_put_is_revoked() {
    let store = store();
    let client = intercepted(&store, nth("lease_grant", 3, 3, Action::Hang));
    let queue = MessageQueue::new(&session_on(client).await, "q");
    let batch = [Message::new("a").delay(secs(600)), Message::new("b").delay(secs(700))];
    assert!(timeout(secs(5), queue.put_all(batch)).await.is_err());
    assert_eq!(leases(&store).await, 0, "no put was sent");
}

/// The put may still arrive: without the lease, the message would be ready at once.
#[tokio::test(start_paused = true)]
async fn lease_of_a_dropped_put_in_flight_is_kept() {
    let store = store();
    let client = intercepted(&store, nth("txn", 1, 1, Action::Delay(secs(9))));
    let queue = MessageQueue::new(&session_on(client).await, "q");
    let put = queue.put(Message::new("a").delay(secs(600)));
    assert!(timeout(secs(5), put).await.is_err());
    assert_eq!(leases(&store).await, 1);
    tokio::time::sleep(secs(5)).await;
    let counts = queue.counts().await.unwrap();
    assert_eq!((counts.ready, counts.claimed), (0, 1));
}
