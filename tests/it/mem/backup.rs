//! Tests of backups: what a restoration brings back, and what it ends.

use coord_core::kv::{
    Compact, EventKind, KeyRange, LeaseGrant, LeaseId, LeaseTimeToLive, Put, Range, Revision, Watch,
};
use coord_core::{Client, Error, KvBackend as _, error::ErrorKind};
use coord_mem::{Backup, MemBackend};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{secs, settle};

/// A store, and a client of it.
fn store() -> (MemBackend, Client) {
    let store = MemBackend::new();
    (store.clone(), Client::new(store))
}

async fn put(store: &Client, key: &str, value: &str) -> Revision {
    store.put(key.to_owned(), value.to_owned()).await.unwrap().header.revision
}

async fn value(store: &Client, key: &str) -> Option<String> {
    let kv = store.get(key.to_owned()).await.unwrap();
    kv.map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
}

/// Grants a lease, and puts a key with it.
async fn leased(store: &Client, key: &str, ttl: u64) -> LeaseId {
    let lease = store.lease_grant(LeaseGrant::new(secs(ttl))).await.unwrap().id;
    store.put_with(Put::new(key.to_owned(), "").lease(lease)).await.unwrap();
    lease
}

/// Whether a watch ends with the error of a replaced history, of which these are the revisions.
fn is_end(item: Option<coord_core::Result<impl Sized>>, newest: i64, found: i64) -> bool {
    let (expected_newest, expected_found) = (Revision(newest), Revision(found));
    matches!(item, Some(Err(Error::HistoryReplaced { newest, found }))
        if (newest, found) == (expected_newest, expected_found))
}

#[tokio::test(start_paused = true)]
async fn restore_brings_back_keys_history_and_revisions() {
    let (mem, store) = store();
    put(&store, "a", "2").await;
    put(&store, "a", "3").await;
    put(&store, "b", "4").await;
    let backup = mem.backup();
    assert_eq!(backup.revision(), Revision(4));
    store.delete("b").await.unwrap();
    put(&store, "a", "6").await;
    let newest = put(&store, "c", "7").await;
    store.compact(Compact::new(newest)).await.unwrap();

    assert_eq!(mem.restore(&backup), newest);
    let all = store.range(Range::new(KeyRange::all())).await.unwrap();
    assert_eq!(all.header.revision, Revision(4));
    let values: Vec<_> = all.kvs.iter().map(|kv| (&kv.key[..], &kv.value[..])).collect();
    assert_eq!(values, [(&b"a"[..], &b"3"[..]), (b"b", b"4")]);
    let kv = &all.kvs[0];
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (Revision(2), Revision(3), 2));
    // The compaction is undone too.
    let historic = store.range(Range::new("a").at(Revision(2))).await.unwrap();
    assert_eq!(historic.kvs[0].value, "2");
    let mut watch = store.watch(Watch::prefix("").start_at(Revision(2))).await.unwrap();
    assert_eq!(put(&store, "a", "other").await, Revision(5), "the revision is assigned again");
    for revision in 2..=5 {
        assert_eq!(watch.next().await.unwrap().unwrap().revision, Revision(revision));
    }
}

#[tokio::test(start_paused = true)]
async fn backup_is_unchanged_and_restores_every_clone_twice() {
    let (mem, store) = store();
    put(&store, "a", "old").await;
    let backup = mem.backup();
    for _ in 0..2 {
        put(&store, "a", "new").await;
        mem.clone().restore(&backup.clone());
        assert_eq!(value(&store, "a").await.as_deref(), Some("old"));
    }
    fn is_shareable<T: Clone + Send + Sync + 'static>(_: &T) {}
    is_shareable::<Backup>(&backup);
    assert_eq!(format!("{backup:?}"), "Backup { revision: Revision(2), .. }");
}

