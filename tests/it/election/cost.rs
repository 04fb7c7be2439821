//! The cost of an election, in requests and watch events.

use std::time::Duration;

use coord_core::{Client, Election, Session};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder, Rule as _};
use tokio::time::sleep;

use super::{election, some, take_yielded};
use crate::support::{intercepted, secs, session_on, settle};
use crate::while_waiting::while_waiting_after;

/// An election, and the recorder of its requests.
async fn recorded_election(store: &Client) -> (Election, Recorder) {
    let recorder = Recorder::new();
    let session = session_on(intercepted(store, recorder.clone())).await;
    recorder.take();
    (Election::new(&session, "e"), recorder)
}

#[tokio::test(start_paused = true)]
async fn uncontended_election_calls_cost_one_request_each() {
    let (election, recorder) = recorded_election(&Client::new(MemBackend::new())).await;
    let leadership = election.campaign("a").await.unwrap();
    assert_eq!(recorder.take().names(), "txn", "campaign");
    leadership.proclaim("b").await.unwrap();
    assert_eq!(recorder.take().names(), "txn", "proclaim");
    leadership.proclaimer().proclaim("c").await.unwrap();
    assert_eq!(recorder.take().names(), "txn", "proclaimer");
    election.leader().await.unwrap().unwrap();
    assert_eq!(recorder.take().names(), "range", "leader");
    leadership.run_while_held(settle()).await.unwrap();
    assert_eq!(recorder.take().names(), "watch", "run_while_held");
    leadership.resign().await.unwrap();
    assert_eq!(recorder.take().names(), "txn", "resign");

    let candidate = election.enter("d").await.unwrap();
    assert_eq!(recorder.take().names(), "txn", "enter");
    candidate.withdraw().await.unwrap();
    assert_eq!(recorder.take().names(), "txn", "withdraw");
    drop(election.campaign("e").await.unwrap());
    settle().await;
    assert_eq!(recorder.take().names(), "txn txn", "campaign, and a drop costs the same as resign");
}

#[tokio::test(start_paused = true)]
async fn campaign_behind_others_costs_three_or_four_requests() {
    for writes_before_watch in [false, true] {
        let store = Client::new(MemBackend::new());
        let first = election(&store).await.campaign("first").await.unwrap();
        let others_election = election(&store).await;
        let mut others = Vec::new();
        for n in 0..10 {
            others.push(others_election.enter(n.to_string()).await.unwrap());
        }
        let recorder = Recorder::new();
        let watch_delay = Duration::from_millis(if writes_before_watch { 50 } else { 0 });
        let recording = recorder.clone();
        let rule = move |call: &Call| {
            recording.action(call);
            match call {
                Call::Watch(_) => Action::Delay(watch_delay),
                _ => Action::Pass,
            }
        };
        let session = session_on(intercepted(&store, rule)).await;
        recorder.take();
        let candidate = Election::new(&session, "e");
        let campaign = candidate.campaign("last");
        let (leadership, ()) = while_waiting_after(Duration::from_millis(20), campaign, async {
            store.put("other", "").await.unwrap();
            settle().await;
            let expected = if writes_before_watch { "txn watch range" } else { "txn watch" };
            assert_eq!(recorder.take().names(), expected);
            settle().await;
            // After a quarter of a second the candidate also watches its own key.
            assert_eq!(recorder.take().names(), "watch");
            first.resign().await.unwrap();
            let predecessor = others.pop().unwrap();
            for other in others {
                other.withdraw().await.unwrap();
            }
            settle().await;
            assert_eq!(recorder.take().names(), "", "only its predecessor wakes it");
            predecessor.withdraw().await.unwrap();
        })
        .await;
        // No earlier contender belongs to the candidate's client, so no release delivers the
        // position: the candidate reads it.
        assert_eq!(recorder.take().names(), "range");
        leadership.unwrap().resign().await.unwrap();
        assert_eq!(recorder.take().names(), "txn");
    }
}

