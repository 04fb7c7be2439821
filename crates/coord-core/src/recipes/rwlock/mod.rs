//! The distributed read-write lock: many readers, or one writer, across processes.
//!
//! A reader has a key `NAME/read/<lease>-<n>`, a writer a key `NAME/write/<lease>-<n>`, each on the
//! lease of its session: the layout of Go's recipe `RWMutex`, so clients of both exclude each
//! other. Contenders are admitted in the order of their create revisions, by the rule of `rule.rs`.
//!
//! A writer also has a key among the readers, which it creates in the same transaction. So a writer
//! becomes a reader, *downgrades*, by deleting its writer's key, and keeps its position: later
//! writers wait for the reader's key, which is older than theirs. A reader becomes a writer,
//! *upgrades*, by creating a writer's key, and keeps its reader's key too:
//!
//! ```text
//! A                  B                   C                       keys in queue order
//! read                                                           read/A
//!                    read                                        read/A read/B
//! upgrade: waits                                                 read/A read/B write/A
//!                                        read: waits for A       read/A read/B write/A read/C
//!                    upgrade: refused
//!                    unlock                                      read/A write/A read/C
//! writes                                 (still waits)
//! downgrade                              reads too               read/A read/C
//! ```
//!
//! **Why the second upgrade is refused.** `A` waits for the key `read/B`. If `B` waited for
//! `write/A`, neither would ever proceed. The same holds if a writer waits, because it waits for
//! `B` too. So an upgrade creates its key only if there is no writer's key.

mod error;
mod read;
mod resume;
mod rule;
mod write;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tracing::Instrument as _;

use crate::error::PrimitiveError;
use crate::kv::IntoBytes;
use crate::queue::admission::{
    AdmissionEnqueue, AdmissionRule as _, MAX_ADMISSION_READS, Scope, Verdict,
};
use crate::queue::{Contender, QueueKeys, WaitQueue};
use crate::session::Session;
use crate::telemetry::queue as events;
pub use error::{UpgradeError, UpgradeFailure};
pub use read::ReadGuard;
pub use resume::ResumedLock;
use rule::NothingAhead;
pub use write::WriteGuard;

/// The kind of the queues, for log lines, spans and metrics.
const KIND: &str = "rwlock";

/// A distributed read-write lock by name: many readers, or one writer. All processes that use the
/// name exclude each other, also with Go's recipe `RWMutex`.
///
/// A `RwLock` is a cheap handle. It is fair: contenders are admitted in the order in which they
/// enqueued, so a reader behind a waiting writer waits too, and neither readers nor writers starve.
/// When a writer releases, all readers up to the next writer enter on one event.
///
/// A task that holds a guard and locks the same name again can wait for itself. To write what it
/// has read, it [upgrades](ReadGuard::upgrade) its guard.
///
/// ```
/// use coord_core::{Client, Session, recipes::RwLock};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
/// let catalog = RwLock::new(&session, "catalog");
///
/// let (one, other) = (catalog.read().await?, catalog.read().await?);
/// assert!(catalog.try_write().await?.is_none(), "readers hold it");
/// other.unlock().await?;
/// let writer = one.upgrade().await?; // no other writer was in between
/// assert!(catalog.try_read().await?.is_none(), "a writer holds it");
/// let reader = writer.downgrade().await?;
/// assert!(catalog.try_read().await?.is_some());
/// reader.unlock().await?;
/// # Ok(())
/// # }
/// ```
///
/// Source: etcd 3.5 `client/v3/experimental/recipes/rwmutex.go`, with its faults fixed; upgrade and
/// downgrade are not in Go's recipe.
#[derive(Clone)]
pub struct RwLock {
    name: Bytes,
    readers: WaitQueue,
    writers: WaitQueue,
    /// The keys that a reader waits for.
    writers_scope: Scope,
    /// The keys that a writer waits for.
    all_scope: Scope,
}

/// How a contender uses the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Usage {
    Read,
    Write,
}

