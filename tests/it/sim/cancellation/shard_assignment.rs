//! Cancellation cases of shard assignments, of members, and of what the owners of shards do.

use coord_core::Session;
use coord_core::error::LossReason;
use coord_core::kv::{Put, Txn};
use coord_core::recipes::{Shard, ShardAssignment, ShardMember, ShardOwners};
use tokio::time::sleep;

use super::queue::delete_later;
use super::trial::{Trial, close, session_of};
use super::{Case, drop_all};
use crate::support::{keys, secs};

#[test]
fn dropped_shard_calls_leave_all_shards_free() {
    drop_all(&cases());
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(&["ShardAssignment::join"], "no other member", join),
        Case::new(&["ShardMember::next"], "another member leaves", next),
        Case::new(&["ShardMember::leave"], "another member is present", leave),
        Case::new(&["Shard::txn"], "then released", shard_txn),
        Case::new(&["Shard::revoked"], "the member leaves", shard_revoked),
        Case::new(&["Shard::lost"], "the key is deleted", shard_lost),
        Case::new(&["Shard::run_while_held"], "the work takes a second", run_while_held),
        Case::new(&["Shard::release"], "the member has left", release),
        Case::new(&["ShardOwners::open"], "a shard is owned", open_owners),
        Case::new(&["ShardOwners::changed"], "a member joins", owners_changed),
    ]
}

/// One shard.
fn shards(session: &Session) -> ShardAssignment {
    ShardAssignment::new(session, "s", ["one"]).unwrap()
}

/// Joins, and owns the shard.
async fn owner(session: &Session) -> (ShardMember, Shard) {
    let mut member = shards(session).join("subject").await.unwrap();
    let shard = member.next().await.unwrap();
    (member, shard)
}

/// Checks that another member can own the shard: at once, and again when all messages have arrived.
/// Then no key is left, although the session still lives.
async fn shard_is_free(t: &Trial) {
    let session = session_of(&t.other).await;
    for _ in 0..2 {
        let mut member = t.proceeds(shards(&session).join("other")).await.unwrap();
        t.proceeds(member.next()).await.unwrap().release().await.unwrap();
        member.leave().await.unwrap();
        t.messages_arrive().await;
        assert_eq!(keys(t.other.client(), "s/").await, [""; 0], "keys are left");
    }
    session.close().await.unwrap();
}

async fn join(t: Trial) {
    let session = t.session().await;
    drop(t.drop_at_await(shards(&session).join("subject")).await);
    shard_is_free(&t).await;
    close(&session).await;
}

/// The shard is returned by a later call, if the dropped one has not returned it.
async fn next(t: Trial) {
    let holder = session_of(&t.holder).await;
    let (held, shard) = owner(&holder).await;
    let session = t.session().await;
    let mut member = shards(&session).join("next").await.unwrap();
    let left = t.holder.spawn(async move {
        sleep(secs(1)).await;
        held.leave().await.unwrap();
        shard.release().await.unwrap();
    });
    drop(t.drop_at_await(member.next()).await);
    left.await;
    t.continues(member.next()).await.unwrap().release().await.unwrap();
    holder.close().await.unwrap();
    member.leave().await.unwrap();
    t.messages_arrive().await;
    shard_is_free(&t).await;
    close(&session).await;
}

async fn leave(t: Trial) {
    let session = t.session().await;
    let (member, shard) = owner(&session).await;
    t.drop_at_await(member.leave()).await.transpose().unwrap();
    drop(shard);
    shard_is_free(&t).await;
    close(&session).await;
}

async fn shard_txn(t: Trial) {
    let session = t.session().await;
    let (member, shard) = owner(&session).await;
    let put = Txn::new().and_then([Put::new("data/n", "mine")]);
    t.drop_at_await(shard.txn(put)).await.transpose().unwrap();
    drop((member, shard));
    shard_is_free(&t).await;
    let written = t.other.client().get("data/n").await.unwrap();
    assert!(written.is_none_or(|kv| kv.version == 1), "applied at most once");
    close(&session).await;
}

async fn shard_revoked(t: Trial) {
    let session = t.session().await;
    let (member, shard) = owner(&session).await;
    let left = t.process.spawn(async move {
        sleep(secs(1)).await;
        drop(member);
    });
    t.drop_at_await(shard.revoked()).await;
    left.await;
    t.proceeds(shard.revoked()).await;
    drop(shard);
    shard_is_free(&t).await;
    close(&session).await;
}

async fn shard_lost(t: Trial) {
    let session = t.session().await;
    let (member, shard) = owner(&session).await;
    let deleted = delete_later(&t, shard.key());
    t.drop_at_await(shard.lost()).await;
    deleted.await;
    assert_eq!(t.proceeds(shard.lost()).await, LossReason::KeyDeleted, "when called again");
    drop((member, shard));
    shard_is_free(&t).await;
    close(&session).await;
}

async fn run_while_held(t: Trial) {
    let session = t.session().await;
    let (member, shard) = owner(&session).await;
    t.drop_at_await(shard.run_while_held(sleep(secs(1)))).await.transpose().unwrap();
    t.proceeds(shard.txn(Txn::new())).await.unwrap();
    drop((member, shard));
    shard_is_free(&t).await;
    close(&session).await;
}

async fn release(t: Trial) {
    let session = t.session().await;
    let (member, shard) = owner(&session).await;
    member.leave().await.unwrap();
    t.drop_at_await(shard.release()).await.transpose().unwrap();
    shard_is_free(&t).await;
    close(&session).await;
}

/// A dropped read changes nothing.
async fn open_owners(t: Trial) {
    let holder = session_of(&t.holder).await;
    let (member, shard) = owner(&holder).await;
    let opened = t.drop_at_await(ShardOwners::open(t.client(), "s")).await;
    if let Some(owners) = opened.transpose().unwrap() {
        assert_eq!(owners.owner("one").unwrap().member, "subject");
    }
    shard.release().await.unwrap();
    member.leave().await.unwrap();
    t.messages_arrive().await;
    shard_is_free(&t).await;
    holder.close().await.unwrap();
}

/// A dropped call misses no change.
async fn owners_changed(t: Trial) {
    let mut owners = ShardOwners::open(t.client(), "s").await.unwrap();
    let holder = session_of(&t.holder).await;
    let other = holder.clone();
    let joined = t.holder.spawn(async move {
        sleep(secs(1)).await;
        owner(&other).await
    });
    t.drop_at_await(owners.changed()).await.transpose().unwrap();
    let (member, shard) = joined.await;
    while owners.owner("one").is_none() {
        t.continues(owners.changed()).await.unwrap();
    }
    assert_eq!(owners.owner("one").unwrap().key, shard.key());
    shard.release().await.unwrap();
    member.leave().await.unwrap();
    t.messages_arrive().await;
    shard_is_free(&t).await;
    holder.close().await.unwrap();
}
