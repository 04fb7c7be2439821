//! Tests across crates.

mod blocking;
mod examples;
mod mem;
mod mirror;
mod model;
mod mutex;
mod prefix;
mod regressions;
mod session;
mod support;
mod tidy;
