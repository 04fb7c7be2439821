//! The conformance suite on the adapter over coord's server over `MemBackend`, in one process.
//!
//! The client crate, protobuf and etcd's services are used as with a real server; only sockets are
//! not. So the tests run on a paused clock, and tests of time take no time.

use std::process::ExitCode;

use coord_etcd_tests::test_server;
use coord_mem::MemBackend;
use coord_testkit::conformance::{self, Capability, Clock, Suite};

fn main() -> ExitCode {
    conformance::main([in_process()])
}

fn in_process() -> Suite {
    let factory = async || ((), test_server::adapter_over(MemBackend::new()));
    // etcd's protocol has no status for requests that the store refuses as a hazard.
    let claims =
        Capability::ALL.into_iter().filter(|capability| *capability != Capability::RefusesHazards);
    Suite::new("etcd-in-process", Clock::Paused, factory).claims(claims)
}
