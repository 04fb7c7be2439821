//! The conformance suite on `MemBackend`, and on the layers over it.

use std::process::ExitCode;

use coord_core::Client;
use coord_core::layer::{PrefixLayer, TraceLayer};
use coord_mem::MemBackend;
use coord_testkit::conformance::{self, Capability, Clock, Suite};

fn main() -> ExitCode {
    conformance::main([mem(), prefix(), trace()])
}

fn mem() -> Suite {
    Suite::new("mem", Clock::Paused, async || ((), MemBackend::new())).claims(Capability::ALL)
}

/// `TraceLayer` over a store.
fn trace() -> Suite {
    let factory = async || ((), TraceLayer::new(MemBackend::new()));
    Suite::new("trace", Clock::Paused, factory).claims(Capability::ALL)
}

/// `PrefixLayer` over a store that has keys right before and after the prefix.
fn prefix() -> Suite {
    let factory = async || {
        let whole = Client::new(MemBackend::new());
        for outside in ["a", "p", "p.", "p/", "p0", "q"] {
            whole.put(outside, "outside").await.expect("a put of a short key succeeds");
        }
        (whole.clone(), PrefixLayer::new(whole, "p/"))
    };
    // Not claimed: `FreshStore`, because the store has history; `ExactRequestSize`, because the
    // prefix is part of the size of a request; `UnboundedDeletes` and `RefusesHazards`, because the
    // layer bounds every range.
    let claims =
        [Capability::RetainedTombstone, Capability::PutsCheckedFirst, Capability::OwnPutCall];
    Suite::new("prefix", Clock::Paused, factory).claims(claims)
}
