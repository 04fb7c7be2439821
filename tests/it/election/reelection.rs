//! Re-election: a supervisor campaigns again after its leadership was lost.

use std::future::pending;
use std::sync::Arc;
use std::sync::Mutex as StdMutex;

use coord_core::{
    Client, Election, Session,
    election::Leadership,
    error::{LossReason, PrimitiveError},
    kv::{FencingToken, KeyRange},
    session::{Generation, Supervisor},
};
use coord_mem::MemBackend;
use tokio::time::{sleep, timeout};

use super::election;
use crate::support::{keys, secs, separate_client, settle};
use crate::while_waiting::while_waiting;

/// The session generation and the fencing token of each term.
type Terms = StdMutex<Vec<(Generation, FencingToken)>>;

/// A supervisor of sessions of 10 s.
async fn supervisor(store: &Client) -> Supervisor {
    let builder = Session::builder(&separate_client(store)).ttl(secs(10));
    builder.supervise().await.expect("the store is available")
}

async fn campaign(session: Session) -> Result<Leadership, PrimitiveError> {
    Election::new(&session, "e").campaign("me").await
}

/// Campaigns until it has led for 10 s without a loss, and records each term.
async fn lead_for_ten_seconds(
    supervisor: &Supervisor,
    terms: &Terms,
) -> Result<(), PrimitiveError> {
    let lead = |leadership: Arc<Leadership>| async move {
        let term = (leadership.session().generation(), leadership.fencing_token());
        terms.lock().expect("the lock is not poisoned").push(term);
        sleep(secs(10)).await;
        Ok(())
    };
    supervisor.run_while_held(campaign, lead).await
}

#[tokio::test(start_paused = true)]
async fn evicted_leader_campaigns_again_with_greater_token() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(&store).await;
    let terms = Terms::default();
    let (led, ()) = while_waiting(lead_for_ten_seconds(&supervisor, &terms), async {
        store.delete(KeyRange::prefix("e/")).await.unwrap();
        sleep(secs(5)).await;
        store.lease_revoke(supervisor.session().lease_id()).await.unwrap();
    })
    .await;
    led.unwrap();
    let terms = terms.into_inner().unwrap();
    let generations: Vec<_> = terms.iter().map(|(generation, _)| *generation).collect();
    let expected = [Generation(1), Generation(1), Generation(2)];
    assert_eq!(generations, expected, "after the key was deleted and the lease revoked");
    assert!(terms.is_sorted_by(|a, b| a.1 < b.1), "fencing tokens increase: {terms:?}");
    assert_eq!(keys(&store, "e/").await, [""; 0], "it resigned at the end of the work");
}

#[tokio::test(start_paused = true)]
async fn former_leader_enqueues_behind_current_leader() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(&store).await;
    let rival = election(&store).await;
    let terms = Terms::default();
    let (led, ()) = while_waiting(lead_for_ten_seconds(&supervisor, &terms), async {
        let rival = rival.enter("rival").await.unwrap();
        store.lease_revoke(supervisor.session().lease_id()).await.unwrap();
        let rival = rival.elected().await.unwrap();
        sleep(secs(30)).await;
        assert_eq!(terms.lock().unwrap().len(), 1, "the former leader waits");
        rival.resign().await.unwrap();
    })
    .await;
    led.unwrap();
    assert_eq!(terms.into_inner().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn supervised_leadership_ends_when_dropped_or_closed() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(&store).await;
    let lead_forever =
        || supervisor.run_while_held(campaign, |_| pending::<Result<(), PrimitiveError>>());
    assert!(timeout(secs(5), lead_forever()).await.is_err());
    settle().await;
    assert_eq!(keys(&store, "e/").await, [""; 0], "the dropped future resigned");

    let (led, closed) = while_waiting(lead_forever(), supervisor.close()).await;
    closed.unwrap();
    assert_eq!(led.unwrap_err().loss(), Some(LossReason::Closed));
}
