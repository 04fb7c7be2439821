//! Tests of failover between endpoints, and of requests that are too large.

use std::time::Duration;

use coord_core::{
    Client, Mutex,
    error::ErrorKind,
    kv::{Compare, LeaseGrant, Op, Put, Range, Txn, Watch},
};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::{Release, Setup};
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::support::{client, refused, secs, session, single};

/// A port that refuses connections: bound, so that no other process gets it, without a listener.
struct Dead(TcpSocket);

impl Dead {
    fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("there are sockets");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("there are free ports");
        Self(socket)
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.0.local_addr().expect("it was bound"))
    }
}

/// A call of a kind that depends on `n`.
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

/// The deadline was after the end of the clock, and computing it panicked.
#[tokio::test]
async fn maximal_timeouts_do_not_overflow_the_clock() {
    let server = single().await;
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

/// The client crate alone, which chooses an endpoint for every call, fails 78 of 200.
#[tokio::test]
async fn dead_endpoint_of_two_fails_none_of_a_thousand_calls() {
    let server = single().await;
    let (live, dead) = (server[0].endpoint().to_owned(), Dead::new());
    for endpoints in [[dead.endpoint(), live.clone()], [live.clone(), dead.endpoint()]] {
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
    let server = single().await;
    let dead = Dead::new();
    let kv = client(&[dead.endpoint(), server[0].endpoint().to_owned()]).await;
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
    let (mut one, mut two) = tokio::join!(single(), single());
    let kv = client(&[one[0].endpoint().to_owned(), two[0].endpoint().to_owned()]).await;
    for _ in 0..3 {
        for server in [&mut two, &mut one] {
            server[0].kill();
            // A read first, because a write on a broken connection has an unknown outcome.
            kv.get("a").await.unwrap();
            kv.put("a", "1").await.unwrap();
            server[0].start();
            server[0].ready().await;
        }
    }
}

#[tokio::test]
async fn connect_to_dead_endpoints_fails_soon_with_their_names() {
    let (one, two) = (Dead::new(), Dead::new());
    let endpoints = [one.endpoint(), two.endpoint()];
    let connected = timeout(secs(20), EtcdBackend::connect(endpoints.clone())).await;
    let message = refused(connected.expect("a response in time"), ErrorKind::Unavailable);
    assert!(endpoints.iter().all(|endpoint| message.contains(endpoint)), "{message}");
}

#[tokio::test]
async fn call_to_a_dead_server_fails_soon_and_is_not_applied() {
    let mut server = single().await;
    let kv = client(&server.endpoints()).await;
    kv.put("a", "1").await.unwrap();
    server[0].kill();
    // The first call may receive the end of the old connection. Later ones are refused.
    let _ = timeout(secs(20), kv.get("a")).await.expect("a response in time");
    let put = timeout(secs(20), kv.put("a", "2")).await.expect("a response in time");
    refused(put, ErrorKind::Unavailable);
    server[0].start();
    server[0].ready().await;
    assert_eq!(kv.get("a").await.unwrap().unwrap().value, "1");
}

#[tokio::test]
async fn value_over_the_limit_is_refused_with_both_sizes() {
    let server = single().await;
    let kv = client(&server.endpoints()).await;
    let limit = kv.limits().max_request_bytes;
    for size in [limit, limit + (1 << 20), 8 << 20] {
        let message = refused(kv.put("a", vec![7; size]).await, ErrorKind::RequestTooLarge);
        assert!(message.contains(&limit.to_string()), "{message}");
    }
    kv.put("b", vec![7; limit - 100]).await.unwrap();
    assert_eq!(kv.get("a").await.unwrap(), None);
    assert_eq!(kv.get("b").await.unwrap().unwrap().value.len(), limit - 100);
}

/// The server may be configured with a lower limit than the client.
#[tokio::test]
async fn value_over_the_servers_lower_limit_is_refused() {
    let setup = Setup::new(Release::newest()).argument("--max-request-bytes=65536");
    let server = setup.start().await;
    let kv = client(&server.endpoints()).await;
    refused(kv.put("a", vec![7; 100_000]).await, ErrorKind::RequestTooLarge);
    refused(kv.put("a", vec![7; 1_000_000]).await, ErrorKind::RequestTooLarge);
    let read = kv.txn(Txn::new().and_then([Op::from(Range::new("a"))])).await.unwrap();
    assert!(read.responses[0].as_range().unwrap().kvs.is_empty());
}
