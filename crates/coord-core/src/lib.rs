//! Distributed coordination: sessions, locks, leader election and software transactional memory.
//!
//! All of them are written once, against the trait [`KvBackend`]: a key-value store with revisions,
//! transactions, watches and leases. `coord-mem` implements the trait in memory, for tests that run
//! in milliseconds. `coord-etcd` implements it on an etcd cluster. They also run on any other
//! backend that passes the conformance suite of `coord-testkit`.
//!
//! ```
//! use coord_core::{Client, Mutex, Session, kv::{Put, Txn}};
//! use coord_mem::MemBackend;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(MemBackend::new());
//! let session = Session::builder(&client).open().await?;
//!
//! let guard = Mutex::new(&session, "greeting").lock().await?;
//! guard.txn(Txn::new().and_then([Put::new("hello", "world")])).await?;
//! guard.unlock().await?;
//!
//! assert_eq!(client.get("hello").await?.expect("put above").value, "world");
//! # Ok(())
//! # }
//! ```
//!
//! # Map of the crate
//!
//! Most programs use the names at the root of the crate. Everything else is in the modules, listed
//! in reading order:
//!
//! | module | what it is |
//! |---|---|
//! | [`backend`] | trait [`KvBackend`]: the contract, for implementors |
//! | [`client`] | [`Client`]: a backend handle, and the state that its primitives share |
//! | [`kv`] | the data model: key ranges, requests, responses, events, leases |
//! | [`error`] | [`Error`] with its kind and outcome; loss reasons; the error of primitives |
//! | [`layer`] | backends that wrap another backend: namespaces, tracing, or your own |
//! | [`session`] | [`Session`]: a lease that is kept alive, and its state as a value; supervisors |
//! | [`queue`] | the wait queue that locks and elections are built on |
//! | [`mutex`] | [`Mutex`]: the distributed lock, and its guard |
//! | [`election`] | [`Election`]: leader election, observers |
//! | [`stm`] | [`Stm`]: software transactional memory, isolation levels |
//! | [`recipes`] | smaller primitives, built on the wait queue, transactions or the client |
//! | [`recording`] | records of the attempts of transactions, for checkers of isolation |
//! | [`spawn`] | running the background tasks of a client on an executor other than tokio |
//! | [`backoff`] | exponential backoff with jitter |
//! | [`telemetry`] | log lines, spans and metrics |
//!
//! Internal modules: `shared` is the state that the primitives of one client share; `follow`
//! follows keys by a read and a watch; `key_watch` watches a key until it is deleted;
//! `retry_request` retries reads, and other requests that are safe to repeat, while the store is
//! unavailable; `sync` locks a mutex that may be poisoned, also for the other crates of coord.

pub mod backend;
pub mod backoff;
pub mod client;
pub mod election;
pub mod error;
mod follow;
mod key_watch;
pub mod kv;
pub mod layer;
pub mod mutex;
pub mod queue;
pub mod recipes;
pub mod recording;
mod retry_request;
pub mod session;
mod shared;
pub mod spawn;
pub mod stm;
#[doc(hidden)]
pub mod sync;
pub mod telemetry;

pub use backend::KvBackend;
pub use client::Client;
pub use election::Election;
pub use error::{Error, Result};
pub use mutex::Mutex;
pub use session::Session;
pub use stm::Stm;
