//! Endpoints where something answers that is not etcd: one row per answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use coord_core::{
    Client, Mutex,
    error::{ErrorKind, Outcome},
    kv::{LeaseGrant, Watch},
};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::proxy::{Limits, Proxy};
use coord_etcd_tests::scripted::{Answer, Scripted};
use coord_etcd_tests::serve::Served;
use coord_mem::MemBackend;
use coord_server::Server;
use tokio::time::{Instant, timeout};

use crate::support::{client, refused, secs, session, single, until};

/// What a change comes to that an endpoint answers so.
enum Change {
    /// Its outcome is unknown, with an error of this kind.
    Unknown(ErrorKind),
    /// Its outcome is known: the request was refused, with an error of this kind.
    Refused(ErrorKind),
    /// It was not processed, and is sent to the other endpoint.
    Elsewhere,
}

const HTML: &str = "text/html";
const GRPC: &str = "application/grpc";

/// The answers, and what each means for a change. For a read, a connect, a keep-alive and a watch
/// they all mean the same: another endpoint is asked.
const ANSWERS: &[(&str, Answer, Change)] = {
    use Answer::*;
    use Change::*;
    use ErrorKind::{Backend, PermissionDenied, Timeout, Unauthenticated, Unavailable};
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
        ("200 that is a page", Page(200, HTML), Unknown(Backend)),
        ("200 that is nothing", Empty, Unknown(Backend)),
        ("OK without a message", Grpc(0, ""), Unknown(Backend)),
        ("a message that is none", Message(b"\xff\xff"), Unknown(Backend)),
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
        ("reset: REFUSED_STREAM", Reset(7), Elsewhere),
        ("reset: CANCEL", Reset(8), Unknown(Unavailable)),
        ("GOAWAY with an error", GoAway(1, 11), Unknown(Unavailable)),
        ("a connection cut", Hangup, Unknown(Unavailable)),
    ]
};

async fn store() -> Served {
    Served::start(Server::builder(MemBackend::new())).await
}

/// A client whose first endpoint answers its first request well, so that it prefers it, and all
/// others with `answer`. The second endpoint is a store.
async fn turned(answer: Answer, store: &Served) -> (Client, Scripted) {
    let turned = Scripted::start(move |asked| {
        let answer = if asked.number == 0 { Answer::GOOD } else { answer };
        // A connection ends only after what it had to deliver.
        if let Answer::GoAway(..) = answer { vec![answer, Answer::Hangup] } else { vec![answer] }
    });
    let turned = turned.await;
    let endpoints = [turned.endpoint(), store.endpoint()];
    let etcd = EtcdBackend::connect(endpoints).await.expect("the first answer is good");
    (Client::new(etcd), turned)
}

#[tokio::test]
async fn connect_passes_over_each_answer_that_is_not_etcds() {
    let store = store().await;
    let other = Client::new(EtcdBackend::connect([store.endpoint()]).await.unwrap());
    other.put("a", "1").await.unwrap();
    for (name, answer, _) in ANSWERS {
        let bad = Scripted::start(|_| vec![*answer]).await;
        let connected = EtcdBackend::connect([bad.endpoint(), store.endpoint()]).await;
        let kv = Client::new(connected.unwrap_or_else(|error| panic!("{name}: {error}")));
        let read = kv.get("a").await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(read.expect("it was put").value, "1", "{name}");
    }
}

#[tokio::test]
async fn connect_passes_over_a_server_that_speaks_http_1() {
    let store = store().await;
    for status in ["200 OK", "400 Bad Request", "502 Bad Gateway"] {
        let bad = Scripted::start_http1(status).await;
        let connected = EtcdBackend::connect([bad.endpoint(), store.endpoint()]).await;
        let kv = Client::new(connected.expect("the other endpoint is well"));
        kv.put("a", status).await.unwrap();
    }
}

#[tokio::test]
async fn read_passes_over_each_answer_that_is_not_etcds() {
    let store = store().await;
    let other = Client::new(EtcdBackend::connect([store.endpoint()]).await.unwrap());
    other.put("a", "1").await.unwrap();
    for (name, answer, _) in ANSWERS {
        let (kv, _turned) = turned(*answer, &store).await;
        let read = kv.get("a").await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(read.expect("it was put").value, "1", "{name}");
    }
}

#[tokio::test]
async fn keep_alive_passes_over_each_answer_that_is_not_etcds() {
    let store = store().await;
    let other = Client::new(EtcdBackend::connect([store.endpoint()]).await.unwrap());
    let lease = other.lease_grant(LeaseGrant::new(secs(60))).await.unwrap().id;
    for (name, answer, _) in ANSWERS {
        let (kv, _turned) = turned(*answer, &store).await;
        let start = Instant::now();
        let kept = kv.lease_keep_alive(lease).await;
        let kept = kept.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((kept.id, kept.ttl), (lease, secs(60)), "{name}");
        assert!(start.elapsed() < secs(3), "{name}: a session gives up before that");
    }
}

