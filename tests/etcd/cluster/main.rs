//! Tests of the adapter: faults, failover, authentication, TLS, proxies, and etcd's own tools.
//!
//! Most run on real etcd clusters, the others on coord's server or on a server with scripted
//! responses.
#![expect(clippy::unwrap_used, reason = "a call that fails fails the test")]

mod authentication;
mod certificates;
mod connect;
mod connection_limits;
mod endpoint_schemes;
mod endpoints;
mod etcdctl;
mod examples;
mod grpc_proxy;
mod harness;
mod history_replaced;
mod isolation;
mod lock_delay;
mod member_faults;
mod observer;
mod paused_member;
mod prefix_cache;
mod proxy_responses;
mod recipes;
mod replay;
mod runtimes;
mod scheduler;
mod shared_values;
mod support;
mod tls;
mod traffic;
mod transport;
