//! Orphaned leases: a session leaves its lease to an adopter, with delayed or dropped requests.

use std::time::Duration;

use coord_core::{
    Client, Election, Error, Mutex, Stm,
    error::{ErrorKind, LossReason},
    kv::{LeaseGrant, LeaseTimeToLive, Put, Txn},
    session::SessionState,
    stm::Retry,
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{adopt, client_with_timeout};
use crate::support::{intercepted, keys, only, secs, separate_client, session, session_on, timed};
use crate::while_waiting::while_waiting;

/// A client of `store` whose requests time out after 2 s, and whose enqueues are delayed.
fn delayed_enqueues(store: &Client, delay: Duration) -> Client {
    let rule = move |call: &Call| match call {
        Call::Txn(txn) if txn.success.len() == 2 => Action::Delay(delay),
        _ => Action::Pass,
    };
    client_with_timeout(store, rule)
}

#[tokio::test(start_paused = true)]
async fn orphaned_lease_stays_alive_for_an_adopter() {
    let store = Client::new(MemBackend::new());
    let first = session(&store).await;
    store.put_with(Put::new("a", "1").lease(first.lease_id())).await.unwrap();
    sleep(secs(2)).await;
    let lease = first.orphan().await.unwrap();
    assert_eq!(first.state(), SessionState::Lost(LossReason::Orphaned));
    let status = store.lease_time_to_live(LeaseTimeToLive::new(lease)).await.unwrap().lease;
    assert_eq!(status.unwrap().remaining, secs(10), "the adopter has the whole TTL");

    sleep(secs(9)).await;
    let adopter = adopt(&store, lease).await;
    assert_eq!((adopter.lease_id(), adopter.ttl()), (lease, secs(10)));
    sleep(secs(100)).await;
    assert!(store.get("a").await.unwrap().is_some());
    assert_eq!(first.orphan().await.unwrap_err().kind(), ErrorKind::LeaseNotFound);
}

#[tokio::test(start_paused = true)]
async fn orphan_deletes_the_keys_of_dropped_guards() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let mutex = Mutex::new(&session, "m");
    drop(mutex.lock().await.unwrap());
    session.orphan().await.unwrap();
    assert!(store.get_prefix("m/").await.unwrap().is_empty());
}

/// Regression: the session waited for an ambiguous enqueue until no time was left for the last
/// keep-alive.
#[tokio::test(start_paused = true)]
async fn adopter_has_the_whole_ttl_after_an_ambiguous_enqueue() {
    let store = Client::new(MemBackend::new());
    let kv = intercepted(&store, |call: &Call| match call {
        Call::Txn(_) => Action::DropRequest,
        Call::LeaseKeepAlive(_) => Action::Delay(Duration::from_millis(10)),
        _ => Action::Pass,
    });
    let session = session_on(kv).await;
    assert!(Mutex::new(&session, "m").lock().await.is_err());
    let (lease, after) = timed(session.orphan()).await;
    let lease = lease.unwrap();
    assert!(after < secs(9), "took {after:?}");
    let status = store.lease_time_to_live(LeaseTimeToLive::new(lease)).await.unwrap().lease;
    assert_eq!(status.unwrap().remaining, secs(10));
}

/// Regression: `close` revoked the lease, so the adopter lost its leadership.
#[tokio::test(start_paused = true)]
async fn close_after_orphan_does_not_revoke_the_lease() {
    for at_once in [false, true] {
        let store = Client::new(MemBackend::new());
        let first = session_on(intercepted(&store, only("lease_keep_alive", Action::Yield))).await;
        let lease = if at_once {
            let (orphaned, closed) = tokio::join!(first.orphan(), first.close());
            closed.unwrap();
            orphaned.unwrap()
        } else {
            let lease = first.orphan().await.unwrap();
            first.close().await.unwrap();
            lease
        };
        let adopter = adopt(&store, lease).await;
        first.close().await.unwrap();
        sleep(secs(60)).await;
        assert_eq!(adopter.state(), SessionState::Alive);
    }
}

