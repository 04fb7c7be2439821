//! The one task of a supervisor: follows the newest session, and opens the next.
//!
//! It ends when the supervisor is closed, or its last handle is gone, or when there is nothing
//! more to watch: the owner ended the session, or the store refuses another one.

use std::mem::discriminant;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};

use super::backoff::{Backoff, CALM};
use super::epoch::SupervisorState;
use super::{Session, SessionBuilder, SessionState};
use crate::error::Result;
use crate::loss::LossReason;
use crate::telemetry::supervisor as events;

/// Asks for the session to be closed, and is told how that went.
pub(super) type Closing = oneshot::Sender<Result<()>>;

pub(super) struct Watchman {
    builder: SessionBuilder,
    state: watch::Sender<SupervisorState>,
    session: watch::Sender<Session>,
    changed: Arc<Notify>,
    backoff: Backoff,
}

impl Watchman {
    /// Starts the task, with the session that `session` has.
    pub(super) fn start(
        builder: SessionBuilder,
        state: watch::Sender<SupervisorState>,
        session: watch::Sender<Session>,
        changed: Arc<Notify>,
        closing: mpsc::UnboundedReceiver<Closing>,
    ) {
        let backoff = Backoff::new(session.borrow().lease_id());
        let watchman = Self { builder, state, session, changed, backoff };
        #[expect(clippy::disallowed_methods, reason = "its owner is the supervisor: see `run`")]
        tokio::spawn(watchman.run(closing));
    }

    /// Watches until somebody closes the supervisor, or until its last handle, which is the sender
    /// of `closing`, is dropped; or until there is nothing more to watch.
    async fn run(mut self, mut closing: mpsc::UnboundedReceiver<Closing>) {
        loop {
            let next = tokio::select! {
                biased;
                // First, so that nothing is opened that nobody wants.
                reply = closing.recv() => return self.close(reply).await,
                next = self.next_session() => next,
            };
            let Some(session) = next else { return };
            events::recovered(session.epoch());
            // The session is there before the state says so.
            self.session.send_replace(session);
        }
    }

    /// Waits until the session is lost, and opens another; `None` when there is to be none.
    async fn next_session(&mut self) -> Option<Session> {
        let session = self.session.borrow().clone();
        let (epoch, began) = (session.epoch(), Instant::now());
        let reason = self.follow(&session).await;
        if reason.is_deliberate() {
            self.end(reason);
            return None;
        }
        events::down(epoch, reason);
        self.enter(SupervisorState::Down { epoch, reason });
        if began.elapsed() >= CALM {
            self.backoff.reset();
        } else {
            sleep(self.backoff.next()).await;
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.builder.open_after(epoch).await {
                Ok(session) => return Some(session),
                Err(error) if error.is_retryable() => {
                    let pause = self.backoff.next();
                    events::still_down(epoch, attempt, &error, pause);
                    sleep(pause).await;
                }
                Err(error) => {
                    events::failed(epoch, &error);
                    self.enter(SupervisorState::Failed { epoch, error });
                    return None;
                }
            }
        }
    }

    /// Passes the session's state on until it is lost.
    async fn follow(&self, session: &Session) -> LossReason {
        let (epoch, mut states) = (session.epoch(), session.subscribe());
        loop {
            let state = match *states.borrow_and_update() {
                SessionState::Alive => SupervisorState::Up { epoch },
                SessionState::Suspect => SupervisorState::Suspect { epoch },
                SessionState::Lost(reason) => return reason,
            };
            self.enter(state);
            if states.changed().await.is_err() {
                return session.lost().await;
            }
        }
    }

    async fn close(self, reply: Option<Closing>) {
        // First, so that whoever is told of the loss finds that there will be no other session.
        self.end(LossReason::Closed);
        if let Some(reply) = reply {
            let session = self.session.borrow().clone();
            // Whoever asked may not wait any more.
            let _ = reply.send(session.close().await);
        }
    }

    fn end(&self, reason: LossReason) {
        let epoch = self.session.borrow().epoch();
        if self.enter(SupervisorState::Ended { epoch, reason }) {
            events::ended(epoch, reason);
        }
    }

    /// Whether the state is now another one: what is over stays as it is.
    fn enter(&self, state: SupervisorState) -> bool {
        let changed = self.state.send_if_modified(|now| {
            let same = discriminant(now) == discriminant(&state) && now.epoch() == state.epoch();
            let changes = !same && now.over().is_none();
            if changes {
                *now = state;
            }
            changes
        });
        if changed {
            self.changed.notify_waiters();
        }
        changed
    }
}

impl Drop for Watchman {
    /// A task whose runtime is shut down around it opens no sessions any more, and says so.
    fn drop(&mut self) {
        self.end(LossReason::Expired);
    }
}
