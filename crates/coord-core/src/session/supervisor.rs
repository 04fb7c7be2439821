//! The supervisor: opens the next session when one is lost.
//!
//! While a lease exists, no other client can acquire the locks on it; once it is gone, another
//! client may have acquired them. So a lost session stays lost, and so does every lock and
//! leadership on it. The usual reaction is a loop: open the next session, acquire again, continue.
//! A [`Supervisor`] is that loop, with its edge cases handled.
//!
//! Each session that a supervisor opens begins a [`Generation`](super::Generation), and no
//! generation begins before the previous session is lost. No lock moves to the next generation by
//! itself: a guard belongs to the session on which it was acquired. A program acquires again with
//! [`Supervisor::run`] or [`Supervisor::run_while_held`]:
//!
//! ```text
//! generation   session       supervisor   guard                   run
//!     1        alive         up           held                    work(session 1)
//!     1        suspect       suspect      held                    .
//!     1        lost          down         lost: work returns      waits
//!     .        .             down         .                       .  (the store is unavailable)
//!     2        alive         up           (a new guard)           work(session 2)
//! ```
//!
//! The new session may find keys of the old one in the store, because a lease that could not be
//! kept alive ends locally a little earlier than in the store. Those keys stay in their wait queues
//! like the keys of other clients, and the store deletes them with their lease.

use std::any::Any;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::generation::SupervisorState;
use super::supervisor_task::{BACKOFF_RESET_AFTER, CloseRequest, SupervisorTask, seeded_backoff};
use super::{Session, SessionBuilder};
use crate::error::{LossReason, PrimitiveError, Result};
use crate::telemetry::supervisor as events;

/// Opens the next session whenever one is lost.
///
/// [`SessionBuilder::supervise`] creates a supervisor. Its task waits for the loss of the session
/// and opens the next, with pauses that grow up to 5 s and differ between clients. The task keeps
/// retrying while the store is unavailable. It does not replace a session that the owner closed or
/// orphaned.
///
/// Clones are handles to the same supervisor. When the last one is dropped, no other session is
/// opened, and the newest one is closed unless other handles to it exist.
///
/// ```
/// use coord_core::error::PrimitiveError;
/// use coord_core::session::Generation;
/// use coord_core::{Client, Mutex, Session};
/// use coord_mem::MemBackend;
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(MemBackend::new());
/// let supervisor = Session::builder(&client).supervise().await?;
///
/// let generation = supervisor
///     .run(async |session: Session| {
///         let guard = Mutex::new(&session, "ledger").lock().await?;
///         if session.generation() == Generation::FIRST {
///             // An operator revokes the lease.
///             client.backend().lease_revoke(session.lease_id()).await?;
///         }
///         let work = tokio::time::sleep(Duration::from_secs(3600));
///         guard.run_while_held(work).await?;
///         guard.unlock().await?;
///         Ok::<_, PrimitiveError>(session.generation())
///     })
///     .await?;
/// assert_eq!(generation, Generation(2), "lost once, and done in the next generation");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Supervisor {
    inner: Arc<Inner>,
}

struct Inner {
    state: watch::Receiver<SupervisorState>,
    /// The newest session; not part of the state, so that a subscriber does not keep it open.
    session: watch::Receiver<Session>,
    /// Wakes the futures that wait for a change of the state or the session, in the order in which
    /// they began to wait.
    changed: Arc<Notify>,
    /// Sends requests to close to the task. When the last handle drops it, the task ends.
    close_requests: mpsc::UnboundedSender<CloseRequest>,
}

impl Supervisor {
    /// Starts the task, and returns the first handle.
    pub(super) fn start(builder: SessionBuilder, first: Session) -> Self {
        let up = SupervisorState::Up { generation: first.generation() };
        let (state, states) = watch::channel(up);
        let (session, sessions) = watch::channel(first);
        let (close_requests, requests) = mpsc::unbounded_channel();
        let changed = Arc::new(Notify::new());
        SupervisorTask::start(builder, state, session, Arc::clone(&changed), requests);
        let inner = Inner { state: states, session: sessions, changed, close_requests };
        Self { inner: Arc::new(inner) }
    }

    /// Returns the current state.
    #[must_use]
    pub fn state(&self) -> SupervisorState {
        self.inner.state.borrow().clone()
    }

