//! A store, its members, and the readers of the watches: what surrounds a machine.

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

use super::super::super::slot::{Bounds, Slot};
use super::super::super::wire::{NO_ID, Reply, Request};
use super::super::{Action, LaneName, Machine, Registered, Settings, WatchKey};
use super::Step;

pub(super) const ATTEMPT: Duration = Duration::from_secs(5);

const BOUNDS: Bounds = Bounds { batches: 4, size_bytes: 1 << 20 };

/// The store: all that ever happened, and before which revision members pretend not to know it.
#[derive(Debug)]
pub(super) struct Sim {
    history: Vec<(i64, Vec<Event>)>,
    revision: i64,
    compacted: i64,
}

/// A connection as a member sees it.
#[derive(Debug)]
struct Member {
    /// The revision that it has reached.
    known: i64,
    /// The revision at which it is compacted.
    compacted: i64,
    requests: VecDeque<Request>,
    replies: VecDeque<Reply>,
    watchers: BTreeMap<i64, Watcher>,
}

#[derive(Debug)]
struct Watcher {
    request: Watch,
    start: i64,
    next: i64,
    /// It has caught up, and was never in need of what is past since then.
    synced: bool,
    compacted: bool,
}

/// The reader of a watch, and what it has read.
#[derive(Debug)]
struct Reader {
    key: WatchKey,
    request: Watch,
    slot: Arc<Slot>,
    registered: Option<oneshot::Receiver<Result<Registered>>>,
    /// Everything up to this revision has been read, or was not asked for.
    seen: i64,
    /// How many bookmarks it may get: one for each time that it asked.
    asked: u32,
    ended: Option<Error>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) machine: Machine,
    pub(super) sim: Sim,
    pub(super) now: Instant,
    /// What the machine did in the last step that made it do anything.
    pub(super) actions: Vec<Action>,
    pub(super) opened_aside: bool,
    sound: bool,
    opening: [bool; 2],
    members: [Option<Member>; 2],
    readers: Vec<Reader>,
    next_key: WatchKey,
}

fn wanted(request: &Watch, event: &Event) -> bool {
    let filter = match event.kind {
        EventKind::Put => WatchFilter::NoPut,
        EventKind::Delete => WatchFilter::NoDelete,
    };
    request.keys.contains(&event.kv.key) && !request.filters.contains(&filter)
}

impl Sim {
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

    /// What a watch is told of the revisions from `from` to `to`.
    fn told(&self, request: &Watch, from: i64, to: i64) -> Vec<(i64, Vec<Event>)> {
        let revisions = self.history.iter().filter(|(r, _)| (from..=to).contains(r));
        let told = revisions.map(|(revision, events)| {
            (*revision, events.iter().filter(|e| wanted(request, e)).cloned().collect())
        });
        told.filter(|(_, events): &(_, Vec<_>)| !events.is_empty()).collect()
    }
}

impl Member {
    fn header(&self) -> Header {
        Header::at(Revision(self.known))
    }

    fn handle(&mut self, request: Request, late: bool, sound: bool, sim: &mut Sim) {
        match request {
            Request::Create { id, start, watch } => {
                assert!(!self.watchers.contains_key(&id), "id {id} is used twice");
                let start = start.0;
                let synced = start == 0 || start > self.known;
                let next = if synced { start.max(self.known + 1) } else { start };
                let compacted = false;
                let watcher = Watcher { request: watch, start, next, synced, compacted };
                self.watchers.insert(id, watcher);
                if late {
                    sim.write(&[0, 1]);
                    self.known = sim.revision;
                }
                let header = self.header();
                self.replies.push_back(Reply { id, header, created: true, ..Reply::default() });
            }
            Request::Cancel { id } => {
                if self.watchers.remove(&id).is_some() {
                    let header = self.header();
                    let canceled = true;
                    self.replies.push_back(Reply { id, header, canceled, ..Reply::default() });
                }
            }
            Request::Probe { .. } => {
                let (id, header) = (NO_ID, self.header());
                let reason = "mvcc: watcher range is empty".to_owned();
                let refused = Reply { created: true, canceled: true, reason, ..Reply::default() };
                self.replies.push_back(Reply { id, header, ..refused });
            }
            Request::Progress => {
                let caught_up =
                    |w: &Watcher| !w.compacted && w.next > self.known && w.start <= self.known;
                let all = !self.watchers.is_empty() && self.watchers.values().all(caught_up);
                if all || !sound {
                    let (id, header) = (NO_ID, self.header());
                    self.replies.push_back(Reply { id, header, ..Reply::default() });
                }
            }
        }
    }

