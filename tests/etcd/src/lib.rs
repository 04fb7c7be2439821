//! Real etcd servers for tests: found on this machine, started on free ports, tormented, removed.
//!
//! - [`Release`]: which etcd servers there are, and where;
//! - [`Cluster`]: one member or three, each of which can be stopped, killed and started again;
//! - [`grpc_proxy`]: etcd's own proxy in front of a cluster;
//! - [`Authority`]: certificates made for one test;
//! - [`Pool`]: servers used again and again, emptied in between;
//! - [`hunt`]: the hunt for differences between a server and what is ours;
//! - [`Bare`]: what is said to a server without a client;
//! - [`proxy`]: a gRPC proxy, as stands in front of many clusters;
//! - [`scripted`]: what answers at an endpoint that is not etcd;
//! - [`serve`]: our own services, in this process and on sockets.
//!
//! Whoever drops a cluster has it stopped and its folders removed, also when a test panics; then
//! the logs of its members are kept, and where is told. Everything here panics with a sentence
//! when it cannot do what it was asked: a test without its server has failed.

mod authority;
pub mod bare;
mod cluster;
pub mod grpc_proxy;
pub mod hunt;
mod member;
mod pool;
pub mod proxy;
mod release;
pub mod scripted;
pub mod serve;
mod streams;

pub use authority::Authority;
pub use bare::Bare;
pub use cluster::{Cluster, Setup};
pub use member::Member;
pub use pool::{Lent, Pool};
pub use release::Release;
