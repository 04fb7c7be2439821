//! Test tools for distributed coordination: fault injection, differential tests and a conformance
//! suite, for any [`KvBackend`](coord_core::KvBackend).
//!
//! - [`conformance`]: the contract of a backend as a table of cases, one named test per case;
//! - [`Intercept`]: a layer whose [`Rule`] delays, drops or fails requests; a [`Recorder`] is a
//!   rule that records requests;
//! - [`Process`]: a simulated process that can crash, be partitioned from the store, and heal;
//! - [`StaleMember`]: a cluster member that serves serializable reads from an old revision;
//! - [`Weakest`]: a store whose reads are as old as the contract permits;
//! - [`Mirror`]: a differential test, which runs the same operations on two backends and stops at
//!   the first difference;
//! - [`poll_at_most`]: drops a future after a number of polls, to test cancel safety;
//! - [`sim`]: deterministic simulation of whole processes, under every fault, with shrinking;
//! - [`history`]: what happened in a run, or in transactions that were recorded on any backend;
//!   files of histories;
//! - [`isolation`]: which isolation levels a history of transactions refutes;
//! - [`programs`]: transactions under every schedule of their requests;
//! - [`report`]: what a history shows, as text, as a graph, and as a page for a browser;
//! - [`strategy`]: operations on a store and, with the feature `proptest`, random sequences of
//!   them for property tests.
//!
//! # Features
//!
//! `proptest`, off by default: everything in [`strategy`] that generates random values, such as
//! `operations`, `Options` and the strategies of single requests; and `plans` in [`sim`].
//!
//! `html`, off by default: `html` of [`report::Report`], the report as a page for a browser.

mod call;
mod cancel;
mod clock;
pub mod conformance;
mod forward;
pub mod history;
mod intercept;
pub mod isolation;
pub mod mirror;
mod process;
pub mod programs;
mod recorder;
pub mod report;
pub mod sim;
mod stale_member;
pub mod strategy;
mod weakest;

pub use call::Call;
pub use cancel::poll_at_most;
pub use intercept::{Action, Intercept, Rule};
pub use mirror::Mirror;
pub use process::Process;
pub use recorder::{Calls, Recorder};
pub use stale_member::StaleMember;
pub use weakest::Weakest;
