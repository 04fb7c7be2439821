//! Whom a request goes to, and whom it must not go to: members in the same process that answer as
//! they are told, on a paused clock.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use coord_core::{
    Client, KvBackend,
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
use crate::link::configured;

/// A member that gives the answers it was told, and then good ones, and counts.
#[derive(Clone, Default)]
struct Member(Arc<State>);

#[derive(Default)]
struct State {
    told: Mutex<VecDeque<Told>>,
    asked: AtomicUsize,
    /// Whether it lets anybody wait who logs in.
    hangs_at_logins: AtomicBool,
}

#[derive(Clone)]
enum Told {
    Say(Code, &'static str),
    Hang,
}

impl Member {
    fn new(told: impl IntoIterator<Item = Told>) -> Self {
        let told = Mutex::new(told.into_iter().collect());
        Self(Arc::new(State { told, ..State::default() }))
    }

    fn asked(&self) -> usize {
        self.0.asked.load(Ordering::Relaxed)
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
                    let answer = PbKvServer::new(member).oneshot(request).await;
                    answer.map_err(|never: Infallible| match never {})
                }
            },
        )))
    }

    /// It knows no logins, and says so.
    async fn log_in(&self) -> http::Response<Body> {
        if self.0.hangs_at_logins.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        Status::failed_precondition("etcdserver: authentication is not enabled").into_http()
    }

    async fn answer<T: Default>(&self) -> Result<Response<T>, Status> {
        self.0.asked.fetch_add(1, Ordering::Relaxed);
        let told = self.0.told.lock().unwrap().pop_front();
        match told {
            None => Ok(Response::new(T::default())),
            Some(Told::Say(code, message)) => Err(Status::new(code, message)),
            Some(Told::Hang) => std::future::pending().await,
        }
    }
}

#[tonic::async_trait]
impl PbKvService for Member {
    type RangeStreamStream = BoxStream<'static, Result<PbRangeStreamResponse, Status>>;

    async fn range(&self, _: Request<PbRangeRequest>) -> Result<Response<PbRangeResponse>, Status> {
        self.answer().await
    }

