//! Tests across crates.

mod mem;
mod model;
mod mutex;
mod session;
mod support;
mod tidy;
