//! The Watch service: many watches on one stream.
//!
//! A client creates and cancels watches by messages, and each answer names the watch it is for. No
//! task runs here: the stream of answers *is* the state, and moves when the connection polls it. On
//! each turn what the client said comes first, then the watches that have something to deliver, in
//! turns. Of ten thousand watches on a stream, only those are looked at that rang (`bells.rs`).
//!
//! ```text
//! client    create 0                create 0 (end <= key)        cancel 0
//! server    created 0, @7   event   created + canceled -1 (why)  canceled 0, @9
//! ```
//!
//! A watch whose start is compacted is created like any other, and cancelled right after. Its id
//! stays taken until the client cancels it too, and as long as it is, requests for a bookmark on
//! the whole stream go unanswered: etcd does so, and clients know.
//!
//! A bookmark on request is one for the whole stream: it goes out under the id -1 once every watch
//! has delivered everything up to it. etcd drops a request that finds a watch which has not caught
//! up; here it is answered when that has. With no watches there is no answer, nor while one waits
//! for a revision in the future, as with etcd. What the client says after it has asked makes no
//! difference, if the backend is quick enough.
//!
//! Bookmarks that come by themselves go out under the watch's own id: every ten minutes, for each
//! watch that wants them and had no events since the last time. They are asked of the backend like
//! the others, and not left to it: what a client asks for does not put them off.
//!
//! Source: `docs/etcd-contract.md` §6; etcd 3.5 `server/etcdserver/api/v3rpc/watch.go`.

mod bells;
mod fragment;
mod past;
mod watcher;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::task::Poll;
use std::time::Duration;

use coord_core::{Error, Header, Revision, Watch, WatchBatch, WatchRequest};
use coord_etcd::wire::{FromWire, ToWire, WatchCall};
use etcd_client::proto::{PbWatchRequest, PbWatchRequestUnion, PbWatchResponse, PbWatchService};
use futures_util::future::poll_fn;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Interval, interval_at};
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::counts::Counted;
use crate::services::Services;
use crate::status::{status, too_large};
use bells::Bells;
use fragment::fragments;
use past::Past;
use watcher::Watcher;

/// The id of a watch that never came to be, and of bookmarks for all.
const NOBODY: i64 = -1;

/// For ever, where a moment is to be counted from now: there is none after the end of the clock.
const A_CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// How many answers may wait for the connection before nobody hurries any more.
const HURRY: usize = 128;

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";

#[async_trait]
impl PbWatchService for Services {
    type WatchStream = BoxStream<'static, Result<PbWatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<PbWatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let session = Session::new(self.clone(), request.into_inner());
        let answers = stream::unfold(Some(session), |session| async {
            let mut session = session?;
            // After an error there is no more.
            Some(match session.next().await {
                Ok(answer) => (Ok(answer), Some(session)),
                Err(status) => (Err(status), None),
            })
        });
        Ok(Response::new(self.until_stopped(answers).boxed()))
    }
}

/// One client's stream.
struct Session<R> {
    _counted: Counted,
    services: Services,
    /// `None` once the client has said all it had to say, which does not end the stream.
    requests: Option<R>,
    watches: BTreeMap<i64, Watcher>,
    /// The first id that was never given out.
    next_id: i64,
    /// Which of them may have something to deliver.
    bells: Bells,
    bookmark: Option<Bookmark>,
    /// `None` until some watch wants bookmarks by themselves.
    ticks: Option<Interval>,
    answers: VecDeque<PbWatchResponse>,
}

/// A bookmark for the whole stream that the client waits for.
struct Bookmark {
    /// Watches that have not come up to it yet.
    awaited: BTreeSet<i64>,
    /// The least of what the others have come up to.
    header: Option<Header>,
    /// How many times it was asked for: each time is answered.
    asked: usize,
}

