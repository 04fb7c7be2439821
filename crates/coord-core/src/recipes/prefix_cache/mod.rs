//! The prefix cache: a live map of all keys with a prefix, kept by one read and one watch.
//!
//! One task follows the keys and publishes a snapshot after each change. Reads are served from
//! memory. A *consistent read* first requests the store's revision, and waits until the watch has
//! delivered everything up to it: one small request, however many keys there are.
//!
//! ```text
//! revision   store         cache (as of)       read()
//!        7   put jobs/a    jobs/a @7 (7)
//!        8   put other     jobs/a @7 (7)       requests the revision: 8
//!                                              the cache is at 7: requests progress
//!                          jobs/a @7 (8)       the watch has delivered all up to 8: returns
//!        9   put jobs/b    jobs/a, jobs/b (9)
//! ```
//!
//! | file | |
//! |---|---|
//! | `snapshot.rs` | the keys as of one revision, and the differences between two snapshots |
//! | `state.rs` | what the handles, the task and the subscribers share |
//! | `task.rs` | follows the prefix, and publishes each change |
//! | `changes.rs` | the stream of changes |

mod changes;
mod error;
mod snapshot;
mod state;
mod task;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::client::Client;
use crate::error::{Error, Result};
use crate::kv::{IntoBytes, KeyRange, KeyValue, Range, Revision, Value};
use crate::retry_request::retry_request;
pub use changes::{PrefixChanges, PrefixUpdate};
pub use error::PrefixCacheError;
use snapshot::decode;
pub use snapshot::{KeyChange, PrefixSnapshot};
use state::{Reached, Shared};

/// How long a consistent read may take. A watch that has fallen silent is replaced after 5 s.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The limit of a cache that is opened without one: 256 MiB.
const BYTES_MAX_DEFAULT: usize = 256 << 20;

/// A live map of all keys with a prefix, in memory. Clones are handles to the same cache; when the
/// last handle and the last stream of changes are dropped, the cache stops.
///
/// ```
/// use coord_core::{Client, recipes::PrefixCache};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(MemBackend::new());
/// client.put("limits/upload", "10").await?;
///
/// let limits = PrefixCache::open(&client, "limits/").await?;
/// assert_eq!(limits.get_as::<i64>("limits/upload")?, Some(10)); // no request
///
/// client.put("limits/upload", "20").await?;
/// let current = limits.read().await?; // contains every write that was confirmed before
/// assert_eq!(current.get_as::<i64>("limits/upload")?, Some(20));
/// # Ok(())
/// # }
/// ```
///
/// # Prefix
/// The prefix is a sequence of bytes, and has no separator: `jobs` also covers `jobs-old/1`. To
/// cache the keys below a name, end the prefix with a slash: `jobs/`. An empty prefix covers all
/// keys. Keys are given and returned whole, with the prefix.
///
/// # Cost
/// Opening costs one read for each 1,000 keys, and one watch. [`read`](Self::read) costs one small
/// request, everything else none. Once in 55 s the cache verifies its state, by a read that returns
/// one key: the store sorts the keys of the prefix for it.
///
/// # Memory
/// The keys of the current state are kept in memory. A cache whose keys need more memory than its
/// limit stops with [`PrefixCacheError::TooLarge`]. The limit does not count what is kept beside
/// them:
///
/// - for a stream of [`changes`](Self::changes) that is read late, the last 256 updates, with the
///   keys before and after each change, and the keys of the revision that the stream has reached,
///   as far as they have changed since;
/// - while the prefix is read again, the keys before.
///
/// Source: etcd 3.7 `cache/`, and Kubernetes' KEP-2340 for the consistent read.
#[derive(Clone)]
pub struct PrefixCache(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    /// Stops the task.
    _stop: DropGuard,
}

impl PrefixCache {
    /// Opens a cache of the keys that start with `prefix`: reads them, and follows them by a watch.
    /// Returns when the first state is loaded. While the store is unavailable, it waits; to bound
    /// that, wrap it in `tokio::time::timeout`. The limit of memory is 256 MiB.
    ///
    /// # Errors
    /// `TooLarge`; the error of the backend, if it is not retryable.
    ///
    /// # Cancel safety
    /// Dropping the future stops the cache.
    pub async fn open(
        client: &Client,
        prefix: impl IntoBytes + Send,
    ) -> Result<Self, PrefixCacheError> {
        Self::open_with_limit(client, prefix, BYTES_MAX_DEFAULT).await
    }

    /// Opens a cache as [`open`](Self::open) does, with a limit of memory, in bytes. An entry
    /// counts with its key, its value, and 256 bytes.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    ///
    /// # Cancel safety
    /// Dropping the future stops the cache.
    pub async fn open_with_limit(
        client: &Client,
        prefix: impl IntoBytes + Send,
        bytes_max: usize,
    ) -> Result<Self, PrefixCacheError> {
        let shared = Arc::new(Shared::new(client, prefix.into_bytes(), bytes_max));
        let stop = CancellationToken::new();
        let task = task::run(Arc::clone(&shared), stop.clone());
        client.spawn(&Handle::current(), task);
        let cache = Self(Arc::new(Inner { shared, _stop: stop.drop_guard() }));
        cache.0.shared.loaded().await?;
        Ok(cache)
    }

    /// Returns the prefix.
    #[must_use]
    pub fn prefix(&self) -> &Bytes {
        &self.0.shared.prefix
    }

