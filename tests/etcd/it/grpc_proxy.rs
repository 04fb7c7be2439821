//! `etcd grpc-proxy` between the client and the cluster, with a namespace and without.

use coord_core::{
    Client, Election, Mutex,
    kv::{LeaseGrant, Watch},
    session::SessionState,
};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::grpc_proxy::GrpcProxy;
use coord_etcd_tests::{Cluster, Release, Setup};
use tokio::time::timeout;

use crate::support::{secs, session};

/// A proxy of each kind, each with a cluster of its own, and a client through it.
async fn proxied() -> Vec<(String, Cluster, GrpcProxy, Client)> {
    let mut all = Vec::new();
    for release in Release::all().expect("there are releases") {
        for arguments in [&[][..], &["--namespace=ns/"][..]] {
            let cluster = Setup::new(release.clone()).start().await;
            let proxy = GrpcProxy::start(&release, &cluster.endpoints(), arguments);
            let etcd = EtcdBackend::connect([proxy.endpoint()]).await.expect("it starts in time");
            let name = format!("{release} {arguments:?}");
            all.push((name, cluster, proxy, Client::new(etcd)));
        }
    }
    all
}

/// The proxy answered the second keep-alive of a stream late, and a lock with a short time to live
/// was lost after seven tenths of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lock_through_a_proxy_stays_held() {
    let all = proxied().await;
    let held = all.iter().map(|(name, _, _, kv)| async move {
        let session = session(kv, 10).await;
        let guard = Mutex::new(&session, "m").lock().await.unwrap();
        let lost = timeout(secs(25), guard.lost()).await;
        assert!(lost.is_err(), "{name}: {lost:?}");
        assert!(!matches!(session.state(), SessionState::Lost(_)), "{name}");
        guard.unlock().await.unwrap();
    });
    futures_util::future::join_all(held).await;
    for (name, _, mut proxy, _) in all {
        assert!(proxy.runs(), "{name}: the proxy of 3.4 crashes on a progress request");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_and_observer_through_a_proxy_see_changes() {
    for (name, _cluster, mut proxy, kv) in proxied().await {
        let mut now = kv.watch(Watch::new("a")).await.unwrap();
        let mut again = kv.watch(Watch::new("a")).await.unwrap();
        let mut prefix = kv.watch(Watch::prefix("a")).await.unwrap();
        drop(kv.watch(Watch::new("dropped")).await.unwrap());
        let put = kv.put("a", "1").await.unwrap().header.revision;
        let mut past = kv.watch(Watch::new("a").start_at(put)).await.unwrap();
        for watch in [&mut now, &mut again, &mut prefix, &mut past] {
            let batch = timeout(secs(10), watch.next()).await;
            let batch = batch.unwrap_or_else(|_| panic!("{name}: no event")).unwrap().unwrap();
            assert_eq!((batch.revision, batch.events.len()), (put, 1), "{name}");
        }
        let mut later = kv.watch(Watch::new("a")).await.unwrap();
        let put = kv.put("a", "2").await.unwrap().header.revision;
        for watch in [&mut later, &mut now] {
            let batch = timeout(secs(10), watch.next()).await.expect("an event").unwrap();
            assert_eq!(batch.unwrap().revision, put, "{name}");
        }

        let session = session(&kv, 10).await;
        let mut observed = Election::observer(&kv, "e").observe();
        for value in ["first", "second"] {
            let leadership = Election::new(&session, "e").campaign(value).await.unwrap();
            let shown = async {
                while observed
                    .next()
                    .await
                    .unwrap()
                    .unwrap()
                    .is_none_or(|leader| leader.value() != value)
                {}
            };
            timeout(secs(10), shown).await.unwrap_or_else(|_| panic!("{name}: {value}"));
            leadership.resign().await.unwrap();
        }
        let waiter = Mutex::new(&session, "m").lock().await.unwrap();
        waiter.unlock().await.unwrap();
        let lease = kv.lease_grant(LeaseGrant::new(secs(60))).await.unwrap().id;
        kv.lease_keep_alive(lease).await.unwrap();
        kv.lease_revoke(lease).await.unwrap();
        kv.lease_keep_alive(lease).await.expect_err("it is gone");
        assert!(proxy.runs(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiter_behind_a_holder_through_a_proxy_has_its_turn() {
    for (name, _cluster, _proxy, kv) in proxied().await {
        let (one, two) = tokio::join!(session(&kv, 10), session(&kv, 10));
        let held = Mutex::new(&one, "m").lock().await.unwrap();
        let other = Mutex::new(&two, "m");
        let releasing = async {
            crate::support::until("the second waits", async || {
                kv.get_prefix("m/").await.unwrap().len() == 2
            })
            .await;
            held.unlock().await.unwrap();
        };
        let (guard, ()) = tokio::join!(timeout(secs(10), other.lock()), releasing);
        guard.unwrap_or_else(|_| panic!("{name}: no turn")).unwrap().unlock().await.unwrap();
    }
}
