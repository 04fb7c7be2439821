//! Tests with real etcd clusters: faults, authentication, TLS, proxies, and etcd's own tools.

mod certificates;
mod endpoints;
mod examples;
mod faults;
mod goaway;
mod grpc_proxy;
mod harness;
mod interop;
mod login;
mod observe;
mod packets;
mod proxies;
mod replaced;
mod runtimes;
mod schemes;
mod silence;
mod starting;
mod support;
mod tls;
mod traffic;