    /// Subscribes to the changes of [`state`](Self::state). If the state has changed since the
    /// supervisor was created, the first `changed` returns at once. Of changes in quick succession,
    /// a subscriber may see only the last. The state follows the session's own state.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<SupervisorState> {
        self.inner.state.clone()
    }

    /// Returns the newest session, which may be lost. Its [`generation`](Session::generation)
    /// identifies it.
    #[must_use]
    pub fn session(&self) -> Session {
        self.inner.session.borrow().clone()
    }

    /// Waits for a session that is not lost: the newest, or the next.
    ///
    /// # Errors
    /// If the supervisor opens no more sessions: `Lost` if its owner closed it or ended its
    /// session, or if the runtime was shut down; otherwise the backend's error with which it
    /// failed.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn ready(&self) -> Result<Session, PrimitiveError> {
        let ready = || {
            let end = self.inner.state.borrow().final_error();
            let session = self.session();
            end.map(Err).or_else(|| (!session.state().is_lost()).then_some(Ok(session)))
        };
        self.wait_until(ready).await
    }

    /// Calls `work` with the newest session, and again after each loss of its session, lock or
    /// leadership: use it to acquire a lock or campaign in an election again.
    ///
    /// If `work` fails because of a loss:
    ///
    /// - if its session is lost, the supervisor calls `work` with the session of a later
    ///   generation, as soon as that session is open;
    /// - if its session lives, for example after another client deleted the key of a lock, the
    ///   supervisor calls `work` with the same session.
    ///
    /// The method returns any other result.
    ///
    /// If a call lasted less than a second, a pause precedes the next call. Pauses grow up to 5 s.
    ///
    /// The error type is the caller's: any type that implements `From<PrimitiveError>`. If it is
    /// [`PrimitiveError`] itself, only `Lost` is a loss. An error of another type counts as a loss
    /// if the session was lost by then, or if a primitive created from the session that `work`
    /// received has reported the loss of its key.
    ///
    /// `work` is not stopped when its session is lost: its own calls then return errors. Wrap long
    /// work in `run_while_held` of the guard. The calls of one `run` never overlap. Several `run`s
    /// on one supervisor may be active at the same time.
    ///
    /// # Errors
    /// - The error of `work`, unless a loss caused it. Errors of the backend are not retried,
    ///   because only the caller can decide whether that is safe.
    /// - If the supervisor opens no more sessions: `Lost` if its owner closed it or ended its
    ///   session, or if the runtime was shut down; otherwise the backend's error with which it
    ///   failed.
    ///
    /// # Cancel safety
    /// Dropping the future drops the future of `work`. The supervisor continues.
    pub async fn run<T, E, F, Fut>(&self, mut work: F) -> Result<T, E>
    where
        E: From<PrimitiveError> + 'static,
        F: FnMut(Session) -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let mut backoff = seeded_backoff(self.session().lease_id());
        loop {
            let session = self.ready().await?.with_own_losses();
            let began = Instant::now();
            let result = work(session.clone()).await;
            let loss = result.as_ref().err().and_then(|error| loss_behind(error, &session));
            let Some((reason, key)) = loss else { return result };
            events::called_again(session.generation(), reason, key.as_deref());
            if began.elapsed() >= BACKOFF_RESET_AFTER {
                backoff.reset();
            } else if let Ok(end) = timeout(backoff.next(), self.end()).await {
                return Err(end.into());
            }
        }
    }

    /// Repeats `attempt` after retryable errors, until the supervisor ends. The pauses grow up to
    /// 5 s.
    pub(super) async fn retry_while_up<T, Fut>(
        &self,
        session: &Session,
        mut attempt: impl FnMut() -> Fut + Send,
    ) -> Result<T, PrimitiveError>
    where
        Fut: Future<Output = Result<T, PrimitiveError>> + Send,
    {
        let mut backoff = seeded_backoff(session.lease_id());
        loop {
            let error = match attempt().await {
                Err(error) if error.is_retryable() => error,
                result => return result,
            };
            let pause = backoff.next();
            events::acquire_failed(session.generation(), &error, pause);
            if let Ok(end) = timeout(pause, self.end()).await {
                return Err(end);
            }
        }
    }

    /// Closes the session, as [`Session::close`] does, and opens no other. Returns the result of
    /// that method. [`run`](Self::run) and [`ready`](Self::ready) then return `Lost`.
    ///
    /// # Errors
    /// As [`Session::close`]. The supervisor opens no other session after an error either. The call
    /// takes no longer than the lease lives.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the supervisor from being closed.
    pub async fn close(&self) -> Result<()> {
        let (reply, closed) = oneshot::channel();
        if self.inner.close_requests.send(reply).is_ok()
            && let Ok(result) = closed.await
        {
            return result;
        }
        self.session().close().await
    }

    /// Waits until the supervisor opens no more sessions, and returns the reason.
    async fn end(&self) -> PrimitiveError {
        self.wait_until(|| self.inner.state.borrow().final_error()).await
    }

    /// Calls `read` now, and after every change, until it returns a value.
    async fn wait_until<T>(&self, read: impl Fn() -> Option<T> + Send) -> T {
        loop {
            let mut changed = pin!(self.inner.changed.notified());
            // Enabled before `read`, so that no change in between is missed.
            changed.as_mut().enable();
            if let Some(value) = read() {
                return value;
            }
            changed.await;
        }
    }
}

/// The loss that caused an error of the work, if one did, with the key that was lost.
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