impl RwLock {
    /// The lock `name`, for holders on `session`. It sends nothing.
    ///
    /// # Names
    /// A read-write lock owns all keys under `name/read/` and `name/write/`: create no other keys
    /// there. A *foreign key*, which no contender has created, counts as a reader or writer, as in
    /// Go, and coord logs a warning while a contender waits for it. A
    /// [`Mutex`](crate::Mutex) of the same name is another lock.
    pub fn new(session: &Session, name: impl IntoBytes) -> Self {
        let name = name.into_bytes();
        let [read, write] =
            [&b"/read"[..], b"/write"].map(|part| Bytes::from([&name[..], part].concat()));
        let (read_keys, write_keys) = (QueueKeys::new(&read), QueueKeys::new(&write));
        Self {
            name,
            readers: WaitQueue::of_kind(KIND, session, read),
            writers: WaitQueue::of_kind(KIND, session, write),
            writers_scope: Scope::of_queues([write_keys.clone()]),
            all_scope: Scope::of_queues([read_keys, write_keys]),
        }
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> Bytes {
        self.name.clone()
    }

    /// Waits until no writer holds the lock or is ahead.
    ///
    /// To bound the wait, wrap it in `tokio::time::timeout`. While the store is unavailable, a
    /// waiter that is enqueued keeps waiting until the session is lost.
    ///
    /// # Cost
    /// One request if no writer is ahead, however many readers hold the lock. A wait registers one
    /// watch, and reads the keys ahead if anything was written meanwhile. When no writer is ahead
    /// any more, one request confirms that. A wait of more than a quarter of a second also watches
    /// the waiter's own key.
    ///
    /// # Errors
    /// - `Lost` as soon as the session is lost, or another client deletes this waiter's key.
    /// - The error of the backend.
    ///
    /// In either case no key stays in the queue while the session lives.
    ///
    /// # Cancel safety
    /// Dropping the future removes the waiter from the queue, and leaves no key behind.
    pub async fn read(&self) -> Result<ReadGuard, PrimitiveError> {
        let contender = self.acquire(Usage::Read).await?;
        Ok(ReadGuard::of(self.clone(), contender, None))
    }

    /// Waits until no contender holds the lock or is ahead.
    ///
    /// The cost is that of [`read`](Self::read); the transaction creates two keys. A writer keeps
    /// the keys of the readers ahead of it in memory.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Cancel safety
    /// Dropping the future removes the waiter from the queue, and leaves no key behind.
    pub async fn write(&self) -> Result<WriteGuard, PrimitiveError> {
        let contender = self.acquire(Usage::Write).await?;
        Ok(WriteGuard::of(self.clone(), contender))
    }

    /// Locks for reading if no writer holds the lock or waits for it. Otherwise it returns `None`,
    /// which is no error, and writes nothing. It costs 1 request.
    ///
    /// If child names of `name/write` are locked, it can cost 2. If their keys change so fast that
    /// no read shows whether a writer is ahead, the contender is enqueued, and removed again if it
    /// would wait.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Cancel safety
    /// Dropping the future leaves no key behind.
    pub async fn try_read(&self) -> Result<Option<ReadGuard>, PrimitiveError> {
        let contender = self.enqueue(Usage::Read, true).await?;
        Ok(contender.map(|contender| ReadGuard::of(self.clone(), contender, None)))
    }

    /// Locks for writing if no contender holds the lock or waits for it. Otherwise it returns
    /// `None`, which is no error, and writes nothing. It costs 1 request, with the exception of
    /// [`try_read`](Self::try_read), here also for child names of `name/read`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Cancel safety
    /// Dropping the future leaves no key behind.
    pub async fn try_write(&self) -> Result<Option<WriteGuard>, PrimitiveError> {
        let contender = self.enqueue(Usage::Write, true).await?;
        Ok(contender.map(|contender| WriteGuard::of(self.clone(), contender)))
    }

    /// Enqueues and waits, in the span of a wait.
    async fn acquire(&self, usage: Usage) -> Result<Contender, PrimitiveError> {
        let queue = self.queue(usage);
        let acquire = async {
            let Some(mut contender) = self.enqueue(usage, false).await? else {
                unreachable!("only a try returns no contender");
            };
            contender.acquired().await?;
            Ok(contender)
        };
        acquire.instrument(events::wait_span(KIND, &queue.name())).await
    }

    const fn queue(&self, usage: Usage) -> &WaitQueue {
        match usage {
            Usage::Read => &self.readers,
            Usage::Write => &self.writers,
        }
    }

    const fn scope(&self, usage: Usage) -> &Scope {
        match usage {
            Usage::Read => &self.writers_scope,
            Usage::Write => &self.all_scope,
        }
    }

    /// The rule of a reader or of a writer. The key `except` does not count.
    fn rule(&self, usage: Usage, except: Option<Bytes>) -> Arc<NothingAhead> {
        Arc::new(NothingAhead { scope: self.scope(usage).clone(), except })
    }

    /// Enqueues a contender. With `only_if_admitted`, it returns `None` and writes nothing if the
    /// contender would have to wait.
    async fn enqueue(
        &self,
        usage: Usage,
        only_if_admitted: bool,
    ) -> Result<Option<Contender>, PrimitiveError> {
        let (rule, scope) = (self.rule(usage, None), self.scope(usage));
        // The condition under which a try is surely admitted.
        let mut unchanged = only_if_admitted.then(|| scope.is_empty());
        let mut reads = 0;
        loop {
            let enqueue = AdmissionEnqueue::new(self.queue(usage), &rule, Bytes::new())
                .when(unchanged.clone().unwrap_or_default());
            let enqueue = match usage {
                Usage::Read => enqueue,
                Usage::Write => enqueue.with_companion(&self.readers, Bytes::from_static(b"write")),
            };
            let found = match enqueue.send().await? {
                Ok(contender) => {
                    let is_wanted = !only_if_admitted || contender.is_admitted();
                    return Ok(is_wanted.then_some(contender));
                }
                Err(found) => found,
            };
            if rule.verdict(&found) != Verdict::Admitted {
                return Ok(None);
            }
            reads += 1;
            unchanged = (reads < MAX_ADMISSION_READS).then(|| scope.no_put_since(found.revision()));
        }
    }
}

impl fmt::Debug for RwLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, session) = (self.name.escape_ascii(), self.readers.session());
        write!(f, "RwLock(\"{name}\" on {session:?})")
    }
}
