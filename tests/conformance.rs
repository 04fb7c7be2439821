//! The conformance suite on every backend of this repository.
fn main() {}