    /// Sends a watcher so many revisions.
    fn send(&mut self, id: i64, revisions: usize, size: usize, sim: &Sim) {
        let header = self.header();
        let watcher = self.watchers.get_mut(&id).expect("it was found");
        if watcher.compacted {
            return;
        }
        let told = sim.told(&watcher.request, watcher.next, self.known);
        if watcher.synced && told.is_empty() {
            watcher.next = watcher.next.max(self.known + 1);
        }
        if watcher.next < self.compacted {
            watcher.compacted = true;
            let compact_revision = Revision(self.compacted);
            let gone = Reply { id, canceled: true, compact_revision, ..Reply::default() };
            return self.replies.push_back(gone);
        }
        let all = told.len() <= revisions;
        let told: Vec<_> = told.into_iter().take(revisions).collect();
        let last = told.last().map_or(0, |(revision, _)| *revision);
        watcher.synced = all;
        watcher.next = if all { watcher.next.max(self.known + 1) } else { last + 1 };
        let events: Vec<_> = told.into_iter().flat_map(|(_, events)| events).collect();
        let messages = events.chunks(size).count();
        for (i, events) in events.chunks(size).enumerate() {
            let (fragment, events) = (i + 1 < messages, events.to_vec());
            self.replies.push_back(Reply { id, header, fragment, events, ..Reply::default() });
        }
    }
}

impl World {
    pub(super) fn new(sound: bool) -> Self {
        Self {
            machine: Machine::new(Settings { attempt: ATTEMPT, has_login: true }),
            sim: Sim { history: Vec::new(), revision: 1, compacted: -1 },
            now: Instant::now(),
            actions: Vec::new(),
            opened_aside: false,
            sound,
            opening: [false; 2],
            members: [None, None],
            readers: Vec::new(),
            next_key: 0,
        }
    }

    pub(super) fn step(&mut self, step: Step) {
        match step {
            Step::Write(keys) => self.sim.write(&keys),
            Step::Compact(back) => {
                let revision = self.sim.revision - back;
                self.sim.compacted = self.sim.compacted.max(revision);
                for member in self.members.iter_mut().flatten() {
                    member.compacted = self.sim.compacted.min(member.known);
                }
            }
            Step::Watch { keys, start, filters } => self.watch(keys, start, filters),
            Step::Drop(i) if i < self.readers.len() => {
                let reader = self.readers.remove(i);
                self.machine.remove(reader.key);
            }
            Step::Read(i, n) if i < self.readers.len() => self.read(i, n),
            Step::Progress(i) if i < self.readers.len() => {
                self.readers[i].asked += 1;
                self.machine.request_progress(self.readers[i].key, self.now);
            }
            Step::Connect(lane, known) if self.opening[lane as usize] => self.connect(lane, known),
            Step::Break(lane) if self.members[lane as usize].take().is_some() => {
                let error = super::super::super::stream_failed("broken");
                self.machine.lost(lane, &error, self.now);
            }
            Step::Handle(lane, late) => {
                if let Some(member) = &mut self.members[lane as usize]
                    && let Some(request) = member.requests.pop_front()
                {
                    member.handle(request, late, self.sound, &mut self.sim);
                }
            }
            Step::Send(lane, i, revisions, size) => {
                if let Some(member) = &mut self.members[lane as usize]
                    && let Some(&id) = member.watchers.keys().nth(i)
                {
                    member.send(id, revisions, size, &self.sim);
                }
            }
            Step::Arrive(lane) => {
                if let Some(member) = &mut self.members[lane as usize]
                    && let Some(reply) = member.replies.pop_front()
                {
                    self.machine.reply(lane, reply, self.now);
                }
            }
            Step::Learn(lane) => {
                if let Some(member) = &mut self.members[lane as usize] {
                    member.known = self.sim.revision;
                    member.compacted = self.sim.compacted;
                }
            }
            Step::Wait(millis) => {
                self.now += Duration::from_millis(millis);
                self.machine.tick(self.now);
            }
            Step::Drop(_) | Step::Read(..) | Step::Progress(_) => {}
            Step::Connect(..) | Step::Break(_) => {}
        }
        self.act();
        for i in 0..self.readers.len() {
            self.registered(i);
        }
    }

