//! Tests across crates, most of them on virtual time.
#![expect(clippy::unwrap_used, reason = "a call that fails fails the test")]

mod blocking;
mod client;
mod election;
mod examples;
mod history;
mod isolation;
mod mem;
mod mirror;
mod model;
mod mutex;
mod prefix;
mod process;
mod queue;
mod recipes;
mod regressions;
mod session;
mod sim;
mod stm;
mod support;
mod trace;
mod watch_faults;
mod while_waiting;

mod tidy;
