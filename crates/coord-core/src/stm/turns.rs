//! Taking turns in one process instead of conflicting.
//!
//! Sixty-four tasks that add one to the same key would conflict with each other for ever: each
//! commit fails the sixty-three others. But they are in one process, and can wait for each other
//! for nothing. So a transaction that has conflicted stands in a line for each key it conflicted
//! on, and tries again when nobody has the turn for any of them. Whoever else is about to commit to
//! a key that has a line stands behind. A transaction that meets no line stands in none.
//!
//! The first in line goes first, but nobody is kept waiting for a key that nobody uses: where the
//! first must wait for something else, another may pass it, a few times.
//!
//! ```text
//! ticket    for      line of a    line of b    line of c
//!      1    a b      has it       has it
//!      2    b c                   waits        waits
//!      3    c d                                passes 2, for c is free
//! 1 leaves: 2 waits for 3 now, and the next for b may pass it
//! ```
//!
//! Turns are given for all keys of a ticket at once and under one lock, so nobody who has one waits
//! for another.
//!
//! **What is handed on.** The commit of whoever has the turn also reads, in the same request, what
//! the next ones will want. With what the commit has written, that is all they need to know as of
//! one revision, so that in a long line each transaction costs one request.
//!
//! **Who does not come back.** A turn spares conflicts; it must not let one closure that hangs hold
//! up all others. Whoever waits ends a turn that has lasted for a second: the transaction may go
//! on, and conflict.
//!
//! The lines are in memory and belong to the process; those of different backends are apart. What
//! other processes do is for the commit to find out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::transaction::Known;
use crate::backend::{KvBackend, address};
use crate::kv::Revision;

/// How long a turn lasts when others wait.
const TURN_MAX: Duration = Duration::from_secs(1);

/// How many of those who wait are considered when a key becomes free.
const CONSIDERED: usize = 8;

/// How often a ticket is passed before it is waited for.
const PASSED_MAX: u32 = 8;

/// The lines of this process. A line that nobody stands in is not there.
static HALL: Mutex<Hall> = Mutex::new(Hall { tickets: 0, lines: BTreeMap::new() });

struct Hall {
    /// How many tickets there ever were.
    tickets: u64,
    /// By backend and key.
    lines: BTreeMap<(usize, Bytes), Line>,
}

/// Those who have, or want, the turn for a key.
#[derive(Default)]
struct Line {
    /// The number of the ticket that has it, and since when.
    served: Option<(u64, Instant)>,
    /// By the number of their ticket.
    waiting: BTreeMap<u64, Arc<Ticket>>,
}

/// A place in some lines.
pub(super) struct Ticket {
    number: u64,
    backend: usize,
    /// In order.
    keys: Vec<Bytes>,
    /// All keys that the transaction has asked for: those that it stands in line for, and others.
    wanted: Vec<Bytes>,
    state: Mutex<State>,
    /// Told when it has its turn.
    called: Notify,
}

#[derive(Default)]
struct State {
    has_turn: bool,
    /// How many were given a turn for one of its keys that came after it.
    passed: u32,
    /// What those before it have handed on.
    handed: Option<Known>,
}

/// A turn, or the wait for one. Dropping it ends it.
#[derive(Default)]
pub(super) struct Turn {
    ticket: Option<Arc<Ticket>>,
}

impl Turn {
    /// Waits for a turn for these keys. `wanted` is what there will be to read then.
    pub(super) async fn wait(
        backend: &Arc<dyn KvBackend>,
        mut keys: Vec<Bytes>,
        wanted: Vec<Bytes>,
    ) -> Self {
        keys.sort_unstable();
        keys.dedup();
        let ticket = hall().enter(address(backend), keys, wanted);
        let turn = Self { ticket: Some(Arc::clone(&ticket)) };
        while !ticket.state().has_turn {
            let patience = hall().end_overdue(&ticket);
            // Told or not, what counts is the turn.
            let _ = timeout(patience, ticket.called.notified()).await;
        }
        turn
    }

