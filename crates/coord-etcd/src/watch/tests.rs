//! Tests of watches: the streams that a backend opens, and the registrations on them, over members
//! in the same process and on a paused clock.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::MutexGuard;
use std::time::Duration;

use coord_core::{
    KvBackend,
    error::ErrorKind,
    kv::{Event, EventKind, KeyValue},
};
use etcd_client::Channel;
use etcd_client::proto::{PbWatchRequest, PbWatchResponse, PbWatchServer, PbWatchService};
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep, timeout};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::{Request, Response, Status, Streaming};
use tower::util::BoxCloneSyncService;
use tower::{ServiceExt as _, service_fn};

use super::*;
use crate::EtcdBackend;
use crate::wire::{FromWire, ToWire, WatchCall};

/// The reason with which etcd refuses a watch when the login has expired.
const EXPIRED_LOGIN_REASON: &str =
    "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";

type Message = Result<PbWatchResponse, Status>;

/// A member with a store of one key.
#[derive(Clone, Default)]
struct Member(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The number of puts; the store is at the next revision.
    puts: i64,
    /// Whether the member accepts no stream.
    hangs: bool,
    /// Whether the member opens streams, and confirms no watch on them.
    is_silent: bool,
    /// Whether the member refuses streams as a proxy does.
    refuses_like_a_proxy: bool,
    /// How many of the next streams are refused because the login has expired.
    expired_logins: u32,
    streams: Vec<ServedStream>,
}

/// A stream, open or closed.
struct ServedStream {
    open: bool,
    /// The start revisions of the watches, by id.
    watchers: BTreeMap<i64, i64>,
    messages: UnboundedSender<Message>,
}

/// Marks a stream as closed when it is dropped.
struct CloseGuard(Member, usize);

impl Drop for CloseGuard {
    fn drop(&mut self) {
        self.0.lock().streams[self.1].open = false;
    }
}

impl Member {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder of the lock panics")
    }

    fn put(&self) {
        let mut state = self.lock();
        state.puts += 1;
        let revision = state.puts + 1;
        for stream in state.streams.iter().filter(|stream| stream.open) {
            for (id, start) in &stream.watchers {
                if *start <= revision {
                    let _ = stream.messages.send(Ok(message(*id, revision, [revision])));
                }
            }
        }
    }

    /// Sends every watch a progress notification.
    fn notify(&self) {
        let state = self.lock();
        for stream in state.streams.iter().filter(|stream| stream.open) {
            for id in stream.watchers.keys() {
                let _ = stream.messages.send(Ok(message(*id, state.puts + 1, [])));
            }
        }
    }

    /// Breaks all streams.
    fn break_streams(&self) {
        for stream in &mut self.lock().streams {
            stream.watchers.clear();
            let _ = stream.messages.send(Err(Status::unavailable("etcdserver: no leader")));
        }
    }

    /// The number of watches on each open stream.
    fn watchers(&self) -> Vec<usize> {
        let state = self.lock();
        state.streams.iter().filter(|s| s.open).map(|s| s.watchers.len()).collect()
    }

    fn handle(&self, stream: usize, request: Result<PbWatchRequest, Status>) -> Vec<Message> {
        let Ok(request) = request else { return Vec::new() };
        let mut state = self.lock();
        let (now, is_silent) = (state.puts + 1, state.is_silent);
        let watchers = &mut state.streams[stream].watchers;
        match WatchCall::from_wire(request).expect("coord sends valid requests") {
            WatchCall::Create { request, .. } if request.keys.is_empty() => {
                let expired = state.expired_logins > 0;
                state.expired_logins -= u32::from(expired);
                let reason =
                    if expired { EXPIRED_LOGIN_REASON } else { "mvcc: watcher range is empty" };
                let refused = message(-1, now, []);
                let (created, canceled, cancel_reason) = (true, true, reason.to_owned());
                vec![Ok(PbWatchResponse { created, canceled, cancel_reason, ..refused })]
            }
            _ if is_silent => Vec::new(),
            WatchCall::Create { request, watch_id, .. } => {
                let start = request.start_revision.map_or(0, i64::from);
                watchers.insert(watch_id, start);
                let created = PbWatchResponse { created: true, ..message(watch_id, now, []) };
                let replayed = (start..=now).filter(|_| start > 0);
                vec![Ok(created), Ok(message(watch_id, now, replayed))]
            }
            WatchCall::Cancel(id) => {
                let known = watchers.remove(&id);
                let canceled = PbWatchResponse { canceled: true, ..message(id, now, []) };
                known.map(|_| Ok(canceled)).into_iter().collect()
            }
            WatchCall::Progress if watchers.is_empty() => Vec::new(),
            WatchCall::Progress => vec![Ok(message(-1, now, []))],
        }
    }

    fn channel(&self) -> Channel {
        let server = PbWatchServer::new(self.clone());
        Channel::Custom(BoxCloneSyncService::new(service_fn(
            move |request: http::Request<Body>| {
                let logs_in = request.uri().path() == "/etcdserverpb.Auth/Authenticate";
                let response = server.clone().oneshot(request);
                async move {
                    if logs_in {
                        let unknown = "etcdserver: authentication is not enabled";
                        return Ok(Status::failed_precondition(unknown).into_http());
                    }
                    response.await.map_err(|never: Infallible| match never {})
                }
            },
        )))
    }
}

