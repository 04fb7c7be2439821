//! The session task: one event loop that keeps the lease alive and deletes orphaned keys.
//!
//! A caller may drop its future at any point. The session task does the work that must be completed
//! all the same. It sends keep-alives (`keep_alive.rs`), ends the session at its deadline
//! (`deadline.rs`), deletes orphaned keys (`cleanup.rs`), and publishes the session's state and
//! deadline. Its event loop ends when the session is lost, closed or orphaned, or when the last
//! session handle is dropped. If the lease may have an adopter, the task then continues the
//! cleanup: see `after_end.rs`.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::asleep::AsleepClock;
use super::cleanup::{Cleanup, OrphanedKey};
use super::deadline::{LeaseDeadline, LeaseTtl, Moment};
use super::keep_alive::{KeepAlive, KeepAliveResult};
use super::key_suffix::KeySuffixes;
use super::losses::Losses;
use super::{Generation, Inner, Session, SessionState};
use crate::backend::KvBackend;
use crate::client::Client;
use crate::error::{Error, LossReason, Result};
use crate::kv::{LeaseId, Revision};
use crate::telemetry::session::SessionEvents;

/// The pause between two attempts to revoke a lease.
const REVOKE_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A command of a session handle to its session task.
pub(super) enum Command {
    Close(oneshot::Sender<Result<()>>),
    Orphan(oneshot::Sender<Result<()>>),
    CleanUp(OrphanedKey),
    /// Another request indicates that the lease is gone: send a keep-alive now.
    Check,
}

/// A lease that the store has granted, or confirmed for an adopter.
pub(super) struct OpenedLease {
    pub(super) id: LeaseId,
    pub(super) ttl: LeaseTtl,
    /// The requested lock-delay.
    pub(super) lock_delay: Duration,
    /// The store's revision when the lease was granted or adopted.
    pub(super) revision: Revision,
    /// When the grant or the keep-alive was sent.
    pub(super) sent: Moment,
    pub(super) suffixes: KeySuffixes,
}

pub(super) struct SessionTask {
    pub(super) backend: Arc<dyn KvBackend>,
    pub(super) lease: LeaseId,
    /// The TTL of the session.
    pub(super) ttl: Duration,
    pub(super) cleanup: Cleanup,
    pub(super) events: SessionEvents,
    lease_deadline: LeaseDeadline,
    keep_alive: KeepAlive,
    asleep: AsleepClock,
    /// The deadline as session handles see it.
    published_deadline: watch::Sender<Instant>,
    state: watch::Sender<SessionState>,
    /// Wakes the futures that wait for the session's loss.
    lost_notify: Arc<Notify>,
    /// The result of `close`, for calls after this task has ended.
    close_result: Arc<OnceLock<Result<()>>>,
    cancelled: CancellationToken,
}

/// Why the event loop ended.
enum End {
    Lost(LossReason),
    /// `None` when the last session handle was dropped, because then no caller waits for a reply.
    Close(Option<oneshot::Sender<Result<()>>>),
    Orphan(oneshot::Sender<Result<()>>),
}

impl SessionTask {
    /// Starts the task, and returns the session's first handle.
    pub(super) fn start(
        client: &Client,
        lease: OpenedLease,
        asleep: AsleepClock,
        generation: Generation,
    ) -> Session {
        let OpenedLease { id, ttl, lock_delay, revision: opened, sent, suffixes } = lease;
        let (state, states) = watch::channel(SessionState::Alive);
        let (commands, inbox) = mpsc::unbounded_channel();
        let lease_deadline = LeaseDeadline::new(ttl, sent);
        let ttl = ttl.session;
        let (published_deadline, deadlines) = watch::channel(lease_deadline.at());
        let (lost_notify, cancelled) = (Arc::new(Notify::new()), CancellationToken::new());
        let close_result = Arc::default();
        let events = SessionEvents { lease: id, generation };
        events.opened(ttl);
        let backend = Arc::clone(client.backend());
        let task = Self {
            lease: id,
            ttl,
            cleanup: Cleanup::new(Arc::clone(&backend), (ttl, opened), events),
            events,
            lease_deadline,
            keep_alive: KeepAlive::new(Arc::clone(&backend), id, ttl),
            backend,
            asleep,
            published_deadline,
            state,
            lost_notify: Arc::clone(&lost_notify),
            close_result: Arc::clone(&close_result),
            cancelled: cancelled.clone(),
        };
        // Its owner is the session: see `run`.
        let runtime = Handle::current();
        client.spawn(&runtime, task.run(inbox));
        let inner = Inner {
            client: client.clone(),
            lease: id,
            ttl,
            lock_delay,
            opened,
            generation,
            suffixes,
            state: states,
            deadline: deadlines,
            lost_notify,
            commands,
            close_result,
            cancelled,
            runtime,
        };
        Session { inner: Arc::new(inner), losses: Losses::default() }
    }

