//! A test of an observer on a real etcd with frequent changes of leadership.

use coord_core::Election;
use tokio::time::{Instant, timeout_at};

use crate::support::{client, secs, session, single_member};

/// Regression: the observer opened a watch that started at an older revision for each change of
/// leadership. etcd serves such a watch from a loop with a period of 100 ms, so the observer was
/// 10 s late after 100 changes.
#[tokio::test]
async fn observer_keeps_up_with_fast_changes() {
    let cluster = single_member().await;
    let (kv, other) = (client(&cluster.endpoints()).await, client(&cluster.endpoints()).await);
    let mut leaders = Election::observer(&other, "e").observe();
    assert_eq!(leaders.next().await.unwrap().unwrap(), None);
    let owner = session(&kv, 60).await;
    let election = Election::new(&owner, "e");
    for n in 0..100 {
        election.campaign(n.to_string()).await.unwrap().resign().await.unwrap();
    }
    let deadline = Instant::now() + secs(3);
    let mut observed = Vec::new();
    while observed.len() < 200 {
        let next = timeout_at(deadline, leaders.next()).await;
        let leader = next.expect("the observer is more than 3 s late").unwrap().unwrap();
        observed.push(leader.map(|leader| leader.value().escape_ascii().to_string()));
    }
    for (n, pair) in observed.chunks(2).enumerate() {
        assert_eq!(pair, [Some(n.to_string()), None], "every leader, in order");
    }
    assert_eq!(leaders.gap(), None);
}
