//! The conformance suite on the adapter, over a store in memory, in one process.
//!
//! Between the two lies everything that lies between a program and a server but the wires: the
//! client crate, protobuf, etcd's services. So the clock can stand still, as it does for the store
//! alone, and whatever the adapter gets wrong about time costs no time to find.

use std::process::ExitCode;

use coord_etcd_tests::serve;
use coord_mem::MemBackend;
use coord_testkit::conformance::{self, Capability, Clock, Suite};

fn main() -> ExitCode {
    conformance::main([in_process()])
}

fn in_process() -> Suite {
    let factory = async || ((), serve::adapter(MemBackend::new()));
    // What the store refuses as a hazard has no name in etcd's protocol.
    let claims =
        Capability::ALL.into_iter().filter(|capability| *capability != Capability::RefusesHazards);
    Suite::new("etcd-in-process", Clock::Paused, factory).claims(claims)
}
