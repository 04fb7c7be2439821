//! Any `KvBackend` served over etcd's v3 gRPC API.
//!
//! A client of etcd's, in any language, cannot tell the difference: status codes and messages are
//! etcd's to the letter, watches are created, cancelled and refused in band, and a lease that is
//! gone is refreshed to a time of zero. Over `MemBackend` it is an etcd that starts in milliseconds
//! and forgets everything when it stops.
//!
//! ```
//! use coord_mem::MemBackend;
//! use coord_server::Server;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::builder(MemBackend::new()).bind("127.0.0.1:0").await?;
//! let address = server.local_addr();
//! let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
//! let serving = server.serve_until(async { drop(stopped.await) });
//!
//! let using = async {
//!     let mut client = etcd_client::Client::connect([address.to_string()], None).await?;
//!     client.put("hello", "world", None).await?;
//!     drop(stop);
//!     Ok::<_, etcd_client::Error>(())
//! };
//! let ((), used) = tokio::join!(serving, using);
//! used?;
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//! sockets -> server -> connection -> route -> kv, lease, watch, lock, … -> KvBackend
//!                                             |
//!                                          status: what an error is called on the wire
//! ```
//!
//! - `server`: what can be chosen, listening, and stopping;
//! - `connection`: one client's connection, which is one task;
//! - `route`: which service a request is for;
//! - `services`: what they share;
//! - `kv`, `lease`, `watch`: a store's own, with the translation that `coord-etcd` has;
//! - `lock`, `election`: coord's primitives, for clients that have none of their own;
//! - `on_behalf`, `places`, `only_looked`: how they stand in a line on the client's own lease;
//! - `maintenance`, `cluster`, `auth`: what a member says about itself;
//! - `alarm`: alarms, and what they refuse;
//! - `health`: whether it is well, as gRPC's load balancers ask;
//! - `plain`: what is asked without gRPC: the same, and which version it is;
//! - `call`: KV, and services that etcd-client has no code for;
//! - `small`: calls with one small message, which most are, without what streams need;
//! - `check`: what a backend cannot be asked, and etcd refuses;
//! - `status`: errors.
//!
//! What etcd does and this does not: TLS and logins, more than one member, snapshots.

mod alarm;
mod auth;
mod call;
mod check;
mod cluster;
mod connection;
mod counts;
mod election;
mod health;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod on_behalf;
mod only_looked;
mod places;
mod plain;
mod route;
mod server;
mod services;
mod small;
mod status;
mod watch;

pub use route::in_process;
pub use server::{Server, ServerBuilder};
