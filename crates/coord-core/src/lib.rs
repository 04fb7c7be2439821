//! Distributed coordination, written once against one trait.
//!
//! Locks and elections, and what will follow them, are written against [`KvBackend`]: a store of
//! keys with revisions, transactions, watches and leases. `coord-mem` is one in memory, to test
//! with in milliseconds; any other that passes the conformance suite of `coord-testkit` will do.
//!
//! Read in this order:
//!
//! - [`kv`]: the data model, what a backend is asked and what it answers;
//! - [`KvBackend`]: the trait, with its contract; [`KvBackendExt`]: the same for callers;
//! - [`Error`]: what can go wrong, and what became of the request;
//! - [`layer`]: backends that wrap a backend;
//! - [`Session`]: a lease kept alive, and its state as a value;
//! - [`Supervisor`]: another session for one that was lost, for those who ask for it;
//! - [`LossReason`]: losing what one holds, as a value;
//! - [`contender`]: the one waiting line under every lock-like primitive;
//! - [`Mutex`]: the lock;
//! - [`Election`]: the leader.
//!
//! ```
//! use coord_core::{KvBackendExt, Mutex, Put, Session, Txn};
//! use coord_mem::MemBackend;
//! use std::sync::Arc;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let kv = Arc::new(MemBackend::new());
//! let session = Session::builder(kv.clone()).open().await?;
//!
//! let guard = Mutex::new(&session, "greeting").lock().await?;
//! guard.txn(Txn::new().and_then([Put::new("hello", "world")])).await?;
//! guard.unlock().await?;
//!
//! assert_eq!(kv.get("hello").await?.expect("put above").value, "world");
//! # Ok(())
//! # }
//! ```

mod again;
mod backend;
pub mod contender;
pub mod election;
mod error;
pub mod kv;
pub mod layer;
mod loss;
mod mutex;
mod retry;
mod session;
pub mod stm;
mod telemetry;

pub use backend::{KvBackend, KvBackendExt};
pub use contender::FencingToken;
pub use election::{Election, Leader, Leadership};
pub use error::{Error, ErrorKind, Outcome, Result, Source};
pub use kv::*;
pub use loss::{LossReason, PrimitiveError};
pub use mutex::{Mutex, MutexGuard};
pub use session::{Epoch, Session, SessionBuilder, SessionState, Supervisor, SupervisorState};
pub use stm::{Isolation, Stm, stm};
#[cfg(feature = "metrics")]
pub use telemetry::describe_metrics;
