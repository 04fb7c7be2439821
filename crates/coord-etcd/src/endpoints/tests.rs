//! Tests of failover and retries, over members in the same process with scripted responses, on a
//! paused clock.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use coord_core::{
    KvBackend,
    error::ErrorKind,
    kv::{Put, PutResponse, Range},
};
use etcd_client::Channel;
use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbKvServer,
    PbKvService, PbPutRequest, PbPutResponse, PbRangeRequest, PbRangeResponse,
    PbRangeStreamResponse, PbTxnRequest, PbTxnResponse,
};
use futures_util::stream::BoxStream;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::{Code, ConnectError, Request, Response, Status};
use tower::util::BoxCloneSyncService;
use tower::{ServiceExt as _, service_fn};

use super::*;
use crate::EtcdBackend;
use crate::link::tonic_endpoint;

/// A member that returns scripted responses, then empty ones, and counts requests.
#[derive(Clone, Default)]
struct Member(Arc<State>);

#[derive(Default)]
struct State {
    script: Mutex<VecDeque<Scripted>>,
    requests: AtomicUsize,
    /// Whether logins receive no response.
    hangs_at_logins: AtomicBool,
}

#[derive(Clone)]
enum Scripted {
    Status(Code, &'static str),
    Hang,
}

impl Member {
    fn new(script: impl IntoIterator<Item = Scripted>) -> Self {
        let script = Mutex::new(script.into_iter().collect());
        Self(Arc::new(State { script, ..State::default() }))
    }

    fn requests(&self) -> usize {
        self.0.requests.load(Ordering::Relaxed)
    }

    fn channel(&self) -> Channel {
        let member = self.clone();
        Channel::Custom(BoxCloneSyncService::new(service_fn(
            move |request: http::Request<Body>| {
                let member = member.clone();
                async move {
                    if request.uri().path() == "/etcdserverpb.Auth/Authenticate" {
                        return Ok(member.log_in().await);
                    }
                    let response = PbKvServer::new(member).oneshot(request).await;
                    response.map_err(|never: Infallible| match never {})
                }
            },
        )))
    }

    /// The response of a member without authentication.
    async fn log_in(&self) -> http::Response<Body> {
        if self.0.hangs_at_logins.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        Status::failed_precondition("etcdserver: authentication is not enabled").into_http()
    }

    async fn respond<T: Default>(&self) -> Result<Response<T>, Status> {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        let scripted = self.0.script.lock().unwrap().pop_front();
        match scripted {
            None => Ok(Response::new(T::default())),
            Some(Scripted::Status(code, message)) => Err(Status::new(code, message)),
            Some(Scripted::Hang) => std::future::pending().await,
        }
    }
}

#[tonic::async_trait]
impl PbKvService for Member {
    type RangeStreamStream = BoxStream<'static, Result<PbRangeStreamResponse, Status>>;

    async fn range(&self, _: Request<PbRangeRequest>) -> Result<Response<PbRangeResponse>, Status> {
        self.respond().await
    }

    async fn range_stream(
        &self,
        _: Request<PbRangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented("not used by these tests"))
    }

    async fn put(&self, _: Request<PbPutRequest>) -> Result<Response<PbPutResponse>, Status> {
        self.respond().await
    }

    async fn delete_range(
        &self,
        _: Request<PbDeleteRequest>,
    ) -> Result<Response<PbDeleteResponse>, Status> {
        self.respond().await
    }

    async fn txn(&self, _: Request<PbTxnRequest>) -> Result<Response<PbTxnResponse>, Status> {
        self.respond().await
    }

    async fn compact(
        &self,
        _: Request<PbCompactionRequest>,
    ) -> Result<Response<PbCompactionResponse>, Status> {
        self.respond().await
    }
}

/// A channel whose connections are refused.
fn refusing() -> Channel {
    Channel::Custom(BoxCloneSyncService::new(service_fn(async |_| {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        Err(ConnectError(Box::new(refused)).into())
    })))
}

fn backend(channels: impl IntoIterator<Item = Channel>) -> EtcdBackend {
    EtcdBackend::builder::<String>([]).over_channels(channels).expect("there is a channel")
}