fn message(id: i64, now: i64, revisions: impl IntoIterator<Item = i64>) -> PbWatchResponse {
    let events = revisions.into_iter().map(|revision| {
        let mod_revision = Revision(revision);
        let kv = KeyValue {
            key: "a".into(),
            value: bytes::Bytes::new(),
            create_revision: Revision(2),
            mod_revision,
            version: revision,
            lease: None,
        };
        Event { kind: EventKind::Put, kv, prev_kv: None }.to_wire()
    });
    let header = Some(Header::at(Revision(now)).to_wire());
    let events = events.collect();
    PbWatchResponse { watch_id: id, header, events, ..PbWatchResponse::default() }
}

#[tonic::async_trait]
impl PbWatchService for Member {
    type WatchStream = BoxStream<'static, Message>;

    async fn watch(
        &self,
        request: Request<Streaming<PbWatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        if self.lock().hangs {
            return std::future::pending().await;
        }
        if self.lock().refuses_like_a_proxy {
            return Err(Status::unknown("mapped from HTTP status code 500"));
        }
        let (messages, sent) = unbounded_channel();
        let mut state = self.lock();
        let guard = CloseGuard(self.clone(), state.streams.len());
        state.streams.push(ServedStream { open: true, watchers: BTreeMap::new(), messages });
        let requests = request.into_inner();
        let messages = requests.flat_map(move |r| stream::iter(guard.0.handle(guard.1, r)));
        let sent = stream::unfold(sent, |mut sent: UnboundedReceiver<Message>| async {
            sent.recv().await.map(|message| (message, sent))
        });
        Ok(Response::new(stream::select(messages, sent).boxed()))
    }
}

fn backend<const N: usize>(members: [&Member; N]) -> EtcdBackend {
    let channels = members.map(Member::channel);
    EtcdBackend::builder::<String>([]).over_channels(channels).expect("there is a channel")
}

/// Lets all tasks run until they wait.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

async fn revisions(watch: &mut Watcher, n: usize) -> Vec<i64> {
    let mut revisions = Vec::new();
    while revisions.len() < n {
        let next = timeout(Duration::from_secs(60), watch.next()).await.expect("a batch in time");
        let batch = next.expect("the watch continues").expect("the watch does not fail");
        revisions.push(batch.revision.0);
    }
    revisions
}

#[tokio::test(start_paused = true)]
async fn dropped_watch_leaves_the_shared_stream() {
    let member = Member::default();
    let kv = backend([&member]);
    let mut one = kv.watch(Watch::new("a")).await.unwrap();
    let two = kv.watch(Watch::new("a")).await.unwrap();
    assert_eq!(member.watchers(), [2]);
    drop(two);
    settle().await;
    assert_eq!(member.watchers(), [1]);
    member.put();
    assert_eq!(revisions(&mut one, 1).await, [2]);
}

