//! The conformance suite on every backend of this repository.

use std::process::ExitCode;

use coord_core::{KvBackendExt, layer::PrefixLayer};
use coord_mem::MemBackend;
use coord_testkit::conformance::{self, Clock, Need, Suite};

fn main() -> ExitCode {
    conformance::main([mem(), prefix()])
}

fn mem() -> Suite {
    Suite::new("mem", Clock::Paused, async || ((), MemBackend::new())).claims(Need::ALL)
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
    let claims = [Need::RetainedTombstone, Need::PutsCheckedFirst, Need::OwnPutCall];
    Suite::new("prefix", Clock::Paused, factory).claims(claims)
}
