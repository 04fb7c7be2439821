//! The isolation of transactions on a cluster of three members, one of which is paused and stale:
//! what a level permits occurs, and what it forbids never does. The transactions are recorded, and
//! their histories checked.

mod random;
mod stale_follower;

/// Prints a line of a report.
#[expect(clippy::print_stdout, reason = "these tests report what they measure")]
fn print(text: &str) {
    println!("{text}");
}
