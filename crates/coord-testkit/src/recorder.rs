//! Recorder: a rule that records requests and counts watch events.
//!
//! Tests that assert how many requests an operation sends count these requests with a [`Recorder`].

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use coord_core::{kv::WatchBatch, sync};

use crate::call::Call;
use crate::intercept::{Action, Rule};

/// A [`Rule`] that passes every call, records it, and counts the events that watches deliver.
///
/// Clones share the recorded calls and the count of events.
///
/// ```
/// use coord_core::Client;
/// use coord_mem::MemBackend;
/// use coord_testkit::{Intercept, Recorder};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_core::Result<()> {
/// let recorder = Recorder::new();
/// let client = Client::new(Intercept::new(MemBackend::new(), recorder.clone()));
/// client.put("a", "1").await?;
/// client.get("a").await?;
/// assert_eq!(recorder.take().to_string(), "put \"a\", range \"a\"");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    calls: Arc<Mutex<Vec<Call>>>,
    events: Arc<AtomicUsize>,
}

/// Calls, in the order in which they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls(pub Vec<Call>);

impl Recorder {
    /// Creates a recorder without calls.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Removes and returns the calls recorded since the last `take`.
    pub fn take(&self) -> Calls {
        Calls(std::mem::take(&mut self.calls()))
    }

    /// Returns how many events watches have delivered since the last `take_events`.
    pub fn take_events(&self) -> usize {
        self.events.swap(0, Ordering::Relaxed)
    }

    fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        sync::lock(&self.calls)
    }
}

impl Rule for Recorder {
    fn action(&self, call: &Call) -> Action {
        self.calls().push(call.clone());
        Action::Pass
    }

    fn delivers(&self, batch: &WatchBatch) -> bool {
        self.events.fetch_add(batch.events.len(), Ordering::Relaxed);
        true
    }
}

impl Calls {
    /// The names of the calls, in order, as one line: `txn watch range`.
    #[must_use]
    pub fn names(&self) -> String {
        self.0.iter().map(Call::name).collect::<Vec<_>>().join(" ")
    }

    /// The number of calls whose [`Call::name`] is `name`.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.0.iter().filter(|call| call.name() == name).count()
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, call) in self.0.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{call}")?;
        }
        Ok(())
    }
}
