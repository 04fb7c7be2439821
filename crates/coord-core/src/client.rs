//! `Client`: a backend handle for callers, and the state that the primitives of one process share.
//!
//! Every primitive is created from a client. The clones of one client share the backend and two
//! kinds of state in memory, which save requests and change no guarantee:
//!
//! - hand-offs of the wait queue (`shared/handoff.rs`): if the successor of a contender uses the
//!   same client, the release transaction reads the successor's position;
//! - conflict queues of transactions (`shared/conflict_queue.rs`): transactions of one client that
//!   conflict on a key try again one after the other.
//!
//! So one client models one process. Two clients share only the store, also if both are created
//! from clones of one backend: this is how a test models two processes.
//!
//! ```
//! use coord_core::{Client, Mutex, Session};
//! use coord_mem::MemBackend;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = MemBackend::new();
//! let (here, there) = (Client::new(store.clone()), Client::new(store));
//!
//! let session = Session::builder(&here).open().await?;
//! let guard = Mutex::new(&session, "ledger").lock().await?;
//!
//! let other = Session::builder(&there).open().await?;
//! assert!(Mutex::new(&other, "ledger").try_lock().await?.is_none(), "held by another process");
//! guard.unlock().await?;
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

use crate::backend::KvBackend;
use crate::error::Result;
use crate::kv::{
    Compact, CompactResponse, Compare, CompareOp, Delete, DeleteResponse, Header, IntoBytes,
    KeyRange, KeyValue, LeaseGrant, LeaseGrantResponse, LeaseId, LeaseKeepAliveResponse,
    LeaseRevokeResponse, LeaseTimeToLive, LeaseTimeToLiveResponse, LeasesResponse, Limits,
    OpResponse, Put, PutResponse, Range, RangeResponse, Txn, TxnResponse, Watch, Watcher,
};
use crate::layer::Layer;
use crate::recording::AttemptRecorder;
use crate::shared::{ConflictQueues, Handoffs, Shared};
use crate::spawn::Spawn;

/// A handle to a backend, for callers and for all primitives. Clones share all state.
///
/// It has a method for every request of [`KvBackend`], and shorter methods for the most frequent
/// requests. `delete` and `watch` accept a key, a range, or a request struct with options:
/// `client.delete("a")` and `client.delete(Delete::prefix("a").with_prev_kv())` are both valid.
///
/// ```
/// use coord_core::{Client, kv::{Compare, Put, Txn}};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_core::Result<()> {
/// let client = Client::new(MemBackend::new());
/// client.put("jobs/1", "sweep").await?;
/// client.put("jobs/2", "mop").await?;
///
/// let first = client.get("jobs/1").await?.expect("just put");
/// assert_eq!(first.value, "sweep");
/// assert_eq!(client.get_prefix("jobs/").await?.len(), 2);
///
/// let create = Txn::new().when([Compare::absent("owner")]).and_then([Put::new("owner", "me")]);
/// assert!(client.txn(create).await?.succeeded);
///
/// assert_eq!(client.delete_prefix("jobs/").await?.deleted, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    backend: Arc<dyn KvBackend>,
    shared: Arc<Shared>,
    /// Runs background tasks; if this is `None`, tokio runs them.
    spawner: Option<Arc<dyn Spawn>>,
    /// Receives the attempts of the transactions.
    recorder: Option<Arc<dyn AttemptRecorder>>,
}

impl Client {
    /// A client of `backend`. It shares no state with other clients.
    pub fn new(backend: impl KvBackend) -> Self {
        Self::from(Arc::new(backend) as Arc<dyn KvBackend>)
    }

    /// A client of `backend` whose background tasks, such as session tasks, `spawner` runs. For
    /// simulators that decide which task runs next; [`new`](Self::new) runs them on tokio.
    pub fn with_spawn(backend: impl KvBackend, spawner: Arc<dyn Spawn>) -> Self {
        Self { spawner: Some(spawner), ..Self::new(backend) }
    }