impl<R> Session<R>
where
    R: Stream<Item = Result<PbWatchRequest, Status>> + Unpin + Send,
{
    fn new(services: Services, requests: R) -> Self {
        Self {
            _counted: services.watching().streams.one(),
            services,
            requests: Some(requests),
            watches: BTreeMap::new(),
            next_id: 0,
            bells: Bells::default(),
            bookmark: None,
            ticks: None,
            answers: VecDeque::new(),
        }
    }

    /// The next answer, or why there will be no more.
    async fn next(&mut self) -> Result<PbWatchResponse, Status> {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Ok(answer);
            }
            match self.turn().await {
                Turn::Call(Ok(request)) => self.hear(request).await?,
                Turn::Call(Err(why)) => return Err(too_large(&why).unwrap_or(why)),
                Turn::Silence => self.requests = None,
                Turn::Tick => self.tick(),
                Turn::Batch(id, batch) => self.deliver(id, batch).await?,
            }
        }
    }

    /// What happens next: the client says something, or a watch has something to deliver.
    async fn turn(&mut self) -> Turn {
        poll_fn(|cx| {
            if let Some(requests) = &mut self.requests
                && let Poll::Ready(request) = requests.poll_next_unpin(cx)
            {
                return Poll::Ready(match request {
                    Some(request) => Turn::Call(request),
                    None => Turn::Silence,
                });
            }
            if let Some(ticks) = &mut self.ticks
                && ticks.poll_tick(cx).is_ready()
            {
                return Poll::Ready(Turn::Tick);
            }
            // No more than are there now: a watch that cannot get on now rings at once.
            for _ in 0..self.bells.listen(cx.waker()) {
                let Some(id) = self.bells.next() else { break };
                if let Some(item) = self.watches.get_mut(&id).and_then(Watcher::poll) {
                    return Poll::Ready(Turn::Batch(id, item));
                }
            }
            Poll::Pending
        })
        .await
    }

    async fn hear(&mut self, mut request: PbWatchRequest) -> Result<(), Status> {
        // Of what etcd does not know it takes no notice.
        match &mut request.request_union {
            None => return Ok(()),
            Some(PbWatchRequestUnion::CreateRequest(create)) => {
                create.filters.retain(|filter| matches!(filter, 0 | 1));
            }
            Some(_) => {}
        }
        let call = WatchCall::from_wire(request);
        match call.map_err(|why| Status::invalid_argument(why.to_string()))? {
            WatchCall::Create { request, watch_id, fragment } => {
                self.create(request, watch_id, fragment).await
            }
            WatchCall::Cancel(id) => {
                // Of an unknown id nothing is said.
                if self.watches.remove(&id).is_some() {
                    let header = self.services.header().await?;
                    self.answers
                        .push_back(PbWatchResponse { canceled: true, ..answer(header, id) });
                    self.no_longer_await(id);
                }
                Ok(())
            }
            WatchCall::Progress => {
                let all_alive = self.watches.values().all(|watcher| watcher.watch.is_some());
                if all_alive && !self.watches.is_empty() && !self.waits_for_the_future().await? {
                    let awaited = self.watches.keys().copied().collect();
                    // One that is asked for late has to show what is there by then, and will do
                    // for those that were asked for before.
                    let asked = 1 + self.bookmark.as_ref().map_or(0, |earlier| earlier.asked);
                    self.bookmark = Some(Bookmark { awaited, header: None, asked });
                    self.watches.values_mut().for_each(Watcher::ask);
                    self.hurry().await?;
                }
                Ok(())
            }
        }
    }

    /// Whether some watch waits for a revision that is not there yet.
    async fn waits_for_the_future(&mut self) -> Result<bool, Status> {
        if self.watches.values().all(|watcher| watcher.ahead.is_none()) {
            return Ok(false);
        }
        let now = self.services.header().await?.revision;
        for watcher in self.watches.values_mut() {
            watcher.ahead = watcher.ahead.filter(|start| *start > now);
        }
        Ok(self.watches.values().any(|watcher| watcher.ahead.is_some()))
    }

    /// Lets the watches that the bookmark is awaited of come up to it, if they can without waiting.
    ///
    /// What the client says next is of no concern to the bookmark then: a watch of the future does
    /// not put it off, nor does one that is cancelled take it along.
    async fn hurry(&mut self) -> Result<(), Status> {
        let awaited = self.bookmark.iter().flat_map(|bookmark| bookmark.awaited.iter().copied());
        for id in awaited.collect::<Vec<_>>() {
            while self.answers.len() < HURRY {
                let Some(watcher) = self.watches.get_mut(&id) else { break };
                // One that still has a past to tell has not caught up.
                if watcher.past.is_some() {
                    break;
                }
                // No matter how many were polled before, it is not put off if it has something.
                let poll = unconstrained(poll_fn(|_| Poll::Ready(watcher.poll())));
                let Some(item) = poll.await else { break };
                self.deliver(id, item).await?;
            }
        }
        Ok(())
    }

    async fn create(
        &mut self,
        mut request: WatchRequest,
        asked_id: i64,
        fragment: bool,
    ) -> Result<(), Status> {
        let limit = self.services.limits().watches;
        if self.watches.len() >= limit {
            let why = format!("coord: the stream has {limit} watches, which is the limit");
            return self.refuse(why).await;
        }
        let notify = std::mem::take(&mut request.progress_notify);
        let start = request.start_revision;
        let why = match self.services.backend().watch(request).await {
            Ok(_) if self.watches.contains_key(&asked_id) && asked_id != 0 => DUPLICATE_ID.into(),
            Ok(watch) => {
                let id = if asked_id == 0 { self.free_id() } else { asked_id };
                let bell = self.bells.bell(id);
                let now = watch.header().revision;
                let (past, ahead) = (Past::new(start, now), Some(start).filter(|at| *at > now));
                let (watch, busy, due) = (Some(watch), false, false);
                let _counted = self.services.watching().watches.one();
                self.admit(
                    id,
                    Watcher { _counted, watch, past, ahead, bell, fragment, notify, busy, due },
                );
                return Ok(());
            }
            Err(Error::EmptyWatchRange { .. }) => EMPTY_RANGE.to_owned(),
            Err(Error::Compacted { .. }) => COMPACTED.to_owned(),
            Err(error @ (Error::PermissionDenied { .. } | Error::Unauthenticated { .. })) => {
                let status = status(&error);
                format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
            }
            Err(error) => return Err(status(&error)),
        };
        self.refuse(why).await
    }

    /// Says in band that a watch was not created.
    async fn refuse(&mut self, cancel_reason: String) -> Result<(), Status> {
        let answer = answer(self.services.header().await?, NOBODY);
        self.answers.push_back(PbWatchResponse {
            created: true,
            canceled: true,
            cancel_reason,
            ..answer
        });
        Ok(())
    }

    fn admit(&mut self, id: i64, mut watcher: Watcher) {
        let header = watcher.watch.as_ref().map(Watch::header).unwrap_or_default();
        self.answers.push_back(PbWatchResponse { created: true, ..answer(header, id) });
        if let Some(bookmark) = &mut self.bookmark
            && watcher.ahead.is_none()
        {
            // What the client waits for is said of all its watches, so of this one too. One that
            // waits for the future has nothing to say before.
            bookmark.awaited.insert(id);
            watcher.ask();
        }
        if watcher.past.is_some() {
            // The answer says that it is told.
            watcher.ask();
        }
        if watcher.notify && self.ticks.is_none() {
            let chosen = self.services.limits().progress_interval;
            let interval = chosen.clamp(Duration::from_millis(1), A_CENTURY);
            self.ticks = Some(interval_at(Instant::now() + interval, interval));
        }
        // It has never been asked, so nothing else would ring for it.
        watcher.bell.queue();
        self.watches.insert(id, watcher);
    }

    /// It is time for bookmarks to those that heard nothing.
    fn tick(&mut self) {
        for watcher in self.watches.values_mut().filter(|watcher| watcher.notify) {
            if !std::mem::take(&mut watcher.busy) {
                watcher.due = true;
                watcher.ask();
            }
        }
    }

    /// Ids are counted up, and an id that the client chose is skipped.
    fn free_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    async fn deliver(
        &mut self,
        id: i64,
        item: Option<coord_core::Result<WatchBatch>>,
    ) -> Result<(), Status> {
        let gone = || Status::unavailable("etcdserver: server stopped");
        match item.ok_or_else(gone)? {
            Ok(batch) => {
                self.pass_on(id, batch);
                Ok(())
            }
            Err(Error::Compacted { compact_revision, .. }) => {
                // The id stays taken.
                if let Some(watcher) = self.watches.get_mut(&id) {
                    watcher.watch = None;
                }
                let header = Header { revision: Revision::ZERO, ..self.services.header().await? };
                self.answers.push_back(PbWatchResponse {
                    canceled: true,
                    compact_revision: compact_revision.unwrap_or_default().0,
                    ..answer(header, id)
                });
                // A bookmark that was asked for earlier is as true without it.
                self.no_longer_await(id);
                Ok(())
            }
            Err(error) => Err(status(&error)),
        }
    }

    fn pass_on(&mut self, id: i64, mut batch: WatchBatch) {
        let watcher = self.watches.get_mut(&id).expect("only a watch that is there delivers");
        if let Some(mut past) = watcher.past.take() {
            let present = past.gather(batch);
            let told = if present.is_some() || past.is_full() { past.told() } else { None };
            if present.is_none() {
                watcher.past = Some(past);
            }
            if let Some(told) = told {
                self.tell(id, told);
            }
            let Some(present) = present else { return };
            batch = present;
        }
        if batch.events.is_empty() {
            self.mark(id, batch.revision);
        } else {
            self.tell(id, batch);
        }
    }

    /// Sends the events of a batch.
    fn tell(&mut self, id: i64, batch: WatchBatch) {
        let watcher = self.watches.get_mut(&id).expect("only a watch that is there delivers");
        watcher.busy = true;
        let header = watcher.header(batch.revision);
        let events = batch.events.into_iter().map(ToWire::to_wire).collect();
        let response = PbWatchResponse { events, ..answer(header, id) };
        if watcher.fragment {
            self.answers.extend(fragments(response, self.services.limits().message_bytes()));
        } else {
            self.answers.push_back(response);
        }
    }

    /// All events of a watch up to `revision` were sent.
    fn mark(&mut self, id: i64, revision: Revision) {
        let watcher = self.watches.get_mut(&id).expect("only a watch that is there delivers");
        let header = watcher.header(revision);
        // A bookmark answers whoever waits for one: there may be two.
        if std::mem::take(&mut watcher.due) {
            self.answers.push_back(answer(header, id));
        }
        if let Some(bookmark) = &mut self.bookmark
            && bookmark.awaited.contains(&id)
        {
            let least = bookmark.header.filter(|least| least.revision <= header.revision);
            bookmark.header = Some(least.unwrap_or(header));
            self.no_longer_await(id);
        }
    }

    /// Sends the bookmark that the client waits for, if this was the last to come up to it.
    fn no_longer_await(&mut self, id: i64) {
        let Some(bookmark) = &mut self.bookmark else { return };
        bookmark.awaited.remove(&id);
        if bookmark.awaited.is_empty() {
            let (header, asked) = (bookmark.header, bookmark.asked);
            self.bookmark = None;
            let told = header.map(|header| answer(header, NOBODY));
            self.answers.extend(std::iter::repeat_n(told, asked).flatten());
        }
    }
}

/// What happens on a stream.
enum Turn {
    /// The client says something; an error if it is gone, or says too much.
    Call(Result<PbWatchRequest, Status>),
    /// The client will say no more.
    Silence,
    /// It is time for bookmarks.
    Tick,
    Batch(i64, Option<coord_core::Result<WatchBatch>>),
}

/// An answer that says nothing yet.
fn answer(header: Header, watch_id: i64) -> PbWatchResponse {
    PbWatchResponse { header: Some(header.to_wire()), watch_id, ..PbWatchResponse::default() }
}
