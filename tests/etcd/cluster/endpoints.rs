//! Tests of failover between endpoints, and of requests over the size limit.

use std::time::Duration;

use coord_core::{
    Client, Mutex,
    error::ErrorKind,
    kv::{Compare, LeaseGrant, Op, Put, Range, Txn, Watch},
};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::{ClusterBuilder, Release};
use tokio::net::TcpSocket;

use crate::support::{assert_refused, client, secs, session, single_member, within};

/// An endpoint that refuses connections. Its port is bound, so that no other process uses it, and
/// has no listener.
struct DeadEndpoint(TcpSocket);

impl DeadEndpoint {
    fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        Self(socket)
    }

    fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }
}

/// A call whose kind depends on `n`.
async fn call(kv: &Client, n: usize) -> coord_core::Result<()> {
    match n % 5 {
        0 => kv.put(format!("k{n}"), "1").await.map(drop),
        1 => kv.get("k0").await.map(drop),
        2 => {
            let txn = Txn::new().when([Compare::absent("none")]).and_then([Put::new("t", "1")]);
            kv.txn(txn).await.map(drop)
        }
        3 => kv.delete(format!("k{}", n - 3)).await.map(drop),
        _ => {
            let lease = kv.lease_grant(LeaseGrant::new(secs(60))).await?.id;
            kv.lease_keep_alive(lease).await?;
            kv.lease_revoke(lease).await.map(drop)
        }
    }
}

/// Regression: computing the deadline overflowed the clock, and panicked.
#[tokio::test]
async fn maximal_timeouts_do_not_overflow_the_clock() {
    let server = single_member().await;
    let kv = EtcdBackend::builder([server[0].endpoint()])
        .connect_timeout(Duration::MAX)
        .request_timeout(Duration::MAX)
        .ping(Duration::MAX, Duration::MAX);
    let kv = Client::new(kv.connect().await.unwrap());
    for n in 0..5 {
        call(&kv, n).await.unwrap();
    }
    let mut watch = kv.watch(Watch::new("a")).await.unwrap();
    kv.put("a", "").await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events.len(), 1);
}

/// The client crate alone, which chooses an endpoint for each call, fails 78 calls of 200.
#[tokio::test]
async fn dead_endpoint_of_two_fails_none_of_a_thousand_calls() {
    let server = single_member().await;
    let (live, dead) = (server[0].endpoint().to_owned(), DeadEndpoint::new());
    for endpoints in [[dead.url(), live.clone()], [live.clone(), dead.url()]] {
        let kv = client(&endpoints).await;
        for n in 0..1_000 {
            if let Err(error) = call(&kv, n).await {
                panic!("call {n} with {endpoints:?}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn dead_endpoint_of_two_fails_no_watch_and_no_lock() {
    let server = single_member().await;
    let dead = DeadEndpoint::new();
    let kv = client(&[dead.url(), server[0].endpoint().to_owned()]).await;
    let session = session(&kv, 5).await;
    for n in 0..20 {
        let mut watch = kv.watch(Watch::new("w")).await.unwrap();
        let guard = Mutex::new(&session, "m").lock().await.unwrap();
        let put = guard.txn(Txn::new().and_then([Put::new("w", n.to_string())])).await.unwrap();
        let batch = watch.next().await.unwrap().unwrap();
        assert_eq!(batch.revision, put.header.revision);
        guard.unlock().await.unwrap();
    }
}

#[tokio::test]
async fn calls_follow_endpoints_that_die_and_restart() {
    let (mut one, mut two) = tokio::join!(single_member(), single_member());
    let kv = client(&[one[0].endpoint().to_owned(), two[0].endpoint().to_owned()]).await;
    for _ in 0..3 {
        for server in [&mut two, &mut one] {
            server[0].kill();
            // A read first, because a write on a broken connection has an unknown outcome.
            kv.get("a").await.unwrap();
            kv.put("a", "1").await.unwrap();
            server[0].start();
            server[0].wait_until_ready().await;
        }
    }
}

#[tokio::test]
async fn connect_to_dead_endpoints_fails_and_names_them() {
    let (one, two) = (DeadEndpoint::new(), DeadEndpoint::new());
    let endpoints = [one.url(), two.url()];
    let connected = within(secs(20), EtcdBackend::connect(endpoints.clone())).await;
    let message = assert_refused(connected, ErrorKind::Unavailable);
    assert!(endpoints.iter().all(|endpoint| message.contains(endpoint)), "{message}");
}

#[tokio::test]
async fn call_to_a_dead_server_fails_and_is_not_applied() {
    let mut server = single_member().await;
    let kv = client(&server.endpoints()).await;
    kv.put("a", "1").await.unwrap();
    server[0].kill();
    // The first call may fail with the end of the old connection. Later calls are refused.
    let _ = within(secs(20), kv.get("a")).await;
    let put = within(secs(20), kv.put("a", "2")).await;
    assert_refused(put, ErrorKind::Unavailable);
    server[0].start();
    server[0].wait_until_ready().await;
    assert_eq!(kv.get("a").await.unwrap().unwrap().value, "1");
}

#[tokio::test]
async fn value_over_the_limit_is_rejected_with_the_limit() {
    let server = single_member().await;
    let kv = client(&server.endpoints()).await;
    let limit = kv.limits().max_request_bytes;
    for size in [limit, limit + (1 << 20), 8 << 20] {
        let message = assert_refused(kv.put("a", vec![7; size]).await, ErrorKind::RequestTooLarge);
        assert!(message.contains(&limit.to_string()), "{message}");
    }
    kv.put("b", vec![7; limit - 100]).await.unwrap();
    assert_eq!(kv.get("a").await.unwrap(), None);
    assert_eq!(kv.get("b").await.unwrap().unwrap().value.len(), limit - 100);
}

/// The client is not configured with the lower limit, so the server rejects the value.
#[tokio::test]
async fn value_over_a_lower_server_limit_is_rejected() {
    let builder = ClusterBuilder::new(Release::newest()).argument("--max-request-bytes=65536");
    let server = builder.start().await;
    let kv = client(&server.endpoints()).await;
    assert_refused(kv.put("a", vec![7; 100_000]).await, ErrorKind::RequestTooLarge);
    assert_refused(kv.put("a", vec![7; 1_000_000]).await, ErrorKind::RequestTooLarge);
    let read = kv.txn(Txn::new().and_then([Op::from(Range::new("a"))])).await.unwrap();
    assert!(read.responses[0].as_range().unwrap().kvs.is_empty());
}
