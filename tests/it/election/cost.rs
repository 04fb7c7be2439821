//! What an election costs, in requests and events.

use coord_mem::MemBackend;
use std::time::Duration;

use coord_core::{Client, Election};
use coord_testkit::{Action, Call, Recorder, Rule as _};
use tokio::time::sleep;

use super::{election, shown, some};
use crate::support::{behind, secs, session_on, settle};

/// An election on `store`, and the record of what it asks.
async fn recorded(store: &Client) -> (Election, Recorder) {
    let record = Recorder::new();
    let session = session_on(behind(store, record.clone())).await;
    record.take();
    (Election::new(&session, "e"), record)
}

#[tokio::test(start_paused = true)]
async fn uncontended_election_calls_cost_one_request_each() {
    let (election, record) = recorded(&Client::new(MemBackend::new())).await;
    let leadership = election.campaign("a").await.unwrap();
    assert_eq!(record.take().names(), "txn", "campaign");
    leadership.proclaim("b").await.unwrap();
    assert_eq!(record.take().names(), "txn", "proclaim");
    leadership.proclaimer().proclaim("c").await.unwrap();
    assert_eq!(record.take().names(), "txn", "proclaim from elsewhere");
    election.leader().await.unwrap().unwrap();
    assert_eq!(record.take().names(), "range", "leader");
    leadership.run_while_held(settle()).await.unwrap();
    assert_eq!(record.take().names(), "watch", "work that is to stop when leadership is lost");
    leadership.resign().await.unwrap();
    assert_eq!(record.take().names(), "txn", "resign");

    let candidate = election.enter("d").await.unwrap();
    assert_eq!(record.take().names(), "txn", "enter");
    candidate.withdraw().await.unwrap();
    assert_eq!(record.take().names(), "txn", "withdraw");
    drop(election.campaign("e").await.unwrap());
    settle().await;
    assert_eq!(
        record.take().names(),
        "txn txn",
        "campaign, and dropping costs what resigning costs"
    );
}

#[tokio::test(start_paused = true)]
async fn campaign_behind_others_costs_three_or_four_requests() {
    for busy in [false, true] {
        let store = Client::new(MemBackend::new());
        let first = election(&store).await.campaign("first").await.unwrap();
        let crowd = election(&store).await;
        let mut others = Vec::new();
        for n in 0..10 {
            others.push(crowd.enter(n.to_string()).await.unwrap());
        }
        let record = Recorder::new();
        let late = Duration::from_millis(if busy { 50 } else { 0 });
        let recorded = record.clone();
        let rule = move |call: &Call| {
            recorded.action(call);
            if matches!(call, Call::Watch(_)) { Action::Delay(late) } else { Action::Pass }
        };
        let session = session_on(behind(&store, rule)).await;
        record.take();
        let candidate = Election::new(&session, "e");
        let (leadership, ()) = tokio::join!(candidate.campaign("last"), async {
            sleep(Duration::from_millis(20)).await;
            store.put("other", "").await.unwrap();
            settle().await;
            assert_eq!(record.take().names(), if busy { "txn watch range" } else { "txn watch" });
            settle().await;
            // It has waited for long: it watches its own key, from its creation on.
            assert_eq!(record.take().names(), "watch");
            // All before it but the last, in the order in which they came.
            first.resign().await.unwrap();
            let last = others.pop().unwrap();
            for other in others {
                other.withdraw().await.unwrap();
            }
            settle().await;
            assert_eq!(record.take().names(), "", "nobody but its neighbour wakes it");
            last.withdraw().await.unwrap();
        });
        // Of ten it had seen the nearest only, so now it reads the line.
        assert_eq!(record.take().names(), "range");
        leadership.unwrap().resign().await.unwrap();
        assert_eq!(record.take().names(), "txn");
    }
}

