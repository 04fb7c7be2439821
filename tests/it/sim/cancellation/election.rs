//! Cancellation cases of elections: candidates, leaders and observers.

use std::time::Duration;

use bytes::Bytes;
use coord_core::election::{Candidate, Leader, Leadership};
use coord_core::error::LossReason;
use coord_core::kv::{Put, Txn};
use coord_core::{Election, Session};
use coord_testkit::sim::ProcessTask;
use tokio::time::sleep;

use super::queue::delete_later;
use super::trial::{LATENESS, TTL, Trial, close, session_of};
use super::{Case, drop_all};
use crate::support::secs;

#[test]
fn dropped_election_calls_leave_no_candidate() {
    drop_all(&cases());
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(&["Election::campaign"], "there is no leader", campaign),
        Case::new(&["Election::campaign"], "behind a leader", campaign_waiting),
        Case::new(&["Election::enter"], "there is no leader", enter),
        Case::new(&["Election::resume"], "on an adopted lease", resume),
        Case::new(&["Election::leader", "Observer::leader"], "a child name has a leader", leader),
        Case::new(&["Leaders::next"], "a leader is elected", leaders_next),
        Case::new(&["Candidate::elected"], "behind a leader", elected),
        Case::new(&["Candidate::withdraw"], "behind a leader", withdraw),
        Case::new(&["Candidate::lost"], "the key is deleted", candidate_lost),
        Case::new(&["Candidate::proclaim"], "then withdrawn", candidate_proclaim),
        Case::new(&["Proclaimer::proclaim"], "then withdrawn", proclaimer_proclaim),
        Case::new(&["Leadership::proclaim"], "then resigned", leadership_proclaim),
        Case::new(&["Leadership::txn"], "then resigned", leadership_txn),
        Case::new(&["Leadership::lost"], "the key is deleted", leadership_lost),
        Case::new(&["Leadership::run_while_held"], "the work takes a second", run_while_held),
        Case::new(&["Leadership::resign"], "a candidate waits", resign),
    ]
}

async fn lead(session: &Session) -> Leadership {
    Election::new(session, "e").campaign("mine").await.unwrap()
}

async fn stand(session: &Session) -> Candidate {
    Election::new(session, "e").enter("mine").await.unwrap()
}

/// Checks that another process is elected, now and when all messages have arrived, and that then
/// no candidate is left.
async fn others_are_elected(t: &Trial) {
    let session = session_of(&t.other).await;
    let elected = t.proceeds(Election::new(&session, "e").campaign("other")).await.unwrap();
    let observed = Election::observer(t.holder.client(), "e").leader().await.unwrap().unwrap();
    assert_eq!(observed.fencing_token(), elected.fencing_token(), "one leader");
    elected.resign().await.unwrap();
    session.close().await.unwrap();
    t.queue_is_free("e").await;
}

/// A leader of another process, which resigns after some time.
async fn resigns_after(t: &Trial, time: Duration) -> ProcessTask<()> {
    let holder = session_of(&t.holder).await;
    let leadership = lead(&holder).await;
    t.holder.spawn(async move {
        sleep(time).await;
        leadership.resign().await.unwrap();
        holder.close().await.unwrap();
    })
}

async fn campaign(t: Trial) {
    let session = t.session().await;
    drop(t.drop_at_await(Election::new(&session, "e").campaign("mine")).await);
    others_are_elected(&t).await;
    close(&session).await;
}

async fn campaign_waiting(t: Trial) {
    let resigned = resigns_after(&t, secs(1)).await;
    let session = t.session().await;
    drop(t.drop_at_await(Election::new(&session, "e").campaign("mine")).await);
    resigned.await;
    others_are_elected(&t).await;
    close(&session).await;
}

async fn enter(t: Trial) {
    let session = t.session().await;
    drop(t.drop_at_await(Election::new(&session, "e").enter("mine")).await);
    others_are_elected(&t).await;
    close(&session).await;
}

/// A dropped call changes nothing: the leader can still be resumed.
async fn resume(t: Trial) {
    let former = session_of(&t.holder).await;
    let left = lead(&former).await;
    let lease = former.orphan().await.unwrap();
    let adopter = Session::builder(t.client()).ttl(TTL).lease(lease).open().await.unwrap();
    let election = Election::new(&adopter, "e");
    let resumed = t.drop_at_await(election.resume()).await;
    t.messages_arrive().await;
    let resumed = match resumed {
        Some(resumed) => resumed,
        None => t.proceeds(election.resume()).await,
    };
    let leadership = resumed.unwrap().unwrap().elected().await.unwrap();
    assert_eq!(leadership.fencing_token(), left.fencing_token());
    leadership.resign().await.unwrap();
    others_are_elected(&t).await;
    close(&adopter).await;
}

/// `Election::leader` is `Observer::leader` on the client of the session.
async fn leader(t: Trial) {
    let holder = session_of(&t.holder).await;
    let child = Election::new(&holder, "e/below").campaign("below").await.unwrap();
    let leadership = lead(&holder).await;
    let session = t.session().await;
    let election = Election::new(&session, "e");
    t.drop_at_await(election.leader()).await.transpose().unwrap();
    let read = t.proceeds(election.leader()).await.unwrap().unwrap();
    assert_eq!(read.fencing_token(), leadership.fencing_token());
    for leadership in [child, leadership] {
        leadership.resign().await.unwrap();
    }
    holder.close().await.unwrap();
    others_are_elected(&t).await;
    close(&session).await;
}

