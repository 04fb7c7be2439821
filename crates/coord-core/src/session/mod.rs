//! Sessions: a lease that is kept alive, and its state as a value.
//!
//! A lock or leadership is held by a lease: its key is attached to the lease, and the store deletes
//! the key when the lease ends. A [`Session`] owns one lease and one task, the *session task*,
//! which sends keep-alives and deletes the keys that dropped guards and futures leave behind. Many
//! locks can share a session.
//!
//! The subtle part is the *deadline*: a session must end for its owner before the store can delete
//! its keys and another client can acquire its locks. The store counts a lease's time from the
//! moment at which the last keep-alive *arrived*. The session counts from the moment at which the
//! last confirmed keep-alive was *sent*, which is earlier, and subtracts a clock-drift margin of a
//! tenth of the TTL. Example: a lease of 30 s, whose store stops responding after it has granted
//! the lease:
//!
//! ```text
//!    0 s   lease requested and granted              alive until 27 s: 30 s less a tenth
//!   10     keep-alive sent, no response
//!   17.5   keep-alive timed out                     suspect
//!   19     next keep-alive sent, no response        (and so on)
//!   27     no keep-alive was confirmed              lost
//!   28.6   a store whose clock is 5 % fast ends the lease
//!   30     a store whose clock is exact ends it, at the earliest
//! ```
//!
//! A process that was suspended for a minute detects the loss when it resumes. If the whole machine
//! was suspended, the runtime's clock stood still. On Linux the session task counts that time too,
//! and the session is lost at most a second after the machine resumes. On other systems the session
//! may continue for nine tenths of the TTL: see [`SessionBuilder::asleep`]. The store and other
//! services must reject what the process writes until then: use guarded transactions, such as
//! [`MutexGuard::txn`](crate::mutex::MutexGuard::txn), and fencing tokens.
//!
//! A lost session stays lost. A program that needs another session after a loss creates a
//! [`Supervisor`], which opens it.

mod after_end;
mod asleep;
mod builder;
mod cleanup;
mod deadline;
pub(crate) mod generation;
mod handover;
mod keep_alive;
mod key_suffix;
mod losses;
mod run_while_held;
mod scoped;
pub(crate) mod state;
mod supervisor;
mod supervisor_task;
mod task;

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::backend::KvBackend;
use crate::client::Client;
use crate::error::{Error, LossReason, Outcome, PrimitiveError, Result};
use crate::kv::{KeyValue, LeaseId, LeaseTimeToLive, Revision};
pub use builder::SessionBuilder;
pub(crate) use cleanup::OrphanedKey;
pub use generation::{Generation, SupervisorState};
pub(crate) use key_suffix::KeySuffix;
use key_suffix::KeySuffixes;
use losses::Losses;
pub use state::SessionState;
pub use supervisor::Supervisor;
use task::Command;

/// How long to wait for the store, and then for the session task, to report why a key was lost.
const LOSS_REASON_TIMEOUT: Duration = Duration::from_secs(1);

/// A lease that is kept alive until the session is closed, lost, or dropped.
///
/// Clones are handles to the same session. When the last one is dropped, guards included, the
/// session task revokes the lease in the background.
///
/// ```
/// use coord_core::session::SessionState;
/// use coord_core::{Client, Session};
/// use coord_mem::MemBackend;
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> coord_core::Result<()> {
/// let client = Client::new(MemBackend::new());
/// let session = Session::builder(&client).ttl(Duration::from_secs(30)).open().await?;
///
/// tokio::time::sleep(Duration::from_secs(3600)).await;
/// assert_eq!(session.state(), SessionState::Alive);
/// session.close().await?;
/// # Ok(())
/// # }
/// ```
///
/// Source: etcd 3.5 `client/v3/concurrency/session.go`, without its faults.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
    /// Shared with the clones of this handle, and with the primitives created from any of them.
    losses: Losses,
}

