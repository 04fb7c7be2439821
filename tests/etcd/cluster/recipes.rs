//! Tests of recipes on a real etcd, where the behaviour of the store matters.

use coord_core::Mutex;
use coord_core::recipes::{
    Barrier, DoubleBarrier, DoubleBarrierError, Latch, LatchError, MultiLock, RateLimiter,
    RateLimiterError, ShardAssignment, ShardOwners,
};
use futures_util::future::{join_all, try_join_all};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::support::{
    assert_waits, client, secs, session, single_member, wait_for_queue_length, within,
};

/// etcd returns keys of one create revision in no particular order, and a name and its child names
/// have such keys.
#[tokio::test]
async fn multi_lock_of_child_names_finds_its_keys() {
    let cluster = single_member().await;
    let (kv, other) = (client(&cluster.endpoints()).await, client(&cluster.endpoints()).await);
    let (owner, other) = (session(&kv, 60).await, session(&other, 60).await);
    let names = ["p/a", "p/b", "p/c", "p/d", "p", "p/e", "p/f", "p/g"];
    let all = MultiLock::new(&owner, names).unwrap();

    for round in 0..10 {
        let holder = Mutex::new(&other, names[round % names.len()]).lock().await.unwrap();
        let mut waiting = Box::pin(all.lock());
        assert_waits(&mut waiting, &kv, "p", names.len() + 1).await;
        holder.unlock().await.unwrap();
        let guard = within(secs(10), waiting).await.unwrap();
        let behind = Mutex::new(&other, "p");
        let mut behind = Box::pin(behind.lock());
        assert_waits(&mut behind, &kv, "p", names.len() + 1).await;
        guard.unlock().await.unwrap();
        within(secs(10), behind).await.unwrap().unlock().await.unwrap();
        wait_for_queue_length(&kv, "p", 0).await;
    }
}

/// Go's `TestDoubleBarrier` and `TestDoubleBarrierFailover`: each party has a client of its own.
#[tokio::test]
async fn double_barrier_parties_meet_until_one_is_lost() {
    let cluster = single_member().await;
    let mut sessions = Vec::new();
    for _ in 0..5 {
        sessions.push(session(&client(&cluster.endpoints()).await, 60).await);
    }
    let barriers: Vec<_> =
        sessions.iter().map(|session| DoubleBarrier::new(session, "b", 5).unwrap()).collect();
    for round in 1..=3 {
        let entering = try_join_all(barriers.iter().map(|barrier| barrier.enter(round)));
        let mut inside = within(secs(10), entering).await.unwrap();
        if round == 3 {
            let lost = inside.pop().unwrap();
            sessions[4].close().await.unwrap();
            let leaving = inside.into_iter().map(|inside| inside.leave());
            for left in within(secs(10), join_all(leaving)).await {
                let Err(DoubleBarrierError::ParticipantLost { key, .. }) = left else {
                    panic!("{left:?}, but {lost:?} was lost");
                };
                assert_eq!(&key, lost.key());
            }
            break;
        }
        let leaving = try_join_all(inside.into_iter().map(|inside| inside.leave()));
        within(secs(10), leaving).await.unwrap();
    }
    wait_for_queue_length(&client(&cluster.endpoints()).await, "b", 1).await;
}

/// Go's `TestBarrierMultiNode`, without its limit of half a second, which the test on virtual time
/// has.
#[tokio::test]
async fn barrier_waiters_pass_after_the_release() {
    let cluster = single_member().await;
    let kv = client(&cluster.endpoints()).await;
    let holder = session(&kv, 60).await;
    let held = Barrier::new(&kv, "b").hold(&holder).await.unwrap().expect("it is free");
    let mut waiting = JoinSet::new();
    for _ in 0..5 {
        let barrier = Barrier::new(&client(&cluster.endpoints()).await, "b");
        waiting.spawn(async move { barrier.wait().await.unwrap() });
    }
    sleep(secs(1)).await;
    assert!(waiting.try_join_next().is_none(), "a waiter has passed");
    held.release().await.unwrap();
    within(secs(10), waiting.join_all()).await;
}

