//! Distributed coordination, written once against one trait.
//!
//! (the map)

mod backend;
mod error;
pub mod kv;
pub mod layer;

pub use backend::{KvBackend, KvBackendExt};
pub use error::{Error, ErrorKind, Outcome, Result, Source};
pub use kv::*;
