//! Prefix caches and memberships on a real etcd: consistent reads, a watch across a compaction and
//! a restart, and members that follow each other.

use coord_core::Client;
use coord_core::kv::Compact;
use coord_core::recipes::{MemberEvent, Membership, PrefixCache};
use coord_etcd_tests::{ClusterBuilder, Release};
use tokio::time::timeout;

use crate::support::{client, secs, session, single_member, wait_until, within};

async fn open(client: &Client) -> PrefixCache {
    within(secs(20), PrefixCache::open(client, "p/")).await.unwrap()
}

/// The last write is to another key in half of the rounds: then only a progress notification shows
/// that the cache is up to date. etcd before 3.4.25 and 3.5.8 reports progress that it has not
/// reached, so the backend accepts its reports after a second.
#[tokio::test]
async fn consistent_read_contains_every_confirmed_write() {
    for release in Release::all().unwrap() {
        let cluster = ClusterBuilder::new(release.clone()).start().await;
        let (kv, other) = (client(&cluster.endpoints()).await, client(&cluster.endpoints()).await);
        let cache = open(&other).await;
        for n in 0..40 {
            let mut newest = kv.put("p/a", n.to_string()).await.unwrap().header.revision;
            if n % 2 == 0 {
                newest = kv.put("other", "").await.unwrap().header.revision;
            }
            let read = within(secs(10), cache.read()).await.unwrap();
            assert!(read.revision() >= newest, "{release:?}: {} of {newest}", read.revision());
            assert_eq!(read.get_as::<i64>("p/a").unwrap(), Some(n), "{release:?}");
        }
    }
}

/// The member is restarted, and the history is compacted, while a subscriber is behind.
#[tokio::test]
async fn changes_survive_compaction_and_restart() {
    let mut cluster = single_member().await;
    let (kv, other) = (client(&cluster.endpoints()).await, client(&cluster.endpoints()).await);
    let cache = open(&other).await;
    let mut changes = cache.changes();
    for n in 1..=50 {
        let revision = kv.put("p/a", n.to_string()).await.unwrap().header.revision;
        within(secs(20), cache.wait_for(revision)).await.unwrap();
        if n % 10 == 0 {
            kv.compact(Compact::new(revision)).await.unwrap();
        }
    }
    let member = cluster.members_mut().next().unwrap();
    member.kill();
    member.start();
    member.wait_until_ready().await;
    wait_until("a put succeeds", async || kv.put("p/a", "51").await.is_ok()).await;
    let mut values = Vec::new();
    while values.last() != Some(&51) {
        let update = within(secs(60), changes.next()).await.unwrap().unwrap();
        assert_eq!(update.gap(), None);
        let after = update.changes()[0].after.as_ref().unwrap();
        values.push(String::from_utf8_lossy(&after.value).parse::<i64>().unwrap());
    }
    assert!(values.is_sorted() && values.starts_with(&[1, 2, 3]), "{values:?}");
    let read = async || timeout(secs(10), cache.read()).await.is_ok_and(|read| read.is_ok());
    wait_until("a consistent read succeeds", read).await;
}

/// The others receive an event when a member joins, when it updates, and when its lease has ended.
#[tokio::test]
async fn members_follow_each_other() {
    for release in Release::all().unwrap() {
        let cluster = ClusterBuilder::new(release).start().await;
        let (kv, other) = (client(&cluster.endpoints()).await, client(&cluster.endpoints()).await);
        let group = Membership::<String>::new(&other, "g");
        let members = within(secs(20), group.members()).await.unwrap();
        let mut events = members.events();
        let session = session(&kv, 5).await;
        let own = Membership::<String>::new(&kv, "g");
        let member = own.join(&session, &"one".to_owned()).await.unwrap();
        let joined = within(secs(20), events.next()).await.unwrap().unwrap();
        assert!(matches!(&joined, MemberEvent::Joined(found) if found.id() == member.id()));
        member.update(&"two".to_owned()).await.unwrap();
        let list = within(secs(20), members.read()).await.unwrap();
        assert_eq!(list[0].metadata().unwrap(), "two");
        // As after a crash, nothing is sent any more but the keys expire.
        session.orphan().await.unwrap();
        let updated = within(secs(20), events.next()).await.unwrap().unwrap();
        assert!(matches!(updated, MemberEvent::Updated { .. }), "{updated:?}");
        let left = within(secs(30), events.next()).await.unwrap().unwrap();
        assert!(matches!(left, MemberEvent::Left(_)), "{left:?}");
    }
}
