//! Records the transactions of several clients into one history, on any backend.
//!
//! ```text
//! client of process a  --attempts--> +---------+
//! client of process b  --attempts--> | history | <--changes-- watch of the store
//!                                    +---------+
//! ```
//!
//! All processes share one clock, which never returns the same time twice. So the history shows
//! which of two transactions ended before the other began, also on tokio's paused clock, where
//! whole transactions take no time.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_core::recording::{Attempt, AttemptRecorder};
use coord_core::{Client, Result, sync};
use tokio::time::Instant;

use super::{ChangeRecorder, Event, EventKind, History};

/// Collects the attempts of several clients, and the changes of their store, as one [`History`].
/// Clones share it, also between threads.
///
/// Give each client, or each [`Stm`](coord_core::Stm), the recorder of a named
/// [`process`](Self::process). A process is a *session* in the words of isolation checkers: of two
/// of its transactions that do not overlap, the later one sees the earlier one.
///
/// ```
/// use coord_core::{Client, Stm};
/// use coord_mem::MemBackend;
/// use coord_testkit::history::HistoryRecorder;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemBackend::new();
/// let recorder = HistoryRecorder::new();
/// let mut changes = recorder.watch_changes(&Client::new(store.clone())).await?;
/// for name in ["a", "b"] {
///     let client = Client::new(store.clone()).record_transactions(recorder.process(name));
///     let stm = Stm::new(&client);
///     let add_one = stm.run(async |tx| {
///         let n: u32 = tx.get_as::<String>("n").await?.unwrap_or_default().parse().unwrap_or(0);
///         tx.put("n", (n + 1).to_string());
///         Ok::<_, coord_core::Error>(())
///     });
///     add_one.await?;
/// }
/// changes.catch_up().await?;
///
/// let events = recorder.take().0;
/// let printed: Vec<_> = events.iter().map(|event| event.kind.to_string()).collect();
/// assert_eq!(
///     printed,
///     [
///         "tx attempt 1 of transaction 1 reads n absent; puts n; committed at revision 2",
///         "tx attempt 1 of transaction 2 reads n@2; puts n; committed at revision 3",
///         "## revision 2 puts n",
///         "## revision 3 puts n",
///     ]
/// );
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct HistoryRecorder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    /// The last time that the clock has returned, in nanoseconds since `started`.
    last: AtomicU64,
    transactions: AtomicU64,
    events: Mutex<Vec<Event>>,
}

impl Default for HistoryRecorder {
    fn default() -> Self {
        Self::new()
    }
}

impl HistoryRecorder {
    /// Creates a recorder without events, whose clock starts at zero.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            started: Instant::now(),
            last: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
            events: Mutex::default(),
        }))
    }

    /// The recorder of the process `name`. Two recorders with one name are one process.
    #[must_use]
    pub fn process(&self, name: &str) -> ProcessRecorder {
        ProcessRecorder { recorder: self.clone(), name: name.into() }
    }

    /// Watches the changes of a store from now on, and records the keys that exist now. See
    /// [`ChangeRecorder`].
    ///
    /// All clients whose attempts are recorded must have the namespace of `client`.
    ///
    /// # Errors
    /// As [`KvBackend::watch`](coord_core::KvBackend::watch) and
    /// [`KvBackend::range`](coord_core::KvBackend::range).
    ///
    /// # Cancel safety
    /// Dropping the future cancels the watch, and nothing is recorded.
    pub async fn watch_changes(&self, client: &Client) -> Result<ChangeRecorder> {
        ChangeRecorder::start(self.clone(), client).await
    }

    /// Adds a note of the test, at the current time.
    pub fn note(&self, text: impl Into<String>) {
        self.push(self.now(), None, EventKind::Note(text.into()));
    }

    /// Removes and returns the events recorded so far, in the order of their times.
    pub fn take(&self) -> History {
        let mut events = std::mem::take(&mut *sync::lock(&self.0.events));
        // Two threads may have read the clock in one order, and recorded in the other.
        events.sort_by_key(|event| event.at);
        History(events)
    }

    /// The time since the start, later than at every earlier call.
    pub(super) fn now(&self) -> Duration {
        let now = u64::try_from(self.0.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let later = |last: u64| Some(now.max(last.saturating_add(1)));
        let last = self.0.last.fetch_update(Ordering::AcqRel, Ordering::Acquire, later);
        Duration::from_nanos(now.max(last.unwrap_or_else(|last| last).saturating_add(1)))
    }

    pub(super) fn push(&self, at: Duration, process: Option<&Arc<str>>, kind: EventKind) {
        let event = Event { at, process: process.cloned(), kind };
        sync::lock(&self.0.events).push(event);
    }
}

/// Records the transactions of one process: see [`HistoryRecorder::process`].
#[derive(Clone)]
pub struct ProcessRecorder {
    recorder: HistoryRecorder,
    name: Arc<str>,
}

impl AttemptRecorder for ProcessRecorder {
    fn transaction_number(&self) -> u64 {
        self.recorder.0.transactions.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn now(&self) -> Duration {
        self.recorder.now()
    }

    fn record(&self, attempt: Attempt, ended: Duration) {
        self.recorder.push(ended, Some(&self.name), EventKind::Attempt(Box::new(attempt)));
    }
}

impl fmt::Debug for ProcessRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProcessRecorder({})", self.name)
    }
}
