//! Tests of responses that do not come from etcd but from a proxy: one row per response.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use coord_core::{
    Client, Mutex,
    error::{ErrorKind, Outcome},
    kv::{LeaseGrant, Watch},
};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::proxy::{Limits, Proxy};
use coord_etcd_tests::scripted::{ScriptedResponse, ScriptedServer};
use coord_etcd_tests::test_server::TestServer;
use coord_mem::MemBackend;
use coord_server::Server;
use tokio::time::{Instant, timeout};

use crate::support::{assert_refused, client, secs, session, single_member, wait_until, within};

/// The result of a write to which the proxy sends the response.
enum WriteResult {
    /// The write fails with this kind, and its outcome is unknown.
    Unknown(ErrorKind),
    /// The write fails with this kind, and is not applied.
    Refused(ErrorKind),
    /// The write is sent to the other endpoint, because the first did not process it.
    FailsOver,
}

const HTML: &str = "text/html";
const GRPC: &str = "application/grpc";

/// The responses, each with the result of a write. A read, a connect, a keep-alive and a watch fail
/// over after any of them.
const RESPONSES: &[(&str, ScriptedResponse, WriteResult)] = {
    use ErrorKind::{Backend, PermissionDenied, Timeout, Unauthenticated, Unavailable};
    use ScriptedResponse::*;
    use WriteResult::*;
    &[
        ("429", Page(429, HTML), Unknown(Unavailable)),
        ("502", Page(502, HTML), Unknown(Unavailable)),
        ("503", Page(503, HTML), Unknown(Unavailable)),
        ("504", Page(504, HTML), Unknown(Unavailable)),
        ("503 with gRPC's content type", Page(503, GRPC), Unknown(Unavailable)),
        ("400", Page(400, HTML), Unknown(Backend)),
        ("401", Page(401, HTML), Unknown(Backend)),
        ("403", Page(403, HTML), Unknown(Backend)),
        ("404", Page(404, HTML), Unknown(Backend)),
        ("500", Page(500, HTML), Unknown(Backend)),
        ("200 with a page", Page(200, HTML), Unknown(Backend)),
        ("200 without a body", Empty, Unknown(Backend)),
        ("OK without a message", Grpc(0, ""), Unknown(Backend)),
        ("a malformed message", Message(b"\xff\xff"), Unknown(Backend)),
        ("Cancelled", Grpc(1, "context canceled"), Unknown(Unavailable)),
        ("Unknown", Grpc(2, "proxy error"), Unknown(Backend)),
        ("InvalidArgument", Grpc(3, "proxy error"), Unknown(Backend)),
        ("DeadlineExceeded", Grpc(4, "proxy error"), Unknown(Timeout)),
        ("NotFound", Grpc(5, "no route"), Unknown(Backend)),
        ("PermissionDenied", Grpc(7, "RBAC: access denied"), Refused(PermissionDenied)),
        ("ResourceExhausted", Grpc(8, "rate limit"), Unknown(Backend)),
        ("FailedPrecondition", Grpc(9, "proxy error"), Unknown(Backend)),
        ("Aborted", Grpc(10, "proxy error"), Unknown(Backend)),
        ("Unimplemented", Grpc(12, "unknown service"), Unknown(Backend)),
        (
            "Unimplemented by a server of etcd's API",
            Grpc(12, "unknown service etcdserverpb.KV"),
            Refused(Backend),
        ),
        ("Internal", Grpc(13, "proxy error"), Unknown(Backend)),
        ("Unavailable", Grpc(14, "no healthy upstream"), Unknown(Unavailable)),
        ("DataLoss", Grpc(15, "proxy error"), Unknown(Backend)),
        ("Unauthenticated", Grpc(16, "Jwt is missing"), Refused(Unauthenticated)),
        ("a code that gRPC lacks", Grpc(99, "proxy error"), Unknown(Backend)),
        ("reset: NO_ERROR", Reset(0), Unknown(Unavailable)),
        ("reset: INTERNAL_ERROR", Reset(2), Unknown(Unavailable)),
        ("reset: REFUSED_STREAM", Reset(7), FailsOver),
        ("reset: CANCEL", Reset(8), Unknown(Unavailable)),
        ("GOAWAY with an error", GoAway(1, 11), Unknown(Unavailable)),
        ("a connection cut", Hangup, Unknown(Unavailable)),
    ]
};

