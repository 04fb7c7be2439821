//! etcd-compatible server: serves any `KvBackend` over etcd's v3 gRPC API.
//!
//! Existing etcd clients, in any language, work unchanged: status codes and error messages are
//! exactly etcd's for every error that etcd has, watches are created, cancelled and rejected in
//! band, and a keep-alive of an expired lease returns a TTL of zero. With `MemBackend`, the server
//! starts in milliseconds, and loses its data when it stops.
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
//!                                          status: maps errors to gRPC status codes and messages
//! ```
//!
//! - `server`: the builder, listening, graceful shutdown, and serving without a listener;
//! - `connection`: one client connection, served by one task;
//! - `route`: dispatches a request to its service;
//! - `services`: the state that all services share;
//! - `kv`, `lease`, `watch`: etcd's storage services, translated by `coord-etcd`'s `wire` module;
//! - `lock`, `election`: etcd's Lock and Election services, built on coord's wait queue;
//! - `lease_keyed_lock`, `call_groups`, `read_only_leases`: how these services contend on the
//!   client's own lease;
//! - `maintenance`, `cluster`, `auth`: the services that report the state of a member;
//! - `alarm`: raised alarms, and the writes that they reject;
//! - `health`: the gRPC health service;
//! - `http_endpoints`: health checks, version and metrics over plain HTTP;
//! - `call`: unary and streaming calls, for KV and for services that etcd-client has no code for;
//! - `fast_path`: unary calls with one small message, without tonic's streams;
//! - `check`: rejects requests that etcd rejects and a backend cannot express;
//! - `status`: etcd's gRPC status for each error;
//! - `gauges`: numbers of open watches and watch streams, for the metrics.
//!
//! Not supported, unlike in etcd: TLS, authentication, more than one member, snapshots.

mod alarm;
mod auth;
mod call;
mod call_groups;
mod check;
mod cluster;
mod connection;
mod election;
mod fast_path;
mod gauges;
mod health;
mod http_endpoints;
mod kv;
mod lease;
mod lease_keyed_lock;
mod lock;
mod maintenance;
mod read_only_leases;
mod route;
mod server;
mod services;
mod status;
mod watch;

pub use route::in_process;
pub use server::{ConnectionServer, Server, ServerBuilder};
