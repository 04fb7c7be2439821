//! `--hold-at-least`: the lock is kept for a while when the command has ended sooner.
//!
//! A job that every machine starts by its own clock, and that finishes fast, would run again on a
//! machine whose clock is late: it finds the lock free. Kept for longer than clocks may differ, the
//! lock turns that machine away with `--try`.
//!
//! ```text
//! 02:00:00   a.example   coord lock nightly --try --hold-at-least 5m -- ./backup.sh
//! 02:00:20   a.example   backup.sh ends; the lock is kept until 02:05:00
//! 02:01:30   b.example   its clock says 02:00:00: the same command ends with exit status 123
//! ```

use std::io::{IsTerminal as _, stderr};
use std::time::Duration;

use coord_core::queue::Contender;
use tokio::time::{Instant, sleep_until};

use super::stake::Stake;
use crate::signals::{Signals, name_of};

/// Waits until what was acquired then has been held long enough, or is lost. INT, TERM and QUIT
/// end the wait, those too that came while the command ran: it was to stop.
pub(super) async fn kept(
    stake: &Stake,
    contender: &Contender,
    acquired: Instant,
    signals: &mut Signals,
) {
    // A time beyond the end of the clock never comes.
    let until = stake.hold_at_least.map(|at_least| acquired.checked_add(at_least));
    let Some(until) = until.filter(|_| !signals.stop_requested()) else { return };
    if stderr().is_terminal() {
        report(stake, until);
    }
    let passed = async {
        match until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        // Leaving the queue reports it.
        _ = contender.lost() => {}
        signal = signals.next() => {
            let (name, signal) = (&stake.name, name_of(signal));
            stake.complain(&format!("{signal}: {name} is released before --hold-at-least"));
        }
        () = passed => {}
    }
}

/// Reports at a terminal why the prompt does not return.
fn report(stake: &Stake, until: Option<Instant>) {
    let secs_left = |until: Instant| {
        let left = until.saturating_duration_since(Instant::now());
        // Rounded up, so that it is never 0s.
        humantime::format_duration(Duration::from_secs(left.as_secs().saturating_add(1)))
    };
    let left = match until {
        Some(until) => format!("for another {}", secs_left(until)),
        None => "without end".to_owned(),
    };
    let name = &stake.name;
    stake.complain(&format!("{name} is kept {left} (--hold-at-least); ctrl-C releases it"));
}
