//! The Watch service: many watches multiplexed on one gRPC stream.
//!
//! A client creates and cancels watches by messages, and each response carries the id of its watch.
//! A stream has no task of its own: the response stream owns the state, and makes progress when the
//! connection polls it. Each poll handles the client's messages first, then the ready watches, in
//! turn. A watch enters the [`ReadyQueue`] when it may have something to deliver, so an idle watch
//! is never polled.
//!
//! ```text
//! client    create 0                create 0 (end <= key)           cancel 0
//! server    created 0, @7   event   created + canceled -1 (reason)  canceled 0, @9
//! ```
//!
//! *Compacted start.* The server creates a watch whose start revision is compacted like any other,
//! and cancels it right after. As in etcd, the id stays in use until the client cancels the watch
//! too, and until then the server does not respond to progress requests.
//!
//! *Progress on request.* A progress request is for the whole stream: its response has the id -1,
//! and is sent when every watch has delivered all events up to the revision of the response. As in
//! etcd, there is no response if the stream has no watches, or if a watch waits for a future
//! revision. etcd drops a request while a watch has not caught up; this server responds when the
//! watch has caught up. Messages that the client sends after the request do not affect the
//! response, if no watch has a backlog, and the backend can deliver without waiting, in less than
//! [`MAX_QUEUED_RESPONSES`] messages.
//!
//! *Periodic progress.* A watch with `progress_notify` receives a progress notification under its
//! own id, every ten minutes by default, unless it had events since the last tick. Each stream has
//! a timer of its own for this, so that a progress request of the client does not postpone the
//! notification.
//!
//! Source: `docs/etcd-contract.md` §6; etcd 3.5 `server/etcdserver/api/v3rpc/watch.go`.

mod backlog;
mod fragment;
mod ready_queue;
mod stream_watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::task::Poll;
use std::time::Duration;

use coord_core::{
    Error,
    kv::{Header, Revision, Watch, WatchBatch, Watcher},
};
use coord_etcd::wire::{FromWire, ToWire, WatchCall};
use etcd_client::proto::{PbWatchRequest, PbWatchRequestUnion, PbWatchResponse, PbWatchService};
use futures_util::future::poll_fn;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Interval, interval_at};
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::gauges::GaugeGuard;
use crate::services::Services;
use crate::status::{message_too_large, server_stopped, status};
use backlog::Backlog;
use fragment::split;
use ready_queue::ReadyQueue;
use stream_watch::StreamWatch;

/// The watch id in responses that belong to no watch: rejected watches, and progress on request.
const INVALID_WATCH_ID: i64 = -1;

/// The longest interval of progress notifications. Adding a longer one to the current time could
/// overflow.
const MAX_PROGRESS_INTERVAL: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// While this many responses are queued, a progress request does not poll watches ahead of their
/// turn.
const MAX_QUEUED_RESPONSES: usize = 128;

// etcd's reasons for the rejection of a watch.
const COMPACTED_REASON: &str = "etcdserver: mvcc: required revision has been compacted";
const EMPTY_RANGE_REASON: &str = "mvcc: watcher range is empty";
const DUPLICATE_ID_REASON: &str = "mvcc: duplicate watch ID provided on the WatchStream";

#[async_trait]
impl PbWatchService for Services {
    type WatchStream = BoxStream<'static, Result<PbWatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<PbWatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let stream = ClientStream::new(self.clone(), request.into_inner());
        let responses = stream::unfold(Some(stream), |stream| async {
            let mut stream = stream?;
            // An error ends the stream.
            Some(match stream.next().await {
                Ok(response) => (Ok(response), Some(stream)),
                Err(status) => (Err(status), None),
            })
        });
        Ok(Response::new(self.until_stopped(responses).boxed()))
    }
}

/// The state of one watch stream of a client.
struct ClientStream<R> {
    _gauge: GaugeGuard,
    services: Services,
    /// `None` once the client has closed its side, which does not end the stream.
    requests: Option<R>,
    watches: BTreeMap<i64, StreamWatch>,
    /// The lowest id that was never assigned.
    next_id: i64,
    /// The watches that may have something to deliver.
    ready_queue: ReadyQueue,
    /// The outstanding progress requests; `None` if there are none.
    progress_request: Option<ProgressRequest>,
    /// Timer of periodic progress; `None` until a watch has `progress_notify`.
    progress_timer: Option<Interval>,
    responses: VecDeque<PbWatchResponse>,
}

