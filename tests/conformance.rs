//! The conformance suite on every backend of this repository.

use std::process::ExitCode;

use coord_core::KvBackendExt;
use coord_core::layer::{PrefixLayer, TraceLayer};
use coord_mem::MemBackend;
use coord_testkit::conformance::{self, Capability, Clock, Suite};

fn main() -> ExitCode {
    conformance::main([mem(), prefix(), trace()])
}

fn mem() -> Suite {
    Suite::new("mem", Clock::Paused, async || ((), MemBackend::new())).claims(Capability::ALL)
}

/// A layer that only records what passes.
fn trace() -> Suite {
    let factory = async || ((), TraceLayer::new(MemBackend::new()));
    Suite::new("trace", Clock::Paused, factory).claims(Capability::ALL)
}

/// A corner of a store in which others have keys too, right up to its edges.
fn prefix() -> Suite {
    let factory = async || {
        let whole = MemBackend::new();
        for foreign in ["a", "p", "p.", "p/", "p0", "q"] {
            whole.put(foreign, "foreign").await.expect("a put of a short key succeeds");
        }
        (whole.clone(), PrefixLayer::new(whole, "p/"))
    };
    // Revisions began before the prefix was used, requests grow by it, and it gives ranges an end.
    let claims =
        [Capability::RetainedTombstone, Capability::PutsCheckedFirst, Capability::OwnPutCall];
    Suite::new("prefix", Clock::Paused, factory).claims(claims)
}
