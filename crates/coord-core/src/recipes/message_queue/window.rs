//! The window: the next ready messages, which the takers of one handle share in memory.
//!
//! One read of a bounded number of messages, and of all claims, fills it, and each take removes
//! messages from it. So a take is one request, the claim, and most takes need no read. Takers of
//! one handle claim different messages at the same time.
//!
//! ```text
//! read at 90        messages 1 2 3 4 5, claims 2          window 1 3 4 5
//! taker A claims 1, taker B claims 3                      window 4 5
//! another process has claimed 4: the claim of 4 fails,
//! and the same transaction reads: messages 5 6, at 95     window 5 6
//! ```
//!
//! A window may be out of date. The store refuses the claim of a message that another taker has
//! taken, and each claim if a message with a better priority was put since. A message that became
//! ready again, because its claim was deleted, is not noticed: the window is used for one second at
//! most.
//!
//! A read is *complete* if it has returned all messages. Only an empty window of a complete read
//! shows that no message is ready. If the read was not complete, messages that it has not returned
//! may be ready, and the taker reads more:
//!
//! ```text
//! messages 1 to 300, claims 1 to 200, taker A claims 201
//! taker B reads 256 messages      202 to 256 are ready
//! other takers claim them all     window empty, not complete: taker C reads
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::keys::{Keys, Place};
use crate::kv::{KeyValue, Op, Range, RangeResponse, Revision};
use crate::sync::lock;

/// How many messages a read returns. Most sections are smaller: see `put.rs`.
pub(super) const READ_LIMIT: u64 = 256;

/// How many keys a read has at most if a put repeats it.
const SMALL_READ_KEYS: usize = 64;

/// How long a window is used.
const WINDOW_MAX_AGE: Duration = Duration::from_secs(1);

/// A message that was ready when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReadyMessage {
    pub(super) place: Place,
    pub(super) put_revision: Revision,
    pub(super) mod_revision: Revision,
    /// How often it was delivered.
    pub(super) attempts: u32,
}

impl ReadyMessage {
    fn new(place: Place, kv: &KeyValue) -> Self {
        let (put_revision, mod_revision) = (kv.create_revision, kv.mod_revision);
        Self { place, put_revision, mod_revision, attempts: attempts(kv) }
    }
}

/// How often a message was delivered. Each delivery puts the message again, unchanged, so the store
/// counts the attempts: also those of takers that crashed.
pub(super) fn attempts(message: &KeyValue) -> u32 {
    u32::try_from(message.version - 1).unwrap_or(u32::MAX)
}

/// The window of a handle.
#[derive(Debug, Default)]
pub(super) struct Window {
    state: Mutex<State>,
    /// Held during a read, so that takers that wait for one share it.
    pub(super) reading: tokio::sync::Mutex<()>,
    /// Notified when candidates may be ready again, without an event of the store.
    pub(super) returned: Notify,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<ReadyMessage>,
    /// The revision of the read, and its time; `None` if the next take must read.
    read: Option<(Revision, Instant)>,
    /// Whether the read has returned all messages.
    is_complete: bool,
    /// How many keys the read has returned.
    keys: usize,
    /// The ids of the messages that a taker of this handle is claiming.
    claiming: BTreeSet<Bytes>,
    reads: Reads,
}

/// Numbers of reads, so that a taker can use the result of a read that began after its call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Reads {
    started: u64,
    /// The number of the last read that has completed.
    completed: u64,
}

/// Candidates that a taker is claiming. If it is dropped before they are claimed, the next take
/// reads, because they may be ready.
pub(super) struct Claiming<'a> {
    window: &'a Window,
    pub(super) candidates: Vec<ReadyMessage>,
    /// The revision at which they were the first that are ready.
    pub(super) revision: Revision,
    is_claimed: bool,
}

