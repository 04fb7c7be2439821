//! Tests across crates.

mod blocking;
mod examples;
mod mem;
mod mirror;
mod model;
mod mutex;
mod prefix;
mod session;
mod support;
mod tidy;
