//! The simulated environment of the machine: a store, its members, and the readers of the watches.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use coord_core::{
    Error, Result,
    kv::{Event, EventKind, Header, KeyRange, KeyValue, Revision, Watch, WatchBatch, WatchFilter},
};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::super::buffer::{BufferLimits, ReaderBuffer};
use super::super::super::wire::{NO_WATCH_ID, Request, ServerMessage};
use super::super::{Action, Machine, MachineConfig, Registered, StreamRole, WatchNumber};
use super::Step;

pub(super) const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(5);

const BUFFER_LIMITS: BufferLimits = BufferLimits { batches: 4, size_bytes: 1 << 20 };

/// The store: its whole history, and the revision at which it is compacted.
#[derive(Debug)]
pub(super) struct Store {
    history: Vec<(i64, Vec<Event>)>,
    revision: i64,
    compacted: i64,
}

/// A connection to a member, and the member's state.
#[derive(Debug)]
struct Member {
    /// The newest revision that the member has applied.
    applied: i64,
    /// The revision at which the member is compacted.
    compacted: i64,
    requests: VecDeque<Request>,
    messages: VecDeque<ServerMessage>,
    watchers: BTreeMap<i64, Watcher>,
}

/// A watch at a member.
#[derive(Debug)]
struct Watcher {
    request: Watch,
    start: i64,
    /// The first revision that was not sent.
    next: i64,
    /// Whether the watch has caught up. Later compactions do not affect it.
    synced: bool,
    /// Whether the member has reported that the next revisions are compacted.
    compacted: bool,
}

/// The reader of a watch, and its progress.
#[derive(Debug)]
struct Reader {
    number: WatchNumber,
    request: Watch,
    buffer: Arc<ReaderBuffer>,
    registered: Option<oneshot::Receiver<Result<Registered>>>,
    /// Every event up to this revision was read, or precedes the start of the watch.
    seen: i64,
    /// How many progress notifications are outstanding, at most one for each request.
    progress_requests: u32,
    /// The error with which the watch ended.
    end: Option<Error>,
}

#[derive(Debug)]
pub(super) struct Simulation {
    pub(super) machine: Machine,
    pub(super) store: Store,
    pub(super) now: Instant,
    /// The actions of the last step that caused any.
    pub(super) actions: Vec<Action>,
    pub(super) opened_future_start: bool,
    proves_progress: bool,
    /// Whether a stream is being opened, by role.
    opening: [bool; 2],
    /// The connected members, by role of the stream.
    members: [Option<Member>; 2],
    readers: Vec<Reader>,
    next_number: WatchNumber,
}

fn is_watched(request: &Watch, event: &Event) -> bool {
    let filter = match event.kind {
        EventKind::Put => WatchFilter::NoPut,
        EventKind::Delete => WatchFilter::NoDelete,
    };
    request.keys.contains(&event.kv.key) && !request.filters.contains(&filter)
}

impl Store {
    pub(super) fn write(&mut self, keys: &[u8]) {
        self.revision += 1;
        let event = |(i, key): (usize, &u8)| {
            let kv = KeyValue {
                key: Bytes::copy_from_slice(&[b'a' + key]),
                value: Bytes::new(),
                create_revision: Revision(0),
                mod_revision: Revision(self.revision),
                version: i64::try_from(i).unwrap(),
                lease: None,
            };
            let kind = if i % 2 == 0 { EventKind::Put } else { EventKind::Delete };
            Event { kind, kv, prev_kv: None }
        };
        self.history.push((self.revision, keys.iter().enumerate().map(event).collect()));
    }

    /// The events of a watch from revision `from` to `to`, by revision.
    fn visible(&self, request: &Watch, from: i64, to: i64) -> Vec<(i64, Vec<Event>)> {
        let revisions = self.history.iter().filter(|(r, _)| (from..=to).contains(r));
        let pending = revisions.map(|(revision, events)| {
            (*revision, events.iter().filter(|e| is_watched(request, e)).cloned().collect())
        });
        pending.filter(|(_, events): &(_, Vec<_>)| !events.is_empty()).collect()
    }
}

impl Member {
    fn header(&self) -> Header {
        Header::at(Revision(self.applied))
    }