async fn mem_server() -> TestServer {
    TestServer::start(Server::builder(MemBackend::new())).await
}

/// A client with two endpoints. The first sends a valid response to the first request, and
/// `response` to all later requests. The second is `server`.
async fn failing_after_connect(
    response: ScriptedResponse,
    server: &TestServer,
) -> (Client, ScriptedServer) {
    let failing = ScriptedServer::start(move |request| {
        let response = if request.number == 0 { ScriptedResponse::VALID } else { response };
        // A GOAWAY does not close the connection.
        if let ScriptedResponse::GoAway(..) = response {
            vec![response, ScriptedResponse::Hangup]
        } else {
            vec![response]
        }
    });
    let failing = failing.await;
    let endpoints = [failing.endpoint(), server.endpoint()];
    let kv = EtcdBackend::connect(endpoints).await.unwrap();
    (Client::new(kv), failing)
}

#[tokio::test]
async fn connect_fails_over_after_each_response() {
    let server = mem_server().await;
    let other = client(&[server.endpoint().to_owned()]).await;
    other.put("a", "1").await.unwrap();
    for (name, response, _) in RESPONSES {
        let bad = ScriptedServer::start(|_| vec![*response]).await;
        let connected = EtcdBackend::connect([bad.endpoint(), server.endpoint()]).await;
        let connected = connected.map(Client::new);
        let kv = connected.unwrap_or_else(|error| panic!("{name}: {error}"));
        let read = kv.get("a").await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(read.unwrap().value, "1", "{name}");
    }
}

#[tokio::test]
async fn connect_fails_over_from_an_http_1_server() {
    let server = mem_server().await;
    for status in ["200 OK", "400 Bad Request", "502 Bad Gateway"] {
        let bad = ScriptedServer::start_http1(status).await;
        let kv = client(&[bad.endpoint().to_owned(), server.endpoint().to_owned()]).await;
        kv.put("a", status).await.unwrap();
    }
}

#[tokio::test]
async fn read_fails_over_after_each_response() {
    let server = mem_server().await;
    let other = client(&[server.endpoint().to_owned()]).await;
    other.put("a", "1").await.unwrap();
    for (name, response, _) in RESPONSES {
        let (kv, _failing) = failing_after_connect(*response, &server).await;
        let read = kv.get("a").await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(read.unwrap().value, "1", "{name}");
    }
}

#[tokio::test]
async fn keep_alive_fails_over_after_each_response() {
    let server = mem_server().await;
    let other = client(&[server.endpoint().to_owned()]).await;
    let lease = other.lease_grant(LeaseGrant::new(secs(60))).await.unwrap().id;
    for (name, response, _) in RESPONSES {
        let (kv, _failing) = failing_after_connect(*response, &server).await;
        let start = Instant::now();
        let kept = kv.lease_keep_alive(lease).await;
        let kept = kept.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((kept.id, kept.ttl), (lease, secs(60)), "{name}");
        assert!(start.elapsed() < secs(3), "{name}: too late for a session");
    }
}

#[tokio::test]
async fn watch_fails_over_after_each_response() {
    let server = mem_server().await;
    let other = client(&[server.endpoint().to_owned()]).await;
    for (name, response, _) in RESPONSES {
        let (kv, _failing) = failing_after_connect(*response, &server).await;
        let watch = timeout(secs(10), kv.watch(Watch::new("w"))).await;
        let watch = watch.unwrap_or_else(|_| panic!("{name}: no response"));
        let mut watch = watch.unwrap_or_else(|error| panic!("{name}: {error}"));
        let put = other.put("w", *name).await.unwrap();
        let batch = watch.next().await.unwrap().unwrap();
        assert_eq!(batch.revision, put.header.revision, "{name}");
    }
}