struct Inner {
    client: Client,
    lease: LeaseId,
    ttl: Duration,
    lock_delay: Duration,
    opened: Revision,
    generation: Generation,
    suffixes: KeySuffixes,
    state: watch::Receiver<SessionState>,
    deadline: watch::Receiver<Instant>,
    /// Wakes the futures that wait for the session's loss, in the order in which they began to
    /// wait. The channel `state` wakes its subscribers in a random order, which would make each run
    /// of a test different.
    lost_notify: Arc<Notify>,
    commands: mpsc::UnboundedSender<Command>,
    /// The result of the revocation; set once, after the session was closed.
    close_result: Arc<OnceLock<Result<()>>>,
    /// Cancelled when the session is lost.
    cancelled: CancellationToken,
    /// The runtime of the session task and of the tasks that [`Session::spawn`] starts, unless the
    /// client has a spawner.
    runtime: Handle,
}

impl Session {
    /// The options of a new session on the store of `client`.
    pub fn builder(client: &Client) -> SessionBuilder {
        SessionBuilder::new(client.clone())
    }

    /// Returns the client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// The client's backend.
    pub(crate) fn backend(&self) -> &Arc<dyn KvBackend> {
        self.inner.client.backend()
    }

    /// Returns the id of the lease.
    #[must_use]
    pub fn lease_id(&self) -> LeaseId {
        self.inner.lease
    }

