//! Layers: backends that wrap another backend and change some of its methods.
//!
//! A type that implements [`Layer`] overrides the methods that it changes, and thereby implements
//! [`KvBackend`](crate::KvBackend). Each layer of this module passes the whole conformance suite,
//! like any backend.
//!
//! ```
//! use async_trait::async_trait;
//! use coord_core::{Client, KvBackend, Result, kv::{Range, RangeResponse}, layer::Layer};
//! use coord_mem::MemBackend;
//!
//! /// Makes all reads serializable: any member responds from its own state.
//! #[derive(Debug)]
//! struct Serializable<B>(B);
//!
//! #[async_trait]
//! impl<B: KvBackend> Layer for Serializable<B> {
//!     type Inner = B;
//!
//!     fn inner(&self) -> &B {
//!         &self.0
//!     }
//!
//!     async fn range(&self, request: Range) -> Result<RangeResponse> {
//!         self.0.range(request.serializable()).await
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<()> {
//! let client = Client::new(Serializable(MemBackend::new()));
//! client.put("a", "1").await?; // forwarded
//! assert_eq!(client.get("a").await?.expect("just put").value, "1");
//! # Ok(())
//! # }
//! ```

mod forward;
mod prefix;
mod trace;

pub use forward::Layer;
pub use prefix::PrefixLayer;
pub use trace::TraceLayer;