/// The transaction of a participant compares the values of a range, in a nested transaction.
#[tokio::test]
async fn latch_counts_each_participant_once() {
    let cluster = single_member().await;
    let kv = client(&cluster.endpoints()).await;
    let latch = Latch::new(&kv, "l", 3).unwrap();
    let waiting = Latch::new(&client(&cluster.endpoints()).await, "l", 3).unwrap();
    let mut passed = JoinSet::new();
    passed.spawn(async move { waiting.wait().await });
    for (participant, missing) in [("a", 2), ("a", 2), ("b", 1)] {
        assert_eq!(latch.count_down(participant).await.unwrap(), missing);
    }
    let other = Latch::new(&kv, "l", 4).unwrap().count_down("c").await;
    assert!(matches!(other, Err(LatchError::CountsDisagree { given: 4, .. })));
    assert!(passed.try_join_next().is_none(), "the waiter has passed");
    assert_eq!(latch.count_down("c").await.unwrap(), 0);
    within(secs(10), passed.join_next()).await.unwrap().unwrap().unwrap();
}

/// Two members spend what they can, in real time. Then one is cut off by the end of its session,
/// and the other acquires its slice.
#[tokio::test]
async fn rate_limiter_members_spend_at_most_the_budget() {
    let cluster = single_member().await;
    let mut limiters = Vec::new();
    for _ in 0..2 {
        let session = session(&client(&cluster.endpoints()).await, 60).await;
        limiters.push(RateLimiter::new(&session, "r", 200));
    }
    let different =
        RateLimiter::new(&session(&client(&cluster.endpoints()).await, 60).await, "r", 9);
    let start = Instant::now();
    let spend = async |limiter: &RateLimiter| {
        let slice = limiter.acquire_slice(100).await.unwrap();
        let (mut units, mut last) = (0, Instant::now());
        while start.elapsed() < secs(2) {
            slice.acquire(1).await.unwrap();
            (units, last) = (units + 1, Instant::now());
        }
        (slice, units, last)
    };
    let both = async { tokio::join!(spend(&limiters[0]), spend(&limiters[1])) };
    let ((first, units, last), (_second, other_units, other_last)) = within(secs(10), both).await;
    let elapsed = last.max(other_last) - start;
    assert!((units + other_units) * 5_000_000 <= elapsed.as_nanos(), "{units}, {other_units}");
    assert!(units > 0 && other_units > 0, "{units}, {other_units}");

    let differs = different.try_acquire_slice(1).await.unwrap_err();
    assert!(matches!(differs, RateLimiterError::BudgetDiffers { stored: 200, given: 9, .. }));
    let waiting = async { limiters[1].acquire_slice(100).await.unwrap() };
    let close = async {
        sleep(secs(1)).await;
        first.session().close().await.unwrap();
    };
    let (third, ()) = within(secs(10), async { tokio::join!(waiting, close) }).await;
    assert!(first.try_acquire(1).is_err(), "the slice of a closed session is lost");
    within(secs(10), third.acquire(1)).await.unwrap();
}

/// A member joins, and then the first one vanishes: its lease is revoked.
#[tokio::test]
async fn shards_move_to_the_members_that_are_present() {
    let cluster = single_member().await;
    let shards = (0..10).map(|shard| shard.to_string());
    let mut members = Vec::new();
    let mut owners = ShardOwners::open(&client(&cluster.endpoints()).await, "s").await.unwrap();
    for name in ["a", "b"] {
        let session = session(&client(&cluster.endpoints()).await, 60).await;
        let assignment = ShardAssignment::new(&session, "s", shards.clone()).unwrap();
        let mut member = assignment.join(name).await.unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut working = JoinSet::new();
            while let Ok(shard) = member.next().await {
                working.spawn(async move { shard.revoked().await });
            }
            working.join_all().await;
        });
        members.push((session, serving));
        let count = |owners: &ShardOwners| {
            let all = owners.all();
            let own = all.iter().filter(|(_, owner)| owner.member == name).count();
            (all.len(), own)
        };
        within(secs(10), async {
            // The second member gets 7 at most, and leaves as many to the first.
            while !matches!(count(&owners), (10, 3..=10)) {
                owners.changed().await.unwrap();
            }
        })
        .await;
    }
    let (first, mut serving) = members.remove(0);
    client(&cluster.endpoints()).await.lease_revoke(first.lease_id()).await.unwrap();
    within(secs(10), serving.join_next()).await.unwrap().unwrap();
    within(secs(10), async {
        while owners.all().iter().filter(|(_, owner)| owner.member == "b").count() < 10 {
            owners.changed().await.unwrap();
        }
    })
    .await;
}
