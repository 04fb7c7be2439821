//! Tests of a backend that outlives the runtime on which it connected, as a static does.

use coord_core::{
    Client,
    kv::{LeaseGrant, Watch},
};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::serve::TestServer;
use coord_mem::MemBackend;
use coord_server::Server;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::support::secs;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("there are threads")
}

#[test]
fn backend_redials_on_another_runtime() {
    let servers = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let store = servers.block_on(TestServer::start(Server::builder(MemBackend::new())));
    let connected = runtime().block_on(async {
        let etcd = EtcdBackend::builder([store.endpoint()]).connections(2).connect().await;
        let kv = Client::new(etcd.unwrap());
        let lease = kv.lease_grant(LeaseGrant::new(secs(60))).await.unwrap().id;
        // A pooled keep-alive stream, a watch stream, and a second connection.
        kv.lease_keep_alive(lease).await.unwrap();
        drop(kv.watch(Watch::new("a")).await.unwrap());
        let puts = (0..20).map(|n| kv.put(format!("k{n}"), "1"));
        futures_util::future::try_join_all(puts).await.unwrap();
        (kv, lease)
    });
    let (kv, lease) = connected;
    for round in ["2", "3"] {
        let calls = async {
            kv.put("a", round).await.unwrap();
            assert_eq!(kv.get("a").await.unwrap().unwrap().value, round);
            kv.lease_keep_alive(lease).await.unwrap();
            let mut watch = kv.watch(Watch::new("b")).await.unwrap();
            let puts = (0..20).map(|n| kv.put(format!("k{n}"), round));
            futures_util::future::try_join_all(puts).await.unwrap();
            kv.put("b", round).await.unwrap();
            assert_eq!(watch.next().await.unwrap().unwrap().events[0].kv.value, round);
        };
        runtime().block_on(async { timeout(secs(5), calls).await }).expect("it dials at once");
    }
    // A keep-alive and a watch as the first call on a runtime.
    runtime().block_on(async { kv.lease_keep_alive(lease).await }).unwrap();
    runtime().block_on(async { kv.watch(Watch::new("a")).await.map(drop) }).unwrap();
    servers.block_on(async { drop(store) });
}
