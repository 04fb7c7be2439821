//! Tests of recipes on a real etcd, where the behaviour of the store matters.

use coord_core::Mutex;
use coord_core::recipes::{DoubleBarrier, DoubleBarrierError, MultiLock};
use futures_util::future::{join_all, try_join_all};

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
