//! Faults of Go's elections: leaders without a key, resignation, compaction and observation.

use coord_core::{
    Client, Election,
    error::{ErrorKind, LossReason},
    kv::Compact,
};
use coord_mem::MemBackend;
use coord_testkit::Action;
use tokio::time::{sleep, timeout};

use super::{go_contender, go_contender_on};
use crate::support::{
    intercepted, keys, nth, only, secs, separate_client, session, session_on, settle, timed,
};
use crate::while_waiting::while_waiting;

/// Issues 11007 and 11777, and the outages of helm/charts 326 and mailgun/holster 38: a candidate
/// whose key is deleted continues to wait, and is then elected without a key. No observer sees it.
#[tokio::test(start_paused = true)]
async fn candidate_without_a_key_is_never_elected() {
    let store = Client::new(MemBackend::new());
    let observer = Election::observer(&separate_client(&store), "e");
    let leader = Election::new(&session(&store).await, "e").campaign("first").await.unwrap();
    let mut go = go_contender(&store, "e").await;
    let key = go.key.clone();
    let (elected, resigned) = while_waiting(go.campaign("phantom"), async {
        store.delete(key.clone()).await.unwrap();
        settle().await;
        leader.resign().await
    })
    .await;
    resigned.unwrap();
    assert!(elected.is_ok(), "elected without a key: {elected:?}");
    assert_eq!(observer.leader().await.unwrap(), None, "there is no leader");

    let leader = Election::new(&session(&store).await, "e").campaign("first").await.unwrap();
    let election = Election::new(&session(&store).await, "e");
    let (elected, ()) = while_waiting(timed(election.campaign("second")), async {
        let queue = keys(&store, "e/").await;
        let second = queue.iter().find(|key| key.as_bytes() != leader.key()).unwrap();
        store.delete(second).await.unwrap();
    })
    .await;
    let (elected, took) = elected;
    assert_eq!(elected.unwrap_err().loss(), Some(LossReason::KeyDeleted));
    assert!(took < secs(1), "failed after {took:?}, not while the first leads");
}

/// Issue 22123: after a failed `Resign` the election has no record of its key, so the next call
/// returns success and the key stays.
#[tokio::test(start_paused = true)]
async fn failed_resign_can_be_repeated() {
    let store = Client::new(MemBackend::new());
    let second_txn_dropped = || intercepted(&store, nth("txn", 2, 2, Action::DropRequest));
    let mut go = go_contender_on(second_txn_dropped(), "go").await;
    go.campaign("a").await.unwrap();
    assert!(go.resign().await.is_err());
    assert!(go.resign().await.is_ok(), "the second call returns success");
    assert_eq!(keys(&store, "go/").await.len(), 1, "but the leader key stays");

    let session = session_on(second_txn_dropped()).await;
    let leader = Election::new(&session, "e").campaign("a").await.unwrap();
    let failed = leader.resign().await.unwrap_err();
    assert_eq!(keys(&store, "e/").await.len(), 1, "the request was dropped");
    failed.held.resign().await.unwrap();
    assert_eq!(keys(&store, "e/").await, [""; 0]);
}

/// Issues 21128 and 9715: history is compacted between a read and the watch that follows it.
/// `Campaign` fails, and its key stays and blocks all candidates.
#[tokio::test(start_paused = true)]
async fn compaction_before_the_watch_does_not_fail_the_wait() {
    let store = Client::new(MemBackend::new());
    let compact_history = async || {
        settle().await;
        for value in ["1", "2"] {
            store.put("other", value).await.unwrap();
        }
        let revision = store.put("other", "3").await.unwrap().header.revision;
        store.compact(Compact::new(revision)).await.unwrap();
        sleep(secs(2)).await;
    };
    let leader = Election::new(&session(&store).await, "e").campaign("first").await.unwrap();
    let mut go =
        go_contender_on(intercepted(&store, only("watch", Action::Delay(secs(1)))), "e").await;
    let (elected, ()) = tokio::join!(go.campaign("second"), compact_history());
    assert_eq!(elected.unwrap_err().kind(), ErrorKind::Compacted);
    go.resign().await.unwrap();
    assert!(store.get(go.key.clone()).await.unwrap().is_some(), "`Resign` returned success");
    store.delete(go.key.clone()).await.unwrap();

    let session = session_on(intercepted(&store, only("watch", Action::Delay(secs(1))))).await;
    let election = Election::new(&session, "e");
    let (elected, ()) = tokio::join!(election.campaign("second"), async {
        compact_history().await;
        leader.resign().await.unwrap();
    });
    elected.unwrap().resign().await.unwrap();
    assert_eq!(keys(&store, "e/").await, [""; 0]);
}

/// The values that an observer of `e` on `kv` receives while `act` runs, until there is no change
/// for a minute. "none" stands for no leader.
async fn observed_values(kv: Client, act: impl Future<Output = ()>) -> Vec<String> {
    let mut leaders = Election::observer(&kv, "e").observe();
    let mut values = Vec::new();
    let read = async {
        while let Ok(Some(item)) = timeout(secs(60), leaders.next()).await {
            let leader = item.unwrap();
            values.push(leader.map_or_else(
                || "none".to_owned(),
                |leader| leader.value().escape_ascii().to_string(),
            ));
        }
    };
    tokio::join!(read, act);
    values
}

/// Issues 18163 and 7815: `Observe` reconnects and returns a former leader as the leader.
/// google/trillian 1387 and helm/charts 326: it does not report that there is no leader.
///
/// coord returns each leader once, in order, and the current leader last. Leaders whose keys were
/// compacted may be missing.
#[tokio::test(start_paused = true)]
async fn reconnected_observer_ends_with_the_current_leader() {
    for compact in [false, true] {
        let store = Client::new(MemBackend::new());
        let election_a = Election::new(&session(&store).await, "e");
        let election_b = Election::new(&session(&store).await, "e");
        let disconnected = intercepted(&store, nth("watch", 1, 1, Action::Delay(secs(5))));
        let values = observed_values(disconnected, async {
            settle().await;
            election_a.campaign("a").await.unwrap().resign().await.unwrap();
            let b = election_b.campaign("b").await.unwrap();
            if compact {
                store.compact(Compact::new(b.header().revision)).await.unwrap();
            }
            sleep(secs(10)).await;
            b.proclaim("b2").await.unwrap();
            sleep(secs(1)).await;
            b.resign().await.unwrap();
        });
        let expected = if compact { "none b b2 none" } else { "none a none b b2 none" };
        assert_eq!(values.await.join(" "), expected, "compacted: {compact}");
    }
}

/// A waiting candidate that changes its value does not become the leader, although it wrote last.
#[tokio::test(start_paused = true)]
async fn observer_ignores_writes_of_waiting_candidates() {
    let store = Client::new(MemBackend::new());
    let (session_a, session_b) = (session(&store).await, session(&store).await);
    let leader = Election::new(&session_a, "e").campaign("a").await.unwrap();
    let candidate = Election::new(&session_b, "e").enter("b").await.unwrap();
    let values = observed_values(separate_client(&store), async {
        settle().await;
        candidate.proclaim("b2").await.unwrap();
        leader.proclaim("a2").await.unwrap();
        candidate.proclaim("b3").await.unwrap();
        sleep(secs(1)).await;
        leader.resign().await.unwrap();
    });
    assert_eq!(values.await.join(" "), "a a2 b3");
    candidate.withdraw().await.unwrap();
}