impl Window {
    /// Takes up to `max` candidates from the front: one alone if it was delivered `max_attempts`
    /// times. `None` if there are none, or if the window is too old.
    pub(super) fn claim_next(&self, max: usize, max_attempts: u32) -> Option<Claiming<'_>> {
        let mut state = lock(&self.state);
        let (revision, read_at) = state.read?;
        if read_at.elapsed() >= WINDOW_MAX_AGE {
            return None;
        }
        let first = state.ready.pop_front()?;
        let mut candidates = vec![first];
        while candidates[0].attempts < max_attempts && candidates.len() < max {
            if state.ready.front().is_none_or(|next| next.attempts >= max_attempts) {
                break;
            }
            candidates.extend(state.ready.pop_front());
        }
        let ids = candidates.iter().map(|candidate| id(&candidate.place));
        state.claiming.extend(ids);
        Some(Claiming { window: self, candidates, revision, is_claimed: false })
    }

    /// Forces the next take to read.
    pub(super) fn clear(&self) {
        lock(&self.state).read = None;
    }

    /// The number of reads that were started until now.
    pub(super) fn reads_started(&self) -> u64 {
        lock(&self.state).reads.started
    }

    /// Notes that a read starts, and returns its number.
    pub(super) fn start_read(&self) -> u64 {
        let mut state = lock(&self.state);
        state.reads.started += 1;
        state.reads.started
    }

    /// Notes that a read has completed.
    pub(super) fn complete_read(&self, number: u64) {
        let mut state = lock(&self.state);
        state.reads.completed = state.reads.completed.max(number);
    }

    /// Whether no message was ready at some time after the read `number`: a read that was started
    /// after it has completed, and the window is empty and complete.
    pub(super) fn was_empty_since(&self, number: u64) -> bool {
        let state = lock(&self.state);
        state.reads.completed > number && state.shows_no_message()
    }

    /// Replaces the window, unless it is newer already. A window that is too old is replaced in any
    /// case, because an older backup of the store may have been restored.
    ///
    /// Returns whether the window is of use: it has a candidate, or shows that no message is ready.
    pub(super) fn replace(&self, revision: Revision, read: Ready) -> bool {
        let mut state = lock(&self.state);
        let is_newer = |(current, read_at): (Revision, Instant)| {
            current > revision && read_at.elapsed() < WINDOW_MAX_AGE
        };
        if !state.read.is_some_and(is_newer) || !state.is_of_use() {
            state.set(revision, read);
        }
        state.is_of_use()
    }

    /// Whether no message was ready a short time ago, and the read that showed it was small. If
    /// many messages are claimed or delayed, each read returns them.
    pub(super) fn was_empty_lately(&self) -> bool {
        let state = lock(&self.state);
        state.shows_no_message() && state.is_fresh() && state.keys <= SMALL_READ_KEYS
    }

    /// Notes the messages that were put until `revision`, according to a watch. A fresh window that
    /// was read at this revision or a later one has them. Otherwise, if the window does not show
    /// that no other message is ready, the next take reads.
    pub(super) fn note_put(&self, revision: Revision, put: Vec<ReadyMessage>) {
        let mut state = lock(&self.state);
        if state.read.is_some_and(|(current, _)| current >= revision) && state.is_fresh() {
            // A put of this handle has read them.
        } else if state.shows_no_message() {
            let keys = state.keys;
            state.set(revision, Ready { candidates: put, is_complete: true, keys });
        } else {
            state.read = None;
        }
    }
}

impl State {
    fn set(&mut self, revision: Revision, read: Ready) {
        let Ready { mut candidates, is_complete, keys } = read;
        candidates.retain(|candidate| !self.claiming.contains(candidate.place.id()));
        self.read = Some((revision, Instant::now()));
        self.ready = candidates.into();
        self.is_complete = is_complete;
        self.keys = keys;
    }

    /// Whether no message was ready at the time of the read, except those that a taker of this
    /// handle has claimed or is claiming.
    fn shows_no_message(&self) -> bool {
        self.read.is_some() && self.ready.is_empty() && self.is_complete
    }

