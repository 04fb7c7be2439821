//! A session whose lease is left to an adopter, under answers that are very late.

use crate::support::another;
use coord_core::Client;
use coord_mem::MemBackend;
use std::sync::Arc;
use std::time::Duration;

use coord_core::stm::Retry;
use coord_core::{
    Election, Error, Mutex, Session, Stm,
    kv::{LeaseId, Txn},
    session::SessionState,
};
use coord_testkit::{Action, Call, Intercept};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::support::{keys, secs, session_on, settle};

/// A client of `store` that waits for two seconds for each answer, and whose requests to enqueue
/// arrive after `late`.
fn late_enqueues(store: &Client, late: Duration) -> Client {
    let rule = move |call: &Call| match call {
        Call::Txn(txn) if txn.success.len() == 2 => Action::Delay(late),
        _ => Action::Pass,
    };
    Client::new(Intercept::new(Arc::clone(store.backend()), rule).timeout(secs(2)))
}

async fn adopt(store: &Client, lease: LeaseId) -> Session {
    let adopted = Session::builder(&another(store)).lease(lease).open();
    adopted.await.expect("the store is available")
}

/// An enqueue that arrived after its session was orphaned left a key that blocked the queue for as
/// long as the adopter lived.
#[tokio::test(start_paused = true)]
async fn late_enqueue_after_orphan_does_not_block_the_queue() {
    // Given up before, dropped before, and under way when the session is orphaned.
    for case in ["failed", "dropped", "under way"] {
        let (store, began) = (Client::new(MemBackend::new()), Instant::now());
        let old = session_on(late_enqueues(&store, secs(60))).await;
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
                let orphan = async {
                    settle().await;
                    old.orphan().await
                };
                let (locked, lease) = tokio::join!(mutex.lock(), orphan);
                assert!(locked.unwrap_err().loss().is_some());
                lease.unwrap()
            }
        };
        drop((mutex, old));
        let adopter = adopt(&store, lease).await;
        sleep_until(began + secs(61)).await;
        assert_eq!(keys(&store, "m/").await.len(), 1, "{case}: it arrived late");
        sleep(secs(120)).await;
        assert_eq!(keys(&store, "m/").await, [""; 0], "{case}: the key was removed");
        assert!(Mutex::new(&adopter, "m").try_lock().await.unwrap().is_some(), "{case}");
    }
}

/// The cleanup of the former owner must not hit a key of the adopter, whose names are its own.
#[tokio::test(start_paused = true)]
async fn cleanup_after_orphan_spares_the_adopters_keys() {
    let store = Client::new(MemBackend::new());
    let old = session_on(late_enqueues(&store, secs(60))).await;
    Mutex::new(&old, "m").lock().await.unwrap_err();
    let kept = Mutex::new(&old, "kept").try_lock().await.unwrap().expect("nothing holds it");
    let lease = old.orphan().await.unwrap();
    let adopter = adopt(&store, lease).await;
    let guard = Mutex::new(&adopter, "m").lock().await.unwrap();
    drop(kept);
    sleep(secs(600)).await;
    assert_eq!(keys(&store, "m/").await, [guard.key().escape_ascii().to_string()]);
    assert_eq!(keys(&store, "kept/").await.len(), 1, "what is held is left to the adopter");
    guard.unlock().await.unwrap();
}

/// A key that surely exists is left to the adopter also when its contender waits.
#[tokio::test(start_paused = true)]
async fn waiting_candidate_is_left_to_the_adopter() {
    let store = Client::new(MemBackend::new());
    let other = session_on(another(&store)).await;
    let leader = Election::new(&other, "e").campaign("other").await.unwrap();
    let old = session_on(another(&store)).await;
    let candidate = Election::new(&old, "e").enter("old").await.unwrap();
    let lease = old.orphan().await.unwrap();
    drop(candidate);
    let adopter = adopt(&store, lease).await;
    sleep(secs(60)).await;
    leader.resign().await.unwrap();
    assert_eq!(Election::new(&adopter, "e").leader().await.unwrap().unwrap().value(), "old");
}

/// Transactions of an adopter collided with the idempotency keys of the former owner, once for each
/// key that was left.
#[tokio::test(start_paused = true)]
async fn adopter_does_not_conflict_with_old_idempotency_keys() {
    let store = Client::new(MemBackend::new());
    let kv = another(&store);
    let old = session_on(kv.clone()).await;
    let slow = Intercept::new(Arc::clone(store.backend()), |_: &Call| {
        Action::Delay(Duration::from_millis(50))
    });
    let transactions = Stm::new(&Client::new(slow)).exactly_once(&old);
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

/// The cleanup of the former owner deleted a key that arrived late, and that the adopter had taken
/// for its own and given a value.
#[tokio::test(start_paused = true)]
async fn cleanup_after_orphan_spares_a_changed_key() {
    let (store, began) = (Client::new(MemBackend::new()), Instant::now());
    let old = session_on(late_enqueues(&store, secs(15))).await;
    Election::new(&old, "e").campaign("old").await.unwrap_err();
    let lease = old.orphan().await.unwrap();
    store.lease_keep_alive(lease).await.unwrap();
    sleep_until(began + secs(16)).await;
    let adopter = adopt(&store, lease).await;
    let candidate = Election::new(&adopter, "e").resume().await.unwrap().expect("it is there");
    let leadership = candidate.elected().await.unwrap();
    leadership.proclaim("mine").await.unwrap();
    sleep(secs(600)).await;
    leadership.txn(Txn::new()).await.expect("the former owner did not delete it");
}

/// A key that arrives after the adoption is not one that a former process has left.
#[tokio::test(start_paused = true)]
async fn key_created_after_adoption_is_not_resumed() {
    let (store, began) = (Client::new(MemBackend::new()), Instant::now());
    let old = session_on(late_enqueues(&store, secs(15))).await;
    Election::new(&old, "e").campaign("old").await.unwrap_err();
    let adopter = adopt(&store, old.orphan().await.unwrap()).await;
    sleep_until(began + secs(16)).await;
    assert_eq!(keys(&store, "e/").await.len(), 1);
    assert!(Election::new(&adopter, "e").resume().await.unwrap().is_none());
    sleep(secs(60)).await;
    assert_eq!(keys(&store, "e/").await, [""; 0]);
}

/// A session that was lost, and whose lease was adopted in time, cleans up too.
#[tokio::test(start_paused = true)]
async fn late_enqueue_of_a_lost_session_does_not_block_the_adopter() {
    let (store, began) = (Client::new(MemBackend::new()), Instant::now());
    let rule = |call: &Call| match call {
        Call::Txn(txn) if txn.success.len() == 2 => Action::Delay(secs(20)),
        Call::LeaseKeepAlive(_) => Action::DropRequest,
        _ => Action::Pass,
    };
    let old =
        session_on(Client::new(Intercept::new(Arc::clone(store.backend()), rule).timeout(secs(2))))
            .await;
    Mutex::new(&old, "m").lock().await.unwrap_err();
    sleep_until(began + Duration::from_millis(9_500)).await;
    assert!(matches!(old.state(), SessionState::Lost(_)));
    let adopter = adopt(&store, old.lease_id()).await;
    sleep_until(began + secs(21)).await;
    assert_eq!(keys(&store, "m/").await.len(), 1, "it arrived late");
    sleep(secs(60)).await;
    assert_eq!(keys(&store, "m/").await, [""; 0]);
    drop(adopter);
}