    /// Returns the TTL of the session: at least the requested one, because the store may grant
    /// more. The lease lives longer if the session has a [`lock_delay`](Self::lock_delay).
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.inner.ttl
    }

    /// Returns the lock-delay: how long the keys of the session stay at least after the deadline,
    /// if the session is not closed. See [`SessionBuilder::lock_delay`].
    #[must_use]
    pub fn lock_delay(&self) -> Duration {
        self.inner.lock_delay
    }

    /// Returns the store's revision when the session was opened. Keys on an adopted lease with a
    /// create revision up to this one belong to a former owner.
    #[must_use]
    pub fn opened(&self) -> Revision {
        self.inner.opened
    }

    /// Returns the generation: the number of this session among the sessions of its [`Supervisor`];
    /// [`FIRST`](Generation::FIRST) without a supervisor.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.inner.generation
    }

    /// Returns whether the session still holds its lease.
    #[must_use]
    pub fn state(&self) -> SessionState {
        *self.inner.state.borrow()
    }

    /// Returns the deadline: the time at which the session is lost unless another keep-alive is
    /// confirmed. Each confirmed keep-alive extends it. Before the deadline, the lease does not
    /// expire in the store.
    ///
    /// Work that takes time to stop must begin to stop that much earlier: when
    /// [`lost`](Self::lost) returns, only the clock-drift margin is left. A session that is revoked
    /// or closed ends before its deadline.
    ///
    /// ```
    /// use coord_core::{Client, Session};
    /// use coord_mem::MemBackend;
    /// use std::time::Duration;
    /// use tokio::time::{Instant, sleep};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> coord_core::Result<()> {
    /// let client = Client::new(MemBackend::new());
    /// let session = Session::builder(&client).ttl(Duration::from_secs(30)).open().await?;
    /// assert_eq!(session.deadline() - Instant::now(), Duration::from_secs(27));
    ///
    /// sleep(Duration::from_secs(60)).await; // kept alive meanwhile
    /// assert!(session.deadline() > Instant::now());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn deadline(&self) -> Instant {
        *self.inner.deadline.borrow()
    }

    /// Subscribes to the changes of [`state`](Self::state). If the state has changed since the
    /// session was opened, the first `changed` returns at once. Subscribers are woken in no
    /// particular order.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<SessionState> {
        self.inner.state.clone()
    }

    /// Waits until the session is lost, and returns the reason.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn lost(&self) -> LossReason {
        let mut lost = pin!(self.inner.lost_notify.notified());
        // Enabled before the state is read, so that no notification in between is missed.
        lost.as_mut().enable();
        if !self.state().is_lost() {
            lost.await;
        }
        match self.state() {
            SessionState::Lost(reason) => reason,
            // Unreachable: the session task publishes a loss before it ends.
            SessionState::Alive | SessionState::Suspect => LossReason::Expired,
        }
    }

    /// Returns a token that is cancelled when the session is lost: the counterpart of Go's
    /// `Session.Ctx()`. Each call returns a new token; cancelling it affects neither the session
    /// nor other tokens. A token does not keep the session open.
    ///
    /// ```
    /// use coord_core::{Client, Session};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> coord_core::Result<()> {
    /// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
    /// let token = session.cancellation_token();
    /// let worker = tokio::spawn(async move {
    ///     let work = std::future::pending::<()>();
    ///     if token.run_until_cancelled(work).await.is_none() { "stopped" } else { "done" }
    /// });
    /// session.close().await?;
    /// assert_eq!(worker.await.expect("it does not panic"), "stopped");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Source: etcd 3.6 `client/v3/concurrency/session.go`, `Ctx`.
    #[must_use]
    pub fn cancellation_token(&self) -> CancellationToken {
        self.inner.cancelled.child_token()
    }

    /// Closes the session: notifies every holder on it of the loss, then revokes the lease, which
    /// deletes its keys. Returns when the store has confirmed that the lease is gone. Later calls
    /// send nothing, and return the result of the first.
    ///
    /// If the session was lost or orphaned before, nothing is sent, because the lease may belong to
    /// an adopter. Without an adopter, the lease and its keys expire by themselves.
    ///
    /// # Errors
    /// - The backend's error for the revocation, with its own outcome, or `Timeout` if the
    ///   [`deadline`](Self::deadline) passed before the backend responded. A lease that was not
    ///   revoked expires by itself.
    /// - `Unavailable` if the runtime of the session was shut down before the backend responded.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the session from being closed.
    pub async fn close(&self) -> Result<()> {
        let (reply, closed) = oneshot::channel();
        if self.send(Command::Close(reply))
            && let Ok(result) = closed.await
        {
            return result;
        }
        // The session task has ended, or the session was lost before.
        if self.state() != SessionState::Lost(LossReason::Closed) {
            return Ok(());
        }
        let result = self.inner.close_result.get().cloned();
        result.unwrap_or_else(|| {
            let reason = "the runtime of the session was shut down".to_owned();
            Err(Error::Unavailable { outcome: Outcome::Unknown, reason, source: None })
        })
    }

    /// Orphans the lease: ends the session, sends one more keep-alive, and leaves the lease to an
    /// adopter, which calls [`SessionBuilder::lease`] within the TTL. The keys that are attached to
    /// the lease stay. A key of a wait queue whose creation has an unknown outcome is still
    /// deleted, in the background, as long as this process and the lease live. It costs 2 requests:
    /// a read of the store's revision, and the keep-alive.
    ///
    /// First it waits until the orphaned keys of dropped guards and futures are deleted, at most
    /// until a quarter of the TTL before the [`deadline`](Self::deadline). Until then the locks and
    /// leaderships of the session still count as held, but the session sends no keep-alive.
    ///
    /// # Errors
    /// - `LeaseNotFound` if the session was lost before: nothing was applied.
    /// - The backend's error for the last keep-alive, or `Timeout` if the
    ///   [`deadline`](Self::deadline) passed before the backend responded. The session has ended
    ///   all the same, and the lease may have less than its whole TTL left.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the session from being orphaned.
    pub async fn orphan(&self) -> Result<LeaseId> {
        let (reply, orphaned) = oneshot::channel();
        let lease = self.inner.lease;
        if self.send(Command::Orphan(reply))
            && let Ok(result) = orphaned.await
        {
            return result.map(|()| lease);
        }
        Err(Error::LeaseNotFound { lease: Some(lease) })
    }

    /// Whether the lease was adopted with this key: a former owner has created it. A session that
    /// has not adopted its lease has no such key.
    pub(crate) fn has_adopted(&self, kv: &KeyValue) -> bool {
        self.inner.suffixes.are_of_adopter()
            && kv.lease == Some(self.lease_id())
            && kv.create_revision <= self.inner.opened
    }

    /// Starts a background task, on the runtime that the session was opened on unless the client
    /// has a spawner.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.client().spawn(&self.inner.runtime, task);
    }

    /// A handle to the same session that records its losses separately, so that a supervisor can
    /// relate a loss to one call of its work.
    fn with_own_losses(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), losses: Losses::default() }
    }

    /// Notes that a key which was held on this session was lost.
    pub(crate) fn note_loss(&self, reason: LossReason, key: &Bytes) {
        self.losses.note(reason, key);
    }

    /// The first loss that was noted on this handle, with the key; otherwise the loss of the
    /// session.
    fn first_loss(&self) -> Option<(LossReason, Option<Bytes>)> {
        let noted = self.losses.first().map(|(reason, key)| (reason, Some(key)));
        noted.or_else(|| match self.state() {
            SessionState::Lost(reason) => Some((reason, None)),
            SessionState::Alive | SessionState::Suspect => None,
        })
    }

    /// Takes a suffix that no other key of this session has.
    pub(crate) fn key_suffix(&self) -> KeySuffix {
        self.inner.suffixes.take()
    }

    /// Sends an orphaned key to the session task, which deletes it. If the task has ended, the
    /// store deletes the key with its lease.
    pub(crate) fn clean_up(&self, key: OrphanedKey) {
        self.send(Command::CleanUp(key));
    }

    /// The reason why the session is lost, if it is lost already, or if the store confirms that the
    /// lease is gone. Otherwise `None`: the lease exists, or the store does not respond.
    ///
    /// The wait is bounded, because the caller has lost a key and must be notified soon.
    pub(crate) async fn why_lost(&self) -> Option<LossReason> {
        let request = self.backend().lease_time_to_live(LeaseTimeToLive::new(self.inner.lease));
        tokio::select! {
            biased;
            reason = self.lost() => return Some(reason),
            response = timeout(LOSS_REASON_TIMEOUT, request) => {
                if response.ok()?.ok()?.lease.is_some() {
                    return None;
                }
            }
        }
        self.send(Command::Check);
        Some(timeout(LOSS_REASON_TIMEOUT, self.lost()).await.unwrap_or(LossReason::Revoked))
    }

    /// Runs a request until it returns or the session is lost.
    pub(crate) async fn while_held<T>(
        &self,
        request: impl Future<Output = Result<T, PrimitiveError>> + Send,
    ) -> Result<T, PrimitiveError> {
        tokio::select! {
            biased;
            reason = self.lost() => Err(PrimitiveError::Lost(reason)),
            result = request => result,
        }
    }

    /// If the session's deadline has passed, waits until a keep-alive has moved the deadline, or
    /// fails when the session is lost. After a pause of the process, a response may be received
    /// before the session task has noticed that the deadline has passed, and before its keep-alive
    /// has moved the deadline.
    pub(crate) async fn check_deadline(&self) -> Result<(), PrimitiveError> {
        let mut deadline = self.inner.deadline.clone();
        while *deadline.borrow_and_update() <= Instant::now() {
            tokio::select! {
                biased;
                reason = self.lost() => return Err(reason.into()),
                // The sender exists until the session is lost.
                _ = deadline.changed() => {}
            }
        }
        Ok(())
    }

    /// Sends a command to the session task. Returns whether the task is still running.
    fn send(&self, command: Command) -> bool {
        self.inner.commands.send(command).is_ok()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("lease", &format_args!("{}", self.inner.lease))
            .field("ttl", &self.inner.ttl)
            .field("lock_delay", &self.inner.lock_delay)
            .field("generation", &self.inner.generation)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
