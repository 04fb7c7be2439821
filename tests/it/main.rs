//! Tests across crates.

mod mem;
mod model;
mod mutex;
mod prefix;
mod session;
mod support;
mod tidy;