    fn watch(&mut self, keys: (u8, u8), start: i64, filters: Vec<WatchFilter>) {
        let keys = KeyRange::between([b'a' + keys.0].as_slice(), [b'a' + keys.1].as_slice());
        let start = if start == 0 { 0 } else { (self.sim.revision + start).max(1) };
        let mut request = Watch::new(keys).start_at(Revision(start));
        request.filters = filters;
        let key = self.next_key;
        self.next_key += 1;
        let slot = Arc::new(Slot::new(BOUNDS));
        let (reply, registered) = oneshot::channel();
        self.machine.add(key, request.clone(), Arc::clone(&slot), reply, self.now);
        let registered = Some(registered);
        let (seen, asked, ended) = (start - 1, 0, None);
        self.readers.push(Reader { key, request, slot, registered, seen, asked, ended });
    }

    fn connect(&mut self, lane: LaneName, behind: Option<i64>) {
        self.opening[lane as usize] = false;
        let Some(behind) = behind else {
            let error = super::super::super::stream_failed("refused");
            return self.machine.lost(lane, &error, self.now);
        };
        let known = (self.sim.revision - behind).max(1);
        let member = Member {
            known,
            compacted: self.sim.compacted.min(known),
            requests: VecDeque::new(),
            replies: VecDeque::new(),
            watchers: BTreeMap::new(),
        };
        let header = member.header();
        self.members[lane as usize] = Some(member);
        self.machine.opened(lane, header, false, self.now);
    }

    fn act(&mut self) {
        let actions = self.machine.take_actions();
        for action in &actions {
            match action {
                Action::Open(lane) => {
                    assert!(
                        !self.opening[*lane as usize] && self.members[*lane as usize].is_none()
                    );
                    self.opening[*lane as usize] = true;
                    self.opened_aside |= *lane == LaneName::Aside;
                }
                Action::Close(lane) | Action::GiveUp(lane) => {
                    self.opening[*lane as usize] = false;
                    self.members[*lane as usize] = None;
                }
                Action::Send(lane, request) => {
                    if let Some(member) = &mut self.members[*lane as usize] {
                        member.requests.push_back(request.clone());
                    }
                }
            }
        }
        if !actions.is_empty() {
            self.actions = actions;
        }
    }

    fn registered(&mut self, i: usize) {
        let reader = &mut self.readers[i];
        let Some(answer) = reader.registered.as_mut().and_then(|r| r.try_recv().ok()) else {
            return;
        };
        reader.registered = None;
        match answer {
            Ok(Registered::At(header)) if reader.seen < 0 => reader.seen = header.revision.0,
            Ok(_) => {}
            Err(error) => reader.ended = Some(error),
        }
    }

    pub(super) fn registration_error(&mut self) -> Option<Error> {
        self.registered(0);
        self.readers[0].ended.clone()
    }

    fn read(&mut self, i: usize, n: usize) {
        let cx = Context::from_waker(Waker::noop());
        for _ in 0..n {
            let taken = self.readers[i].slot.take(&cx);
            if taken.go_on {
                self.machine.go_on(self.readers[i].key, self.now);
                self.act();
            }
            match taken.item {
                Poll::Pending => return,
                Poll::Ready(None) => {
                    assert!(self.readers[i].ended.is_some(), "it ended without an error");
                    return;
                }
                Poll::Ready(Some(item)) => self.check(i, item),
            }
        }
    }