    /// Whether it is a turn for all these keys.
    pub(super) fn covers<'a>(&self, mut keys: impl Iterator<Item = &'a Bytes>) -> bool {
        keys.all(|key| self.is_for(key))
    }

    /// Those of the keys that somebody else has, or waits for, a turn for.
    pub(super) fn missing<'a>(
        &self,
        backend: &Arc<dyn KvBackend>,
        keys: impl Iterator<Item = &'a Bytes>,
    ) -> Vec<Bytes> {
        let hall = hall();
        if hall.lines.is_empty() {
            return Vec::new();
        }
        let backend = address(backend);
        let others =
            |key: &&Bytes| !self.is_for(key) && hall.lines.contains_key(&(backend, (*key).clone()));
        keys.filter(others).cloned().collect()
    }

    /// The keys that it is for.
    pub(super) fn keys(&self) -> &[Bytes] {
        self.ticket.as_ref().map_or(&[], |ticket| &ticket.keys)
    }

    /// What is known, or what was handed on if that is newer.
    pub(super) fn take_up(&self, known: Option<Known>) -> Option<Known> {
        let handed = self.ticket.as_ref().and_then(|ticket| ticket.state().handed.take());
        let newest = known.as_ref().map_or(Revision::ZERO, |known| known.revision);
        handed.filter(|handed| handed.revision > newest).or(known)
    }

    /// Those who may have their turns next: of each line the first, and who would pass it if this
    /// turn ended now. Perhaps some of them twice.
    pub(super) fn next(&self) -> Vec<Arc<Ticket>> {
        let Some(ticket) = &self.ticket else { return Vec::new() };
        let hall = hall();
        let in_line = |name| {
            let first =
                hall.lines.get(&name).and_then(|line| line.waiting.values().next().cloned());
            [first, hall.next(&name, Some(ticket.number))].into_iter().flatten()
        };
        ticket.lines().flat_map(in_line).collect()
    }

    fn is_for(&self, key: &Bytes) -> bool {
        self.keys().binary_search(key).is_ok()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            hall().leave(&ticket);
        }
    }
}

impl Ticket {
    /// What the transaction will want to read.
    pub(super) fn wanted(&self) -> &[Bytes] {
        &self.wanted
    }

    /// Hands on what is known.
    pub(super) fn hand(&self, known: Known) {
        let mut state = self.state();
        if state.handed.as_ref().is_none_or(|handed| handed.revision < known.revision) {
            state.handed = Some(known);
        }
    }

