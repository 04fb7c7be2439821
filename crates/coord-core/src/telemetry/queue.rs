//! Events of a wait queue. `kind` is the primitive that uses the queue, such as "mutex" or
//! "election"; "queue" for a queue of the caller's own.

use bytes::Bytes;
use tokio::time::Instant;
use tracing::Span;

use super::{ELECTION, LOCK, label, metrics};
use crate::error::LossReason;
use crate::kv::{KeyValue, Revision};

/// The span of a wait: from before the enqueue until the contender is first or admitted.
pub(crate) fn wait_span(kind: &'static str, name: &Bytes) -> Span {
    let name = name.escape_ascii();
    if kind == "election" {
        tracing::info_span!(target: ELECTION, "campaign", %name)
    } else {
        tracing::info_span!(target: LOCK, "lock wait", %name)
    }
}

/// The span of a held lock or leadership: from acquired until the guard is dropped.
pub(crate) fn hold_span(kind: &'static str, name: &Bytes, token: Revision) -> Span {
    let name = name.escape_ascii();
    if kind == "election" {
        tracing::info_span!(target: ELECTION, "leadership", %name, %token)
    } else {
        tracing::info_span!(target: LOCK, "lock held", %name, %token)
    }
}

/// The state of a contender as reported so far, so that each event is reported once.
#[derive(Debug)]
pub(crate) struct ContenderPhase {
    kind: &'static str,
    name: Bytes,
    /// The revision of the fencing token.
    token: Revision,
    enqueued: Instant,
    state: ContenderState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ContenderState {
    Waiting,
    Held,
    /// Released or lost.
    Ended,
}

/// The key of a contender was created.
pub(crate) fn enqueued(kind: &'static str, name: Bytes, token: Revision) -> ContenderPhase {
    metrics::count("coord_queue_enqueued_total", &[("kind", kind)]);
    let state = ContenderState::Waiting;
    gauge(kind, state, 1.0);
    ContenderPhase { kind, name, token, enqueued: Instant::now(), state }
}

impl ContenderPhase {
    /// Enters a state. Returns the previous state; `None`, without a change, if that was the end.
    fn enter(&mut self, state: ContenderState) -> Option<ContenderState> {
        let before = self.state;
        if before == ContenderState::Ended {
            return None;
        }
        self.state = state;
        gauge(self.kind, before, -1.0);
        gauge(self.kind, state, 1.0);
        Some(before)
    }

    /// The contender is first or admitted. A lock may change its holder thousands of times a
    /// second, so its lines have the level debug.
    pub(crate) fn acquired(&mut self) {
        if self.state != ContenderState::Waiting {
            return;
        }
        self.enter(ContenderState::Held);
        let (name, token, waited) = (self.name.escape_ascii(), self.token, self.enqueued.elapsed());
        if self.kind == "election" {
            tracing::info!(target: ELECTION, %name, %token, ?waited, "leading");
        } else {
            tracing::debug!(target: LOCK, %name, %token, ?waited, "locked");
        }
        metrics::observe("coord_queue_wait_seconds", waited, &[("kind", self.kind)]);
    }

    /// The contender was released, or dropped while its session lives.
    pub(crate) fn released(&mut self) {
        let Some(before) = self.enter(ContenderState::Ended) else { return };
        let (name, token) = (self.name.escape_ascii(), self.token);
        match (before, self.kind) {
            (ContenderState::Held, "election") => {
                tracing::info!(target: ELECTION, %name, %token, reason = "resigned",
                    "no longer leading");
            }
            (ContenderState::Held, _) => tracing::debug!(target: LOCK, %name, %token, "unlocked"),
            (ContenderState::Waiting | ContenderState::Ended, _) => {}
        }
        metrics::count("coord_queue_released_total", &[("kind", self.kind)]);
    }

    /// The contender lost its key, while it was a holder or waited.
    pub(crate) fn lost(&mut self, reason: LossReason) {
        let Some(before) = self.enter(ContenderState::Ended) else { return };
        let (name, token) = (self.name.escape_ascii(), self.token);
        match (before, self.kind) {
            (ContenderState::Held, "election") => {
                tracing::warn!(target: ELECTION, %name, %token, %reason, "no longer leading");
            }
            (ContenderState::Held, _) => {
                tracing::warn!(target: LOCK, %name, %token, %reason, "lost")
            }
            (ContenderState::Waiting | ContenderState::Ended, _) => {}
        }
        let labels = [("kind", self.kind), ("reason", label(reason))];
        metrics::count("coord_queue_lost_total", &labels);
    }
}

/// A contender waits for a foreign key: a key that no contender of coord or of Go's package
/// `concurrency` has created.
pub(crate) fn waits_for_foreign_key(name: &Bytes, key: &Bytes) {
    let (name, key) = (name.escape_ascii(), key.escape_ascii());
    tracing::warn!(target: LOCK, %name, %key,
        next = "waiting until the key is deleted: create no other keys under the name",
        "waiting for a foreign key, which no contender has created");
}

/// A contender waits because the value of the setting of its primitive cannot be read.
pub(crate) fn waits_for_setting(name: &Bytes, setting: &KeyValue) {
    let (name, key) = (name.escape_ascii(), setting.key.escape_ascii());
    tracing::warn!(target: LOCK, %name, %key, value = %setting.value.escape_ascii(),
        next = "waiting until the value is corrected: call `set_limit` or `set_budget`",
        "waiting because the limit is no number, so no contender is admitted");
}

fn gauge(kind: &'static str, state: ContenderState, difference: f64) {
    let name = match state {
        ContenderState::Waiting => "coord_queue_waiting",
        ContenderState::Held => "coord_queue_held",
        ContenderState::Ended => return,
    };
    metrics::add(name, difference, &[("kind", kind)]);
}