/// A backend with a login.
fn logged_in(channels: impl IntoIterator<Item = Channel>) -> EtcdBackend {
    let builder = EtcdBackend::builder::<String>([]).login("app", "secret");
    builder.over_channels(channels).expect("there is a channel")
}

async fn put(kv: &EtcdBackend) -> coord_core::Result<PutResponse> {
    kv.put(Put::new("a", "1")).await
}

const STOPPED: Scripted = Scripted::Status(Code::Unavailable, "etcdserver: server stopped");
const NO_LEADER: Scripted = Scripted::Status(Code::Unavailable, "etcdserver: no leader");

#[tokio::test(start_paused = true)]
async fn change_skips_an_endpoint_that_refuses_connections() {
    let good = Member::default();
    let kv = backend([refusing(), good.channel()]);
    for requests in 1..=10 {
        put(&kv).await.expect("the other endpoint responds");
        assert_eq!(good.requests(), requests);
    }
}

/// Regression: a change that was never sent had an unknown outcome. tonic redials a lost
/// connection, and its error for a dial that took too long differs from its error for a failed
/// dial.
#[tokio::test(start_paused = true)]
async fn change_skips_an_endpoint_whose_redial_times_out() {
    let options = EtcdBackend::builder(["nowhere"]).options;
    let nowhere = tonic_endpoint(&http::Uri::from_static("http://nowhere"), &options);
    let silent = service_fn(|_| std::future::pending::<io::Result<TokioIo<TcpStream>>>());
    let nowhere = nowhere.expect("the host name is valid").connect_with_connector_lazy(silent);
    let good = Member::default();
    let kv = backend([Channel::Tonic(nowhere), good.channel()]);
    let start = Instant::now();
    put(&kv).await.expect("the other endpoint responds");
    assert_eq!((start.elapsed(), good.requests()), (options.connect_timeout, 1));
}