    /// Records every attempt of the transactions of this client: see
    /// [`Stm::record`](crate::Stm::record). Clones that were made before do not use `recorder`, and
    /// share all else with this client.
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    /// use std::time::Duration;
    ///
    /// use coord_core::recording::{Attempt, AttemptRecorder};
    /// use coord_core::{Client, Stm};
    /// use coord_mem::MemBackend;
    ///
    /// /// Adds the text of each attempt to a list. Its clock counts the calls.
    /// #[derive(Clone, Debug, Default)]
    /// struct Ends(Arc<Mutex<(u64, Vec<String>)>>);
    ///
    /// impl Ends {
    ///     fn next(&self) -> u64 {
    ///         let mut state = self.0.lock().expect("no panic while locked");
    ///         state.0 += 1;
    ///         state.0
    ///     }
    /// }
    ///
    /// impl AttemptRecorder for Ends {
    ///     fn transaction_number(&self) -> u64 {
    ///         self.next()
    ///     }
    ///
    ///     fn now(&self) -> Duration {
    ///         Duration::from_nanos(self.next())
    ///     }
    ///
    ///     fn record(&self, attempt: Attempt, _: Duration) {
    ///         self.0.lock().expect("no panic while locked").1.push(attempt.to_string());
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let ends = Ends::default();
    /// let client = Client::new(MemBackend::new()).record_transactions(ends.clone());
    /// Stm::new(&client)
    ///     .run(async |tx| {
    ///         let x = tx.get("x").await?;
    ///         tx.put("x", "1");
    ///         Ok::<_, coord_core::Error>(x)
    ///     })
    ///     .await?;
    /// let recorded = ends.0.lock().expect("no panic while locked").1.clone();
    /// assert_eq!(
    ///     recorded,
    ///     ["attempt 1 of transaction 1 reads x absent; puts x; committed at revision 2"]
    /// );
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn record_transactions(self, recorder: impl AttemptRecorder) -> Self {
        Self { recorder: Some(Arc::new(recorder)), ..self }
    }

    /// Returns the backend.
    #[must_use]
    pub const fn backend(&self) -> &Arc<dyn KvBackend> {
        &self.backend
    }

    /// Reads one key; `None` if it does not exist.
    ///
    /// # Errors
    /// As [`KvBackend::range`].
    ///
    /// # Cancel safety
    /// Safe: a read changes nothing.
    pub async fn get(&self, key: impl IntoBytes + Send) -> Result<Option<KeyValue>> {
        let key = KeyRange::key(key);
        Ok(self.range(Range::new(key)).await?.kvs.pop())
    }

    /// Reads the keys that start with `prefix`, in key order.
    ///
    /// # Errors
    /// As [`KvBackend::range`].
    ///
    /// # Cancel safety
    /// Safe: a read changes nothing.
    pub async fn get_prefix(&self, prefix: impl IntoBytes + Send) -> Result<Vec<KeyValue>> {
        Ok(self.range(Range::prefix(prefix)).await?.kvs)
    }

    /// Sends a read with all its options.
    ///
    /// # Errors
    /// As [`KvBackend::range`].
    ///
    /// # Cancel safety
    /// Safe: a read changes nothing.
    pub async fn range(&self, range: Range) -> Result<RangeResponse> {
        self.backend.range(range).await
    }

    /// Sets a key, without a lease.
    ///
    /// # Errors
    /// As [`KvBackend::put`].
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the key was set.
    pub async fn put(
        &self,
        key: impl IntoBytes + Send,
        value: impl IntoBytes + Send,
    ) -> Result<PutResponse> {
        let put = Put::new(key, value);
        self.backend.put(put).await
    }