/// No leader is missed, and none is yielded twice.
async fn leaders_next(t: Trial) {
    let mut leaders = Election::observer(t.client(), "e").observe();
    // Not before the first item: late messages have arrived by then.
    let resigned = resigns_after(&t, LATENESS + TTL).await;
    let value = |item: Option<coord_core::Result<Option<Leader>>>| {
        item.unwrap().unwrap().map(|leader| leader.value().clone())
    };
    let mut values = Vec::new();
    // The leader, then none: the drop point is before or after the first item.
    let both = async {
        values.push(value(leaders.next().await));
        values.push(value(leaders.next().await));
    };
    t.drop_at_await(both).await;
    if values.is_empty() {
        values.push(value(t.continues(leaders.next()).await));
    }
    resigned.await;
    if values.len() < 2 {
        values.push(value(t.continues(leaders.next()).await));
    }
    assert_eq!(values, [Some(Bytes::from("mine")), None]);
    others_are_elected(&t).await;
}

async fn elected(t: Trial) {
    let resigned = resigns_after(&t, secs(1)).await;
    let session = t.session().await;
    let candidate = stand(&session).await;
    drop(t.drop_at_await(candidate.elected()).await);
    resigned.await;
    others_are_elected(&t).await;
    close(&session).await;
}

async fn withdraw(t: Trial) {
    let resigned = resigns_after(&t, secs(1)).await;
    let session = t.session().await;
    let candidate = stand(&session).await;
    t.drop_at_await(candidate.withdraw()).await.transpose().unwrap();
    resigned.await;
    others_are_elected(&t).await;
    close(&session).await;
}

async fn candidate_lost(t: Trial) {
    let session = t.session().await;
    let candidate = stand(&session).await;
    let deleted = delete_later(&t, candidate.key());
    t.drop_at_await(candidate.lost()).await;
    deleted.await;
    assert_eq!(t.proceeds(candidate.lost()).await, LossReason::KeyDeleted, "when called again");
    others_are_elected(&t).await;
    drop(candidate);
    close(&session).await;
}

/// A late request is rejected after the withdrawal, so that it does not create the key again.
async fn candidate_proclaim(t: Trial) {
    let session = t.session().await;
    let candidate = stand(&session).await;
    t.drop_at_await(candidate.proclaim("changed")).await.transpose().unwrap();
    candidate.withdraw().await.unwrap();
    others_are_elected(&t).await;
    close(&session).await;
}

async fn proclaimer_proclaim(t: Trial) {
    let session = t.session().await;
    let candidate = stand(&session).await;
    let proclaimer = candidate.proclaimer();
    t.drop_at_await(proclaimer.proclaim("changed")).await.transpose().unwrap();
    candidate.withdraw().await.unwrap();
    let late = t.proceeds(proclaimer.proclaim("late")).await.unwrap_err();
    assert_eq!(late.loss(), Some(LossReason::KeyDeleted), "withdrawn");
    others_are_elected(&t).await;
    close(&session).await;
}

async fn leadership_proclaim(t: Trial) {
    let session = t.session().await;
    let leadership = lead(&session).await;
    t.drop_at_await(leadership.proclaim("changed")).await.transpose().unwrap();
    leadership.resign().await.unwrap();
    others_are_elected(&t).await;
    close(&session).await;
}

/// A request that arrives after the resignation is rejected: the next leader's value stays.
async fn leadership_txn(t: Trial) {
    let session = t.session().await;
    let leadership = lead(&session).await;
    let put = |value| Txn::new().and_then([Put::new("data/n", value)]);
    t.drop_at_await(leadership.txn(put("mine"))).await.transpose().unwrap();
    leadership.resign().await.unwrap();
    let other = session_of(&t.other).await;
    let next = t.proceeds(Election::new(&other, "e").campaign("next")).await.unwrap();
    next.txn(put("next")).await.unwrap();
    t.messages_arrive().await;
    let written = other.client().get("data/n").await.unwrap().unwrap();
    assert_eq!(written.value, "next");
    assert!(written.version <= 2, "applied {} times", written.version - 1);
    next.resign().await.unwrap();
    other.close().await.unwrap();
    others_are_elected(&t).await;
    close(&session).await;
}

async fn leadership_lost(t: Trial) {
    let session = t.session().await;
    let leadership = lead(&session).await;
    let deleted = delete_later(&t, leadership.key());
    t.drop_at_await(leadership.lost()).await;
    deleted.await;
    assert_eq!(t.proceeds(leadership.lost()).await, LossReason::KeyDeleted, "when called again");
    others_are_elected(&t).await;
    drop(leadership);
    close(&session).await;
}

/// The work is dropped, and the leader still leads.
async fn run_while_held(t: Trial) {
    let session = t.session().await;
    let leadership = lead(&session).await;
    t.drop_at_await(leadership.run_while_held(sleep(secs(1)))).await.transpose().unwrap();
    t.proceeds(leadership.proclaim("still leading")).await.unwrap();
    leadership.resign().await.unwrap();
    others_are_elected(&t).await;
    close(&session).await;
}

async fn resign(t: Trial) {
    let session = t.session().await;
    let leadership = lead(&session).await;
    let other = session_of(&t.other).await;
    let candidate = stand(&other).await;
    t.drop_at_await(leadership.resign()).await.transpose().unwrap();
    t.proceeds(candidate.elected()).await.unwrap().resign().await.unwrap();
    other.close().await.unwrap();
    others_are_elected(&t).await;
    close(&session).await;
}
