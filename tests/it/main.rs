//! Tests across crates.

mod blocking;
mod breaking;
mod election;
mod examples;
mod line;
mod mem;
mod mirror;
mod model;
mod mutex;
mod prefix;
mod process;
mod regressions;
mod session;
mod stm;
mod support;
mod trace;

mod tidy;
