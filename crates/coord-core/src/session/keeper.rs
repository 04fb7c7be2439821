//! The one task of a session: refreshes the lease, notices its loss, cleans up.
//!
//! Everything that must happen although somebody dropped a future happens here. The task ends when
//! the session is lost or closed, or when its last handle is gone. After `orphan` the lease lives
//! on, and the task still removes keys that the store may create late: see `orphaned.rs`.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::asleep::AsleepClock;
use super::cleanup::Unconfirmed;
use super::deadline::{Deadline, Moment};
use super::losses::Losses;
use super::numbers::{Number, Numbers};
use super::shelf::Shelf;
use super::{Epoch, Inner, Session, SessionState};
use crate::backend::KvBackend;
use crate::error::{Error, Result};
use crate::kv::{Header, LeaseId, Revision};
use crate::loss::LossReason;
use crate::telemetry::SessionEvents;

/// Shorter than any suspension, and longer than it takes to read two clocks.
const SLEEP_MIN: Duration = Duration::from_millis(100);

/// What a session asks of its keeper.
pub(super) enum Command {
    Close(oneshot::Sender<Result<()>>),
    Orphan(oneshot::Sender<Result<()>>),
    CleanUp(Debris),
    /// Something indicates that the lease is gone: ask now.
    Check,
    /// There is something on the shelf.
    Shelved,
}

/// A key that somebody created, or may have, and has no use for any more.
#[derive(Debug)]
pub(crate) struct Debris {
    pub(crate) key: Bytes,
    /// The revision that created it; `None` when nobody knows whether anything did.
    pub(crate) created: Option<Revision>,
    /// The number in the key, to be given back when the key is gone. Whoever does not know whether
    /// the key was created has to burn it: a request to delete the key, whichever life it is in,
    /// may be late.
    pub(crate) number: Option<Number>,
}

pub(super) type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pub(super) struct Keeper {
    pub(super) backend: Arc<dyn KvBackend>,
    pub(super) lease: LeaseId,
    pub(super) ttl: Duration,
    /// The store's revision when the session was opened: older keys of an adopted lease are a
    /// former owner's.
    pub(super) opened: Revision,
    /// What follows from the last keep-alive that was confirmed.
    deadline: Deadline,
    asleep: AsleepClock,
    /// How long the machine had been suspended when that was last noted.
    asleep_seen: Duration,
    /// The deadline, for those who ask.
    until: watch::Sender<Instant>,
    state: watch::Sender<SessionState>,
    /// Wakes those who wait for the end.
    over: Arc<Notify>,
    cancelled: CancellationToken,
    pub(super) events: SessionEvents,
    shelf: Arc<Shelf>,
    /// Each ends when its key, which surely existed, is gone.
    pub(super) releasing: FuturesUnordered<Pending<()>>,
    /// Each ends when its key, which may be created yet, is gone, or with what to try later.
    pub(super) cleaning: FuturesUnordered<Pending<Option<Unconfirmed>>>,
    /// For keys that may still be created by requests that are very late.
    pub(super) waiting_for_late: FuturesUnordered<Pending<()>>,
    /// The revision at which the session was orphaned: older keys are the adopter's.
    pub(super) ended: Arc<OnceLock<Revision>>,
}

/// How the keeper's work ended.
enum End {
    Lost(LossReason),
    Close(Option<oneshot::Sender<Result<()>>>),
    Orphan(oneshot::Sender<Result<()>>),
}