#[tokio::test(start_paused = true)]
async fn every_open_watch_ends_when_the_store_is_restored() {
    let (mem, store) = store();
    let backup = mem.backup();
    let requests = [
        Watch::new("a"),
        Watch::prefix("a"),
        Watch::prefix("").with_progress_notify(),
        Watch::new("a").start_at(Revision(100)),
    ];
    let mut waiting = JoinSet::new();
    for (number, request) in requests.into_iter().enumerate() {
        let mut watch = store.watch(request).await.unwrap();
        waiting.spawn(async move {
            let mut events = 0;
            loop {
                match watch.next().await {
                    Some(Ok(batch)) => events += batch.events.len(),
                    last => return (number, events, last, watch.next().await.is_none()),
                }
            }
        });
    }
    settle().await;
    put(&store, "a", "").await;
    mem.restore(&backup);
    let mut events = [0; 4];
    for (number, received, last, has_ended) in waiting.join_all().await {
        assert!(is_end(last, 2, 1) && has_ended);
        events[number] = received;
    }
    assert_eq!(events, [1, 1, 1, 0], "events from before the restoration are delivered");
    // Watches that are registered now belong to the restored history.
    let mut watch = store.watch(Watch::new("a")).await.unwrap();
    put(&store, "a", "").await;
    assert_eq!(watch.next().await.unwrap().unwrap().revision, Revision(2));
}

/// The revisions between that of the store and that of the backup belong to no watch.
#[tokio::test(start_paused = true)]
async fn watch_ends_when_the_backup_is_newer_than_the_store() {
    let (mem, store) = store();
    let first = mem.backup();
    put(&store, "a", "").await;
    put(&store, "a", "").await;
    let newer = mem.backup();
    mem.restore(&first);
    let mut watch = store.watch(Watch::new("a")).await.unwrap();
    mem.restore(&newer);
    assert!(is_end(watch.next().await, 1, 3));
    assert!(watch.next().await.is_none());
}

