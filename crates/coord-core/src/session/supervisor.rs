//! Another session for one that was lost, for those who ask for it.
//!
//! A lease is what others know its owner by: while it lives, nobody else holds what hangs on it,
//! and once it is gone somebody else may. So a session that is lost stays lost, and what was held
//! on it stays lost too. What everybody then writes is a loop: open another session, acquire
//! again, go on. A [`Supervisor`] is that loop, without its faults.
//!
//! Each session that it opens begins an [`Epoch`](super::Epoch), and no epoch begins before the
//! one before is lost. Nothing moves from one to the next by itself: a guard belongs to the session
//! on which it was acquired. Whoever wants to hold again says so, with [`Supervisor::run`]:
//!
//! ```text
//! epoch   session           supervisor   a guard                 run
//!   1     alive             up           held                    work(session 1)
//!   1     suspect           suspect      held                    .
//!   1     lost              down         lost: work returns      waits
//!   .     .                 down         .                       .  (the store is away)
//!   2     alive             up           (another one)           work(session 2)
//! ```
//!
//! The new session may find keys of the old one in the store, for a lease that could not be kept
//! alive is over here a little earlier than there. They are in line like anybody else's, and go
//! when their lease does.
//!
//! An epoch counts sessions of one supervisor, in one process. It does not tell who came later
//! among several: a [`FencingToken`](crate::FencingToken) does.

use std::any::Any;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::backoff::{Backoff, CALM};
use super::epoch::SupervisorState;
use super::watchman::{Closing, Watchman};
use super::{Session, SessionBuilder};
use crate::error::Result;
use crate::loss::{LossReason, PrimitiveError};
use crate::telemetry::supervisor as events;

/// Opens another session whenever one is lost.
///
/// It comes from [`SessionBuilder::supervise`]. One task waits for the session to be lost, opens
/// another one, with pauses that grow up to 5 s and differ from client to client, and does not
/// give up while the store is merely unavailable. A session that its owner closed or handed over
/// is not replaced.
///
/// Clones are handles to the same supervisor. When the last one is dropped, no other session is
/// opened, and the newest one is closed unless somebody else holds it.
///
/// ```
/// use coord_core::{Epoch, KvBackend, Mutex, PrimitiveError, Session};
/// use coord_mem::MemBackend;
/// use std::{sync::Arc, time::Duration};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let kv = Arc::new(MemBackend::new());
/// let supervisor = Session::builder(kv.clone()).supervise().await?;
///
/// let epoch = supervisor
///     .run(async |session: Session| {
///         let guard = Mutex::new(&session, "ledger").lock().await?;
///         if session.epoch() == Epoch::FIRST {
///             kv.lease_revoke(session.lease_id()).await?; // an operator, perhaps
///         }
///         let work = tokio::time::sleep(Duration::from_secs(3600));
///         guard.run_while_held(work).await?;
///         guard.unlock().await?;
///         Ok::<_, PrimitiveError>(session.epoch())
///     })
///     .await?;
/// assert_eq!(epoch, Epoch(2), "the work was lost once, and done in the next epoch");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Supervisor {
    inner: Arc<Inner>,
}

struct Inner {
    state: watch::Receiver<SupervisorState>,
    /// The newest session; not in the state, so that a subscriber does not keep it open.
    session: watch::Receiver<Session>,
    /// Wakes, in the order in which they came, those who wait for a change of either.
    changed: Arc<Notify>,
    /// Asks the task to close. That it is dropped tells the task that nobody is left.
    close: mpsc::UnboundedSender<Closing>,
}

impl Supervisor {
    /// Starts the task, and gives out the first handle.
    pub(super) fn start(builder: SessionBuilder, first: Session) -> Self {
        let (state, states) = watch::channel(SupervisorState::Up { epoch: first.epoch() });
        let (session, sessions) = watch::channel(first);
        let (close, closing) = mpsc::unbounded_channel();
        let changed = Arc::new(Notify::new());
        Watchman::start(builder, state, session, Arc::clone(&changed), closing);
        Self { inner: Arc::new(Inner { state: states, session: sessions, changed, close }) }
    }

    /// How things stand.
    #[must_use]
    pub fn state(&self) -> SupervisorState {
        self.inner.state.borrow().clone()
    }