    /// Runs the event loop, then ends the session. The loop also ends when the last session handle,
    /// which owns the sender of `inbox`, is dropped.
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        match self.process_events(&mut inbox).await {
            End::Lost(reason) => {
                self.enter(SessionState::Lost(reason));
                // A lease that still exists may have an adopter.
                if reason != LossReason::Revoked {
                    self.clean_up_after_end(inbox).await;
                }
            }
            End::Close(reply) => {
                // Holders are notified before the store deletes their keys.
                self.enter(SessionState::Lost(LossReason::Closed));
                let deadline = self.deadline_now();
                let result = revoke(&*self.backend, self.lease, deadline).await;
                self.events.closed(&result);
                // A session is closed once.
                let _ = self.close_result.set(result.clone());
                if let Some(reply) = reply {
                    // The caller may have dropped its future.
                    let _ = reply.send(result);
                }
            }
            End::Orphan(reply) => {
                let result = self.orphan().await;
                // The caller may have dropped its future.
                let _ = reply.send(result);
                self.clean_up_after_end(inbox).await;
            }
        }
    }

    async fn process_events(&mut self, inbox: &mut mpsc::UnboundedReceiver<Command>) -> End {
        let asleep_period = self.asleep.period(self.ttl);
        loop {
            let deadline = self.deadline_now();
            if let SessionState::Lost(reason) = self.lease_deadline.state() {
                return End::Lost(reason);
            }
            let next_attempt = self.lease_deadline.next_attempt();
            let next_asleep_reading = asleep_period.map(|period| Instant::now() + period);
            tokio::select! {
                biased;
                // First, so that a late response does not revive the session: the next iteration
                // finds it lost.
                () = sleep_until(deadline) => {}
                result = self.keep_alive.result() => self.note_keep_alive(&result),
                command = inbox.recv() => {
                    if let Some(end) = self.process_command(command) {
                        return self.end_unless_lost(end);
                    }
                }
                () = sleep_until_some(next_attempt) => self.send_keep_alive(),
                () = self.cleanup.next() => {}
                // The next iteration finds the deadline moved if the machine was suspended.
                () = sleep_until_some(next_asleep_reading) => {}
            }
        }
    }

    fn process_command(&mut self, command: Option<Command>) -> Option<End> {
        match command {
            Some(Command::CleanUp(key)) => self.cleanup.add(key),
            Some(Command::Check) => {
                if self.keep_alive.begin_check() {
                    self.lease_deadline.request_check(Instant::now());
                }
            }
            Some(Command::Close(reply)) => return Some(End::Close(Some(reply))),
            Some(Command::Orphan(reply)) => return Some(End::Orphan(reply)),
            None => return Some(End::Close(None)),
        }
        None
    }

    /// Returns `end`, or the loss if a suspension of the machine has moved the deadline into the
    /// past: then the lease may have an adopter.
    fn end_unless_lost(&mut self, end: End) -> End {
        self.deadline_now();
        let state = self.lease_deadline.state();
        let SessionState::Lost(reason) = state else { return end };
        // Before `end`, and the reply in it, is dropped: the caller then finds the session lost.
        self.enter(state);
        End::Lost(reason)
    }

    fn send_keep_alive(&mut self) {
        self.keep_alive.send(self.now());
        self.lease_deadline.note_sent();
    }

    fn note_keep_alive(&mut self, keep_alive: &KeepAliveResult) {
        keep_alive.apply(Instant::now(), &mut self.lease_deadline);
        match &keep_alive.result {
            Ok(()) => {
                self.published_deadline.send_replace(self.lease_deadline.at());
                self.events.keep_alive_confirmed();
            }
            Err(error) => self.events.keep_alive_failed(error),
        }
        self.enter(self.lease_deadline.state());
    }

    /// The deadline after counting the time until now, suspension included. Publishes the deadline
    /// if the machine was suspended.
    pub(super) fn deadline_now(&mut self) -> Instant {
        let was_suspended = self.lease_deadline.advance(self.now());
        let deadline = self.lease_deadline.at();
        if was_suspended {
            self.published_deadline.send_replace(deadline);
        }
        deadline
    }

    fn now(&self) -> Moment {
        Moment { at: Instant::now(), asleep: self.asleep.now() }
    }

    /// Publishes a state, and logs it if it is new.
    pub(super) fn enter(&self, state: SessionState) {
        if self.publish(state) {
            let deadline = self.lease_deadline.at();
            self.events.entered(state, deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// Publishes a state, unless the session is lost already. Returns whether the state is new.
    fn publish(&self, state: SessionState) -> bool {
        let is_new = self.state.send_if_modified(|current| {
            let is_new = *current != state && !current.is_lost();
            if is_new {
                *current = state;
            }
            is_new
        });
        if is_new && state.is_lost() {
            self.lost_notify.notify_waiters();
            self.cancelled.cancel();
        }
        is_new
    }
}

impl Drop for SessionTask {
    /// Reports the loss when the runtime is shut down: no task keeps the lease alive any more.
    fn drop(&mut self) {
        let reason = LossReason::Expired;
        if self.publish(SessionState::Lost(reason)) {
            self.events.abandoned(reason);
        }
    }
}

/// Waits until a moment; forever if there is none.
async fn sleep_until_some(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Revokes a lease, and repeats that after retryable errors until the store confirms that the lease
/// is gone or `deadline` has passed.
async fn revoke(backend: &dyn KvBackend, lease: LeaseId, deadline: Instant) -> Result<()> {
    let began = Instant::now();
    let mut last_error = None;
    let revoke = async {
        loop {
            match backend.lease_revoke(lease).await {
                Ok(_) | Err(Error::LeaseNotFound { .. }) => return Ok(()),
                Err(error) if error.is_retryable() => last_error = Some(error),
                Err(error) => return Err(error),
            }
            sleep(REVOKE_RETRY_PAUSE).await;
        }
    };
    match timeout_at(deadline, revoke).await {
        Ok(result) => result,
        Err(_) => {
            Err(last_error.unwrap_or(Error::Timeout { after: deadline.duration_since(began) }))
        }
    }
}
