//! Tests of `etcd grpc-proxy` between the client and the cluster, with and without a namespace.

use std::pin::pin;

use coord_core::{
    Client, Election, Mutex,
    kv::{LeaseGrant, Watch},
    session::SessionState,
};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::grpc_proxy::GrpcProxy;
use coord_etcd_tests::{Cluster, ClusterBuilder, Release};
use tokio::time::timeout;

use crate::support::{assert_waits, secs, session, within};

/// For each release, a proxy without and one with a namespace: each with its own cluster and a
/// client of the proxy.
async fn start_proxies() -> Vec<(String, Cluster, GrpcProxy, Client)> {
    let mut all = Vec::new();
    for release in Release::all().unwrap() {
        for arguments in [&[][..], &["--namespace=ns/"][..]] {
            let cluster = ClusterBuilder::new(release.clone()).start().await;
            let proxy = GrpcProxy::start(&release, &cluster.endpoints(), arguments);
            let etcd = EtcdBackend::connect([proxy.endpoint()]).await.unwrap();
            let name = format!("{release} {arguments:?}");
            all.push((name, cluster, proxy, Client::new(etcd)));
        }
    }
    all
}

/// The proxy responds late to the second keep-alive of a stream. Regression: a lock with a short
/// TTL was lost after 70 % of the TTL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lock_through_a_proxy_stays_held() {
    let all = start_proxies().await;
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
        assert!(proxy.is_running(), "{name}: the proxy of 3.4 crashes on a progress request");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_and_observer_through_a_proxy_receive_changes() {
    for (name, _cluster, mut proxy, kv) in start_proxies().await {
        let mut first = kv.watch(Watch::new("a")).await.unwrap();
        let mut second = kv.watch(Watch::new("a")).await.unwrap();
        let mut prefix = kv.watch(Watch::prefix("a")).await.unwrap();
        drop(kv.watch(Watch::new("dropped")).await.unwrap());
        let put = kv.put("a", "1").await.unwrap().header.revision;
        let mut with_history = kv.watch(Watch::new("a").start_at(put)).await.unwrap();
        for watch in [&mut first, &mut second, &mut prefix, &mut with_history] {
            let batch = timeout(secs(10), watch.next()).await;
            let batch = batch.unwrap_or_else(|_| panic!("{name}: no event")).unwrap().unwrap();
            assert_eq!((batch.revision, batch.events.len()), (put, 1), "{name}");
        }
        let mut later = kv.watch(Watch::new("a")).await.unwrap();
        let put = kv.put("a", "2").await.unwrap().header.revision;
        for watch in [&mut later, &mut first] {
            let batch = within(secs(10), watch.next()).await.unwrap().unwrap();
            assert_eq!(batch.revision, put, "{name}");
        }

        let session = session(&kv, 10).await;
        let mut observed = Election::observer(&kv, "e").observe();
        for value in ["first", "second"] {
            let leadership = Election::new(&session, "e").campaign(value).await.unwrap();
            let observed_value = async {
                while observed
                    .next()
                    .await
                    .unwrap()
                    .unwrap()
                    .is_none_or(|leader| leader.value() != value)
                {}
            };
            timeout(secs(10), observed_value).await.unwrap_or_else(|_| panic!("{name}: {value}"));
            leadership.resign().await.unwrap();
        }
        let guard = Mutex::new(&session, "m").lock().await.unwrap();
        guard.unlock().await.unwrap();
        // A short TTL: the proxy may respond only after a third of it, which must be shorter than
        // the request timeout.
        let lease = kv.lease_grant(LeaseGrant::new(secs(10))).await.unwrap().id;
        kv.lease_keep_alive(lease).await.unwrap();
        kv.lease_revoke(lease).await.unwrap();
        kv.lease_keep_alive(lease).await.unwrap_err();
        assert!(proxy.is_running(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiter_through_a_proxy_acquires_a_released_lock() {
    for (name, _cluster, _proxy, kv) in start_proxies().await {
        let (one, two) = tokio::join!(session(&kv, 10), session(&kv, 10));
        let held = Mutex::new(&one, "m").lock().await.unwrap();
        let other = Mutex::new(&two, "m");
        let mut lock = pin!(other.lock());
        assert_waits(&mut lock, &kv, "m", 2).await;
        let unlock = async { held.unlock().await.unwrap() };
        let (guard, ()) = tokio::join!(timeout(secs(10), lock), unlock);
        guard.unwrap_or_else(|_| panic!("{name}: not acquired")).unwrap().unlock().await.unwrap();
    }
}
