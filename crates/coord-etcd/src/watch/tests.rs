//! Watches over members in the same process, on a paused clock: what goes over the streams, and
//! what is left on them.

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

/// How a stream is refused whose login is too old.
const OLD_LOGIN: &str = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";

type Answer = Result<PbWatchResponse, Status>;

/// A member with a store of one key, which is put and put again.
#[derive(Clone, Default)]
struct Member(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The store is at revision 1 and this.
    puts: i64,
    /// Takes no stream.
    hangs: bool,
    /// Opens streams, and then says nothing.
    mute: bool,
    /// Refuses streams, in words that etcd does not use.
    odd: bool,
    /// Finds so many more logins too old.
    old_logins: u32,
    streams: Vec<Served>,
}

/// A stream that the member serves, or served.
struct Served {
    open: bool,
    watchers: BTreeMap<i64, i64>,
    pushes: UnboundedSender<Answer>,
}

/// Notices that a stream is closed.
struct Open(Member, usize);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().streams[self.1].open = false;
    }
}

impl Member {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder panics")
    }

    fn put(&self) {
        let mut state = self.lock();
        state.puts += 1;
        let revision = state.puts + 1;
        for stream in state.streams.iter().filter(|stream| stream.open) {
            for (id, start) in &stream.watchers {
                if *start <= revision {
                    let _ = stream.pushes.send(Ok(told(*id, revision, [revision])));
                }
            }
        }
    }

    /// Tells every watcher how far the store is.
    fn notify(&self) {
        let state = self.lock();
        for stream in state.streams.iter().filter(|stream| stream.open) {
            for id in stream.watchers.keys() {
                let _ = stream.pushes.send(Ok(told(*id, state.puts + 1, [])));
            }
        }
    }

    /// Breaks all streams.
    fn lose(&self) {
        for stream in &mut self.lock().streams {
            stream.watchers.clear();
            let _ = stream.pushes.send(Err(Status::unavailable("etcdserver: no leader")));
        }
    }

    /// How many watchers each open stream has.
    fn watchers(&self) -> Vec<usize> {
        let state = self.lock();
        state.streams.iter().filter(|s| s.open).map(|s| s.watchers.len()).collect()
    }

    fn handle(&self, stream: usize, request: Result<PbWatchRequest, Status>) -> Vec<Answer> {
        let Ok(request) = request else { return Vec::new() };
        let mut state = self.lock();
        let (now, mute) = (state.puts + 1, state.mute);
        let watchers = &mut state.streams[stream].watchers;
        match WatchCall::from_wire(request).expect("coord sends what makes sense") {
            WatchCall::Create { request, .. } if request.keys.is_empty() => {
                let old = state.old_logins > 0;
                state.old_logins -= u32::from(old);
                let reason = if old { OLD_LOGIN } else { "mvcc: watcher range is empty" };
                let refused = told(-1, now, []);
                let (created, canceled, cancel_reason) = (true, true, reason.to_owned());
                vec![Ok(PbWatchResponse { created, canceled, cancel_reason, ..refused })]
            }
            _ if mute => Vec::new(),
            WatchCall::Create { request, watch_id, .. } => {
                let start = request.start_revision.0;
                watchers.insert(watch_id, start);
                let created = PbWatchResponse { created: true, ..told(watch_id, now, []) };
                let replayed = (start..=now).filter(|_| start > 0);
                vec![Ok(created), Ok(told(watch_id, now, replayed))]
            }
            WatchCall::Cancel(id) => {
                let known = watchers.remove(&id);
                let canceled = PbWatchResponse { canceled: true, ..told(id, now, []) };
                known.map(|_| Ok(canceled)).into_iter().collect()
            }
            WatchCall::Progress if watchers.is_empty() => Vec::new(),
            WatchCall::Progress => vec![Ok(told(-1, now, []))],
        }
    }

    fn channel(&self) -> Channel {
        let server = PbWatchServer::new(self.clone());
        Channel::Custom(BoxCloneSyncService::new(service_fn(
            move |request: http::Request<Body>| {
                let logs_in = request.uri().path() == "/etcdserverpb.Auth/Authenticate";
                let answer = server.clone().oneshot(request);
                async move {
                    if logs_in {
                        let unknown = "etcdserver: authentication is not enabled";
                        return Ok(Status::failed_precondition(unknown).into_http());
                    }
                    answer.await.map_err(|never: Infallible| match never {})
                }
            },
        )))
    }
}

fn told(id: i64, now: i64, revisions: impl IntoIterator<Item = i64>) -> PbWatchResponse {
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
    type WatchStream = BoxStream<'static, Answer>;

    async fn watch(
        &self,
        request: Request<Streaming<PbWatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        if self.lock().hangs {
            return std::future::pending().await;
        }
        if self.lock().odd {
            return Err(Status::unknown("mapped from HTTP status code 500"));
        }
        let (pushes, pushed) = unbounded_channel();
        let mut state = self.lock();
        let open = Open(self.clone(), state.streams.len());
        state.streams.push(Served { open: true, watchers: BTreeMap::new(), pushes });
        let requests = request.into_inner();
        let answers = requests.flat_map(move |r| stream::iter(open.0.handle(open.1, r)));
        let pushed = stream::unfold(pushed, |mut pushed: UnboundedReceiver<Answer>| async {
            pushed.recv().await.map(|answer| (answer, pushed))
        });
        Ok(Response::new(stream::select(answers, pushed).boxed()))
    }
}

fn backend<const N: usize>(members: [&Member; N]) -> EtcdBackend {
    let channels = members.map(Member::channel);
    EtcdBackend::builder::<String>([]).over_channels(channels).expect("there is a channel")
}

/// Lets everybody do what can be done without waiting.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

