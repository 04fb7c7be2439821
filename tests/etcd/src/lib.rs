//! The test harness for real etcd servers: finds, starts, pauses, kills and removes them.
//!
//! - [`Release`]: an etcd release that is installed on this machine;
//! - [`Cluster`]: a cluster of one or three members that can be paused, killed and restarted;
//! - [`grpc_proxy`]: etcd's own proxy in front of a cluster;
//! - [`Authority`]: a certificate authority for one test;
//! - [`Pool`]: clusters that tests reuse; the pool empties them in between;
//! - [`differential`]: differential runs of coord and a real etcd;
//! - [`RawClient`]: a gRPC client that also sends malformed requests;
//! - [`proxy`]: a gRPC proxy with limits, like nginx or Envoy;
//! - [`scripted`]: a server with scripted responses, at an endpoint that is not etcd;
//! - [`test_server`]: coord's own server, in this process and on sockets.
//!
//! Dropping a cluster kills its members and removes its folders. If the test panics, the logs are
//! kept and their path is printed. The harness panics when it cannot start or control a server,
//! because the test cannot continue then.

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
pub mod test_server;

pub use authority::Authority;
pub use cluster::{Cluster, ClusterBuilder};
pub use member::Member;
pub use pool::{Pool, PooledCluster};
pub use raw_client::RawClient;
pub use release::Release;