#[tokio::test(start_paused = true)]
async fn opened_revision_separates_adopted_keys_from_own_keys() {
    let store = Client::new(MemBackend::new());
    let lease = store.lease_grant(LeaseGrant::new(secs(60))).await.unwrap().id;
    store.put_with(Put::new("former", "").lease(lease)).await.unwrap();
    let session = adopt(&store, lease).await;
    store.put_with(Put::new("own", "").lease(lease)).await.unwrap();
    let created = async |key| store.get(key).await.unwrap().unwrap().create_revision;
    assert!(created("former").await <= session.opened());
    assert!(created("own").await > session.opened());
}

/// Regression: an enqueue that was applied after `orphan` left a key that blocked the queue as long
/// as the adopter lived.
#[tokio::test(start_paused = true)]
async fn late_enqueue_after_orphan_does_not_block_the_queue() {
    // The state of the enqueue when the session is orphaned.
    for case in ["failed", "dropped", "in progress"] {
        let (store, began) = (Client::new(MemBackend::new()), Instant::now());
        let old = session_on(delayed_enqueues(&store, secs(60))).await;
        let mutex = Mutex::new(&old, "m");
        let lease = match case {
            "failed" => {
                mutex.lock().await.unwrap_err();
                old.orphan().await.unwrap()
            }
            "dropped" => {
                timeout(secs(1), mutex.lock()).await.unwrap_err();
                old.orphan().await.unwrap()
            }
            _ => {
                let (locked, lease) = while_waiting(mutex.lock(), old.orphan()).await;
                assert!(locked.unwrap_err().loss().is_some());
                lease.unwrap()
            }
        };
        drop((mutex, old));
        let adopter = adopt(&store, lease).await;
        sleep_until(began + secs(61)).await;
        assert_eq!(keys(&store, "m/").await.len(), 1, "{case}: the enqueue was applied late");
        sleep(secs(120)).await;
        assert_eq!(keys(&store, "m/").await, [""; 0], "{case}: the key was not deleted");
        assert!(Mutex::new(&adopter, "m").try_lock().await.unwrap().is_some(), "{case}");
    }
}

/// The names of the adopter's keys differ from the names of the former owner's keys, so the former
/// owner's cleanup cannot delete them.
#[tokio::test(start_paused = true)]
async fn cleanup_after_orphan_spares_the_adopters_keys() {
    let store = Client::new(MemBackend::new());
    let old = session_on(delayed_enqueues(&store, secs(60))).await;
    Mutex::new(&old, "m").lock().await.unwrap_err();
    let kept = Mutex::new(&old, "kept").try_lock().await.unwrap().unwrap();
    let lease = old.orphan().await.unwrap();
    let adopter = adopt(&store, lease).await;
    let guard = Mutex::new(&adopter, "m").lock().await.unwrap();
    drop(kept);
    sleep(secs(600)).await;
    assert_eq!(keys(&store, "m/").await, [guard.key().escape_ascii().to_string()]);
    assert_eq!(keys(&store, "kept/").await.len(), 1, "a held key is left to the adopter");
    guard.unlock().await.unwrap();
}

/// An adopter takes over a waiting candidate as well as a leader.
#[tokio::test(start_paused = true)]
async fn waiting_candidate_is_left_to_the_adopter() {
    let store = Client::new(MemBackend::new());
    let other = session_on(separate_client(&store)).await;
    let leader = Election::new(&other, "e").campaign("other").await.unwrap();
    let old = session_on(separate_client(&store)).await;
    let candidate = Election::new(&old, "e").enter("old").await.unwrap();
    let lease = old.orphan().await.unwrap();
    drop(candidate);
    let adopter = adopt(&store, lease).await;
    sleep(secs(60)).await;
    leader.resign().await.unwrap();
    assert_eq!(Election::new(&adopter, "e").leader().await.unwrap().unwrap().value(), "old");
}

