//! Transfers between accounts.
fn main() {}