    fn handle(&mut self, request: Request, late: bool, proves_progress: bool, store: &mut Store) {
        match request {
            Request::Create { id, start, watch } => {
                assert!(!self.watchers.contains_key(&id), "id {id} is used twice");
                let start = start.0;
                let synced = start == 0 || start > self.applied;
                let next = if synced { start.max(self.applied + 1) } else { start };
                let compacted = false;
                let watcher = Watcher { request: watch, start, next, synced, compacted };
                self.watchers.insert(id, watcher);
                if late {
                    store.write(&[0, 1]);
                    self.applied = store.revision;
                }
                let header = self.header();
                self.messages.push_back(ServerMessage {
                    id,
                    header,
                    created: true,
                    ..ServerMessage::default()
                });
            }
            Request::Cancel { id } => {
                if self.watchers.remove(&id).is_some() {
                    let header = self.header();
                    let canceled = true;
                    self.messages.push_back(ServerMessage {
                        id,
                        header,
                        canceled,
                        ..ServerMessage::default()
                    });
                }
            }
            Request::Probe { .. } => {
                let (id, header) = (NO_WATCH_ID, self.header());
                let reason = "mvcc: watcher range is empty".to_owned();
                let refused = ServerMessage {
                    created: true,
                    canceled: true,
                    reason,
                    ..ServerMessage::default()
                };
                self.messages.push_back(ServerMessage { id, header, ..refused });
            }
            Request::Progress => {
                let caught_up =
                    |w: &Watcher| !w.compacted && w.next > self.applied && w.start <= self.applied;
                let all = !self.watchers.is_empty() && self.watchers.values().all(caught_up);
                if all || !proves_progress {
                    let (id, header) = (NO_WATCH_ID, self.header());
                    self.messages.push_back(ServerMessage {
                        id,
                        header,
                        ..ServerMessage::default()
                    });
                }
            }
        }
    }

    /// Sends a watch up to `revisions` revisions, in messages of up to `size` events.
    fn send(&mut self, id: i64, revisions: usize, size: usize, store: &Store) {
        let header = self.header();
        let watcher = self.watchers.get_mut(&id).expect("the member has the watch");
        if watcher.compacted {
            return;
        }
        let pending = store.visible(&watcher.request, watcher.next, self.applied);
        if watcher.synced && pending.is_empty() {
            watcher.next = watcher.next.max(self.applied + 1);
        }
        if watcher.next < self.compacted {
            watcher.compacted = true;
            let compact_revision = Revision(self.compacted);
            let compacted =
                ServerMessage { id, canceled: true, compact_revision, ..ServerMessage::default() };
            return self.messages.push_back(compacted);
        }
        let all = pending.len() <= revisions;
        let pending: Vec<_> = pending.into_iter().take(revisions).collect();
        let last = pending.last().map_or(0, |(revision, _)| *revision);
        watcher.synced = all;
        watcher.next = if all { watcher.next.max(self.applied + 1) } else { last + 1 };
        let events: Vec<_> = pending.into_iter().flat_map(|(_, events)| events).collect();
        let count = events.chunks(size).count();
        for (i, events) in events.chunks(size).enumerate() {
            let (fragment, events) = (i + 1 < count, events.to_vec());
            self.messages.push_back(ServerMessage {
                id,
                header,
                fragment,
                events,
                ..ServerMessage::default()
            });
        }
    }
}

impl Simulation {
    pub(super) fn new(proves_progress: bool) -> Self {
        Self {
            machine: Machine::new(MachineConfig {
                registration_timeout: REGISTRATION_TIMEOUT,
                has_login: true,
            }),
            store: Store { history: Vec::new(), revision: 1, compacted: -1 },
            now: Instant::now(),
            actions: Vec::new(),
            opened_future_start: false,
            proves_progress,
            opening: [false; 2],
            members: [None, None],
            readers: Vec::new(),
            next_number: 0,
        }
    }

    pub(super) fn step(&mut self, step: Step) {
        match step {
            Step::Write(keys) => self.store.write(&keys),
            Step::Compact(back) => {
                let revision = self.store.revision - back;
                self.store.compacted = self.store.compacted.max(revision);
                for member in self.members.iter_mut().flatten() {
                    member.compacted = self.store.compacted.min(member.applied);
                }
            }
            Step::Watch { keys, start, filters } => self.watch(keys, start, filters),
            Step::Drop(i) if i < self.readers.len() => {
                let reader = self.readers.remove(i);
                self.machine.remove(reader.number);
            }
            Step::Read(i, n) if i < self.readers.len() => self.read(i, n),
            Step::Progress(i) if i < self.readers.len() => {
                self.readers[i].progress_requests += 1;
                self.machine.request_progress(self.readers[i].number, self.now);
            }
            Step::Connect(stream, behind) if self.opening[stream as usize] => {
                self.connect(stream, behind)
            }
            Step::Break(stream) if self.members[stream as usize].take().is_some() => {
                let error = super::super::super::stream_error("broken");
                self.machine.on_lost(stream, &error, self.now);
            }
            Step::Handle(stream, late) => {
                if let Some(member) = &mut self.members[stream as usize]
                    && let Some(request) = member.requests.pop_front()
                {
                    member.handle(request, late, self.proves_progress, &mut self.store);
                }
            }
            Step::Send(stream, i, revisions, size) => {
                if let Some(member) = &mut self.members[stream as usize]
                    && let Some(&id) = member.watchers.keys().nth(i)
                {
                    member.send(id, revisions, size, &self.store);
                }
            }
            Step::Arrive(stream) => {
                if let Some(member) = &mut self.members[stream as usize]
                    && let Some(message) = member.messages.pop_front()
                {
                    self.machine.on_message(stream, message, self.now);
                }
            }
            Step::Apply(stream) => {
                if let Some(member) = &mut self.members[stream as usize] {
                    member.applied = self.store.revision;
                    member.compacted = self.store.compacted;
                }
            }
            Step::Wait(millis) => {
                self.now += Duration::from_millis(millis);
                self.machine.tick(self.now);
            }
            Step::Drop(_) | Step::Read(..) | Step::Progress(_) => {}
            Step::Connect(..) | Step::Break(_) => {}
        }
        self.execute_actions();
        for i in 0..self.readers.len() {
            self.check_registration(i);
        }
    }

