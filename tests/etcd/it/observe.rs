//! An observer on a real etcd, where leadership changes often.

use coord_core::Election;
use tokio::time::{Instant, timeout_at};

use crate::support::{client, secs, session, single};

/// Each change of leadership opened a watch in the past, which etcd serves from a loop that ticks
/// every 100 ms: after 100 changes the observer was ten seconds behind.
#[tokio::test]
async fn observer_keeps_up_with_fast_changes() {
    let cluster = single().await;
    let (kv, other) = (client(&cluster.endpoints()).await, client(&cluster.endpoints()).await);
    let mut leaders = Election::observer(&other, "e").observe();
    assert_eq!(leaders.next().await.unwrap().unwrap(), None);
    let owner = session(&kv, 60).await;
    let election = Election::new(&owner, "e");
    for n in 0..100 {
        election.campaign(n.to_string()).await.unwrap().resign().await.unwrap();
    }
    let deadline = Instant::now() + secs(3);
    let mut shown = Vec::new();
    while shown.len() < 200 {
        let next = timeout_at(deadline, leaders.next()).await;
        let leader = next.expect("it is three seconds behind at most").unwrap().unwrap();
        shown.push(leader.map(|leader| leader.value().escape_ascii().to_string()));
    }
    for (n, pair) in shown.chunks(2).enumerate() {
        assert_eq!(pair, [Some(n.to_string()), None], "every leader, in order");
    }
    assert_eq!(leaders.gap(), None);
}
