//! Leading again after leadership was lost, for who asks for it.

use crate::support::another;
use coord_mem::MemBackend;
use std::future::pending;
use std::sync::Arc;
use std::sync::Mutex as StdMutex;

use coord_core::{
    Client, Election, Session,
    election::Leadership,
    error::{LossReason, PrimitiveError},
    kv::FencingToken,
    kv::KeyRange,
    session::{Generation, Supervisor},
};
use tokio::time::{sleep, timeout};

use super::election;
use crate::support::{keys, secs, settle};

/// A supervisor of sessions of 10 s on `store`.
async fn supervisor(store: &Client) -> Supervisor {
    let builder = Session::builder(&another(store)).ttl(secs(10));
    builder.supervise().await.expect("the store is there")
}

/// Leads for 10 s at a time; notes each term.
async fn terms(supervisor: &Supervisor, noted: &StdMutex<Vec<(Generation, FencingToken)>>) {
    let campaign =
        |session: Session| async move { Election::new(&session, "e").campaign("me").await };
    let led = supervisor.run_while_held(campaign, |leadership: Arc<Leadership>| async move {
        let term = (leadership.session().generation(), leadership.fencing_token());
        noted.lock().expect("nobody panics").push(term);
        sleep(secs(10)).await;
        Ok::<_, PrimitiveError>(())
    });
    led.await.expect("the work is done in the end");
}

#[tokio::test(start_paused = true)]
async fn deposed_leader_campaigns_again_with_greater_token() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(&store).await;
    let noted = StdMutex::default();
    tokio::join!(terms(&supervisor, &noted), async {
        settle().await;
        store.delete(KeyRange::prefix("e/")).await.unwrap();
        sleep(secs(5)).await;
        store.lease_revoke(supervisor.session().lease_id()).await.unwrap();
    });
    let noted = noted.into_inner().unwrap();
    let epochs: Vec<_> = noted.iter().map(|(epoch, _)| *epoch).collect();
    assert_eq!(
        epochs,
        [Generation(1), Generation(1), Generation(2)],
        "its key deleted, its lease revoked"
    );
    assert!(noted.is_sorted_by(|a, b| a.1 < b.1), "tokens grow: {noted:?}");
    assert_eq!(keys(&store, "e/").await, [""; 0], "it resigned when the work was done");
}

#[tokio::test(start_paused = true)]
async fn deposed_leader_enqueues_behind_current_leader() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(&store).await;
    let rival = election(&store).await;
    let noted = StdMutex::default();
    tokio::join!(terms(&supervisor, &noted), async {
        settle().await;
        let rival = rival.enter("rival").await.unwrap();
        store.lease_revoke(supervisor.session().lease_id()).await.unwrap();
        let rival = rival.elected().await.unwrap();
        sleep(secs(30)).await;
        assert_eq!(noted.lock().unwrap().len(), 1, "it waits");
        rival.resign().await.unwrap();
    });
    assert_eq!(noted.into_inner().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn supervised_leadership_ends_when_dropped_or_closed() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(&store).await;
    let campaign =
        |session: Session| async move { Election::new(&session, "e").campaign("me").await };
    let endless =
        || supervisor.run_while_held(campaign, |_| pending::<Result<(), PrimitiveError>>());
    assert!(timeout(secs(5), endless()).await.is_err());
    settle().await;
    assert_eq!(keys(&store, "e/").await, [""; 0], "dropped, it resigned");

    let (led, closed) = tokio::join!(endless(), async {
        settle().await;
        supervisor.close().await
    });
    closed.unwrap();
    assert_eq!(led.unwrap_err().loss(), Some(LossReason::Closed));
}