    /// Sends a put with all its options.
    ///
    /// ```
    /// use coord_core::{Client, kv::{LeaseGrant, Put}};
    /// use coord_mem::MemBackend;
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> coord_core::Result<()> {
    /// let client = Client::new(MemBackend::new());
    /// let lease = client.lease_grant(LeaseGrant::new(Duration::from_secs(10))).await?.id;
    /// client.put_with(Put::new("members/me", "10.0.0.7").lease(lease)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`KvBackend::put`].
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the key was set.
    pub async fn put_with(&self, put: Put) -> Result<PutResponse> {
        self.backend.put(put).await
    }

    /// Sets a key, without a lease, if it does not exist. Returns whether it was set.
    ///
    /// ```
    /// use coord_core::Client;
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> coord_core::Result<()> {
    /// let client = Client::new(MemBackend::new());
    /// assert!(client.put_if_absent("schema", "1").await?);
    /// assert!(!client.put_if_absent("schema", "2").await?);
    /// assert_eq!(client.get("schema").await?.expect("just put").value, "1");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`KvBackend::txn`].
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the key was set.
    pub async fn put_if_absent(
        &self,
        key: impl IntoBytes + Send,
        value: impl IntoBytes + Send,
    ) -> Result<bool> {
        let put = Put::new(key, value);
        let txn = Txn::new().when([Compare::absent(&put.key)]).and_then([put]);
        Ok(self.txn(txn).await?.succeeded)
    }

    /// Replaces the value of a key if the key has the `expected` value.
    ///
    /// The key keeps its lease. If the value was changed and changed back, it has the expected
    /// value: to detect that, compare the mod revision in a [`Txn`].
    ///
    /// ```
    /// use coord_core::{Client, client::Swap};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> coord_core::Result<()> {
    /// let client = Client::new(MemBackend::new());
    /// client.put("state", "idle").await?;
    /// assert!(client.compare_and_swap("state", "idle", "busy").await?.is_swapped());
    /// match client.compare_and_swap("state", "idle", "busy").await? {
    ///     Swap::Found(Some(kv)) => assert_eq!(kv.value, "busy"),
    ///     other => panic!("{other:?}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`KvBackend::txn`]. Another value is not an error: the result is [`Swap::Found`].
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the value was replaced.
    pub async fn compare_and_swap(
        &self,
        key: impl IntoBytes + Send,
        expected: impl IntoBytes + Send,
        new: impl IntoBytes + Send,
    ) -> Result<Swap> {
        let put = Put::new(key, new).ignore_lease();
        let key: Bytes = put.key.clone();
        let txn = Txn::new()
            .when([Compare::value(&key, CompareOp::Equal, expected)])
            .and_then([put])
            .or_else([Range::new(&key)]);
        let TxnResponse { header, responses, .. } = self.txn(txn).await?;
        match responses.into_iter().next() {
            Some(OpResponse::Put(_)) => Ok(Swap::Swapped(header)),
            Some(OpResponse::Range(mut read)) => Ok(Swap::Found(read.kvs.pop())),
            other => unreachable!("the response to a put or a range is {other:?}"),
        }
    }

    /// Deletes a key, a [`KeyRange`], or the keys of a [`Delete`] with options.
    ///
    /// # Errors
    /// As [`KvBackend::delete`].
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the keys were deleted.
    pub async fn delete(&self, delete: impl Into<Delete> + Send) -> Result<DeleteResponse> {
        let delete = delete.into();
        self.backend.delete(delete).await
    }

    /// Deletes the keys that start with `prefix`.
    ///
    /// # Errors
    /// As [`KvBackend::delete`].
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the keys were deleted.
    pub async fn delete_prefix(&self, prefix: impl IntoBytes + Send) -> Result<DeleteResponse> {
        let delete = Delete::prefix(prefix);
        self.backend.delete(delete).await
    }

    /// Sends a transaction.
    ///
    /// # Errors
    /// As [`KvBackend::txn`].
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the transaction was applied.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse> {
        self.backend.txn(txn).await
    }

    /// Watches a key or a [`KeyRange`] from now on, or the keys of a [`Watch`] with options.
    ///
    /// # Errors
    /// As [`KvBackend::watch`].
    ///
    /// # Cancel safety
    /// Dropping the future cancels the watch.
    pub async fn watch(&self, watch: impl Into<Watch> + Send) -> Result<Watcher> {
        let watch = watch.into();
        self.backend.watch(watch).await
    }

    /// Watches the keys that start with `prefix`, from now on.
    ///
    /// ```
    /// use coord_core::Client;
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> coord_core::Result<()> {
    /// let client = Client::new(MemBackend::new());
    /// let mut jobs = client.watch_prefix("jobs/").await?;
    /// client.put("jobs/1", "sweep").await?;
    /// let batch = jobs.next().await.expect("the watch continues")?;
    /// assert_eq!(batch.events[0].kv.value, "sweep");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`KvBackend::watch`].
    ///
    /// # Cancel safety
    /// Dropping the future cancels the watch.
    pub async fn watch_prefix(&self, prefix: impl IntoBytes + Send) -> Result<Watcher> {
        let watch = Watch::prefix(prefix);
        self.backend.watch(watch).await
    }

    /// Grants a lease. To keep it alive, open a [`Session`](crate::Session) instead.
    ///
    /// # Errors
    /// As [`KvBackend::lease_grant`].
    ///
    /// # Cancel safety
    /// If the future is dropped, the lease may have been granted; it then expires by itself.
    pub async fn lease_grant(&self, grant: LeaseGrant) -> Result<LeaseGrantResponse> {
        self.backend.lease_grant(grant).await
    }

    /// Sends one keep-alive of a lease.
    ///
    /// # Errors
    /// As [`KvBackend::lease_keep_alive`].
    ///
    /// # Cancel safety
    /// If the future is dropped, the lease may have been refreshed.
    pub async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseKeepAliveResponse> {
        self.backend.lease_keep_alive(id).await
    }

    /// Revokes a lease, which deletes its keys.
    ///
    /// # Errors
    /// As [`KvBackend::lease_revoke`].
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the lease was revoked.
    pub async fn lease_revoke(&self, id: LeaseId) -> Result<LeaseRevokeResponse> {
        self.backend.lease_revoke(id).await
    }

    /// Reads the remaining time to live of a lease.
    ///
    /// # Errors
    /// As [`KvBackend::lease_time_to_live`].
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn lease_time_to_live(
        &self,
        request: LeaseTimeToLive,
    ) -> Result<LeaseTimeToLiveResponse> {
        self.backend.lease_time_to_live(request).await
    }

    /// Lists the leases that exist.
    ///
    /// # Errors
    /// As [`KvBackend::leases`].
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn leases(&self) -> Result<LeasesResponse> {
        self.backend.leases().await
    }

    /// Compacts the history: revisions before the requested one can no longer be read.
    ///
    /// # Errors
    /// As [`KvBackend::compact`].
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the history was compacted.
    pub async fn compact(&self, compact: Compact) -> Result<CompactResponse> {
        self.backend.compact(compact).await
    }

    /// Returns the limits of requests.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.backend.limits()
    }

    /// Starts a background task, on `runtime` unless the client has a spawner.
    pub(crate) fn spawn(&self, runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        match &self.spawner {
            Some(spawner) => spawner.spawn(Box::pin(task)),
            None => drop(runtime.spawn(task)),
        }
    }

    pub(crate) const fn recorder(&self) -> Option<&Arc<dyn AttemptRecorder>> {
        self.recorder.as_ref()
    }

    pub(crate) fn handoffs(&self) -> &Handoffs {
        &self.shared.handoffs
    }

    pub(crate) fn conflict_queues(&self) -> &ConflictQueues {
        &self.shared.conflict_queues
    }
}

/// The result of [`Client::compare_and_swap`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there is no third result")]
pub enum Swap {
    /// The value was replaced. The header has the revision of the change.
    Swapped(Header),
    /// The key has another value, or does not exist. Nothing was changed.
    Found(Option<KeyValue>),
}

impl Swap {
    /// Returns whether the value was replaced.
    #[must_use]
    pub const fn is_swapped(&self) -> bool {
        matches!(self, Self::Swapped(_))
    }
}

/// A client is a backend too, so it can be wrapped in a layer, and passed to code that accepts any
/// backend. That code shares only the backend with the client.
impl Layer for Client {
    type Inner = dyn KvBackend;

    fn inner(&self) -> &Self::Inner {
        &*self.backend
    }
}

impl From<Arc<dyn KvBackend>> for Client {
    fn from(backend: Arc<dyn KvBackend>) -> Self {
        Self { backend, shared: Arc::default(), spawner: None, recorder: None }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("backend", &self.backend).finish_non_exhaustive()
    }
}
