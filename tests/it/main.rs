//! Tests across crates.

mod mutex;
mod session;
mod support;
mod tidy;
