//! Tests across crates.

mod mem;
mod mutex;
mod session;
mod support;
mod tidy;
