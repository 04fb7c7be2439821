//! A lease kept alive, and its state as a value.
//!
//! Everything that is held here is held by a lease: a key hangs on it and goes with it. A
//! [`Session`] owns one lease and one task, the *keeper*, which refreshes the lease and cleans up
//! after futures that were dropped. Any number of locks share a session.
//!
//! The subtle part is to know when one has lost. The store counts the lease's time from the moment
//! the last keep-alive *arrived*; the session counts from the moment it was *sent*, which is
//! earlier, and stops a tenth of the time before, because clocks do not run equally fast. So a
//! session is over for its owner before the store can give its keys to anybody else. A lease of
//! 30 s, whose store stops answering after the first keep-alive:
//!
//! ```text
//!    0 s   keep-alive sent, and answered            alive until 27 s: 30 s less a tenth
//!   10     the next one sent, no answer
//!   17.5   given up                                 suspect
//!   19     another one sent, no answer              (and so on)
//!   27     nobody has confirmed anything            lost
//!   28.6   a store whose clock is 5 % fast ends the lease
//!   30     any other store does, at the earliest
//! ```
//!
//! A process that is suspended for a minute learns of its loss when it wakes up. If the machine was
//! suspended, the runtime's clock stood still; on Linux the session task counts that time too, and
//! the session is lost at most a second after waking. Elsewhere it may go on for nine tenths of the
//! time to live: see [`SessionBuilder::asleep`]. Whatever the process writes in between must be
//! refused by the store, and that is what guarded transactions and fencing tokens are for.

mod asleep;
mod backoff;
mod builder;
mod cleanup;
mod deadline;
mod epoch;
mod keeper;
mod losses;
mod numbers;
mod orphaned;
mod scoped;
mod shelf;
mod supervisor;
mod watchman;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::backend::KvBackend;
use crate::error::{Error, Result};
use crate::kv::{KeyRange, LeaseId, LeaseTimeToLive, Revision, Watch};
use crate::loss::{LossReason, PrimitiveError};
pub use builder::SessionBuilder;
pub use epoch::{Epoch, SupervisorState};
use keeper::Command;
pub(crate) use keeper::Debris;
use losses::Losses;
pub(crate) use numbers::Number;
use numbers::Numbers;
use shelf::Shelf;
pub use supervisor::Supervisor;

/// How long to wait for the reason of a loss.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a session still holds its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionState {
    /// The last keep-alive was confirmed.
    Alive,
    /// The last keep-alive failed or was not answered; the lease is still ours for a while.
    Suspect,
    /// The lease is ours no more. This is final.
    Lost(LossReason),
}

impl SessionState {
    pub(crate) const fn is_lost(self) -> bool {
        matches!(self, Self::Lost(_))
    }
}

impl fmt::Display for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alive => f.write_str("alive"),
            Self::Suspect => f.write_str("suspect"),
            Self::Lost(reason) => write!(f, "lost: {reason}"),
        }
    }
}

/// A lease that is kept alive until the session is closed, lost, or dropped.
///
/// Clones are handles to the same session. When the last one is dropped, guards included, the
/// lease is revoked in the background.
///
/// ```
/// use coord_core::{Session, SessionState};
/// use coord_mem::MemBackend;
/// use std::{sync::Arc, time::Duration};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> coord_core::Result<()> {
/// let kv = Arc::new(MemBackend::new());
/// let session = Session::builder(kv).ttl(Duration::from_secs(30)).open().await?;
///
/// tokio::time::sleep(Duration::from_secs(3600)).await;
/// assert_eq!(session.state(), SessionState::Alive);
/// session.close().await?;
/// # Ok(())
/// # }
/// ```
///
/// Source: etcd 3.5 `client/v3/concurrency/session.go`, with its faults mended.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
    /// Shared with the clones of this handle, and with what is made from them.
    losses: Losses,
}