#[tokio::test(start_paused = true)]
async fn leader_read_costs_two_requests_if_child_key_is_older() {
    let store = Client::new(MemBackend::new());
    let (election, record) = recorded(&store).await;
    let leadership = election.campaign("a").await.unwrap();
    let _below = Election::new(election.session(), "e/below").campaign("b").await.unwrap();
    record.take();
    election.leader().await.unwrap().unwrap();
    assert_eq!(record.take().names(), "range");
    leadership.resign().await.unwrap();
    record.take();
    // One key, and it belongs to another election: that there is no other was said too.
    assert_eq!(election.leader().await.unwrap(), None);
    assert_eq!(record.take().names(), "range");
    let _leadership = election.campaign("a").await.unwrap();
    record.take();
    election.leader().await.unwrap().unwrap();
    assert_eq!(record.take().names(), "range range");
}

#[tokio::test(start_paused = true)]
async fn resume_costs_two_requests_or_one_without_candidate() {
    let store = Client::new(MemBackend::new());
    let (old, _) = recorded(&store).await;
    let _before = old.campaign("a").await.unwrap();
    let lease = old.session().orphan().await.unwrap();
    let record = Recorder::new();
    let builder = coord_core::Session::builder(&behind(&store, record.clone()));
    let new = builder.lease(lease).open().await.unwrap();
    record.take();
    let candidate = Election::new(&new, "e").resume().await.unwrap().unwrap();
    assert_eq!(record.take().names(), "range range");
    drop(candidate.elected().await.unwrap());
    assert_eq!(record.take().names(), "", "it was seen to be first");
    settle().await;
    assert_eq!(record.take().names(), "txn");
    assert!(Election::new(&new, "e").resume().await.unwrap().is_none());
    assert_eq!(record.take().names(), "range");
}

/// An observer follows all contenders with one watch: a change costs it an event and no request.
#[tokio::test(start_paused = true)]
async fn observer_costs_a_read_a_watch_and_an_event_per_change() {
    let store = Client::new(MemBackend::new());
    let record = Recorder::new();
    let mut leaders = Election::observer(&behind(&store, record.clone()), "e").observe();
    assert_eq!(record.take().names(), "", "nothing until it is polled");
    assert_eq!(shown(&mut leaders).await, [None]);
    assert_eq!(record.take().names(), "range watch");

    let election = election(&store).await;
    let leadership = election.campaign("a").await.unwrap();
    assert_eq!(shown(&mut leaders).await, [some("a")]);
    let mut crowd = Vec::new();
    for n in 0..20 {
        crowd.push(election.enter(n.to_string()).await.unwrap());
    }
    crowd.truncate(1);
    settle().await;
    assert_eq!(shown(&mut leaders).await, []);
    assert_eq!(record.take_events(), 1 + 20 + 19);

    leadership.proclaim("b").await.unwrap();
    assert_eq!(shown(&mut leaders).await, [some("b")]);
    leadership.resign().await.unwrap();
    assert_eq!(shown(&mut leaders).await, [some("0")]);
    drop(crowd);
    assert_eq!(shown(&mut leaders).await, [None]);
    assert_eq!((record.take().names().as_str(), record.take_events()), ("", 3));

    let _leadership = election.campaign("c").await.unwrap();
    assert_eq!(shown(&mut leaders).await, [some("c")]);
    sleep(secs(1000)).await;
    assert_eq!(shown(&mut leaders).await, []);
    let (calls, events) = (record.take().names(), record.take_events());
    assert_eq!((calls.as_str(), events), ("range", 1), "it was verified once it was polled again");
}

/// A queue of any length is read in pages of 500, all as of one revision.
#[tokio::test(start_paused = true)]
async fn observer_reads_a_long_queue_in_pages() {
    let store = Client::new(MemBackend::new());
    for n in 0..1_200 {
        store.put(format!("e/{n}"), n.to_string()).await.unwrap();
    }
    let record = Recorder::new();
    let mut leaders = Election::observer(&behind(&store, record.clone()), "e").observe();
    assert_eq!(shown(&mut leaders).await, [some("0")]);
    assert_eq!(record.take().names(), "range range range watch");
    for n in 0..1_199 {
        store.delete(format!("e/{n}")).await.unwrap();
    }
    assert_eq!(shown(&mut leaders).await.last(), Some(&some("1199")));
}