impl Keeper {
    /// Starts the task, and gives out the session's first handle.
    pub(super) fn start(
        backend: Arc<dyn KvBackend>,
        opened: Header,
        (lease, numbers): (LeaseId, Numbers),
        (deadline, asleep): (Deadline, AsleepClock),
        epoch: Epoch,
    ) -> Session {
        let (state, states) = watch::channel(SessionState::Alive);
        let (commands, inbox) = mpsc::unbounded_channel();
        let ttl = deadline.ttl;
        let (until, deadlines) = watch::channel(deadline.at(asleep.now()));
        let (over, cancelled) = (Arc::new(Notify::new()), CancellationToken::new());
        let events = SessionEvents { lease, epoch };
        let shelf = Arc::new(Shelf::default());
        events.opened(ttl);
        let keeper = Self {
            backend: Arc::clone(&backend),
            lease,
            ttl,
            opened: opened.revision,
            deadline,
            asleep,
            asleep_seen: deadline.confirmed.asleep,
            until,
            state,
            over: Arc::clone(&over),
            cancelled: cancelled.clone(),
            events,
            shelf: Arc::clone(&shelf),
            releasing: FuturesUnordered::new(),
            cleaning: FuturesUnordered::new(),
            ended: Arc::default(),
            waiting_for_late: FuturesUnordered::new(),
        };
        #[expect(clippy::disallowed_methods, reason = "its owner is the session: see `run`")]
        tokio::spawn(keeper.run(inbox));
        let state = states;
        let runtime = Handle::current();
        let inner = Inner {
            backend,
            lease,
            ttl,
            opened: opened.revision,
            epoch,
            numbers,
            shelf,
            state,
            deadline: deadlines,
            over,
            commands,
            cancelled,
            runtime,
        };
        Session { inner: Arc::new(inner), losses: Losses::default() }
    }