#[tokio::test]
async fn watch_passes_over_each_answer_that_is_not_etcds() {
    let store = store().await;
    let other = Client::new(EtcdBackend::connect([store.endpoint()]).await.unwrap());
    for (name, answer, _) in ANSWERS {
        let (kv, _turned) = turned(*answer, &store).await;
        let watch = timeout(secs(10), kv.watch(Watch::new("w"))).await;
        let watch = watch.unwrap_or_else(|_| panic!("{name}: no answer"));
        let mut watch = watch.unwrap_or_else(|error| panic!("{name}: {error}"));
        let put = other.put("w", *name).await.unwrap();
        let batch = watch.next().await.expect("it goes on").expect("it goes on");
        assert_eq!(batch.revision, put.header.revision, "{name}");
    }
}

#[tokio::test]
async fn change_keeps_its_unknown_outcome_and_avoids_the_endpoint() {
    let store = store().await;
    let other = Client::new(EtcdBackend::connect([store.endpoint()]).await.unwrap());
    for (name, answer, change) in ANSWERS {
        let (kv, _turned) = turned(*answer, &store).await;
        let put = kv.put(*name, "1").await.map_err(|error| (error.kind(), error.outcome()));
        let stored = other.get(*name).await.unwrap().is_some();
        match change {
            Change::Elsewhere => assert!(put.is_ok() && stored, "{name}: {put:?}"),
            Change::Refused(kind) => {
                assert_eq!(put.expect_err(name), (*kind, Outcome::NotApplied), "{name}");
                assert!(!stored, "{name}");
            }
            Change::Unknown(kind) => {
                assert_eq!(put.expect_err(name), (*kind, Outcome::Unknown), "{name}");
                assert!(!stored, "{name}: a change is never sent twice");
                kv.put(*name, "2").await.unwrap_or_else(|error| panic!("{name}: {error}"));
            }
        }
    }
}

#[tokio::test]
async fn error_names_the_endpoint_and_the_http_status() {
    for (status, text) in [(502, "502 Bad Gateway"), (404, "404 Not Found")] {
        let bad = Scripted::start(move |_| vec![Answer::Page(status, HTML)]).await;
        let builder = EtcdBackend::builder([bad.endpoint()]).request_timeout(secs(1));
        let error = builder.connect().await.expect_err("there is no store").to_string();
        assert!(error.contains(bad.endpoint()) && error.contains(text), "{error}");
    }
}

/// A dead member behind a proxy answers keep-alives with HTTP status 502, and sessions gave up on
/// them for most of their time to live although another member was well.
#[tokio::test]
async fn session_survives_a_proxy_whose_member_died() {
    let shared = MemBackend::new();
    let dying = Served::start(Server::builder(shared.clone())).await;
    let well = Served::start(Server::builder(shared)).await;
    let proxy = Proxy::start(dying.endpoint(), Limits::default()).await;
    let kv = client(&[proxy.endpoint().to_owned(), well.endpoint().to_owned()]).await;
    let session = session(&kv, 2).await;
    let guard = Mutex::new(&session, "m").lock().await.unwrap();
    drop(dying);
    // Two times to live, in which a session that is not kept alive ends.
    timeout(secs(4), guard.lost()).await.expect_err("the session is alive");
    guard.unlock().await.unwrap();
}

/// What a proxy does that permits no request.
const DENIALS: [(Answer, &str); 2] = [
    (Answer::Grpc(7, "RBAC: access denied"), "RBAC: access denied"),
    (Answer::Grpc(16, "Jwt is missing"), "Jwt is missing"),
];

/// The proxy's "permission denied" counted as etcd's, which shows that etcd is there.
#[tokio::test]
async fn connect_fails_where_only_a_proxy_denies() {
    for (denial, text) in DENIALS {
        let proxy = Scripted::start(move |_| vec![denial]).await;
        let builder = EtcdBackend::builder([proxy.endpoint()]).connect_within(secs(30));
        let said = refused(builder.connect().await, ErrorKind::Backend);
        assert!(said.contains(proxy.endpoint()) && said.contains(text), "{said}");
    }
}

/// While the member was down, the proxy's answer to the new watch stream ended each open watch.
#[tokio::test]
async fn watch_outlives_a_restart_beside_a_proxy_that_denies() {
    for (denial, text) in DENIALS {
        let denied = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&denied);
        let proxy = Scripted::start(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            vec![denial]
        });
        let proxy = proxy.await;
        let mut server = single().await;
        let kv = client(&[server[0].endpoint().to_owned(), proxy.endpoint().to_owned()]).await;
        let mut watch = kv.watch(Watch::new("w")).await.unwrap();
        server[0].kill();
        until("the proxy denies the watch stream", async || denied.load(Ordering::Relaxed) > 0)
            .await;
        server[0].start();
        server[0].ready().await;
        let put = client(&server.endpoints()).await.put("w", "1").await.unwrap();
        let batch = timeout(secs(30), watch.next()).await.expect("it goes on");
        let batch = batch.expect("it goes on").unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(batch.revision, put.header.revision, "{text}");
    }
}