#[tokio::test(start_paused = true)]
async fn change_with_unknown_outcome_is_not_repeated() {
    let (bad, good) = (Member::new([STOPPED]), Member::default());
    let kv = backend([bad.channel(), good.channel()]);
    let error = put(&kv).await.expect_err("the outcome is unknown");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::Unknown));
    assert_eq!((bad.requests(), good.requests()), (1, 0));
    put(&kv).await.expect("the next change goes to the other member");
    assert_eq!((bad.requests(), good.requests()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn read_fails_over_after_any_failure() {
    let late = Scripted::Status(Code::DeadlineExceeded, "context deadline exceeded");
    let (bad, good) = (Member::new([STOPPED, STOPPED, Scripted::Hang, late]), Member::default());
    let kv = backend([bad.channel(), good.channel()]);
    kv.range(Range::new("a")).await.expect("the other member responds");
    let read_only = coord_core::kv::Txn::new().and_then([Range::new("a")]);
    kv.shared.endpoints.preferred.store(0, Ordering::Relaxed);
    kv.txn(read_only).await.expect("it is a read too");
    kv.shared.endpoints.preferred.store(0, Ordering::Relaxed);
    kv.range(Range::new("a")).await.expect("half of the time is left for the other member");
    kv.shared.endpoints.preferred.store(0, Ordering::Relaxed);
    kv.range(Range::new("a")).await.expect("another member may respond in time");
    assert_eq!((bad.requests(), good.requests()), (4, 4));
}

/// The counter counts changes of the preferred endpoint, not requests.
#[cfg(feature = "metrics")]
#[tokio::test(start_paused = true)]
async fn failover_is_counted_once() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    let recorder = DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let (bad, good) = (Member::new([NO_LEADER]), Member::default());
    let kv = backend([bad.channel(), good.channel()]);
    for _ in 0..3 {
        put(&kv).await.expect("the other member has a leader");
    }
    let counted = recorder.snapshotter().snapshot().into_vec();
    let [(key, _, _, DebugValue::Counter(1))] = &counted[..] else { panic!("{counted:?}") };
    assert_eq!(key.key().name(), "coord_etcd_failovers_total");
}

#[tokio::test(start_paused = true)]
async fn change_that_was_not_applied_fails_over() {
    let (bad, good) = (Member::new([NO_LEADER]), Member::default());
    let kv = backend([bad.channel(), good.channel()]);
    put(&kv).await.expect("the other member has a leader");
    assert_eq!((bad.requests(), good.requests()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn request_waits_for_an_election() {
    let member = Member::new(vec![NO_LEADER; 5]);
    let kv = backend([member.channel()]);
    put(&kv).await.expect("a leader is elected in time");
    assert_eq!(member.requests(), 6);
}

#[tokio::test(start_paused = true)]
async fn request_without_a_leader_ends_within_its_timeout() {
    let kv = backend([Member::new(vec![NO_LEADER; 1000]).channel()]);
    let start = Instant::now();
    let error = put(&kv).await.expect_err("there is never a leader");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotApplied));
    assert!(start.elapsed() <= Duration::from_secs(7));
}

/// Regression: only one login was renewed for a request, so the error of the second member was
/// final. Each member has a login of its own, and all of them expire when permissions change.
#[tokio::test(start_paused = true)]
async fn logins_that_expired_at_all_members_are_renewed() {
    let expired =
        Scripted::Status(Code::InvalidArgument, "etcdserver: revision of auth store is old");
    let members = [(); 3].map(|()| Member::new([expired.clone()]));
    let kv = logged_in(members.iter().map(Member::channel));
    put(&kv).await.expect("each member accepts a new login");
    let requests = members.each_ref().map(Member::requests);
    assert_eq!(requests.iter().sum::<usize>(), 4, "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn login_that_expires_at_once_is_an_error() {
    let expired =
        Scripted::Status(Code::InvalidArgument, "etcdserver: revision of auth store is old");
    let member = Member::new(vec![expired; 1000]);
    let error = put(&logged_in([member.channel()])).await.expect_err("a new login does not help");
    assert_eq!((error.kind(), member.requests()), (ErrorKind::Unauthenticated, 2));
}

/// Regression: a request that timed out discarded the link, and waited until another request had
/// made a new link.
#[tokio::test(start_paused = true)]
async fn dial_of_another_request_does_not_extend_the_timeout() {
    let member = Member::new([Scripted::Hang, Scripted::Hang]);
    let kv = logged_in([member.channel()]);
    let later = |seconds| sleep(Duration::from_secs(seconds));
    let first = put(&kv);
    let second = async {
        later(3).await;
        let start = Instant::now();
        let error = put(&kv).await.expect_err("there is no response");
        assert_eq!((error.kind(), start.elapsed()), (ErrorKind::Timeout, Duration::from_secs(7)));
    };
    // Starts when the first request has ended and the second still waits.
    let third = async {
        later(8).await;
        member.0.hangs_at_logins.store(true, Ordering::Relaxed);
        put(&kv).await
    };
    let (first, (), third) = tokio::join!(first, second, third);
    assert!(first.is_err() && third.is_err());
}

#[tokio::test(start_paused = true)]
async fn unreachable_endpoints_are_all_named_at_once() {
    let kv = backend([refusing(), refusing()]);
    let start = Instant::now();
    let error = put(&kv).await.expect_err("all refuse connections");
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(error.outcome(), Outcome::NotApplied);
    assert_eq!(
        error.to_string(),
        "the store is unavailable: cannot connect to channel 0: connection refused; \
         cannot connect to channel 1: connection refused"
    );
}

#[tokio::test(start_paused = true)]
async fn change_without_a_response_times_out_unrepeated() {
    let (frozen, good) = (Member::new([Scripted::Hang]), Member::default());
    let kv = backend([frozen.channel(), good.channel()]);
    let start = Instant::now();
    let error = put(&kv).await.expect_err("there is no response");
    assert!(matches!(error, Error::Timeout { after } if after == Duration::from_secs(7)));
    assert_eq!(start.elapsed(), Duration::from_secs(7));
    put(&kv).await.expect("the next change goes to the other member");
    assert_eq!((frozen.requests(), good.requests()), (1, 1));
}

#[tokio::test]
async fn endpoint_without_a_listener_is_named() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("it is bound").to_string();
    drop(free);
    let error = EtcdBackend::connect([address.clone()]).await.expect_err("there is no listener");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotApplied));
    assert!(error.to_string().contains(&address), "{error}");
}

#[tokio::test]
async fn missing_or_invalid_endpoint_is_refused() {
    for endpoints in [vec![], vec!["not an endpoint"]] {
        let error = EtcdBackend::connect(endpoints).await.expect_err("they are invalid");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Backend, Outcome::NotApplied));
    }
}
