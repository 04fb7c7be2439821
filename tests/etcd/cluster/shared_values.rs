//! Shared values and counters on a real etcd: a watch across a compaction and a restart, and
//! additions that conflict.

use coord_core::kv::Compact;
use coord_core::recipes::{Counter, SharedValue, StripedCounter};
use coord_core::{Client, Session};

use crate::support::{client, secs, session, single_member, within};

/// The member is restarted, and the history is compacted, while the stream is open.
#[tokio::test]
async fn stream_of_values_survives_compaction_and_restart() {
    let mut cluster = single_member().await;
    let (kv, other) = (client(&cluster.endpoints()).await, client(&cluster.endpoints()).await);
    let (value, watched) = (SharedValue::new(&kv, "v"), SharedValue::<i64>::new(&other, "v"));
    let mut values = watched.watch();
    assert_eq!(within(secs(20), values.next()).await.unwrap().unwrap(), None);
    for n in 1..=50 {
        let revision = value.set(&n).await.unwrap();
        assert_eq!(within(secs(20), values.next()).await.unwrap().unwrap(), Some(n));
        if n % 10 == 0 {
            kv.compact(Compact::new(revision)).await.unwrap();
        }
    }
    let member = cluster.members_mut().next().unwrap();
    member.kill();
    member.start();
    member.wait_until_ready().await;
    let set = async || {
        while value.set(&51).await.is_err() {}
    };
    within(secs(60), set()).await;
    assert_eq!(within(secs(60), values.next()).await.unwrap().unwrap(), Some(51));
    assert_eq!(values.gap(), None);
}

async fn add(client: Client, session: Session) {
    let exact = Counter::new(&client, "exact").exactly_once(&session);
    let striped = StripedCounter::new(&client, "striped", 8).unwrap().exactly_once(&session);
    for _ in 0..20 {
        exact.add(1).await.unwrap();
        striped.add(1).await.unwrap();
    }
}

#[tokio::test]
async fn counters_count_the_additions_of_all_clients() {
    let cluster = single_member().await;
    let kv = client(&cluster.endpoints()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let own = client(&cluster.endpoints()).await;
        let session = session(&own, 60).await;
        tasks.spawn(add(own, session));
    }
    within(secs(60), tasks.join_all()).await;
    assert_eq!(Counter::new(&kv, "exact").get().await.unwrap(), 160);
    assert_eq!(StripedCounter::new(&kv, "striped", 1).unwrap().get().await.unwrap(), 160);
}
