//! The conformance suite on the adapter and coord's server, connected by a real socket.
//!
//! It covers what the in-process suite does not: connections, frames, flow control, a real clock.

use std::process::ExitCode;

use coord_etcd::EtcdBackend;
use coord_etcd_tests::test_server::TestServer;
use coord_mem::MemBackend;
use coord_server::Server;
use coord_testkit::conformance::{self, Capability, Clock, Suite};

fn main() -> ExitCode {
    conformance::main([server()])
}

fn server() -> Suite {
    let factory = async || {
        let server = TestServer::start(Server::builder(MemBackend::new())).await;
        let backend = EtcdBackend::connect([server.endpoint()]).await;
        (server, backend.expect("the server is ready"))
    };
    // etcd's protocol has no status for requests that the store refuses as a hazard.
    let claims =
        Capability::ALL.into_iter().filter(|capability| *capability != Capability::RefusesHazards);
    Suite::new("coord-server", Clock::Real, factory).claims(claims)
}