    fn watch(&mut self, keys: (u8, u8), start: i64, filters: Vec<WatchFilter>) {
        let keys = KeyRange::between([b'a' + keys.0].as_slice(), [b'a' + keys.1].as_slice());
        let start = if start == 0 { 0 } else { (self.store.revision + start).max(1) };
        let mut request = Watch::new(keys).start_at(Revision(start));
        request.filters = filters;
        let number = self.next_number;
        self.next_number += 1;
        let buffer = Arc::new(ReaderBuffer::new(BUFFER_LIMITS));
        let (reply, registered) = oneshot::channel();
        self.machine.add(number, request.clone(), Arc::clone(&buffer), reply, self.now);
        let registered = Some(registered);
        let (seen, progress_requests, end) = (start - 1, 0, None);
        self.readers.push(Reader {
            number,
            request,
            buffer,
            registered,
            seen,
            progress_requests,
            end,
        });
    }

    fn connect(&mut self, stream: StreamRole, behind: Option<i64>) {
        self.opening[stream as usize] = false;
        let Some(behind) = behind else {
            let error = super::super::super::stream_error("refused");
            return self.machine.on_lost(stream, &error, self.now);
        };
        let applied = (self.store.revision - behind).max(1);
        let member = Member {
            applied,
            compacted: self.store.compacted.min(applied),
            requests: VecDeque::new(),
            messages: VecDeque::new(),
            watchers: BTreeMap::new(),
        };
        let header = member.header();
        self.members[stream as usize] = Some(member);
        self.machine.on_opened(stream, header, false, self.now);
    }

    /// Executes the actions of the machine, as the driver does.
    fn execute_actions(&mut self) {
        let actions = self.machine.take_actions();
        for action in &actions {
            match action {
                Action::Open(stream) => {
                    assert!(
                        !self.opening[*stream as usize] && self.members[*stream as usize].is_none()
                    );
                    self.opening[*stream as usize] = true;
                    self.opened_future_start |= *stream == StreamRole::FutureStart;
                }
                Action::Close(stream) | Action::FailOver(stream) => {
                    self.opening[*stream as usize] = false;
                    self.members[*stream as usize] = None;
                }
                Action::Send(stream, request) => {
                    if let Some(member) = &mut self.members[*stream as usize] {
                        member.requests.push_back(request.clone());
                    }
                }
            }
        }
        if !actions.is_empty() {
            self.actions = actions;
        }
    }

    /// Records the result of a registration, if there is one.
    fn check_registration(&mut self, i: usize) {
        let reader = &mut self.readers[i];
        let Some(result) = reader.registered.as_mut().and_then(|r| r.try_recv().ok()) else {
            return;
        };
        reader.registered = None;
        match result {
            Ok(Registered::At(header)) if reader.seen < 0 => reader.seen = header.revision.0,
            Ok(_) => {}
            Err(error) => reader.end = Some(error),
        }
    }

    /// The error with which the registration of the first watch failed.
    pub(super) fn registration_error(&mut self) -> Option<Error> {
        self.check_registration(0);
        self.readers[0].end.clone()
    }

    fn read(&mut self, i: usize, n: usize) {
        let cx = Context::from_waker(Waker::noop());
        for _ in 0..n {
            let taken = self.readers[i].buffer.take(&cx);
            if taken.resume {
                self.machine.resume(self.readers[i].number, self.now);
                self.execute_actions();
            }
            match taken.item {
                Poll::Pending => return,
                Poll::Ready(None) => {
                    assert!(self.readers[i].end.is_some(), "the watch ended without an error");
                    return;
                }
                Poll::Ready(Some(item)) => self.check(i, item),
            }
        }
    }