#[tokio::test(start_paused = true)]
async fn dropped_registration_leaves_nothing() {
    let member = Member::default();
    let kv = backend([&member]);
    for polls in 0..20 {
        let mut watch = Box::pin(kv.watch(Watch::new("a")));
        for _ in 0..polls {
            let polled = futures_util::poll!(&mut watch);
            if polled.is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(watch);
    }
    settle().await;
    assert_eq!(member.watchers(), [0]);
}

#[tokio::test(start_paused = true)]
async fn watch_resumes_without_a_gap_after_a_lost_stream() {
    let member = Member::default();
    let kv = backend([&member]);
    let mut watch = kv.watch(Watch::new("a")).await.unwrap();
    member.break_streams();
    member.put();
    settle().await;
    member.put();
    assert_eq!(revisions(&mut watch, 2).await, [2, 3]);
    for _ in 0..3 {
        member.break_streams();
        member.put();
    }
    assert_eq!(revisions(&mut watch, 3).await, [4, 5, 6]);
    assert_eq!(member.watchers(), [1]);
}

#[tokio::test(start_paused = true)]
async fn member_that_accepts_no_stream_is_skipped() {
    let (hangs, serves) = (Member::default(), Member::default());
    hangs.lock().hangs = true;
    let kv = backend([&hangs, &serves]);
    let watch = kv.watch(Watch::new("a")).await;
    assert!(watch.is_ok(), "{watch:?}");
    assert_eq!((hangs.watchers(), serves.watchers()), (vec![], vec![1]));
}

#[tokio::test(start_paused = true)]
async fn member_that_confirms_nothing_is_replaced() {
    let (silent, serves) = (Member::default(), Member::default());
    silent.lock().is_silent = true;
    let kv = backend([&silent, &serves]);
    let watch = kv.watch(Watch::new("a")).await;
    assert!(watch.is_ok(), "{watch:?}");
    assert_eq!((silent.watchers(), serves.watchers()), (vec![], vec![1]));

    serves.lock().is_silent = true;
    let error = kv.watch(Watch::new("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn streams_end_with_the_backend_and_its_watches() {
    let member = Member::default();
    let kv = backend([&member]);
    let mut watch = kv.watch(Watch::new("a")).await.unwrap();
    drop(kv);
    settle().await;
    member.put();
    assert_eq!(revisions(&mut watch, 1).await, [2], "a watch outlives its backend");
    drop(watch);
    settle().await;
    assert_eq!(member.watchers(), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn slow_reader_is_paused_and_resumes() {
    let member = Member::default();
    let kv = backend([&member]);
    let endpoints = Arc::clone(&kv.shared.endpoints);
    let watches = Watches::with_limits(endpoints, BufferLimits { batches: 4, size_bytes: 1 << 20 });
    let mut slow = watches.watch(Watch::new("a")).await.unwrap();
    let mut quick = watches.watch(Watch::new("a")).await.unwrap();
    for revision in 2..22 {
        member.put();
        assert_eq!(revisions(&mut quick, 1).await, [revision]);
    }
    assert_eq!(member.watchers(), [1], "only the quick one");
    assert_eq!(revisions(&mut slow, 20).await, (2..22).collect::<Vec<_>>());
    settle().await;
    assert_eq!(member.watchers(), [2]);
    // A progress notification follows the unread batches.
    for _ in 0..8 {
        member.put();
    }
    slow.request_progress();
    assert_eq!(revisions(&mut slow, 9).await, [22, 23, 24, 25, 26, 27, 28, 29, 29]);
}

/// A proxy in front of a dead member refuses streams with errors of its own.
#[tokio::test(start_paused = true)]
async fn registered_watch_survives_errors_of_a_proxy() {
    let member = Member::default();
    let kv = backend([&member]);
    let mut watch = kv.watch(Watch::new("a")).await.unwrap();
    member.lock().refuses_like_a_proxy = true;
    member.break_streams();
    sleep(Duration::from_secs(1)).await;
    let error = kv.watch(Watch::new("a")).await.expect_err("a new watch fails");
    assert_eq!(error.kind(), ErrorKind::Backend);
    member.lock().refuses_like_a_proxy = false;
    member.put();
    assert_eq!(revisions(&mut watch, 1).await, [2]);
}

/// Regression: progress notifications were added to a full buffer.
#[tokio::test(start_paused = true)]
async fn full_buffer_drops_progress_notifications() {
    let member = Member::default();
    let kv = backend([&member]);
    let endpoints = Arc::clone(&kv.shared.endpoints);
    let watches = Watches::with_limits(endpoints, BufferLimits { batches: 4, size_bytes: 1 << 20 });
    let request = Watch { progress_notify: true, ..Watch::new("a") };
    let mut slow = watches.watch(request).await.unwrap();
    for _ in 0..20 {
        member.notify();
    }
    settle().await;
    member.put();
    settle().await;
    member.put();
    member.notify();
    assert_eq!(revisions(&mut slow, 6).await, [1, 1, 1, 1, 2, 3]);
    slow.request_progress();
    assert_eq!(revisions(&mut slow, 1).await, [3], "there is room again");
}

/// In etcd, a login expires when it was not used for five minutes, even if a watch stream is open.
#[tokio::test(start_paused = true)]
async fn watch_resumes_after_all_logins_expired() {
    let members = [Member::default(), Member::default(), Member::default()];
    let channels = members.each_ref().map(Member::channel);
    let builder = EtcdBackend::builder::<String>([]).login("app", "secret");
    let kv = builder.over_channels(channels).expect("there is a channel");
    let mut watch = kv.watch(Watch::new("a")).await.unwrap();
    for member in &members {
        member.lock().expired_logins = 1;
        member.break_streams();
        member.put();
    }
    assert_eq!(revisions(&mut watch, 1).await, [2]);
}