async fn revisions(watch: &mut Watch, n: usize) -> Vec<i64> {
    let mut revisions = Vec::new();
    while revisions.len() < n {
        let next = timeout(Duration::from_secs(60), watch.next()).await.expect("it comes soon");
        revisions.push(next.expect("the watch goes on").expect("it does not fail").revision.0);
    }
    revisions
}

#[tokio::test(start_paused = true)]
async fn watches_share_a_stream_and_leave_it() {
    let member = Member::default();
    let kv = backend([&member]);
    let mut one = kv.watch(WatchRequest::new("a")).await.unwrap();
    let two = kv.watch(WatchRequest::new("a")).await.unwrap();
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
        let mut watch = Box::pin(kv.watch(WatchRequest::new("a")));
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
async fn lost_stream_is_opened_again_and_nothing_is_lost() {
    let member = Member::default();
    let kv = backend([&member]);
    let mut watch = kv.watch(WatchRequest::new("a")).await.unwrap();
    member.lose();
    member.put();
    settle().await;
    member.put();
    assert_eq!(revisions(&mut watch, 2).await, [2, 3]);
    for _ in 0..3 {
        member.lose();
        member.put();
    }
    assert_eq!(revisions(&mut watch, 3).await, [4, 5, 6]);
    assert_eq!(member.watchers(), [1]);
}

#[tokio::test(start_paused = true)]
async fn member_that_hangs_is_passed_over() {
    let (hangs, serves) = (Member::default(), Member::default());
    hangs.lock().hangs = true;
    let kv = backend([&hangs, &serves]);
    let watch = kv.watch(WatchRequest::new("a")).await;
    assert!(watch.is_ok(), "{watch:?}");
    assert_eq!((hangs.watchers(), serves.watchers()), (vec![], vec![1]));
}

#[tokio::test(start_paused = true)]
async fn member_that_confirms_nothing_is_given_up() {
    let (mute, serves) = (Member::default(), Member::default());
    mute.lock().mute = true;
    let kv = backend([&mute, &serves]);
    let watch = kv.watch(WatchRequest::new("a")).await;
    assert!(watch.is_ok(), "{watch:?}");
    assert_eq!((mute.watchers(), serves.watchers()), (vec![], vec![1]));

    serves.lock().mute = true;
    let error = kv.watch(WatchRequest::new("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn streams_end_with_the_backend_and_its_watches() {
    let member = Member::default();
    let kv = backend([&member]);
    let mut watch = kv.watch(WatchRequest::new("a")).await.unwrap();
    drop(kv);
    settle().await;
    member.put();
    assert_eq!(revisions(&mut watch, 1).await, [2], "a watch outlives its backend");
    drop(watch);
    settle().await;
    assert_eq!(member.watchers(), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn reader_who_is_behind_is_paused_and_goes_on() {
    let member = Member::default();
    let kv = backend([&member]);
    let endpoints = Arc::clone(&kv.shared.endpoints);
    let watches = Watches::with_bounds(endpoints, Bounds { batches: 4, size_bytes: 1 << 20 });
    let mut slow = watches.watch(WatchRequest::new("a")).await.unwrap();
    let mut quick = watches.watch(WatchRequest::new("a")).await.unwrap();
    for revision in 2..22 {
        member.put();
        assert_eq!(revisions(&mut quick, 1).await, [revision]);
    }
    assert_eq!(member.watchers(), [1], "only the quick one");
    assert_eq!(revisions(&mut slow, 20).await, (2..22).collect::<Vec<_>>());
    settle().await;
    assert_eq!(member.watchers(), [2]);
    // A bookmark comes after what is behind.
    for _ in 0..8 {
        member.put();
    }
    slow.request_progress();
    assert_eq!(revisions(&mut slow, 9).await, [22, 23, 24, 25, 26, 27, 28, 29, 29]);
}

/// What stands between the two while a member is away says what it likes.
#[tokio::test(start_paused = true)]
async fn watch_that_stands_is_mended_whatever_is_said_meanwhile() {
    let member = Member::default();
    let kv = backend([&member]);
    let mut watch = kv.watch(WatchRequest::new("a")).await.unwrap();
    member.lock().odd = true;
    member.lose();
    sleep(Duration::from_secs(1)).await;
    let error = kv.watch(WatchRequest::new("a")).await.expect_err("who comes now is told");
    assert_eq!(error.kind(), ErrorKind::Backend);
    member.lock().odd = false;
    member.put();
    assert_eq!(revisions(&mut watch, 1).await, [2]);
}

/// Bookmarks were put into a slot that was full.
#[tokio::test(start_paused = true)]
async fn reader_who_does_not_read_costs_no_memory_for_bookmarks_either() {
    let member = Member::default();
    let kv = backend([&member]);
    let endpoints = Arc::clone(&kv.shared.endpoints);
    let watches = Watches::with_bounds(endpoints, Bounds { batches: 4, size_bytes: 1 << 20 });
    let request = WatchRequest { progress_notify: true, ..WatchRequest::new("a") };
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

/// A login is forgotten by etcd when it was not used for five minutes: that to the member with the
/// stream like all others.
#[tokio::test(start_paused = true)]
async fn watch_whose_login_is_too_old_everywhere_is_mended() {
    let members = [Member::default(), Member::default(), Member::default()];
    let channels = members.each_ref().map(Member::channel);
    let builder = EtcdBackend::builder::<String>([]).login("app", "secret");
    let kv = builder.over_channels(channels).expect("there is a channel");
    let mut watch = kv.watch(WatchRequest::new("a")).await.unwrap();
    for member in &members {
        member.lock().old_logins = 1;
        member.lose();
        member.put();
    }
    assert_eq!(revisions(&mut watch, 1).await, [2]);
}
