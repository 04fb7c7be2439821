//! Conformance suite on the adapter and our own server, connected by a real socket.
//!
//! It covers what the in-process suite does not: connections, frames, flow control, a real clock.

use std::process::ExitCode;

use coord_etcd::EtcdBackend;
use coord_etcd_tests::serve::Served;
use coord_mem::MemBackend;
use coord_server::Server;
use coord_testkit::conformance::{self, Capability, Clock, Suite};

fn main() -> ExitCode {
    conformance::main([served()])
}

fn served() -> Suite {
    let factory = async || {
        let server = Served::start(Server::builder(MemBackend::new())).await;
        let backend = EtcdBackend::connect([server.endpoint()]).await;
        (server, backend.expect("one endpoint is given"))
    };
    // etcd's protocol has no status for requests that the store refuses as a hazard.
    let claims =
        Capability::ALL.into_iter().filter(|capability| *capability != Capability::RefusesHazards);
    Suite::new("coord-server", Clock::Real, factory).claims(claims)
}