    fn is_fresh(&self) -> bool {
        self.read.is_some_and(|(_, read_at)| read_at.elapsed() < WINDOW_MAX_AGE)
    }

    fn is_of_use(&self) -> bool {
        self.read.is_some() && (!self.ready.is_empty() || self.is_complete)
    }
}

impl Claiming<'_> {
    /// Notes that the candidates are claimed.
    pub(super) fn claimed(mut self) {
        self.is_claimed = true;
    }
}

impl Drop for Claiming<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.window.state);
        for candidate in &self.candidates {
            state.claiming.remove(candidate.place.id());
        }
        if !self.is_claimed {
            state.read = None;
            self.window.returned.notify_waiters();
        }
    }
}

fn id(place: &Place) -> Bytes {
    Bytes::copy_from_slice(place.id())
}

/// The operations that read a window of up to `limit` messages.
pub(super) fn read_window(keys: &Keys, limit: u64) -> [Op; 2] {
    let messages = Range::new(keys.messages()).keys_only().limit(limit);
    [messages.into(), Range::new(keys.claims()).keys_only().into()]
}

/// The ready messages of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ready {
    /// In the order in which they are taken.
    pub(super) candidates: Vec<ReadyMessage>,
    /// Whether the read has returned all messages. If not, others behind the last may be ready.
    pub(super) is_complete: bool,
    /// How many keys it has returned: messages and claims.
    pub(super) keys: usize,
}

