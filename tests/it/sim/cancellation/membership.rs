//! Cancellation cases of memberships.

use coord_core::Client;
use coord_core::recipes::Membership;
use tokio::time::sleep;

use super::client::read;
use super::trial::{Trial, close};
use super::{Case, drop_all};
use crate::support::{keys, secs};

#[test]
fn dropped_calls_of_a_membership_leave_no_member() {
    drop_all(&cases());
}

fn group(client: &Client) -> Membership<i64> {
    Membership::new(client, "g")
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(&["Membership::join"], "then another join", join),
        Case::new(&["MemberGuard::update"], "then another update", update),
        Case::new(&["MemberGuard::leave"], "", leave),
        Case::new(&["MemberGuard::lost"], "another client deletes the key", lost),
        Case::new(&["MemberGuard::run_while_held"], "another client deletes the key", run),
        Case::new(&["MemberGuard::txn"], "then another", txn),
        read(&["Membership::members"], |client| async move {
            group(&client).members().await.unwrap();
            Ok(())
        }),
        Case::new(&["Members::read"], "a member has joined", members_read),
        Case::new(&["Members::wait_for"], "a member joins after half a second", members_wait),
        Case::new(&["MemberEvents::next"], "a member joins after half a second", events_next),
    ]
}

async fn join(t: Trial) {
    let session = t.session().await;
    drop(t.drop_at_await(group(t.client()).join(&session, &1)).await);
    let second = t.continues(group(t.client()).join(&session, &2)).await.unwrap();
    t.messages_arrive().await;
    assert_eq!(keys(t.other.client(), "g").await.len(), 1, "only the second member");
    second.leave().await.unwrap();
    close(&session).await;
}

async fn update(t: Trial) {
    let session = t.session().await;
    let member = group(t.client()).join(&session, &1).await.unwrap();
    t.drop_at_await(member.update(&2)).await.transpose().unwrap();
    t.messages_arrive().await;
    let kv = t.other.client().get(member.key()).await.unwrap().unwrap();
    assert!(kv.value == "2" || (t.is_dropped() && kv.value == "1"), "{kv:?}");
    assert_eq!(kv.lease, Some(session.lease_id()));
    t.proceeds(member.update(&3)).await.unwrap();
    close(&session).await;
}

async fn leave(t: Trial) {
    let session = t.session().await;
    let member = group(t.client()).join(&session, &1).await.unwrap();
    t.drop_at_await(member.leave()).await.transpose().unwrap();
    t.messages_arrive().await;
    assert_eq!(keys(t.other.client(), "g").await, [""; 0], "left in the group");
    close(&session).await;
}

async fn lost(t: Trial) {
    let session = t.session().await;
    let member = group(t.client()).join(&session, &1).await.unwrap();
    remove_later(&t, member.key().clone());
    t.drop_at_await(member.lost()).await;
    t.messages_arrive().await;
    t.proceeds(member.lost()).await;
    close(&session).await;
}

async fn run(t: Trial) {
    let session = t.session().await;
    let member = group(t.client()).join(&session, &1).await.unwrap();
    remove_later(&t, member.key().clone());
    let endless = member.run_while_held(std::future::pending::<()>());
    assert!(t.drop_at_await(endless).await.is_none_or(|run| run.is_err()));
    t.messages_arrive().await;
    assert!(t.proceeds(member.run_while_held(std::future::pending::<()>())).await.is_err());
    close(&session).await;
}

/// Another client deletes a key after half a second.
fn remove_later(t: &Trial, key: bytes::Bytes) {
    let other = t.other.client().clone();
    drop(t.other.spawn(async move {
        sleep(secs(1) / 2).await;
        other.delete(key).await.unwrap();
    }));
}

async fn txn(t: Trial) {
    use coord_core::kv::{Put, Txn};
    let session = t.session().await;
    let member = group(t.client()).join(&session, &1).await.unwrap();
    let put = || Txn::new().and_then([Put::new("data/k", "1")]);
    t.drop_at_await(member.txn(put())).await.transpose().unwrap();
    t.messages_arrive().await;
    t.proceeds(member.txn(put())).await.unwrap();
    close(&session).await;
}

async fn members_read(t: Trial) {
    let members = group(t.client()).members().await.unwrap();
    let session = super::trial::session_of(&t.other).await;
    let member = group(t.other.client()).join(&session, &1).await.unwrap();
    let read = t.drop_at_await(members.read()).await.transpose().unwrap();
    assert!(read.is_none_or(|members| members.len() == 1));
    assert_eq!(t.continues(members.read()).await.unwrap().len(), 1);
    t.messages_arrive().await;
    drop(member);
    close(&session).await;
}

async fn members_wait(t: Trial) {
    let members = group(t.client()).members().await.unwrap();
    let session = super::trial::session_of(&t.other).await;
    let next = members.revision().next();
    let (other, own) = (t.other.client().clone(), session.clone());
    let join = t.other.spawn(async move {
        sleep(secs(1) / 2).await;
        let member = group(&other).join(&own, &1).await.unwrap();
        sleep(secs(100)).await;
        drop(member);
    });
    t.drop_at_await(members.wait_for(next)).await.transpose().unwrap();
    t.messages_arrive().await;
    assert_eq!(t.proceeds(members.wait_for(next)).await.unwrap().len(), 1);
    join.await;
    close(&session).await;
}

/// No event is lost, and none is yielded twice.
async fn events_next(t: Trial) {
    let mut events = group(t.client()).members().await.unwrap().events();
    let session = super::trial::session_of(&t.other).await;
    let (other, own) = (t.other.client().clone(), session.clone());
    let join = t.other.spawn(async move {
        sleep(secs(1) / 2).await;
        group(&other).join(&own, &1).await.unwrap().leave().await.unwrap();
    });
    let mut found = Vec::new();
    found.extend(t.drop_at_await(events.next()).await);
    join.await;
    t.messages_arrive().await;
    while found.len() < 2 {
        found.push(t.proceeds(events.next()).await);
    }
    let kinds: Vec<_> = found.into_iter().map(|event| event.unwrap().unwrap()).collect();
    assert_eq!(kinds[0].member().id(), kinds[1].member().id());
    close(&session).await;
}