    async fn range_stream(
        &self,
        _: Request<PbRangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn put(&self, _: Request<PbPutRequest>) -> Result<Response<PbPutResponse>, Status> {
        self.answer().await
    }

    async fn delete_range(
        &self,
        _: Request<PbDeleteRequest>,
    ) -> Result<Response<PbDeleteResponse>, Status> {
        self.answer().await
    }

    async fn txn(&self, _: Request<PbTxnRequest>) -> Result<Response<PbTxnResponse>, Status> {
        self.answer().await
    }

    async fn compact(
        &self,
        _: Request<PbCompactionRequest>,
    ) -> Result<Response<PbCompactionResponse>, Status> {
        self.answer().await
    }
}

/// A member that is not there.
fn refusing() -> Channel {
    Channel::Custom(BoxCloneSyncService::new(service_fn(async |_| {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        Err(ConnectError(Box::new(refused)).into())
    })))
}

fn backend(channels: impl IntoIterator<Item = Channel>) -> EtcdBackend {
    EtcdBackend::builder::<String>([]).over_channels(channels).expect("there is a channel")
}

/// The same, with a login.
fn logged_in(channels: impl IntoIterator<Item = Channel>) -> EtcdBackend {
    let builder = EtcdBackend::builder::<String>([]).login("app", "secret");
    builder.over_channels(channels).expect("there is a channel")
}

async fn put(kv: &EtcdBackend) -> coord_core::Result<PutResponse> {
    kv.put_with(Put::new("a", "1")).await
}

const STOPPED: Told = Told::Say(Code::Unavailable, "etcdserver: server stopped");
const NO_LEADER: Told = Told::Say(Code::Unavailable, "etcdserver: no leader");

#[tokio::test(start_paused = true)]
async fn endpoint_that_refuses_is_passed_over_by_changes_too() {
    let good = Member::default();
    let kv = backend([refusing(), good.channel()]);
    for asked in 1..=10 {
        put(&kv).await.expect("the other endpoint answers");
        assert_eq!(good.asked(), asked);
    }
}

/// tonic dials again by itself when a connection was lost, and says in other words that it took too
/// long than that it failed: a change that had not even been sent was perhaps applied.
#[tokio::test(start_paused = true)]
async fn endpoint_that_accepts_no_connection_any_more_is_passed_over() {
    let options = EtcdBackend::builder(["nowhere"]).options;
    let nowhere = configured(&http::Uri::from_static("http://nowhere"), &options);
    let silence = service_fn(|_| std::future::pending::<io::Result<TokioIo<TcpStream>>>());
    let nowhere = nowhere.expect("a name").connect_with_connector_lazy(silence);
    let good = Member::default();
    let kv = backend([Channel::Tonic(nowhere), good.channel()]);
    let start = Instant::now();
    put(&kv).await.expect("the other endpoint answers");
    assert_eq!((start.elapsed(), good.asked()), (options.connect_timeout, 1));
}

#[tokio::test(start_paused = true)]
async fn change_that_was_perhaps_applied_is_not_repeated() {
    let (bad, good) = (Member::new([STOPPED]), Member::default());
    let kv = backend([bad.channel(), good.channel()]);
    let error = put(&kv).await.expect_err("nobody knows what became of it");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::Unknown));
    assert_eq!((bad.asked(), good.asked()), (1, 0));
    put(&kv).await.expect("the next change goes to the other member");
    assert_eq!((bad.asked(), good.asked()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn read_is_asked_elsewhere_whatever_happened() {
    let late = Told::Say(Code::DeadlineExceeded, "context deadline exceeded");
    let (bad, good) = (Member::new([STOPPED, STOPPED, Told::Hang, late]), Member::default());
    let kv = backend([bad.channel(), good.channel()]);
    kv.get("a").await.expect("the other member answers");
    let read_only = coord_core::kv::Txn::new().and_then([Range::new("a")]);
    kv.shared.endpoints.preferred.store(0, Ordering::Relaxed);
    kv.txn(read_only).await.expect("it changes nothing either");
    kv.shared.endpoints.preferred.store(0, Ordering::Relaxed);
    kv.get("a").await.expect("half of the time is left for the other member");
    kv.shared.endpoints.preferred.store(0, Ordering::Relaxed);
    kv.get("a").await.expect("it may be that only this member had no time");
    assert_eq!((bad.asked(), good.asked()), (4, 4));
}

/// Each time that requests go to another endpoint from then on counts once.
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
async fn change_that_was_surely_not_applied_goes_elsewhere() {
    let (bad, good) = (Member::new([NO_LEADER]), Member::default());
    let kv = backend([bad.channel(), good.channel()]);
    put(&kv).await.expect("the other member has a leader");
    assert_eq!((bad.asked(), good.asked()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn election_is_waited_for() {
    let member = Member::new(vec![NO_LEADER; 5]);
    let kv = backend([member.channel()]);
    put(&kv).await.expect("there is a leader in time");
    assert_eq!(member.asked(), 6);
}

#[tokio::test(start_paused = true)]
async fn election_is_not_waited_for_longer_than_a_request_may_take() {
    let kv = backend([Member::new(vec![NO_LEADER; 1000]).channel()]);
    let start = Instant::now();
    let error = put(&kv).await.expect_err("there is never a leader");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotApplied));
    assert!(start.elapsed() <= Duration::from_secs(7));
}

/// Each member is spoken to with a login of its own, and when rights change all of them are too
/// old. The second that said so was believed.
#[tokio::test(start_paused = true)]
async fn login_that_is_too_old_everywhere_is_renewed() {
    let old = Told::Say(Code::InvalidArgument, "etcdserver: revision of auth store is old");
    let members = [(); 3].map(|()| Member::new([old.clone()]));
    let kv = logged_in(members.iter().map(Member::channel));
    put(&kv).await.expect("there is nothing that logging in does not help");
    let asked = members.each_ref().map(Member::asked);
    assert_eq!(asked.iter().sum::<usize>(), 4, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn login_that_is_always_too_old_is_an_error() {
    let old = Told::Say(Code::InvalidArgument, "etcdserver: revision of auth store is old");
    let member = Member::new(vec![old; 1000]);
    let error = put(&logged_in([member.channel()])).await.expect_err("it never gets better");
    assert_eq!((error.kind(), member.asked()), (ErrorKind::Unauthenticated, 2));
}

/// Whoever had waited in vain threw the connection away, and waited for it to be made.
#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_a_request_may_take_because_another_dials() {
    let member = Member::new([Told::Hang, Told::Hang]);
    let kv = logged_in([member.channel()]);
    let later = |seconds| sleep(Duration::from_secs(seconds));
    let first = put(&kv);
    let second = async {
        later(3).await;
        let start = Instant::now();
        let error = put(&kv).await.expect_err("there is no answer");
        assert_eq!((error.kind(), start.elapsed()), (ErrorKind::Timeout, Duration::from_secs(7)));
    };
    // When the first one is over, and the second one still waits.
    let third = async {
        later(8).await;
        member.0.hangs_at_logins.store(true, Ordering::Relaxed);
        put(&kv).await
    };
    let (first, (), third) = tokio::join!(first, second, third);
    assert!(first.is_err() && third.is_err());
}

#[tokio::test(start_paused = true)]
async fn when_nobody_is_there_all_are_named_at_once() {
    let kv = backend([refusing(), refusing()]);
    let start = Instant::now();
    let error = put(&kv).await.expect_err("nobody is there");
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(error.outcome(), Outcome::NotApplied);
    assert_eq!(
        error.to_string(),
        "the store is unavailable: cannot connect to channel 0: connection refused; \
         cannot connect to channel 1: connection refused"
    );
}

#[tokio::test(start_paused = true)]
async fn change_without_an_answer_times_out_and_is_not_repeated() {
    let (frozen, good) = (Member::new([Told::Hang]), Member::default());
    let kv = backend([frozen.channel(), good.channel()]);
    let start = Instant::now();
    let error = put(&kv).await.expect_err("there is no answer");
    assert!(matches!(error, Error::Timeout { after } if after == Duration::from_secs(7)));
    assert_eq!(start.elapsed(), Duration::from_secs(7));
    put(&kv).await.expect("the next change goes to the other member");
    assert_eq!((frozen.asked(), good.asked()), (1, 1));
}

#[tokio::test]
async fn endpoint_where_nobody_listens_is_named_at_once() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("it is bound").to_string();
    drop(free);
    let error = EtcdBackend::connect([address.clone()]).await.expect_err("nobody listens");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotApplied));
    assert!(error.to_string().contains(&address), "{error}");
}

#[tokio::test]
async fn no_endpoint_and_nonsense_are_refused() {
    for endpoints in [vec![], vec!["not an endpoint"]] {
        let error = EtcdBackend::connect(endpoints).await.expect_err("nonsense");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Backend, Outcome::NotApplied));
    }
}