/// Progress requests of the client without a response yet.
struct ProgressRequest {
    /// Watches that have not reported their progress yet.
    awaited: BTreeSet<i64>,
    /// The header with the lowest revision that the other watches have reported; `None` if none
    /// has.
    header: Option<Header>,
    /// Number of requests. Each receives a response, if a watch has reported its progress.
    requests: usize,
}

impl<R> ClientStream<R>
where
    R: Stream<Item = Result<PbWatchRequest, Status>> + Unpin + Send,
{
    fn new(services: Services, requests: R) -> Self {
        Self {
            _gauge: services.watch_gauges().streams.increment(),
            services,
            requests: Some(requests),
            watches: BTreeMap::new(),
            next_id: 0,
            ready_queue: ReadyQueue::default(),
            progress_request: None,
            progress_timer: None,
            responses: VecDeque::new(),
        }
    }

    /// The next response, or the status that ends the stream.
    async fn next(&mut self) -> Result<PbWatchResponse, Status> {
        loop {
            if let Some(response) = self.responses.pop_front() {
                return Ok(response);
            }
            match self.next_input().await {
                Input::Request(Ok(request)) => self.handle_request(request).await?,
                Input::Request(Err(status)) => {
                    return Err(message_too_large(&status).unwrap_or(status));
                }
                Input::RequestsEnded => self.requests = None,
                Input::ProgressTick => self.request_periodic_progress(),
                Input::Item(id, item) => self.deliver(id, item).await?,
            }
        }
    }

    /// Waits for the next input: a message of the client, the timer, or a watch that is ready.
    async fn next_input(&mut self) -> Input {
        poll_fn(|cx| {
            if let Some(requests) = &mut self.requests
                && let Poll::Ready(request) = requests.poll_next_unpin(cx)
            {
                return Poll::Ready(match request {
                    Some(request) => Input::Request(request),
                    None => Input::RequestsEnded,
                });
            }
            if let Some(timer) = &mut self.progress_timer
                && timer.poll_tick(cx).is_ready()
            {
                return Poll::Ready(Input::ProgressTick);
            }
            // At most as many watches as are queued now, because a watch that exhausts tokio's
            // cooperative budget is queued again at once.
            for _ in 0..self.ready_queue.register(cx.waker()) {
                let Some(id) = self.ready_queue.next() else { break };
                if let Some(item) = self.watches.get_mut(&id).and_then(StreamWatch::poll) {
                    return Poll::Ready(Input::Item(id, item));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Handles a message of the client.
    async fn handle_request(&mut self, mut request: PbWatchRequest) -> Result<(), Status> {
        // As in etcd, unknown requests and unknown filters are ignored.
        match &mut request.request_union {
            None => return Ok(()),
            Some(PbWatchRequestUnion::CreateRequest(create)) => {
                create.filters.retain(|filter| matches!(filter, 0 | 1));
            }
            Some(_) => {}
        }
        let call = WatchCall::from_wire(request);
        match call.map_err(|error| Status::invalid_argument(error.to_string()))? {
            WatchCall::Create { request, watch_id, fragment } => {
                self.create(request, watch_id, fragment).await
            }
            WatchCall::Cancel(id) => {
                // As in etcd, an unknown id is ignored.
                if self.watches.remove(&id).is_some() {
                    let header = self.services.header().await?;
                    self.responses
                        .push_back(PbWatchResponse { canceled: true, ..response(header, id) });
                    self.complete_progress(id);
                }
                Ok(())
            }
            WatchCall::Progress => {
                let all_active = self.watches.values().all(|watch| watch.source.is_some());
                if all_active && !self.watches.is_empty() && !self.has_future_watch().await? {
                    let awaited = self.watches.keys().copied().collect();
                    // The later request needs the progress as of now, which satisfies the earlier
                    // requests too.
                    let requests =
                        1 + self.progress_request.as_ref().map_or(0, |earlier| earlier.requests);
                    self.progress_request =
                        Some(ProgressRequest { awaited, header: None, requests });
                    self.watches.values_mut().for_each(StreamWatch::request_progress);
                    self.drain_ready_batches().await?;
                }
                Ok(())
            }
        }
    }

    /// Whether a watch waits for a revision that does not exist yet.
    async fn has_future_watch(&mut self) -> Result<bool, Status> {
        if self.watches.values().all(|watch| watch.future_start.is_none()) {
            return Ok(false);
        }
        let now = self.services.header().await?.revision;
        for watch in self.watches.values_mut() {
            watch.future_start = watch.future_start.filter(|start| *start > now);
        }
        Ok(self.watches.values().any(|watch| watch.future_start.is_some()))
    }

    /// Polls the watches that a progress request waits for, as long as they deliver without
    /// waiting.
    ///
    /// The response is then queued before the client's next message is handled: a new watch for a
    /// future revision does not block it, and a cancelled watch does not change its revision.
    async fn drain_ready_batches(&mut self) -> Result<(), Status> {
        let awaited =
            self.progress_request.iter().flat_map(|request| request.awaited.iter().copied());
        for id in awaited.collect::<Vec<_>>() {
            while self.responses.len() < MAX_QUEUED_RESPONSES {
                let Some(watch) = self.watches.get_mut(&id) else { break };
                // A watch that still delivers its backlog has not caught up.
                if watch.backlog.is_some() {
                    break;
                }
                // Outside tokio's cooperative budget, because an exhausted budget would end the
                // loop although the watch has something to deliver.
                let poll = unconstrained(poll_fn(|_| Poll::Ready(watch.poll())));
                let Some(item) = poll.await else { break };
                self.deliver(id, item).await?;
            }
        }
        Ok(())
    }

    /// Creates a watch, or rejects the request with a response on the stream.
    async fn create(
        &mut self,
        mut request: Watch,
        requested_id: i64,
        fragment: bool,
    ) -> Result<(), Status> {
        let limit = self.services.limits().watches;
        if self.watches.len() >= limit {
            let reason = format!(
                "coord: watch rejected: the stream has {limit} watches, the maximum; \
                 cancel one or open another stream"
            );
            return self.reject_watch(reason).await;
        }
        let progress_notify = std::mem::take(&mut request.progress_notify);
        let start = request.start_revision.unwrap_or_default();
        let reason = match self.services.backend().watch(request).await {
            Ok(_) if self.watches.contains_key(&requested_id) && requested_id != 0 => {
                DUPLICATE_ID_REASON.into()
            }
            Ok(source) => {
                let id = if requested_id == 0 { self.next_free_id() } else { requested_id };
                let ready_handle = self.ready_queue.handle(id);
                let now = source.header().revision;
                let (backlog, future_start) =
                    (Backlog::new(start, now), Some(start).filter(|at| *at > now));
                let (source, had_events, progress_due) = (Some(source), false, false);
                let _gauge = self.services.watch_gauges().watches.increment();
                self.add_watch(
                    id,
                    StreamWatch {
                        _gauge,
                        source,
                        backlog,
                        future_start,
                        ready_handle,
                        fragment,
                        progress_notify,
                        had_events,
                        progress_due,
                    },
                );
                return Ok(());
            }
            Err(Error::EmptyWatchRange { .. }) => EMPTY_RANGE_REASON.to_owned(),
            Err(Error::Compacted { .. }) => COMPACTED_REASON.to_owned(),
            Err(error @ (Error::PermissionDenied { .. } | Error::Unauthenticated { .. })) => {
                let status = status(&error);
                format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
            }
            Err(error) => return Err(status(&error)),
        };
        self.reject_watch(reason).await
    }

    /// Responds on the stream that a watch was not created; the stream continues.
    async fn reject_watch(&mut self, cancel_reason: String) -> Result<(), Status> {
        let response = response(self.services.header().await?, INVALID_WATCH_ID);
        self.responses.push_back(PbWatchResponse {
            created: true,
            canceled: true,
            cancel_reason,
            ..response
        });
        Ok(())
    }

    /// Responds that a watch was created, and starts it.
    fn add_watch(&mut self, id: i64, mut watch: StreamWatch) {
        let header = watch.source.as_ref().map(Watcher::header).unwrap_or_default();
        self.responses.push_back(PbWatchResponse { created: true, ..response(header, id) });
        if let Some(progress_request) = &mut self.progress_request
            && watch.future_start.is_none()
        {
            // The response covers all watches of the stream, including the new watch. A watch that
            // waits for a future revision is not awaited, because it has no events before that.
            progress_request.awaited.insert(id);
            watch.request_progress();
        }
        if watch.backlog.is_some() {
            // The progress notification marks the end of the backlog.
            watch.request_progress();
        }
        if watch.progress_notify && self.progress_timer.is_none() {
            let interval = self.services.limits().progress_interval;
            let interval = interval.clamp(Duration::from_millis(1), MAX_PROGRESS_INTERVAL);
            self.progress_timer = Some(interval_at(Instant::now() + interval, interval));
        }
        // The watch was never polled, so no waker would queue it.
        watch.ready_handle.enqueue();
        self.watches.insert(id, watch);
    }

    /// Requests periodic progress for the watches that had no events since the last tick.
    fn request_periodic_progress(&mut self) {
        for watch in self.watches.values_mut().filter(|watch| watch.progress_notify) {
            if !std::mem::take(&mut watch.had_events) {
                watch.progress_due = true;
                watch.request_progress();
            }
        }
    }

    /// Assigns the next id in ascending order, and skips ids in use, which the client chose.
    fn next_free_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    /// Handles an item of a watch: a batch, an error, or the end of the watch.
    async fn deliver(
        &mut self,
        id: i64,
        item: Option<coord_core::Result<WatchBatch>>,
    ) -> Result<(), Status> {
        match item.ok_or_else(server_stopped)? {
            Ok(batch) => {
                self.deliver_batch(id, batch);
                Ok(())
            }
            Err(Error::Compacted { compact_revision, .. }) => {
                // The id stays in use.
                if let Some(watch) = self.watches.get_mut(&id) {
                    watch.source = None;
                }
                let header = Header { revision: Revision::ZERO, ..self.services.header().await? };
                self.responses.push_back(PbWatchResponse {
                    canceled: true,
                    compact_revision: compact_revision.unwrap_or_default().0,
                    ..response(header, id)
                });
                // An earlier progress request does not wait for this watch any more.
                self.complete_progress(id);
                Ok(())
            }
            Err(error) => Err(status(&error)),
        }
    }

    /// Sends a batch, or adds it to the watch's backlog.
    fn deliver_batch(&mut self, id: i64, mut batch: WatchBatch) {
        let watch = self.watches.get_mut(&id).expect("only a watch of the stream delivers");
        if let Some(mut backlog) = watch.backlog.take() {
            let later = backlog.add(batch);
            let backlog_batch =
                if later.is_some() || backlog.is_full() { backlog.take_batch() } else { None };
            if later.is_none() {
                watch.backlog = Some(backlog);
            }
            if let Some(backlog_batch) = backlog_batch {
                self.send_events(id, backlog_batch);
            }
            let Some(later) = later else { return };
            batch = later;
        }
        if batch.events.is_empty() {
            self.record_progress(id, batch.revision);
        } else {
            self.send_events(id, batch);
        }
    }

    /// Sends the events of a batch, split into fragments if the client requested that.
    fn send_events(&mut self, id: i64, batch: WatchBatch) {
        let watch = self.watches.get_mut(&id).expect("only a watch of the stream delivers");
        watch.had_events = true;
        let header = watch.header(batch.revision);
        let events = batch.events.into_iter().map(ToWire::to_wire).collect();
        let response = PbWatchResponse { events, ..response(header, id) };
        if watch.fragment {
            self.responses.extend(split(response, self.services.limits().message_bytes()));
        } else {
            self.responses.push_back(response);
        }
    }

    /// Records that all events of a watch up to `revision` were sent.
    fn record_progress(&mut self, id: i64, revision: Revision) {
        let watch = self.watches.get_mut(&id).expect("only a watch of the stream delivers");
        let header = watch.header(revision);
        // One notification of the backend may serve both the periodic and the requested progress.
        if std::mem::take(&mut watch.progress_due) {
            self.responses.push_back(response(header, id));
        }
        if let Some(progress_request) = &mut self.progress_request
            && progress_request.awaited.contains(&id)
        {
            let least = progress_request.header.filter(|least| least.revision <= header.revision);
            progress_request.header = Some(least.unwrap_or(header));
            self.complete_progress(id);
        }
    }

    /// Removes a watch from the progress request, and responds if no other watch is awaited.
    fn complete_progress(&mut self, id: i64) {
        let Some(progress_request) = &mut self.progress_request else { return };
        progress_request.awaited.remove(&id);
        if progress_request.awaited.is_empty() {
            let (header, requests) = (progress_request.header, progress_request.requests);
            self.progress_request = None;
            let response = header.map(|header| response(header, INVALID_WATCH_ID));
            self.responses.extend(std::iter::repeat_n(response, requests).flatten());
        }
    }
}

/// The next input of a stream.
enum Input {
    /// A message of the client, or the error that ended its side of the stream.
    Request(Result<PbWatchRequest, Status>),
    /// The client closed its side of the stream.
    RequestsEnded,
    /// The timer of periodic progress fired.
    ProgressTick,
    /// An item of the watch with this id; `None` is the end of the watch.
    Item(i64, Option<coord_core::Result<WatchBatch>>),
}

/// A response without content.
fn response(header: Header, watch_id: i64) -> PbWatchResponse {
    PbWatchResponse { header: Some(header.to_wire()), watch_id, ..PbWatchResponse::default() }
}