    /// When the session is over unless another keep-alive is confirmed.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline.at(self.asleep.now())
    }

    fn now(&self) -> Moment {
        Moment { at: Instant::now(), asleep: self.asleep.now() }
    }

    /// Keeps the session until it ends. Ends by itself when the last handle, which is the sender
    /// of `inbox`, is dropped.
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        match self.keep(&mut inbox).await {
            End::Lost(reason) => {
                self.enter(SessionState::Lost(reason));
                // Unless the lease is gone, it may be adopted.
                if reason != LossReason::Revoked {
                    self.clean_up_after_end(inbox).await;
                }
            }
            End::Close(reply) => {
                // Holders are told before the store can give away what they hold.
                self.enter(SessionState::Lost(LossReason::Closed));
                let result = revoke(&*self.backend, self.lease, self.deadline()).await;
                self.events.closed(&result);
                reply.map(|reply| reply.send(result));
            }
            End::Orphan(reply) => {
                let result = self.orphan().await;
                // Whoever asked may not wait any more.
                let _ = reply.send(result);
                self.clean_up_after_end(inbox).await;
            }
        }
    }

    async fn keep(&mut self, inbox: &mut mpsc::UnboundedReceiver<Command>) -> End {
        let mut next_attempt = self.deadline.confirmed.at + self.ttl / 3;
        let mut attempt: Option<(Moment, Pending<Result<()>>)> = None;
        let period = self.asleep.period(self.ttl);
        let mut checking = false;
        let mut next_clearing = None;
        loop {
            let idle = attempt.is_none();
            let next_reading = period.map(|period| Instant::now() + period);
            let answer = async {
                match &mut attempt {
                    Some((_, attempt)) => attempt.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // First, so that a late answer does not bring a session back to life.
                () = sleep_until(self.deadline()) => {
                    return End::Lost(self.deadline.reason(self.now()));
                }
                answer = answer => {
                    checking = false;
                    let sent = attempt.take().map_or(self.deadline.confirmed, |(sent, _)| sent);
                    if let Some(reason) = self.note(answer, sent) {
                        return End::Lost(reason);
                    }
                    next_attempt = if self.deadline.confirmed == sent {
                        sent.at + self.ttl / 3
                    } else {
                        Instant::now() + self.ttl / 20
                    };
                }
                command = inbox.recv() => match command {
                    Some(Command::CleanUp(debris)) => self.clean_up(debris),
                    // One that is under way may have been answered before the lease was gone.
                    Some(Command::Check) if !checking => {
                        (checking, attempt, next_attempt) = (true, None, Instant::now());
                    }
                    Some(Command::Check) => {}
                    Some(Command::Shelved) => next_clearing = self.shelf.clear(),
                    Some(Command::Close(reply)) => return End::Close(Some(reply)),
                    Some(Command::Orphan(reply)) => return End::Orphan(reply),
                    None => return End::Close(None),
                },
                () = sleep_until(next_attempt), if idle => {
                    attempt = Some((self.now(), self.attempt()));
                }
                Some(()) = self.releasing.next() => {}
                Some(later) = self.cleaning.next() => self.look_later(later),
                Some(()) = self.waiting_for_late.next() => {}
                () = due(next_clearing) => {
                    next_clearing = self.shelf.clear();
                }
                // The machine may have been suspended: the deadline is another one then.
                () = due(next_reading) => {
                    if self.note_sleep() {
                        next_attempt = Instant::now();
                    }
                }
            }
        }
    }

    /// One keep-alive, given up after a quarter of the lease's time so that others fit in.
    fn attempt(&self) -> Pending<Result<()>> {
        let (backend, lease, after) = (Arc::clone(&self.backend), self.lease, self.ttl / 4);
        Box::pin(async move {
            match timeout(after, backend.lease_keep_alive(lease)).await {
                Ok(answer) => answer.map(|_| ()),
                Err(_) => Err(Error::Timeout { after }),
            }
        })
    }

    /// Draws the conclusion from a keep-alive's answer: the reason, if the session is lost.
    fn note(&mut self, answer: Result<()>, sent: Moment) -> Option<LossReason> {
        match answer {
            Ok(()) => {
                self.deadline.confirmed = sent;
                self.until.send_replace(self.deadline());
                self.events.keep_alive_confirmed();
                self.enter(SessionState::Alive);
                None
            }
            Err(error) => {
                self.events.keep_alive_failed(&error);
                if matches!(error, Error::LeaseNotFound { .. }) {
                    return Some(LossReason::Revoked);
                }
                self.enter(SessionState::Suspect);
                None
            }
        }
    }

    /// Whether the machine was suspended since this was asked last. The deadline that others see is
    /// another one then.
    fn note_sleep(&mut self) -> bool {
        let asleep = self.asleep.now();
        if asleep.saturating_sub(self.asleep_seen) < SLEEP_MIN {
            return false;
        }
        self.asleep_seen = asleep;
        self.until.send_replace(self.deadline());
        true
    }

    pub(super) fn enter(&self, state: SessionState) {
        if self.change(state) {
            let left = self.deadline().saturating_duration_since(Instant::now());
            self.events.entered(state, left);
        }
    }

    /// Whether the state is now another one. Those who wait for the end are told of it.
    fn change(&self, state: SessionState) -> bool {
        let changed = self.state.send_if_modified(|now| {
            let changes = *now != state && !now.is_lost();
            if changes {
                *now = state;
            }
            changes
        });
        if changed && state.is_lost() {
            self.shelf.empty();
            self.over.notify_waiters();
            self.cancelled.cancel();
        }
        changed
    }
}

impl Drop for Keeper {
    /// A keeper whose runtime is shut down around it keeps nothing any more, and says so.
    fn drop(&mut self) {
        let reason = LossReason::Expired;
        if self.change(SessionState::Lost(reason)) {
            self.events.abandoned(reason);
        }
    }
}

/// Waits until a moment that there may never be.
async fn due(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Revokes a lease, again and again while that may help, until it is confirmed that it is gone.
pub(super) async fn revoke(
    backend: &dyn KvBackend,
    lease: LeaseId,
    deadline: Instant,
) -> Result<()> {
    let began = Instant::now();
    let mut last_error = None;
    let revoke = async {
        loop {
            match backend.lease_revoke(lease).await {
                Ok(_) | Err(Error::LeaseNotFound { .. }) => return Ok(()),
                Err(error) if error.is_retryable() => last_error = Some(error),
                Err(error) => return Err(error),
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    match timeout_at(deadline, revoke).await {
        Ok(result) => result,
        Err(_) => {
            Err(last_error.unwrap_or(Error::Timeout { after: deadline.duration_since(began) }))
        }
    }
}