    /// Returns a key with its value, as of [`revision`](Self::revision); `None` if it does not
    /// exist, or does not start with the prefix. It sends no request.
    ///
    /// The state may be older than the store: see [`read`](Self::read).
    #[must_use]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<KeyValue> {
        self.0.shared.lock().snapshot.get(key).cloned()
    }

    /// Returns the decoded value of a key, as [`get`](Self::get).
    ///
    /// # Errors
    /// `InvalidValue` if the bytes are not a value of the type.
    pub fn get_as<V: Value>(&self, key: impl AsRef<[u8]>) -> Result<Option<V>> {
        self.get(key).as_ref().map(decode).transpose()
    }

    /// Returns all keys as of [`revision`](Self::revision). It sends no request, and copies
    /// nothing.
    #[must_use]
    pub fn snapshot(&self) -> PrefixSnapshot {
        self.0.shared.lock().snapshot.clone()
    }

    /// Returns the revision of the state: it has every change up to it.
    ///
    /// Changes of other keys advance it only when progress is requested: by [`read`](Self::read),
    /// by [`wait_for`](Self::wait_for), and once in 55 s.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.0.shared.lock().snapshot.revision
    }

    /// Reads consistently: returns the keys as of a revision that contains every write that was
    /// confirmed, to any client, before the call.
    ///
    /// Cost: 1 request, whose response has no keys. If the watch has not reached its revision yet,
    /// the watch is also requested to report its progress.
    ///
    /// The call ends within 10 s. There is no fallback to a read of the whole prefix: when many
    /// readers are late, because the store is overloaded, it would add to the load. A caller that
    /// wants it calls [`Client::get_prefix`] after an error.
    ///
    /// # Errors
    /// - `Timeout`, which is retryable, after 10 s: the store did not respond, or the watch did not
    ///   reach its revision.
    /// - The error of the backend, if it is not retryable.
    /// - The error with which the cache has stopped.
    ///
    /// # Cancel safety
    /// Safe: a read changes nothing.
    ///
    /// Source: Kubernetes' KEP-2340, "Consistent reads from cache".
    pub async fn read(&self) -> Result<PrefixSnapshot, PrefixCacheError> {
        let shared = &self.0.shared;
        let read = async {
            loop {
                let (history, before) = shared.history();
                let started = Instant::now();
                let newest = self.newest_revision().await?;
                if newest < before {
                    // The response belongs to another history than the state.
                    shared.request_verification();
                    shared.new_history(history).await?;
                } else if let Reached::Snapshot(snapshot) = shared.reach(history, newest).await? {
                    shared.confirm(started);
                    return Ok(snapshot);
                }
            }
        };
        let after = READ_TIMEOUT;
        timeout(after, read).await.unwrap_or(Err(Error::Timeout { after }.into()))
    }

    /// Waits until the state has every change up to `revision`, for example the revision of a write
    /// of the caller, and returns the keys. It sends no request to the store, and does not poll the
    /// state: the watch is requested to report its progress, with pauses of up to a second if
    /// the store has not reached the revision.
    ///
    /// If the history of the store is replaced meanwhile, it waits for the revision of the new
    /// history.
    ///
    /// ```
    /// use coord_core::{Client, recipes::PrefixCache};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::new(MemBackend::new());
    /// let jobs = PrefixCache::open(&client, "jobs/").await?;
    /// let put = client.put("jobs/1", "sweep").await?;
    /// let own_write = jobs.wait_for(put.header.revision).await?;
    /// assert_eq!(own_write.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The error with which the cache has stopped.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn wait_for(&self, revision: Revision) -> Result<PrefixSnapshot, PrefixCacheError> {
        let shared = &self.0.shared;
        loop {
            let (history, _) = shared.history();
            if let Reached::Snapshot(snapshot) = shared.reach(history, revision).await? {
                return Ok(snapshot);
            }
        }
    }

    /// Returns the stream of changes from now on: see [`PrefixChanges`]. Any number of streams
    /// share the one watch of the cache.
    pub fn changes(&self) -> PrefixChanges {
        PrefixChanges::new(self)
    }

    /// Returns a bound on how old the state is: it has every write that was confirmed before this
    /// time.
    ///
    /// It is the time since the cache last compared its revision with the store's: by
    /// [`read`](Self::read), or by the verification once in 55 s. Events of the watch do not reduce
    /// it, because they do not show how long they took. So a cache that is up to date reports up to
    /// about a minute; more means that the store or the watch does not respond.
    #[must_use]
    pub fn staleness(&self) -> Duration {
        self.0.shared.lock().staleness()
    }

    /// Returns the error with which the cache has stopped; `None` while it continues. After an
    /// error, [`get`](Self::get) and [`snapshot`](Self::snapshot) return the last state.
    #[must_use]
    pub fn error(&self) -> Option<PrefixCacheError> {
        self.0.shared.lock().error.clone()
    }

    /// Requests the newest revision of the store: a linearizable read that returns no key.
    async fn newest_revision(&self) -> Result<Revision> {
        let shared = &self.0.shared;
        let first = KeyRange::key(KeyRange::prefix(&shared.prefix).start());
        let request = Range::new(first).count_only();
        let read = retry_request(|| shared.client.range(request.clone())).await?;
        Ok(read.header.revision)
    }
}

impl fmt::Debug for PrefixCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = self.prefix().escape_ascii().to_string();
        let current = self.0.shared.lock();
        f.debug_struct("PrefixCache")
            .field("prefix", &prefix)
            .field("keys", &current.snapshot.len())
            .field("bytes", &current.bytes)
            .field("revision", &current.snapshot.revision.0)
            .field("staleness", &current.staleness())
            .field("subscribers", &current.subscribers())
            .field("error", &current.error)
            .finish()
    }
}