    /// The names of its lines.
    fn lines(&self) -> impl Iterator<Item = (usize, Bytes)> {
        self.keys.iter().map(|key| (self.backend, key.clone()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hall {
    fn enter(&mut self, backend: usize, keys: Vec<Bytes>, wanted: Vec<Bytes>) -> Arc<Ticket> {
        self.tickets += 1;
        let (state, called) = (Mutex::default(), Notify::new());
        let ticket = Ticket { number: self.tickets, backend, keys, wanted, state, called };
        let ticket = Arc::new(ticket);
        for line in ticket.lines() {
            let line = self.lines.entry(line).or_default();
            line.waiting.insert(ticket.number, Arc::clone(&ticket));
        }
        if self.may_begin(&ticket, None) {
            self.begin(&ticket);
        }
        ticket
    }

    /// Whether nobody but `leaving` has a turn for any of its keys, and nobody is before it who
    /// must be waited for.
    fn may_begin(&self, ticket: &Ticket, leaving: Option<u64>) -> bool {
        ticket.lines().filter_map(|line| self.lines.get(&line)).all(|line| {
            let mut before = line.waiting.range(..ticket.number).take(CONSIDERED);
            line.served.is_none_or(|(number, _)| Some(number) == leaving)
                && before.all(|(_, other)| other.state().passed < PASSED_MAX)
        })
    }

    /// Who is to have the turn for a key when it is free, or when `leaving` ends its turn.
    fn next(&self, line: &(usize, Bytes), leaving: Option<u64>) -> Option<Arc<Ticket>> {
        let mut waiting = self.lines.get(line)?.waiting.values().take(CONSIDERED);
        waiting.find(|ticket| self.may_begin(ticket, leaving)).cloned()
    }

    fn begin(&mut self, ticket: &Ticket) {
        let now = Instant::now();
        for line in ticket.lines() {
            let line = self.lines.entry(line).or_default();
            line.served = Some((ticket.number, now));
            line.waiting.remove(&ticket.number);
            for (_, other) in line.waiting.range(..ticket.number).take(CONSIDERED) {
                other.state().passed += 1;
            }
        }
        ticket.state().has_turn = true;
        ticket.called.notify_one();
    }

    fn leave(&mut self, ticket: &Ticket) {
        for line in ticket.lines() {
            let line = self.lines.entry(line).or_default();
            line.waiting.remove(&ticket.number);
            line.served = line.served.filter(|(number, _)| *number != ticket.number);
        }
        self.call(ticket.lines());
    }

    /// Ends the turns that this one waits for and that have lasted too long, and tells when to look
    /// again.
    fn end_overdue(&mut self, ticket: &Ticket) -> Duration {
        let mut again = TURN_MAX;
        for name in ticket.lines() {
            let Some(line) = self.lines.get_mut(&name) else { continue };
            let Some((_, since)) = line.served else { continue };
            let left = TURN_MAX.saturating_sub(since.elapsed());
            if left.is_zero() {
                line.served = None;
                self.call(std::iter::once(name));
            } else {
                again = again.min(left);
            }
        }
        again
    }

    /// Gives the turns for these keys to those who may have them, and removes lines in which nobody
    /// is left.
    fn call(&mut self, lines: impl Iterator<Item = (usize, Bytes)>) {
        for name in lines {
            if let Some(next) = self.next(&name, None) {
                self.begin(&next);
            }
            let line = self.lines.get(&name);
            if line.is_some_and(|line| line.served.is_none() && line.waiting.is_empty()) {
                self.lines.remove(&name);
            }
        }
    }
}

fn hall() -> MutexGuard<'static, Hall> {
    HALL.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(backend: usize) -> usize {
        hall().lines.range((backend, Bytes::new())..(backend + 1, Bytes::new())).count()
    }

    fn turn(backend: usize, keys: &[&'static str]) -> Turn {
        let keys = keys.iter().map(|key| Bytes::from_static(key.as_bytes())).collect();
        Turn { ticket: Some(hall().enter(backend, keys, Vec::new())) }
    }

    fn has_turn(turn: &Turn) -> bool {
        turn.ticket.as_ref().is_some_and(|ticket| ticket.state().has_turn)
    }

    #[test]
    fn nothing_is_left_when_all_have_had_their_turns_or_given_up() {
        let backend = 1; // No reference has such an address.
        let first = turn(backend, &["a", "b"]);
        let (second, third) = (turn(backend, &["b", "c"]), turn(backend, &["a"]));
        assert_eq!(lines_of(backend), 3);
        drop(second);
        assert_eq!(lines_of(backend), 2, "it gave up before it had its turn");
        drop(first);
        assert!(has_turn(&third));
        drop(third);
        assert_eq!(lines_of(backend), 0);
    }

    #[test]
    fn who_must_wait_for_something_else_is_passed_a_few_times_and_then_waited_for() {
        let backend = 2;
        let holder = turn(backend, &["a"]);
        let patient = turn(backend, &["a", "b"]);
        for _ in 0..PASSED_MAX {
            assert!(has_turn(&turn(backend, &["b"])), "nobody uses b");
        }
        let one_too_many = turn(backend, &["b"]);
        assert!(!has_turn(&one_too_many));
        drop(holder);
        assert!(has_turn(&patient) && !has_turn(&one_too_many));
        drop(patient);
        assert!(has_turn(&one_too_many));
    }
}