#[tokio::test]
async fn write_has_its_outcome_and_the_next_write_fails_over() {
    let server = mem_server().await;
    let other = client(&[server.endpoint().to_owned()]).await;
    for (name, response, expected) in RESPONSES {
        let (kv, _failing) = failing_after_connect(*response, &server).await;
        let put = kv.put(*name, "1").await.map_err(|error| (error.kind(), error.outcome()));
        let stored = other.get(*name).await.unwrap().is_some();
        match expected {
            WriteResult::FailsOver => assert!(put.is_ok() && stored, "{name}: {put:?}"),
            WriteResult::Refused(kind) => {
                assert_eq!(put.expect_err(name), (*kind, Outcome::NotApplied), "{name}");
                assert!(!stored, "{name}");
            }
            WriteResult::Unknown(kind) => {
                assert_eq!(put.expect_err(name), (*kind, Outcome::Unknown), "{name}");
                assert!(!stored, "{name}: the write was sent twice");
                kv.put(*name, "2").await.unwrap_or_else(|error| panic!("{name}: {error}"));
            }
        }
    }
}

#[tokio::test]
async fn error_names_the_endpoint_and_the_http_status() {
    for (status, text) in [(502, "502 Bad Gateway"), (404, "404 Not Found")] {
        let bad = ScriptedServer::start(move |_| vec![ScriptedResponse::Page(status, HTML)]).await;
        let builder = EtcdBackend::builder([bad.endpoint()]).request_timeout(secs(1));
        let error = builder.connect().await.unwrap_err().to_string();
        assert!(error.contains(bad.endpoint()) && error.contains(text), "{error}");
    }
}

/// A proxy in front of a dead member responds to keep-alives with HTTP status 502. Regression:
/// sessions spent most of their TTL on retries although another member was healthy.
#[tokio::test]
async fn session_survives_a_proxy_whose_member_died() {
    let shared = MemBackend::new();
    let dying = TestServer::start(Server::builder(shared.clone())).await;
    let healthy = TestServer::start(Server::builder(shared)).await;
    let proxy = Proxy::start(dying.endpoint(), Limits::default()).await;
    let kv = client(&[proxy.endpoint().to_owned(), healthy.endpoint().to_owned()]).await;
    let session = session(&kv, 2).await;
    let guard = Mutex::new(&session, "m").lock().await.unwrap();
    drop(dying);
    // Twice the TTL: without keep-alives, the session is lost by then.
    timeout(secs(4), guard.lost()).await.unwrap_err();
    guard.unlock().await.unwrap();
}

/// The responses of a proxy that denies every request, and the texts in the errors.
const DENIALS: [(ScriptedResponse, &str); 2] = [
    (ScriptedResponse::Grpc(7, "RBAC: access denied"), "RBAC: access denied"),
    (ScriptedResponse::Grpc(16, "Jwt is missing"), "Jwt is missing"),
];

/// Regression: the "permission denied" of a proxy was treated as a response of etcd.
#[tokio::test]
async fn connect_fails_when_only_a_proxy_responds() {
    for (denial, text) in DENIALS {
        let proxy = ScriptedServer::start(move |_| vec![denial]).await;
        let builder = EtcdBackend::builder([proxy.endpoint()]).connect_within(secs(30));
        let message = assert_refused(builder.connect().await, ErrorKind::Backend);
        assert!(message.contains(proxy.endpoint()) && message.contains(text), "{message}");
    }
}

/// Regression: while the member was down, the proxy's response to the new watch stream ended all
/// open watches.
#[tokio::test]
async fn watch_survives_a_restart_beside_a_denying_proxy() {
    for (denial, text) in DENIALS {
        let denied = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&denied);
        let proxy = ScriptedServer::start(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            vec![denial]
        });
        let proxy = proxy.await;
        let mut server = single_member().await;
        let kv = client(&[server[0].endpoint().to_owned(), proxy.endpoint().to_owned()]).await;
        let mut watch = kv.watch(Watch::new("w")).await.unwrap();
        server[0].kill();
        wait_until("the proxy denies the watch stream", async || {
            denied.load(Ordering::Relaxed) > 0
        })
        .await;
        server[0].start();
        server[0].wait_until_ready().await;
        let put = client(&server.endpoints()).await.put("w", "1").await.unwrap();
        let batch = within(secs(30), watch.next()).await.unwrap();
        let batch = batch.unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(batch.revision, put.header.revision, "{text}");
    }
}
