//! Spawning the background tasks of a client: on tokio, or on an executor of the caller's choice.
//!
//! Sessions and supervisors have one task each. Cancellation tokens, blocking calls and some
//! recipes start tasks too. By default tokio runs them. A simulator that decides which task runs
//! next, pauses a process, or crashes it, must run these tasks itself: it passes a [`Spawn`] to
//! [`Client::with_spawn`](crate::Client::with_spawn).

use std::fmt;
use std::pin::Pin;

/// A task without a result, to be polled until it completes.
pub type BackgroundTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An executor for the background tasks of a client.
///
/// ```
/// use coord_core::spawn::{BackgroundTask, Spawn};
/// use coord_core::{Client, Session};
/// use coord_mem::MemBackend;
/// use std::sync::{Arc, atomic::{AtomicUsize, Ordering}};
///
/// /// Counts the tasks, and runs them on tokio.
/// #[derive(Debug, Default)]
/// struct Counted(AtomicUsize);
///
/// impl Spawn for Counted {
///     fn spawn(&self, task: BackgroundTask) {
///         self.0.fetch_add(1, Ordering::Relaxed);
///         tokio::spawn(task);
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_core::Result<()> {
/// let counted = Arc::new(Counted::default());
/// let client = Client::with_spawn(MemBackend::new(), counted.clone());
/// let session = Session::builder(&client).open().await?;
/// assert_eq!(counted.0.load(Ordering::Relaxed), 1);
/// # session.close().await
/// # }
/// ```
pub trait Spawn: fmt::Debug + Send + Sync + 'static {
    /// Starts `task`. The task must be polled until it completes, or be dropped when the runtime
    /// stops: dropping a session task ends the session.
    fn spawn(&self, task: BackgroundTask);
}