#[tokio::test(start_paused = true)]
async fn leader_read_costs_two_requests_if_child_key_is_older() {
    let store = Client::new(MemBackend::new());
    let (election, recorder) = recorded_election(&store).await;
    let leadership = election.campaign("a").await.unwrap();
    let _child = Election::new(election.session(), "e/below").campaign("b").await.unwrap();
    recorder.take();
    election.leader().await.unwrap().unwrap();
    assert_eq!(recorder.take().names(), "range");
    leadership.resign().await.unwrap();
    recorder.take();
    // The only key belongs to the child name, and the response shows that there are no others.
    assert_eq!(election.leader().await.unwrap(), None);
    assert_eq!(recorder.take().names(), "range");
    let _leadership = election.campaign("a").await.unwrap();
    recorder.take();
    election.leader().await.unwrap().unwrap();
    assert_eq!(recorder.take().names(), "range range");
}

#[tokio::test(start_paused = true)]
async fn resume_costs_two_requests_or_one_without_candidate() {
    let store = Client::new(MemBackend::new());
    let owner = election(&store).await;
    let _orphaned = owner.campaign("a").await.unwrap();
    let lease = owner.session().orphan().await.unwrap();
    let recorder = Recorder::new();
    let builder = Session::builder(&intercepted(&store, recorder.clone()));
    let adopter = Election::new(&builder.lease(lease).open().await.unwrap(), "e");
    recorder.take();
    let candidate = adopter.resume().await.unwrap().unwrap();
    assert_eq!(recorder.take().names(), "range range");
    drop(candidate.elected().await.unwrap());
    assert_eq!(recorder.take().names(), "", "resume read that it is first");
    settle().await;
    assert_eq!(recorder.take().names(), "txn");
    assert!(adopter.resume().await.unwrap().is_none());
    assert_eq!(recorder.take().names(), "range");
}

/// An observer follows all contenders with one watch: a change costs it an event and no request.
#[tokio::test(start_paused = true)]
async fn observer_costs_a_read_a_watch_and_an_event_per_change() {
    let store = Client::new(MemBackend::new());
    let recorder = Recorder::new();
    let mut leaders = Election::observer(&intercepted(&store, recorder.clone()), "e").observe();
    assert_eq!(recorder.take().names(), "", "no request before the first poll");
    assert_eq!(take_yielded(&mut leaders).await, [None]);
    assert_eq!(recorder.take().names(), "range watch");

    let election = election(&store).await;
    let leadership = election.campaign("a").await.unwrap();
    assert_eq!(take_yielded(&mut leaders).await, [some("a")]);
    let mut candidates = Vec::new();
    for n in 0..20 {
        candidates.push(election.enter(n.to_string()).await.unwrap());
    }
    candidates.truncate(1);
    settle().await;
    assert_eq!(take_yielded(&mut leaders).await, []);
    assert_eq!(recorder.take_events(), 1 + 20 + 19);

    leadership.proclaim("b").await.unwrap();
    assert_eq!(take_yielded(&mut leaders).await, [some("b")]);
    leadership.resign().await.unwrap();
    assert_eq!(take_yielded(&mut leaders).await, [some("0")]);
    drop(candidates);
    assert_eq!(take_yielded(&mut leaders).await, [None]);
    assert_eq!((recorder.take().names().as_str(), recorder.take_events()), ("", 3));

    let _leadership = election.campaign("c").await.unwrap();
    assert_eq!(take_yielded(&mut leaders).await, [some("c")]);
    sleep(secs(1000)).await;
    assert_eq!(take_yielded(&mut leaders).await, []);
    let (calls, events) = (recorder.take().names(), recorder.take_events());
    assert_eq!((calls.as_str(), events), ("range", 1), "verified when it was polled again");
}

/// A queue is read in pages of 500, all at one revision.
#[tokio::test(start_paused = true)]
async fn observer_reads_a_long_queue_in_pages() {
    let store = Client::new(MemBackend::new());
    for n in 0..1_200 {
        store.put(format!("e/{n}"), n.to_string()).await.unwrap();
    }
    let recorder = Recorder::new();
    let mut leaders = Election::observer(&intercepted(&store, recorder.clone()), "e").observe();
    assert_eq!(take_yielded(&mut leaders).await, [some("0")]);
    assert_eq!(recorder.take().names(), "range range range watch");
    for n in 0..1_199 {
        store.delete(format!("e/{n}")).await.unwrap();
    }
    assert_eq!(take_yielded(&mut leaders).await.last(), Some(&some("1199")));
}