/// Regression: transactions of an adopter conflicted with the idempotency keys of the former owner,
/// once for each key.
#[tokio::test(start_paused = true)]
async fn adopter_does_not_conflict_with_old_idempotency_keys() {
    let store = Client::new(MemBackend::new());
    let kv = separate_client(&store);
    let old = session_on(kv.clone()).await;
    let slow = intercepted(&store, |_: &Call| Action::Delay(Duration::from_millis(50)));
    let transactions = Stm::new(&slow).exactly_once(&old);
    let put = |n: usize| {
        let run = transactions.run(async move |tx| {
            tx.put(format!("k{n}"), "1");
            Ok::<_, Error>(())
        });
        async { drop(run.await.unwrap()) }
    };
    futures_util::future::join_all((0..64).map(put)).await;
    assert_eq!(keys(&store, "coord/stm/").await.len(), 64);

    let lease = old.orphan().await.unwrap();
    for _ in 0..2 {
        let adopter = adopt(&store, lease).await;
        let once = Retry { attempts_max: Some(1), ..Retry::default() };
        let run = Stm::new(&kv).exactly_once(&adopter).retry(once);
        let run = run.run(async |tx| {
            tx.put("mine", "1");
            Ok::<_, Error>(())
        });
        assert_eq!(run.await.unwrap().info.attempts, 1);
    }
}

/// Regression: the former owner's cleanup deleted a key that was created late, although the adopter
/// had resumed it and changed its value.
#[tokio::test(start_paused = true)]
async fn cleanup_after_orphan_spares_a_changed_key() {
    let (store, began) = (Client::new(MemBackend::new()), Instant::now());
    let old = session_on(delayed_enqueues(&store, secs(15))).await;
    Election::new(&old, "e").campaign("old").await.unwrap_err();
    let lease = old.orphan().await.unwrap();
    store.lease_keep_alive(lease).await.unwrap();
    sleep_until(began + secs(16)).await;
    let adopter = adopt(&store, lease).await;
    let candidate = Election::new(&adopter, "e").resume().await.unwrap().unwrap();
    let leadership = candidate.elected().await.unwrap();
    leadership.proclaim("mine").await.unwrap();
    sleep(secs(600)).await;
    leadership.txn(Txn::new()).await.expect("the former owner must not delete the key");
}

/// An adopter resumes only keys that existed when it adopted the lease.
#[tokio::test(start_paused = true)]
async fn key_created_after_adoption_is_not_resumed() {
    let (store, began) = (Client::new(MemBackend::new()), Instant::now());
    let old = session_on(delayed_enqueues(&store, secs(15))).await;
    Election::new(&old, "e").campaign("old").await.unwrap_err();
    let adopter = adopt(&store, old.orphan().await.unwrap()).await;
    sleep_until(began + secs(16)).await;
    assert_eq!(keys(&store, "e/").await.len(), 1);
    assert!(Election::new(&adopter, "e").resume().await.unwrap().is_none());
    sleep(secs(60)).await;
    assert_eq!(keys(&store, "e/").await, [""; 0]);
}

/// A lost session cleans up its late enqueues too, if its lease was adopted before it expired.
#[tokio::test(start_paused = true)]
async fn late_enqueue_of_a_lost_session_does_not_block_the_adopter() {
    let (store, began) = (Client::new(MemBackend::new()), Instant::now());
    let rule = |call: &Call| match call {
        Call::Txn(txn) if txn.success.len() == 2 => Action::Delay(secs(20)),
        Call::LeaseKeepAlive(_) => Action::DropRequest,
        _ => Action::Pass,
    };
    let old = session_on(client_with_timeout(&store, rule)).await;
    Mutex::new(&old, "m").lock().await.unwrap_err();
    sleep_until(began + Duration::from_millis(9_500)).await;
    assert!(matches!(old.state(), SessionState::Lost(_)));
    let adopter = adopt(&store, old.lease_id()).await;
    sleep_until(began + secs(21)).await;
    assert_eq!(keys(&store, "m/").await.len(), 1, "the enqueue was applied late");
    sleep(secs(60)).await;
    assert_eq!(keys(&store, "m/").await, [""; 0]);
    drop(adopter);
}
