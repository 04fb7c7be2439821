//! Proclamations: the value of a candidate or leader, and the proclaimer that changes it.

use coord_core::{Client, error::LossReason};
use coord_mem::MemBackend;

use super::{election, leader, observe, some, take_yielded};
use crate::support::{keys, settle};

#[tokio::test(start_paused = true)]
async fn candidate_value_is_visible_only_once_it_leads() {
    let store = Client::new(MemBackend::new());
    let first = election(&store).await.campaign("first").await.unwrap();
    let mut leaders = observe(&store);
    let second = election(&store).await.enter("starting").await.unwrap();
    assert_eq!(take_yielded(&mut leaders).await, [some("first")]);
    second.proclaim("ready").await.unwrap();
    assert_eq!(leader(&store).await, some("first"));
    assert_eq!(take_yielded(&mut leaders).await, []);
    let token = second.fencing_token();
    first.resign().await.unwrap();
    let second = second.elected().await.unwrap();
    assert_eq!(second.fencing_token(), token, "the token of the candidate");
    assert_eq!(take_yielded(&mut leaders).await, [some("ready")], "only its latest value");
}

#[tokio::test(start_paused = true)]
async fn proclaimer_works_from_enqueue_to_resignation() {
    let store = Client::new(MemBackend::new());
    let first = election(&store).await.campaign("first").await.unwrap();
    let candidate = election(&store).await.enter("waiting").await.unwrap();
    let proclaimer = candidate.proclaimer();
    proclaimer.proclaim("still waiting").await.unwrap();
    first.resign().await.unwrap();
    let leadership = candidate.elected().await.unwrap();
    assert_eq!(leader(&store).await, some("still waiting"));
    proclaimer.clone().proclaim("leading").await.unwrap();
    assert_eq!(leader(&store).await, some("leading"));
    leadership.proclaimer().proclaim("leading on").await.unwrap();
    assert_eq!(leader(&store).await, some("leading on"));
    leadership.resign().await.unwrap();
    let late = proclaimer.proclaim("late").await.unwrap_err();
    assert_eq!(late.loss(), Some(LossReason::KeyDeleted));
    assert_eq!(keys(&store, "e/").await, [""; 0], "the late proclamation puts no key");
}

/// A session reuses a key after its deletion was confirmed. The new key has another create
/// revision, so a proclaimer of the former term does not change it.
#[tokio::test(start_paused = true)]
async fn proclaimer_of_former_term_is_lost_when_key_is_reused() {
    let store = Client::new(MemBackend::new());
    let election = election(&store).await;
    let former = election.campaign("former").await.unwrap();
    let (proclaimer, key) = (former.proclaimer(), former.key().clone());
    former.resign().await.unwrap();
    let leadership = election.campaign("current").await.unwrap();
    assert_eq!(leadership.key(), &key);
    assert!(proclaimer.proclaim("late").await.unwrap_err().loss().is_some());
    assert_eq!(leader(&store).await, some("current"));
}

#[tokio::test(start_paused = true)]
async fn proclaimer_does_not_keep_its_leadership() {
    let store = Client::new(MemBackend::new());
    let leadership = election(&store).await.campaign("a").await.unwrap();
    let proclaimer = leadership.proclaimer();
    drop(leadership);
    settle().await;
    assert_eq!(keys(&store, "e/").await, [""; 0]);
    assert!(proclaimer.proclaim("b").await.unwrap_err().loss().is_some());
}
