//! The minimum hold time, `--hold-at-least`: keeps a lock after its command has ended.
//!
//! When cron starts a short job on every machine, a machine whose clock is late finds the lock free
//! and runs the job again. A lock that is held for longer than clocks differ prevents that: the
//! late machine fails with `--try`.
//!
//! ```text
//! 02:00:00   a.example   coord lock nightly --try --hold-at-least 5m -- ./backup.sh
//! 02:00:20   a.example   backup.sh ends; the lock is kept until 02:05:00
//! 02:01:30   b.example   its clock shows 02:00:00; the same command ends with exit status 123
//! ```

use std::io::{IsTerminal as _, stderr};
use std::time::Duration;

use coord_core::queue::Contender;
use tokio::time::{Instant, sleep_until};

use super::request::HoldRequest;
use crate::signals::{Signals, name_of};

/// Waits until the lock has been held for its minimum time since `acquired`, or is lost.
///
/// A signal ends the wait. If INT, TERM or QUIT was received while the command ran, there is no
/// wait, because the sender wanted the command to stop.
pub(super) async fn keep(
    request: &HoldRequest,
    contender: &Contender,
    acquired: Instant,
    signals: &mut Signals,
) {
    // `None` within the option: a time beyond the range of `Instant`, which never comes.
    let until = request.hold_at_least.map(|at_least| acquired.checked_add(at_least));
    let Some(until) = until.filter(|_| !signals.stop_requested()) else { return };
    if stderr().is_terminal() {
        report_wait(request, until);
    }
    let passed = async {
        match until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        // The release reports the loss.
        _ = contender.lost() => {}
        signal = signals.next() => {
            let (name, signal) = (&request.name, name_of(signal));
            request.report(&format!("{signal}: {name} is released before --hold-at-least"));
        }
        () = passed => {}
    }
}

/// Reports at a terminal why the prompt does not return.
fn report_wait(request: &HoldRequest, until: Option<Instant>) {
    let secs_left = |until: Instant| {
        let left = until.saturating_duration_since(Instant::now());
        // Rounded up, so that the message never shows 0s.
        humantime::format_duration(Duration::from_secs(left.as_secs().saturating_add(1)))
    };
    let left = match until {
        Some(until) => format!("for another {}", secs_left(until)),
        None => "forever".to_owned(),
    };
    let name = &request.name;
    request.report(&format!("{name} is kept {left} (--hold-at-least); ctrl-C releases it"));
}
