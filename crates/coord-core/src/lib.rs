//! Distributed coordination, written once against one trait.
//!
//! Sessions, locks, leader election and transactions are written against [`KvBackend`]: a store of
//! keys with revisions, transactions, watches and leases. `coord-mem` implements it in memory, for
//! tests in milliseconds; `coord-etcd` implements it on an etcd cluster; any other backend that
//! passes the conformance suite of `coord-testkit` will do.
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
//! The eight names at the root are what most programs use. Everything else is in the modules, in
//! reading order:
//!
//! | module | what it is |
//! |---|---|
//! | [`backend`] | trait [`KvBackend`]: the contract, for implementors |
//! | [`client`] | [`Client`]: a backend handle, and the state that its primitives share |
//! | [`kv`] | the data model: key ranges, requests, responses, events, leases |
//! | [`error`] | [`Error`], its kind and outcome; loss as a value; the error of primitives |
//! | [`layer`] | backends that wrap a backend: namespaces, tracing, or your own |
//! | [`session`] | [`Session`]: a lease kept alive, and its state as a value; supervisors |
//! | [`queue`] | the wait queue under every lock-like primitive; fencing tokens |
//! | [`mutex`] | [`Mutex`]: the distributed lock, and its guard |
//! | [`election`] | [`Election`]: leader election, observers |
//! | [`stm`] | [`Stm`]: software transactional memory, isolation levels |
//! | [`backoff`] | pauses that double, with jitter |
//! | [`telemetry`] | log lines, spans and metrics |
//!
//! Private: `shared` is the state that the primitives of one client share; `key_watch` watches a
//! key until it is deleted; `retry_read` repeats reads while the store is unavailable; `sync` locks
//! a mutex whose other user may have panicked.

pub mod backend;
pub mod backoff;
pub mod client;
pub mod election;
pub mod error;
mod key_watch;
pub mod kv;
pub mod layer;
pub mod mutex;
pub mod queue;
mod retry_read;
pub mod session;
mod shared;
pub mod stm;
mod sync;
pub mod telemetry;

pub use backend::KvBackend;
pub use client::Client;
pub use election::Election;
pub use error::{Error, Result};
pub use mutex::Mutex;
pub use session::Session;
pub use stm::Stm;
