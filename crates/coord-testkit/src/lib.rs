//! Proof for coordinating code: for this repository's own, and for yours.
//!
//! - [`conformance`]: what every backend must do, as a table of promises that anybody can run;
//! - [`Intercept`]: a backend with a [`Rule`] between it and its callers, which can lose, delay
//!   and fail requests; [`Record`] is the rule that remembers them;
//! - [`Process`]: a process that can crash, be cut off from the store, and heal;
//! - [`Lagging`]: a member whose own answers are old;
//! - [`Mirror`]: two backends driven as one, until they differ;
//! - [`poll_at_most`]: drops a future wherever it waits;
//! - [`strategy`]: operations on a store, and, with the feature `proptest`, random sequences of
//!   them for property tests.
//!
//! # Features
//!
//! `proptest`, off by default: everything in [`strategy`] that draws, which is `operations`,
//! `Options` and the strategies of single requests.

mod call;
mod cancel;
pub mod conformance;
mod forward;
mod intercept;
mod lag;
pub mod mirror;
mod process;
mod record;
pub mod strategy;

pub use call::Call;
pub use cancel::poll_at_most;
pub use intercept::{Fate, Intercept, Rule};
pub use lag::Lagging;
pub use mirror::Mirror;
pub use process::Process;
pub use record::{Calls, Record};