    /// Compares an item that was read with the history of the store.
    fn check(&mut self, i: usize, item: Result<WatchBatch>) {
        let reader = &mut self.readers[i];
        assert!(reader.end.is_none(), "{item:?} was delivered after the end");
        let missing = |to: i64| self.store.visible(&reader.request, reader.seen + 1, to);
        match item {
            Ok(batch) if !batch.events.is_empty() => {
                let revision = batch.revision.0;
                assert_eq!(missing(revision), [(revision, batch.events)]);
                reader.seen = revision;
            }
            Ok(notification) => {
                assert!(reader.progress_requests > 0, "no request for {notification:?}");
                reader.progress_requests -= 1;
                if self.proves_progress {
                    assert_eq!(missing(notification.revision.0), []);
                    assert!(notification.revision.0 >= reader.seen);
                    reader.seen = notification.revision.0;
                }
            }
            Err(error) => {
                if let Error::Compacted { requested, compact_revision } = &error {
                    let [Some(Revision(requested)), Some(Revision(compacted))] =
                        [requested, compact_revision]
                    else {
                        panic!("the revisions are missing: {error:?}")
                    };
                    assert_eq!(missing(requested - 1), []);
                    assert!(compacted > requested && *compacted <= self.store.compacted);
                }
                reader.end = Some(error);
            }
        }
    }

    const fn member(&self, stream: StreamRole) -> Option<&Member> {
        self.members[stream as usize].as_ref()
    }

    /// Lets a member accept a connection, apply the whole history, handle all requests, and send
    /// each watch some revisions. All messages arrive, and all readers read.
    pub(super) fn run(&mut self, stream: StreamRole) {
        self.step(Step::Connect(stream, Some(0)));
        self.step(Step::Apply(stream));
        while self.member(stream).is_some_and(|m| !m.requests.is_empty()) {
            self.step(Step::Handle(stream, false));
        }
        for i in 0..self.member(stream).map_or(0, |member| member.watchers.len()) {
            self.step(Step::Send(stream, i, 3, 2));
        }
        while self.member(stream).is_some_and(|m| !m.messages.is_empty()) {
            self.step(Step::Arrive(stream));
        }
        for i in 0..self.readers.len() {
            self.step(Step::Read(i, 5));
        }
    }

    /// Lets the members apply the whole history, and send it to the watches that had caught up.
    pub(super) fn keep_up(&mut self) {
        for member in self.members.iter_mut().flatten() {
            member.applied = self.store.revision;
            member.compacted = self.store.compacted;
            let synced = member.watchers.iter().filter(|(_, watcher)| watcher.synced);
            for id in synced.map(|(id, _)| *id).collect::<Vec<_>>() {
                member.send(id, usize::MAX, 2, &self.store);
            }
        }
    }

    /// Lets up to `messages` messages of each member arrive. The readers read after each message.
    pub(super) fn receive(&mut self, messages: usize) {
        for _ in 0..messages {
            StreamRole::ALL.into_iter().for_each(|stream| self.step(Step::Arrive(stream)));
            (0..self.readers.len()).for_each(|i| self.step(Step::Read(i, 5)));
        }
    }

    /// Runs the members until they are idle, and checks that no event is missing. Returns the error
    /// of each watch that ended.
    pub(super) fn settle(&mut self) -> Vec<Option<Error>> {
        for i in 0..self.readers.len() {
            self.step(Step::Progress(i));
        }
        let mut actions = Vec::new();
        for _ in 0..60 {
            self.actions.clear();
            StreamRole::ALL.into_iter().for_each(|stream| self.run(stream));
            self.step(Step::Wait(100));
            let is_periodic = |action: &Action| {
                matches!(action, Action::Send(_, Request::Progress | Request::Probe { .. }))
            };
            if !self.actions.iter().all(is_periodic) {
                actions = std::mem::take(&mut self.actions);
            }
        }
        self.actions = actions;
        for reader in self.readers.iter().filter(|reader| reader.end.is_none()) {
            assert!(reader.registered.is_none(), "not registered: {reader:?}");
            let missing = self.store.visible(&reader.request, reader.seen + 1, self.store.revision);
            assert_eq!(missing, [], "missing from {reader:?}");
            let waits =
                reader.request.start_revision.is_some_and(|start| start.0 > self.store.revision);
            let is_requested = self.machine.progress_requests.contains(&reader.number);
            assert!(waits || !is_requested, "no notification for {reader:?}: {:?}", self.machine);
        }
        self.readers.iter().map(|reader| reader.end.clone()).collect()
    }
}
