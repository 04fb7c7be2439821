//! The ported tests of Go's package, on `MemBackend` and virtual time.

mod go;

use std::process::ExitCode;

use coord_core::Client;
use coord_mem::MemBackend;
use libtest_mimic::Arguments;

use crate::go::{Store, TESTS};

fn main() -> ExitCode {
    let trials = TESTS.iter().map(|test| {
        test.trial("mem", true, async |_members| {
            let store = MemBackend::new();
            // Clones share the store, as clients share a server. The store replaces all members.
            let client = move |_| {
                let client = Client::new(store.clone());
                Box::pin(async { client }) as _
            };
            ((), Store::new(client))
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