    /// Every change of [`state`](Self::state) from now on, to be awaited or looked at; of changes
    /// that follow each other at once, the last. It follows the session's own state.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<SupervisorState> {
        self.inner.state.clone()
    }

    /// The newest session, which may be lost. It knows its [`epoch`](Session::epoch).
    #[must_use]
    pub fn session(&self) -> Session {
        self.inner.session.borrow().clone()
    }

    /// Waits for a session that is not lost: the newest, or the next.
    ///
    /// # Errors
    /// When there will be none: `Lost` if the supervisor was closed, or the backend's error with
    /// which it failed.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn ready(&self) -> Result<Session, PrimitiveError> {
        let ready = || {
            let over = self.inner.state.borrow().over();
            let session = self.session();
            over.map(Err).or_else(|| (!session.state().is_lost()).then_some(Ok(session)))
        };
        self.wait_until(ready).await
    }

    /// Does `work` with the newest session, and again whenever what it held is lost: that is how
    /// a lock or an election is contended for again, by those who ask for it.
    ///
    /// If `work` fails because of a loss and its session is lost, it is called with the session of
    /// a later epoch, as soon as there is one; if its session lives, as when another client deleted
    /// the key of a lock, with the same session. What it returns otherwise is the result. A call
    /// that lost in less than a second is repeated after a pause, which grows up to 5 s.
    ///
    /// The error type is the caller's: anything that is made from a [`PrimitiveError`]. If it is
    /// `PrimitiveError` itself, `Lost` is a loss. Any other error is taken for one if the session
    /// was lost by then, or if a primitive made from the session that `work` was given has reported
    /// the loss of its key.
    ///
    /// `work` is not stopped when its session is lost: it notices by the errors of what it calls,
    /// or wraps what takes long in `run_while_held`. No second call begins while one is under way.
    /// Several of these may run at the same time.
    ///
    /// # Errors
    /// What `work` returned, unless a loss was behind it; errors of the backend are not retried,
    /// because only `work` knows what it has done by then. When there will be no other session:
    /// `Lost` if the supervisor was closed, or the backend's error with which it failed.
    ///
    /// # Cancel safety
    /// Dropping the future drops what `work` returned. The supervisor goes on.
    pub async fn run<T, E, F, Fut>(&self, mut work: F) -> Result<T, E>
    where
        E: From<PrimitiveError> + 'static,
        F: FnMut(Session) -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let mut backoff = Backoff::new(self.session().lease_id());
        loop {
            let session = self.ready().await?.with_own_losses();
            let began = Instant::now();
            let done = work(session.clone()).await;
            let loss = done.as_ref().err().and_then(|error| loss_behind(error, &session));
            let Some((reason, key)) = loss else { return done };
            events::called_again(session.epoch(), reason, key.as_deref());
            if began.elapsed() >= CALM {
                backoff.reset();
            } else if let Ok(over) = timeout(backoff.next(), self.over()).await {
                return Err(over.into());
            }
        }
    }

    /// Retries what failed with a retryable error, with pauses that grow up to 5 s, until the
    /// supervisor ends.
    pub(crate) async fn retry_while_up<T, Fut>(
        &self,
        session: &Session,
        mut attempt: impl FnMut() -> Fut + Send,
    ) -> Result<T, PrimitiveError>
    where
        Fut: Future<Output = Result<T, PrimitiveError>> + Send,
    {
        let mut backoff = Backoff::new(session.lease_id());
        loop {
            let error = match attempt().await {
                Err(error) if error.is_retryable() => error,
                done => return done,
            };
            let pause = backoff.next();
            events::acquire_failed(session.epoch(), &error, pause);
            if let Ok(over) = timeout(pause, self.over()).await {
                return Err(over);
            }
        }
    }

    /// Closes the session, as [`Session::close`] does, and opens no other. Returns when that is
    /// confirmed. [`run`](Self::run) and [`ready`](Self::ready) then return `Lost`.
    ///
    /// # Errors
    /// As [`Session::close`]: no other session is opened all the same. It takes no longer than
    /// the lease lives.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the supervisor from being closed.
    pub async fn close(&self) -> Result<()> {
        let (reply, closed) = oneshot::channel();
        if self.inner.close.send(reply).is_ok()
            && let Ok(result) = closed.await
        {
            return result;
        }
        self.session().close().await
    }

    /// Waits until there will be no other session, and tells why.
    async fn over(&self) -> PrimitiveError {
        self.wait_until(|| self.inner.state.borrow().over()).await
    }

    /// Looks now, and after every change, until something is seen.
    async fn wait_until<T>(&self, look: impl Fn() -> Option<T> + Send) -> T {
        loop {
            let mut changed = pin!(self.inner.changed.notified());
            // Listened to from before the look, so that nothing is missed in between.
            changed.as_mut().enable();
            if let Some(seen) = look() {
                return seen;
            }
            changed.await;
        }
    }
}

/// The loss because of which work failed, if one is behind its error, with the key that was lost.
fn loss_behind<E: 'static>(error: &E, session: &Session) -> Option<(LossReason, Option<Bytes>)> {
    match (error as &dyn Any).downcast_ref::<PrimitiveError>() {
        Some(error) => {
            let reason = error.loss()?;
            let key = session.first_loss().and_then(|(_, key)| key);
            Some((reason, key))
        }
        None => session.first_loss(),
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor")
            .field("state", &self.state())
            .field("session", &self.session())
            .finish_non_exhaustive()
    }
}
