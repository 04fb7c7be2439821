//! What was asked of a backend, and what its watches told: all counts come from here.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coord_core::kv::WatchBatch;

use crate::call::Call;
use crate::intercept::{Fate, Rule};

/// A [`Rule`] that lets every call pass and remembers it, and counts the events of watches. Clones
/// share the memory.
///
/// ```
/// use coord_core::Client;
/// use coord_mem::MemBackend;
/// use coord_testkit::{Intercept, Record};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_core::Result<()> {
/// let record = Record::new();
/// let kv = Intercept::new(MemBackend::new(), record.clone());
/// kv.put("a", "1").await?;
/// kv.get("a").await?;
/// assert_eq!(record.take().to_string(), "put \"a\", range \"a\"");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Record {
    calls: Arc<Mutex<Vec<Call>>>,
    events: Arc<AtomicUsize>,
}

/// Calls, in the order in which they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls(pub Vec<Call>);

impl Record {
    /// A record of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The calls since the last time, which are forgotten.
    pub fn take(&self) -> Calls {
        Calls(std::mem::take(&mut self.calls()))
    }

    /// How many events watches have delivered since the last time.
    pub fn take_events(&self) -> usize {
        self.events.swap(0, Ordering::Relaxed)
    }

    fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rule for Record {
    fn fate(&self, call: &Call) -> Fate {
        self.calls().push(call.clone());
        Fate::Pass
    }

    fn delivers(&self, batch: &WatchBatch) -> bool {
        self.events.fetch_add(batch.events.len(), Ordering::Relaxed);
        true
    }
}

impl Calls {
    /// The kinds of the calls, in order, as one line: `txn watch range`.
    #[must_use]
    pub fn names(&self) -> String {
        self.0.iter().map(Call::name).collect::<Vec<_>>().join(" ")
    }

    /// How many calls there were of a kind.
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