    /// Compares what was read with what happened.
    fn check(&mut self, i: usize, item: Result<WatchBatch>) {
        let reader = &mut self.readers[i];
        assert!(reader.ended.is_none(), "{item:?} came after the end");
        let missing = |to: i64| self.sim.told(&reader.request, reader.seen + 1, to);
        match item {
            Ok(batch) if !batch.events.is_empty() => {
                let revision = batch.revision.0;
                assert_eq!(missing(revision), [(revision, batch.events)]);
                reader.seen = revision;
            }
            Ok(bookmark) => {
                assert!(reader.asked > 0, "nobody asked for {bookmark:?}");
                reader.asked -= 1;
                if self.sound {
                    assert_eq!(missing(bookmark.revision.0), []);
                    assert!(bookmark.revision.0 >= reader.seen);
                    reader.seen = bookmark.revision.0;
                }
            }
            Err(error) => {
                if let Error::Compacted { requested, compact_revision } = &error {
                    let [Some(Revision(requested)), Some(Revision(compacted))] =
                        [requested, compact_revision]
                    else {
                        panic!("it does not say what: {error:?}")
                    };
                    assert_eq!(missing(requested - 1), []);
                    assert!(compacted > requested && *compacted <= self.sim.compacted);
                }
                reader.ended = Some(error);
            }
        }
    }

    const fn member(&self, lane: LaneName) -> Option<&Member> {
        self.members[lane as usize].as_ref()
    }

    /// A member does all it can, once.
    pub(super) fn run(&mut self, lane: LaneName) {
        let known = Some(0);
        self.step(Step::Connect(lane, known));
        self.step(Step::Learn(lane));
        while self.member(lane).is_some_and(|m| !m.requests.is_empty()) {
            self.step(Step::Handle(lane, false));
        }
        for i in 0..self.member(lane).map_or(0, |member| member.watchers.len()) {
            self.step(Step::Send(lane, i, 3, 2));
        }
        while self.member(lane).is_some_and(|m| !m.replies.is_empty()) {
            self.step(Step::Arrive(lane));
        }
        for i in 0..self.readers.len() {
            self.step(Step::Read(i, 5));
        }
    }

    /// Members learn all that has happened, and tell the watchers that have caught up, and nobody
    /// else.
    pub(super) fn keep_up(&mut self) {
        for member in self.members.iter_mut().flatten() {
            member.known = self.sim.revision;
            member.compacted = self.sim.compacted;
            let synced = member.watchers.iter().filter(|(_, watcher)| watcher.synced);
            for id in synced.map(|(id, _)| *id).collect::<Vec<_>>() {
                member.send(id, usize::MAX, 2, &self.sim);
            }
        }
    }

    /// So many messages of each member arrive, and are read as they come.
    pub(super) fn hear(&mut self, messages: usize) {
        for _ in 0..messages {
            LaneName::ALL.into_iter().for_each(|lane| self.step(Step::Arrive(lane)));
            (0..self.readers.len()).for_each(|i| self.step(Step::Read(i, 5)));
        }
    }

    /// Lets everything run, and sees to it that nothing is missing. How each watch ended, if it
    /// did.
    pub(super) fn settle(&mut self) -> Vec<Option<Error>> {
        for i in 0..self.readers.len() {
            self.step(Step::Progress(i));
        }
        let mut actions = Vec::new();
        for _ in 0..60 {
            self.actions.clear();
            LaneName::ALL.into_iter().for_each(|lane| self.run(lane));
            self.step(Step::Wait(100));
            let asks = |action: &Action| {
                matches!(action, Action::Send(_, Request::Progress | Request::Probe { .. }))
            };
            if !self.actions.iter().all(asks) {
                actions = std::mem::take(&mut self.actions);
            }
        }
        self.actions = actions;
        for reader in self.readers.iter().filter(|reader| reader.ended.is_none()) {
            assert!(reader.registered.is_none(), "not registered: {reader:?}");
            let missing = self.sim.told(&reader.request, reader.seen + 1, self.sim.revision);
            assert_eq!(missing, [], "missing from {reader:?}");
            let waits = reader.request.start_revision.0 > self.sim.revision;
            let asks = self.machine.asking.contains(&reader.key);
            assert!(waits || !asks, "no bookmark for {reader:?}: {:?}", self.machine);
        }
        self.readers.iter().map(|reader| reader.ended.clone()).collect()
    }
}