/// The queue of the watch is full, and the other batches to deliver are no longer in the log.
#[tokio::test(start_paused = true)]
async fn watch_that_is_behind_ends_after_its_queued_batches() {
    let (mem, store) = store();
    let backup = mem.backup();
    let mut watch = store.watch(Watch::new("a")).await.unwrap();
    for _ in 0..2_000 {
        put(&store, "a", "old").await;
    }
    mem.restore(&backup);
    for _ in 0..2_000 {
        put(&store, "a", "new").await;
    }
    // Restored once more: a stream that has ended stays ended.
    mem.restore(&backup);
    for _ in 0..1_024 {
        assert_eq!(watch.next().await.unwrap().unwrap().events[0].kv.value, "old");
    }
    watch.request_progress();
    assert!(is_end(watch.next().await, 2_001, 1));
    assert!(watch.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn leases_of_a_backup_return_with_their_whole_ttl() {
    let (mem, store) = store();
    let (kept, revoked) = (leased(&store, "kept", 10).await, leased(&store, "revoked", 20).await);
    sleep(secs(6)).await;
    let backup = mem.backup();
    store.lease_revoke(revoked).await.unwrap();
    sleep(secs(5)).await;
    assert_eq!(value(&store, "kept").await, None, "its lease has expired");
    assert!(store.leases().await.unwrap().leases.is_empty(), "the lease timer has no deadline");

    mem.restore(&backup);
    let began = Instant::now();
    assert_eq!(store.leases().await.unwrap().leases, [kept, revoked]);
    let status = store.lease_time_to_live(LeaseTimeToLive::new(kept).with_keys()).await.unwrap();
    let status = status.lease.unwrap();
    assert_eq!((status.granted, status.remaining), (secs(10), secs(10)));
    assert_eq!(status.keys, ["kept"]);
    // The timer ends the leases, without any call.
    let mut watch = store.watch(Watch::prefix("")).await.unwrap();
    for (key, ttl) in [("kept", 10), ("revoked", 20)] {
        let batch = watch.next().await.unwrap().unwrap();
        assert_eq!(
            (batch.events[0].kind, &batch.events[0].kv.key),
            (EventKind::Delete, &key.into())
        );
        assert_eq!(began.elapsed().as_secs(), ttl);
    }
}

#[tokio::test(start_paused = true)]
async fn lease_granted_since_the_backup_is_gone() {
    let (mem, store) = store();
    let before = leased(&store, "before", 10).await;
    let backup = mem.backup();
    let lost = leased(&store, "lost", 10).await;
    store.put_with(Put::new("moved", "").lease(before)).await.unwrap();
    mem.restore(&backup);
    for error in [
        store.lease_keep_alive(lost).await.map(drop).unwrap_err(),
        store.lease_revoke(lost).await.map(drop).unwrap_err(),
        store.put_with(Put::new("lost", "").lease(lost)).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::LeaseNotFound);
    }
    assert_eq!(value(&store, "lost").await, None);
    // A key that was attached since the backup does not end with the lease.
    put(&store, "moved", "").await;
    let next = leased(&store, "next", 10).await;
    assert!(next != lost && next != before, "{lost} is the lease of another client now");
    store.lease_keep_alive(before).await.unwrap();
    store.lease_revoke(before).await.unwrap();
    assert_eq!(value(&store, "before").await, None);
    assert!(value(&store, "moved").await.is_some());
}

/// The events of overdue leases belong to the old history.
#[tokio::test(start_paused = true)]
async fn overdue_lease_expires_before_the_store_is_restored() {
    let (mem, store) = store();
    leased(&store, "a", 10).await;
    let backup = mem.backup();
    let mut watch = store.watch(Watch::new("a")).await.unwrap();
    tokio::task::yield_now().await;
    // The clock jumps, and the restoration runs before the lease timer.
    tokio::time::advance(secs(11)).await;
    mem.restore(&backup);
    assert_eq!(watch.next().await.unwrap().unwrap().events[0].kind, EventKind::Delete);
    assert!(is_end(watch.next().await, 3, 2));
    assert!(value(&store, "a").await.is_some());
}

#[tokio::test(start_paused = true)]
async fn call_in_flight_is_applied_to_the_restored_store() {
    let (mem, store) = store();
    let backup = mem.backup();
    let in_flight = mem.put(Put::new("a", "in flight"));
    put(&store, "b", "").await;
    mem.restore(&backup);
    assert_eq!(in_flight.await.unwrap().header.revision, Revision(2));
    assert_eq!(value(&store, "a").await.as_deref(), Some("in flight"));
}

#[tokio::test(start_paused = true)]
async fn restored_store_keeps_its_own_settings() {
    let (mem, store) = store();
    let lease = leased(&store, "a", 2).await;
    for n in 0..20 {
        put(&store, "b", &n.to_string()).await;
    }
    let other = MemBackend::builder().lease_ttl_min(secs(60)).retain_revisions(5).build();
    let client = Client::new(other.clone());
    let own = client.leases().await.unwrap().header;
    assert_eq!(other.restore(&mem.backup()), Revision(1));
    let status = client.lease_time_to_live(LeaseTimeToLive::new(lease)).await.unwrap();
    let header = status.header;
    assert_eq!((header.cluster_id, header.member_id), (own.cluster_id, own.member_id));
    assert_eq!(status.lease.unwrap().granted, secs(60));
    let at = Revision(header.revision.0 - 6);
    let error = client.range(Range::new("b").at(at)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Compacted);
    assert!(client.range(Range::new("b").at(at.next())).await.is_ok());
    // Both stores go their own ways.
    put(&client, "b", "other").await;
    assert_eq!(value(&store, "b").await.as_deref(), Some("19"));
    timeout(secs(3), async {
        while value(&store, "a").await.is_some() {
            sleep(secs(1)).await
        }
    })
    .await
    .unwrap();
    assert!(value(&client, "a").await.is_some());
}
