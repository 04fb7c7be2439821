//! The supervisor task: follows the newest session, and opens the next.
//!
//! The task ends when the supervisor is closed, when its last handle is dropped, or when there is
//! no session to follow any more: the owner ended the session, or the store refuses the next one.

use std::mem::discriminant;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};

use super::generation::SupervisorState;
use super::{Session, SessionBuilder, SessionState};
use crate::backoff::{Backoff, Jitter};
use crate::error::{LossReason, Result};
use crate::kv::LeaseId;
use crate::telemetry::supervisor as events;

/// A session, or a call of the work, that lasted at least this long resets the backoff. After a
/// shorter one the next may end as soon, so a pause precedes the next.
pub(super) const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(1);

/// A request to close the session, with the sender of the reply.
pub(super) type CloseRequest = oneshot::Sender<Result<()>>;

pub(super) struct SupervisorTask {
    builder: SessionBuilder,
    state: watch::Sender<SupervisorState>,
    session: watch::Sender<Session>,
    changed: Arc<Notify>,
    backoff: Backoff,
}

/// A backoff whose pauses depend on a lease. They are 50 to 100 ms, 100 to 200 ms, and so on up to
/// 5 s.
///
/// When a store becomes available again, all clients that wait for it send requests, so the pauses
/// must differ between clients. The generator is seeded with the id of a lease: except for an
/// adopter and a former owner, no two clients of a store have the same lease, and a test that
/// replays its requests replays the pauses too.
pub(super) fn seeded_backoff(lease: LeaseId) -> Backoff {
    let seed = lease.get().cast_unsigned();
    Backoff::new(Duration::from_millis(100), Duration::from_secs(5)).jitter(Jitter::Half, seed)
}

impl SupervisorTask {
    /// Starts the task, which follows the session in `session`.
    pub(super) fn start(
        builder: SessionBuilder,
        state: watch::Sender<SupervisorState>,
        session: watch::Sender<Session>,
        changed: Arc<Notify>,
        close_requests: mpsc::UnboundedReceiver<CloseRequest>,
    ) {
        let backoff = seeded_backoff(session.borrow().lease_id());
        let client = session.borrow().client().clone();
        let task = Self { builder, state, session, changed, backoff };
        // Its owner is the supervisor: see `run`.
        client.spawn(&Handle::current(), task.run(close_requests));
    }

    /// Runs until the supervisor is closed, until its last handle, which owns the sender of
    /// `close_requests`, is dropped, or until there is no session to follow any more.
    async fn run(mut self, mut close_requests: mpsc::UnboundedReceiver<CloseRequest>) {
        loop {
            let next = tokio::select! {
                biased;
                // First, so that no session is opened after the supervisor was closed.
                reply = close_requests.recv() => return self.close(reply).await,
                next = self.next_session() => next,
            };
            let Some(session) = next else { return };
            events::recovered(session.generation());
            // Published before the state, so that `Up` implies that the session is available.
            self.session.send_replace(session);
        }
    }

    /// Waits until the session is lost, and opens the next; `None` if there is none.
    async fn next_session(&mut self) -> Option<Session> {
        let session = self.session.borrow().clone();
        let (generation, began) = (session.generation(), Instant::now());
        let reason = self.follow(&session).await;
        if reason.is_deliberate() {
            self.end(reason);
            return None;
        }
        events::down(generation, reason);
        self.enter(SupervisorState::Down { generation, reason });
        if began.elapsed() >= BACKOFF_RESET_AFTER {
            self.backoff.reset();
        } else {
            sleep(self.backoff.next()).await;
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.builder.open_next(generation).await {
                Ok(session) => return Some(session),
                Err(error) if error.is_retryable() => {
                    let pause = self.backoff.next();
                    events::still_down(generation, attempt, &error, pause);
                    sleep(pause).await;
                }
                Err(error) => {
                    events::failed(generation, &error);
                    self.enter(SupervisorState::Failed { generation, error });
                    return None;
                }
            }
        }
    }

    /// Publishes the session's state until the session is lost, and returns the reason.
    async fn follow(&self, session: &Session) -> LossReason {
        let (generation, mut states) = (session.generation(), session.subscribe());
        loop {
            let state = match *states.borrow_and_update() {
                SessionState::Alive => SupervisorState::Up { generation },
                SessionState::Suspect => SupervisorState::Suspect { generation },
                SessionState::Lost(reason) => return reason,
            };
            self.enter(state);
            if states.changed().await.is_err() {
                return session.lost().await;
            }
        }
    }

    async fn close(self, reply: Option<CloseRequest>) {
        // First, so that a future that is notified of the loss finds the supervisor ended.
        self.end(LossReason::Closed);
        if let Some(reply) = reply {
            let session = self.session.borrow().clone();
            // The caller may have dropped its future.
            let _ = reply.send(session.close().await);
        }
    }

    fn end(&self, reason: LossReason) {
        let generation = self.session.borrow().generation();
        if self.enter(SupervisorState::Ended { generation, reason }) {
            events::ended(generation, reason);
        }
    }

    /// Publishes a state, unless a final one was published. Returns whether the state is new.
    fn enter(&self, state: SupervisorState) -> bool {
        let is_new = self.state.send_if_modified(|current| {
            let is_same = discriminant(current) == discriminant(&state)
                && current.generation() == state.generation();
            let is_new = !is_same && current.final_error().is_none();
            if is_new {
                *current = state;
            }
            is_new
        });
        if is_new {
            self.changed.notify_waiters();
        }
        is_new
    }
}

impl Drop for SupervisorTask {
    /// Reports the end when the runtime is shut down: no task opens sessions any more.
    fn drop(&mut self) {
        self.end(LossReason::Expired);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(seed: i64) -> Vec<Duration> {
        let mut backoff = seeded_backoff(LeaseId::new(seed).expect("not zero"));
        (0..20).map(|_| backoff.next()).collect()
    }

    #[test]
    fn pauses_are_between_half_and_whole_of_a_doubling_limit() {
        let mut limit = Duration::from_millis(100);
        for pause in pauses(7) {
            assert!(limit / 2 <= pause && pause <= limit, "{pause:?} of {limit:?}");
            limit = Duration::from_secs(5).min(limit * 2);
        }
        assert_eq!(limit, Duration::from_secs(5));
    }

    #[test]
    fn pauses_repeat_with_the_lease_and_differ_between_leases() {
        assert_eq!(pauses(7), pauses(7));
        let firsts: std::collections::BTreeSet<_> = (1..100).map(|seed| pauses(seed)[0]).collect();
        assert!(firsts.len() > 90, "only {} pauses among 99 clients", firsts.len());
    }
}
