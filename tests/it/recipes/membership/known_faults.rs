//! Faults of memberships that services write by hand, and a former fault of the stream of events,
//! each as a regression test.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coord_core::error::PrimitiveError;
use coord_core::kv::{Compact, Put};
use coord_core::recipes::GapCause;
use coord_core::{Client, Error};
use coord_mem::MemBackend;
use coord_testkit::{Action, poll_at_most};
use tokio::time::{sleep, timeout};

use super::{group, metadata, next, summary};
use crate::support::{intercepted, keys, nth, secs, session, session_on, settle};
use crate::watch_faults::{UNLIMITED_LIFETIME, WatchFaults};

/// A join whose response is lost left a key: a member that no process is.
#[tokio::test(start_paused = true)]
async fn join_with_a_lost_response_leaves_no_key() {
    let store = Client::new(MemBackend::new());
    let faulty = intercepted(&store, nth("txn", 1, 1, Action::DropResponse));
    let session = session_on(&faulty).await;
    let error = group(&faulty).join(&session, &1).await.unwrap_err();
    assert!(matches!(error, PrimitiveError::Backend(Error::Unavailable { .. })), "{error}");
    settle().await;
    assert_eq!(keys(&store, "g").await, [""; 0]);
    let again = group(&faulty).join(&session, &1).await.unwrap();
    sleep(secs(60)).await;
    assert_eq!(keys(&store, "g").await.len(), 1, "the cleanup does not delete the next member");
    again.leave().await.unwrap();
}

/// A join that arrives late, after its future was dropped, left a key.
#[tokio::test(start_paused = true)]
async fn late_join_of_a_dropped_future_leaves_no_key() {
    let store = Client::new(MemBackend::new());
    let faulty = intercepted(&store, nth("txn", 1, 1, Action::Delay(secs(5))));
    let session = session_on(&faulty).await;
    assert!(poll_at_most(1, group(&faulty).join(&session, &1)).await.is_none());
    let second = group(&faulty).join(&session, &2).await.unwrap();
    sleep(secs(30)).await;
    let members = group(&store).members().await.unwrap();
    assert_eq!(metadata(&members), [2]);
    drop(second);
}

/// A gap between two equal lists of members was not reported, because no event follows from it.
#[tokio::test(start_paused = true)]
async fn gap_without_an_event_is_reported_with_the_next_event() {
    // The first and the third watch end after a second; the second is compacted.
    let mem = MemBackend::new();
    let watches = AtomicUsize::new(0);
    let lifetime = move || match watches.fetch_add(1, Ordering::Relaxed) {
        0 | 2 => (secs(1), None),
        _ => UNLIMITED_LIFETIME,
    };
    let faulty = WatchFaults::new(mem.clone(), lifetime);
    let store = Client::new(mem);
    let members = group(&Client::new(faulty)).members().await.unwrap();
    let mut events = members.events();
    let first = events.revision();
    let mut last = first;
    for _ in 0..2 {
        let cache = members.cache();
        sleep(Duration::from_millis(1_020)).await;
        // The watch has ended, and the next watch is not registered yet.
        store.put("g/members/short", "1").await.unwrap();
        store.delete("g/members/short").await.unwrap();
        last = store.put("other", "").await.unwrap().header.revision;
        store.compact(Compact::new(last)).await.unwrap();
        assert!(timeout(secs(1), cache.wait_for(last)).await.is_ok());
        assert!(poll_at_most(1, events.next()).await.is_none(), "the members are the same");
        assert_eq!(events.revision(), first, "that of the last event");
    }
    store.put("g/members/a", "1").await.unwrap();
    assert_eq!(summary(&next(&mut events).await), ("joined", 1));
    let gap = events.gap().expect("events are missing");
    assert_eq!((gap.cause, gap.after, gap.until), (GapCause::Compacted, first, last));
    store.put("g/members/b", "2").await.unwrap();
    assert_eq!(summary(&next(&mut events).await), ("joined", 2));
    assert_eq!(events.gap(), None, "it is reported once");
}

/// An update after the session has ended created the key again, without a lease: a member that
/// never leaves.
#[tokio::test(start_paused = true)]
async fn update_does_not_create_the_key_again() {
    let store = Client::new(MemBackend::new());
    let faulty = intercepted(&store, nth("txn", 2, 2, Action::Delay(secs(5))));
    let session = session_on(&faulty).await;
    let member = group(&faulty).join(&session, &1).await.unwrap();
    let close = async {
        settle().await;
        session.close().await.unwrap();
    };
    let (updated, ()) = tokio::join!(member.update(&2), close);
    assert!(updated.is_err());
    sleep(secs(30)).await;
    assert_eq!(keys(&store, "g").await, [""; 0]);
}

/// A member whose key was deleted and created again was an update for the others.
#[tokio::test(start_paused = true)]
async fn another_member_with_the_same_key_is_not_an_update() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let mut events = group(&store).members().await.unwrap().events();
    let member = group(&store).join(&session, &1).await.unwrap();
    assert_eq!(summary(&next(&mut events).await), ("joined", 1));
    // An operator deletes the key, and then a program puts it again.
    let delete = coord_core::kv::Op::Delete(coord_core::kv::Delete::new(member.key()));
    store.txn(coord_core::kv::Txn::new().and_then([delete])).await.unwrap();
    store.put_with(Put::new(member.key(), "2")).await.unwrap();
    assert_eq!(summary(&next(&mut events).await), ("left", 1));
    assert_eq!(summary(&next(&mut events).await), ("joined", 2));
}
