//! The test harness for real etcd servers: finds, starts, breaks and removes them.
//!
//! - [`Release`]: an etcd release on this machine;
//! - [`Cluster`]: a cluster of one or three members that can be paused, killed and restarted;
//! - [`grpc_proxy`]: etcd's own proxy in front of a cluster;
//! - [`Authority`]: certificates for one test;
//! - [`Pool`]: clusters that tests reuse, emptied in between;
//! - [`differential`]: differential runs of coord and a real etcd;
//! - [`RawClient`]: a gRPC client for messages that no real client sends;
//! - [`proxy`]: a gRPC proxy, as in front of many clusters;
//! - [`scripted`]: a server with scripted responses, at an endpoint that is not etcd;
//! - [`serve`]: coord's own services, in this process and on sockets.
//!
//! Dropping a cluster stops it and removes its folders. If the test panics, the logs are kept and
//! their path is printed. The harness panics with a message when it cannot do something, because a
//! test without its server has failed.

mod authority;
mod cluster;
pub mod differential;
pub mod grpc_proxy;
mod member;
mod pool;
pub mod proxy;
pub mod raw_client;
mod release;
pub mod scripted;
pub mod serve;
mod streams;

pub use authority::Authority;
pub use cluster::{Cluster, Setup};
pub use member::Member;
pub use pool::{Lent, Pool};
pub use raw_client::RawClient;
pub use release::Release;
