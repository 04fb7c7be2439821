//! Tests of recipes on a real etcd, where the behaviour of the store matters.

use std::num::NonZeroU32;

use coord_core::Mutex;
use coord_core::recipes::{
    Barrier, Counter, DoubleBarrier, DoubleBarrierError, Latch, LatchError, Message, MessageQueue,
    MultiLock, RateLimiter, RateLimiterError, Semaphore, ShardAssignment, ShardOwners,
    StripedCounter,
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

/// Two members spend what they can, in real time. Then the session of one is closed, and the other
/// acquires a slice of the same rate.
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

/// Go's `TestQueueManyReaderManyWriter`, and the order: etcd decides which put is first.
#[tokio::test]
async fn message_queue_takers_take_each_message_once_and_in_order() {
    let cluster = single_member().await;
    let mut queues = Vec::new();
    for _ in 0..3 {
        let session = session(&client(&cluster.endpoints()).await, 60).await;
        queues.push(MessageQueue::new(&session, "q"));
    }
    let produce = queues.iter().map(async |queue| {
        for n in 0..100_u16 {
            let message = Message::new(n.to_string()).priority(n % 2);
            queue.put(message).await.unwrap();
        }
    });
    let consume = queues.iter().map(async |queue| {
        let mut taken = Vec::new();
        for _ in 0..100 {
            let delivery = queue.take().await.unwrap();
            taken.push(delivery.put_revision());
            delivery.acknowledge().await.unwrap();
        }
        taken
    });
    let (taken, _) =
        within(secs(60), async { tokio::join!(join_all(consume), join_all(produce)) }).await;
    let mut taken = taken.concat();
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), 300, "each message once");

    for n in 0..300_u16 {
        let message = Message::new(n.to_string()).priority(n % 2);
        queues[usize::from(n) % 3].put(message).await.unwrap();
    }
    let mut last = (0, 0.into());
    for _ in 0..300 {
        let message = queues[0].take_at_most_once().await.unwrap();
        let next = (message.priority, message.put_revision);
        assert!(next > last, "{next:?} after {last:?}");
        last = next;
    }
    let counts = queues[0].counts().await.unwrap();
    assert_eq!((counts.ready, counts.claimed, counts.dead), (0, 0, 0));
}

/// etcd deletes the claims of a taker that has ended, and of a delay that has passed.
#[tokio::test]
async fn message_queue_delivers_after_a_lost_session_and_a_delay() {
    let cluster = single_member().await;
    let kv = client(&cluster.endpoints()).await;
    let (lost, kept) = (session(&kv, 60).await, session(&kv, 60).await);
    let attempts = NonZeroU32::new(2).unwrap();
    let queue = MessageQueue::new(&kept, "q").max_attempts(attempts);
    queue.put_all([Message::new("a"), Message::new("late").delay(secs(2))]).await.unwrap();

    let delivery = MessageQueue::new(&lost, "q").take().await.unwrap();
    assert_eq!(delivery.payload(), "a");
    let mut waiting = Box::pin(queue.take());
    assert_waits(&mut waiting, &kv, "q/takers", 1).await;
    lost.close().await.unwrap();
    let again = within(secs(10), waiting).await.unwrap();
    assert_eq!((&again.payload()[..], again.attempts()), (&b"a"[..], 2));
    assert!(delivery.acknowledge().await.unwrap_err().loss().is_some());
    again.release().await.unwrap();

    let late = within(secs(30), queue.take()).await.unwrap();
    assert_eq!(late.payload(), "late", "the other is a dead letter");
    late.release_after(secs(2)).await.unwrap();
    let late = within(secs(30), queue.take()).await.unwrap();
    assert_eq!((&late.payload()[..], late.attempts()), (&b"late"[..], 2));
    late.acknowledge().await.unwrap();
    let dead = queue.dead_letters(10).await.unwrap();
    assert_eq!((&dead[0].payload[..], dead[0].attempts), (&b"a"[..], 2));
    assert!(queue.put_back(&dead[0]).await.unwrap());
    assert_eq!(within(secs(10), queue.take_at_most_once()).await.unwrap().payload, "a");
}

/// Each contender has a client of its own. Waiters are admitted by the event of the limit's key, by
/// a release, and by the end of a lease.
#[tokio::test]
async fn semaphore_waiters_are_admitted_by_every_kind_of_event() {
    let cluster = single_member().await;
    let mut sessions = Vec::new();
    for _ in 0..5 {
        sessions.push(session(&client(&cluster.endpoints()).await, 60).await);
    }
    let kv = client(&cluster.endpoints()).await;
    let semaphores: Vec<_> =
        sessions.iter().map(|session| Semaphore::new(session, "s", 2)).collect();
    let first = semaphores[0].acquire(1).await.unwrap();
    let _second = semaphores[1].acquire(1).await.unwrap();
    assert!(semaphores[2].try_acquire(1).await.unwrap().is_none());

    let mut third = Box::pin(semaphores[2].acquire(1));
    assert_waits(&mut third, &kv, "s/permits", 3).await;
    Semaphore::new(&sessions[0], "s", 2).set_limit(3).await.unwrap();
    let _third = within(secs(10), third).await.unwrap();
    let waiting = [3, 4].map(|n| Semaphore::new(&sessions[n], "s", 3));
    let mut fourth = Box::pin(waiting[0].acquire(1));
    assert_waits(&mut fourth, &kv, "s/permits", 4).await;
    first.release().await.unwrap();
    let fourth = within(secs(10), fourth).await.unwrap();
    let mut wide = Box::pin(waiting[1].acquire(2));
    assert_waits(&mut wide, &kv, "s/permits", 4).await;
    kv.lease_revoke(sessions[1].lease_id()).await.unwrap();
    fourth.release().await.unwrap();
    within(secs(10), wide).await.unwrap().release().await.unwrap();
    assert_eq!(waiting[0].available().await.unwrap(), 2);
}

/// Additions of several clients, each to the same key, and to stripes.
#[tokio::test]
async fn counter_counts_the_additions_of_all_clients() {
    const CLIENTS: usize = 4;
    const ADDITIONS: usize = 20;
    let cluster = single_member().await;
    let mut adding = JoinSet::new();
    for _ in 0..CLIENTS {
        let kv = client(&cluster.endpoints()).await;
        let owner = session(&kv, 60).await;
        let exact = Counter::new(&kv, "exact").exactly_once(&owner);
        let striped = StripedCounter::new(&kv, "striped", 3).unwrap().exactly_once(&owner);
        adding.spawn(async move {
            let mut values = Vec::new();
            for _ in 0..ADDITIONS {
                values.push(exact.add(1).await.unwrap());
                striped.add(2).await.unwrap();
            }
            owner.close().await.unwrap();
            values
        });
    }
    let mut values = within(secs(60), adding.join_all()).await.concat();
    values.sort_unstable();
    let all = i64::try_from(CLIENTS * ADDITIONS).unwrap();
    assert_eq!(values, (1..=all).collect::<Vec<_>>(), "each addition returns its own value");
    let kv = client(&cluster.endpoints()).await;
    assert_eq!(Counter::new(&kv, "exact").get().await.unwrap(), all);
    assert_eq!(StripedCounter::new(&kv, "striped", 3).unwrap().get().await.unwrap(), 2 * all);
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
            // Each of two members owns 7 at most, so the second owns 3 at least.
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