struct Inner {
    backend: Arc<dyn KvBackend>,
    lease: LeaseId,
    ttl: Duration,
    opened: Revision,
    epoch: Epoch,
    numbers: Numbers,
    shelf: Arc<Shelf>,
    state: watch::Receiver<SessionState>,
    deadline: watch::Receiver<Instant>,
    /// Wakes, in the order in which they came, those who wait for the end: `state` wakes whoever
    /// subscribed in an order drawn by lot, and then no run of a test is like another.
    over: Arc<Notify>,
    commands: mpsc::UnboundedSender<Command>,
    /// Cancelled with the loss of the session.
    cancelled: CancellationToken,
    /// Where the keeper runs, and what threads outside async have done for them.
    runtime: Handle,
}

impl Session {
    /// Chooses what a session on `backend` is like.
    pub fn builder(backend: Arc<dyn KvBackend>) -> SessionBuilder {
        SessionBuilder::new(backend)
    }

    /// The backend that the session is on.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn KvBackend> {
        &self.inner.backend
    }

    /// The lease.
    #[must_use]
    pub fn lease_id(&self) -> LeaseId {
        self.inner.lease
    }

    /// The time to live that the store granted: at least what was asked for.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.inner.ttl
    }

    /// The store's revision when the session was opened. Keys on an adopted lease that were created
    /// up to then are a former owner's.
    #[must_use]
    pub fn opened(&self) -> Revision {
        self.inner.opened
    }

    /// Which session it is of those that its [`Supervisor`] has opened one after the other; the
    /// first, if it has none.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.inner.epoch
    }

    /// Whether the session still holds its lease.
    #[must_use]
    pub fn state(&self) -> SessionState {
        *self.inner.state.borrow()
    }

    /// Until when the session lives even if no further keep-alive is confirmed; each that is
    /// moves it on. The store cannot give away before then what is held on the session.
    ///
    /// Work that takes time to stop is told to stop so much earlier: by [`lost`](Self::lost)
    /// nothing is left but the margin for clocks that do not run equally fast. A session that is
    /// revoked or closed is over before its deadline.
    ///
    /// ```
    /// use coord_core::Session;
    /// use coord_mem::MemBackend;
    /// use std::{sync::Arc, time::Duration};
    /// use tokio::time::{Instant, sleep};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> coord_core::Result<()> {
    /// let builder = Session::builder(Arc::new(MemBackend::new())).ttl(Duration::from_secs(30));
    /// let session = builder.open().await?;
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

    /// Every change of [`state`](Self::state) from now on, to be awaited or looked at. Several who
    /// subscribe are woken in no particular order.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<SessionState> {
        self.inner.state.clone()
    }

    /// Waits until the session is lost, and tells why.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn lost(&self) -> LossReason {
        let mut over = pin!(self.inner.over.notified());
        // Listened to from before the state is looked at, so that nothing is missed in between.
        over.as_mut().enable();
        if !self.state().is_lost() {
            over.await;
        }
        match self.state() {
            SessionState::Lost(reason) => reason,
            // Not to be met: the keeper does not go without a loss.
            SessionState::Alive | SessionState::Suspect => LossReason::Expired,
        }
    }

    /// A token that is cancelled when the session is lost, for code that takes one: the counterpart
    /// of Go's `Session.Ctx()`. Each call returns a token of its own; cancelling it does nothing to
    /// the session or to other tokens.
    ///
    /// ```
    /// use coord_core::Session;
    /// use coord_mem::MemBackend;
    /// use std::sync::Arc;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> coord_core::Result<()> {
    /// let session = Session::builder(Arc::new(MemBackend::new())).open().await?;
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

    /// Ends the session: tells everybody who holds something on it, then revokes the lease, which
    /// deletes its keys. Returns when that is confirmed; on a session that is lost already, when
    /// the store confirms that the lease is gone. A lease that was handed over is the heir's, and
    /// not touched.
    ///
    /// # Errors
    /// What the backend answered to the revocation, or `Timeout` when the lease's time was over
    /// before it answered at all. The lease then expires by itself.
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
        if self.state() == SessionState::Lost(LossReason::Orphaned) {
            return Ok(());
        }
        keeper::revoke(&*self.inner.backend, self.inner.lease, Instant::now() + self.inner.ttl)
            .await
    }

    /// Ends the session but not its lease: refreshes it once more, and leaves it to whoever adopts
    /// it with [`SessionBuilder::lease`] within the time to live. Keys that hang on it stay. A key
    /// of a wait queue whose creation has an unknown outcome is still removed, in the background,
    /// as long as this process and the lease live.
    ///
    /// # Errors
    /// `LeaseNotFound` if the session was lost before; what the backend answered to the last
    /// refresh, after which the lease may have less than its whole time left.
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

    /// The newest revision at which a former owner of the lease can have left a key: that of the
    /// adoption. Any, if the lease was not adopted.
    pub(crate) fn left_until(&self) -> Revision {
        if self.inner.numbers.are_of_adopter() { self.inner.opened } else { Revision(i64::MAX) }
    }

    /// The runtime that the session was opened on.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.inner.runtime
    }

    /// A handle to the same session that notes losses by itself.
    fn with_own_losses(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), losses: Losses::default() }
    }

    /// Notes that a key which was held on this session was lost.
    pub(crate) fn note_loss(&self, reason: LossReason, key: &Bytes) {
        self.losses.note(reason, key);
    }

    /// The loss that was noted first on this handle, with the key; or that of the session.
    fn first_loss(&self) -> Option<(LossReason, Option<Bytes>)> {
        let noted = self.losses.first().map(|(reason, key)| (reason, Some(key)));
        noted.or_else(|| match self.state() {
            SessionState::Lost(reason) => Some((reason, None)),
            SessionState::Alive | SessionState::Suspect => None,
        })
    }

    /// A number for a key of this session, which no other key of it has now.
    pub(crate) fn number(&self) -> Number {
        self.inner.numbers.take()
    }

    /// A watch of the deletions of `key` that stood a moment ago, if there is one that still tells
    /// all that come after `looked`. It may tell of some that are long past.
    pub(crate) fn unshelve(&self, key: &Bytes, looked: Revision) -> Option<Watch> {
        self.inner.shelf.take(key, looked)
    }

    /// Keeps a watch of the deletions of `key`, which has told of none after `told`, for a moment,
    /// for whoever asks for it.
    pub(crate) fn shelve(&self, key: Bytes, watch: Watch, told: Revision, in_crowd: bool) {
        if !self.state().is_lost() && self.inner.shelf.put(key, watch, told, in_crowd) {
            self.send(Command::Shelved);
        }
    }

    /// The key of `keys` that was waited for last, a moment ago, with many others before it.
    pub(crate) fn last_in_crowd(&self, keys: &KeyRange) -> Option<Bytes> {
        self.inner.shelf.last_in_crowd(keys)
    }

    /// Hands over what a dropped future left behind. The keeper removes it; if the lease is gone,
    /// so is the debris.
    pub(crate) fn clean_up(&self, debris: Debris) {
        self.send(Command::CleanUp(debris));
    }

    /// Why the session is lost, if the store says so when asked; `None` if it lives, or if the
    /// store cannot be asked and the keeper will find out. Whoever asks has lost something, and
    /// must hear of that soon, whoever else is silent.
    pub(crate) async fn why_lost(&self) -> Option<LossReason> {
        let ask = self.inner.backend.lease_time_to_live(LeaseTimeToLive::new(self.inner.lease));
        tokio::select! {
            biased;
            reason = self.lost() => return Some(reason),
            answer = timeout(PATIENCE, ask) => {
                if answer.ok()?.ok()?.lease.is_some() {
                    return None;
                }
            }
        }
        self.send(Command::Check);
        Some(timeout(PATIENCE, self.lost()).await.unwrap_or(LossReason::Revoked))
    }

    /// Runs a request as long as the session lives.
    pub(crate) async fn while_held<T>(
        &self,
        request: impl Future<Output = Result<T, PrimitiveError>> + Send,
    ) -> Result<T, PrimitiveError> {
        tokio::select! {
            biased;
            reason = self.lost() => Err(PrimitiveError::Lost(reason)),
            answer = request => answer,
        }
    }

    /// Whether the keeper is still there to take it.
    fn send(&self, command: Command) -> bool {
        self.inner.commands.send(command).is_ok()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("lease", &format_args!("{}", self.inner.lease))
            .field("ttl", &self.inner.ttl)
            .field("epoch", &self.inner.epoch)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
