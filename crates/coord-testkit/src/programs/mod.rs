//! Transactions under every schedule: programs as data, and closures of your own.
//!
//! A schedule is the order in which the requests of several transactions reach the store. A small
//! case has some dozens of schedules that differ, so all of them can be run, each in microseconds,
//! and each is recorded and checked by the [isolation checker](crate::isolation).
//!
//! - [`Program`] and [`Case`]: transactions as data, with a text form;
//! - [`Explorer`]: runs every distinct schedule of a case, random schedules, or a single one;
//! - [`pairs`]: all small cases;
//! - [`Search`]: random larger cases; [`Explorer::shrink`] makes a failing one small;
//! - [`simulate`]: a case in a simulated run, with faults;
//! - [`Closures`]: the same for transactions of your own, with an invariant.
//!
//! ```text
//! T1 read-committed: r(x) w(y)        T1  read x: x@2
//! T2 read-committed: r(y) w(x)        T2  read y: y@2
//! schedule: T1 T2 T1 T2               T1  put y: revision 3
//!                                     T2  put x: revision 4        write skew
//! ```
//!
//! # What a schedule decides
//!
//! Each turn lets one request through: a read, a commit, or a change by a client without
//! transactions. A serializable read may be served by a member that is behind, so a turn also has
//! the number of revisions that the member is behind, up to the *stale window*. No member is behind
//! the initial state. What a process does between two requests is not interrupted.
//!
//! A transaction begins with its first request, so that one schedule has transactions one after the
//! other in real time, and another one has them at the same time.

mod attempts;
mod case;
mod closures;
mod describe;
mod explore;
mod explorer;
mod gate;
mod pairs;
mod perform;
mod program;
mod run;
mod schedule;
mod search;
mod shrink;
mod simulate;

#[cfg(test)]
mod tests;

pub use case::{Case, Counterexample};
pub use closures::{Closures, ScheduleFailure};
pub use explore::Explored;
pub use explorer::{Checked, Explorer};
pub use pairs::{Alphabet, pairs};
pub use perform::PutValues;
pub use program::{ParseProgramError, Program, ProgramOperation};
pub use run::{FinalState, RunOutcome};
pub use schedule::{Schedule, Turn};
pub use search::Search;
pub use shrink::Shrunk;
pub use simulate::simulate;