/// The ready messages of a read.
///
/// Keys are in the order of priority and section. In a section the create revision decides, so a
/// section that was not read to its end is left out.
pub(super) fn ready(keys: &Keys, messages: &RangeResponse, claims: &RangeResponse) -> Ready {
    let claimed: BTreeSet<_> =
        claims.kvs.iter().filter_map(|kv| keys.claimed_id(&kv.key)).collect();
    let place = |kv: &KeyValue| Some((keys.place(&kv.key)?, kv.clone()));
    let mut found: Vec<_> = messages.kvs.iter().filter_map(place).collect();
    if messages.more {
        let last = found.last().map(|(place, _)| Bytes::copy_from_slice(place.group()));
        found.retain(|(place, _)| Some(place.group()) != last.as_deref());
    }
    found.retain(|(place, _)| !claimed.contains(place.id()));
    found.sort_by(|(a, one), (b, other)| {
        let by_revision = one.create_revision.cmp(&other.create_revision);
        a.group().cmp(b.group()).then(by_revision).then_with(|| a.cmp(b))
    });
    let candidates = found.into_iter().map(|(place, kv)| ReadyMessage::new(place, &kv)).collect();
    let keys = messages.kvs.len() + claims.kvs.len();
    Ready { candidates, is_complete: !messages.more, keys }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::new("q".into())
    }

    fn message(section: i64, id: &str, created: i64) -> KeyValue {
        let key = keys().message(&Place::new(100, Revision(section), id));
        let created = Revision(created);
        let (create_revision, mod_revision) = (created, created);
        KeyValue { key, create_revision, mod_revision, version: 1, ..KeyValue::default() }
    }

    fn read(kvs: Vec<KeyValue>, more: bool) -> RangeResponse {
        RangeResponse { kvs, more, ..RangeResponse::default() }
    }

    fn ids(ready: &Ready) -> Vec<Bytes> {
        ready.candidates.iter().map(|candidate| id(&candidate.place)).collect()
    }

    /// A read of messages without claims.
    fn unclaimed(messages: Vec<KeyValue>, more: bool) -> Ready {
        ready(&keys(), &read(messages, more), &read(Vec::new(), false))
    }

    #[test]
    fn ready_messages_are_ordered_by_section_and_revision() {
        let messages = || vec![message(0, "a", 9), message(0, "b", 7), message(10, "a0", 12)];
        let none = read(Vec::new(), false);
        let all = ready(&keys(), &read(messages(), false), &none);
        assert_eq!(ids(&all), ["b", "a", "a0"]);

        let claim = keys().claim(&Place::new(100, Revision(0), "b"));
        let claims = read(vec![KeyValue { key: claim, ..KeyValue::default() }], false);
        let rest = ready(&keys(), &read(messages(), false), &claims);
        assert_eq!((ids(&rest), rest.is_complete), (vec!["a".into(), "a0".into()], true));
    }

    #[test]
    fn section_that_was_not_read_to_its_end_is_left_out() {
        let first = unclaimed(vec![message(0, "a", 9), message(10, "b", 12)], true);
        assert_eq!((ids(&first), first.is_complete), (vec!["a".into()], false));
        let one = unclaimed(vec![message(0, "a", 9), message(0, "b", 7)], true);
        assert_eq!((ids(&one), one.is_complete), (Vec::new(), false), "read more");
    }

    /// The only candidate is being claimed, so the read was too short.
    #[tokio::test(start_paused = true)]
    async fn incomplete_window_does_not_show_that_none_is_ready() {
        let window = Window::default();
        let messages = || vec![message(0, "a", 7), message(10, "b", 12)];
        assert!(window.replace(Revision(12), unclaimed(messages(), true)));
        let claiming = window.claim_next(1, 9).unwrap();
        let number = window.start_read();
        assert!(!window.replace(Revision(12), unclaimed(messages(), true)), "read more");
        window.complete_read(number);
        assert!(!window.was_empty_since(0));
        // A wider read may be older than the window that it replaces.
        assert!(window.replace(Revision(11), unclaimed(messages(), false)));
        assert_eq!(window.claim_next(1, 9).unwrap().candidates[0].put_revision, Revision(12));
        claiming.claimed();
    }

    #[tokio::test(start_paused = true)]
    async fn put_is_first_only_if_no_other_message_is_ready() {
        let window = Window::default();
        let put = || unclaimed(vec![message(10, "b", 12)], false).candidates;
        let is_first = || window.claim_next(1, 9).map(Claiming::claimed).is_some();
        window.note_put(Revision(12), put());
        assert!(!is_first(), "nothing was read");
        let messages = vec![message(0, "a", 7), message(10, "z", 8)];
        window.replace(Revision(9), unclaimed(messages, true));
        assert!(is_first());
        window.note_put(Revision(12), put());
        assert!(!is_first(), "others may be ready");
        window.replace(Revision(9), unclaimed(Vec::new(), false));
        window.note_put(Revision(12), put());
        assert!(is_first());
    }

    #[tokio::test(start_paused = true)]
    async fn window_is_used_once_and_for_one_second() {
        let window = Window::default();
        assert!(window.claim_next(1, 9).is_none());
        let ready = |messages| unclaimed(messages, false);
        window.replace(Revision(9), ready(vec![message(0, "a", 7), message(0, "b", 9)]));
        let claiming = window.claim_next(1, 9).unwrap();
        assert_eq!(claiming.candidates[0].put_revision, Revision(7));

        // A message that is being claimed does not return with another read.
        window.replace(Revision(10), ready(vec![message(0, "a", 7), message(0, "b", 9)]));
        window.replace(Revision(8), ready(Vec::new()));
        let next = window.claim_next(5, 9).unwrap();
        assert_eq!(next.candidates.len(), 1);
        assert_eq!(next.candidates[0].put_revision, Revision(9));
        claiming.claimed();
        next.claimed();

        window.replace(Revision(10), ready(vec![message(0, "a", 7)]));
        tokio::time::advance(WINDOW_MAX_AGE).await;
        assert!(window.claim_next(1, 9).is_none());

        // The store was replaced by an older backup.
        window.replace(Revision(5), ready(vec![message(0, "c", 4)]));
        assert_eq!(window.claim_next(1, 9).unwrap().candidates[0].put_revision, Revision(4));
    }
}
