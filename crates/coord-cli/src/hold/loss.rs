//! Loss detection: waits until the lock is lost, or until the command must stop in order to end
//! before the loss.

use std::time::Duration;

use coord_core::error::{LossReason, PrimitiveError};
use coord_core::queue::Contender;
use tokio::time::{Instant, sleep};

/// The longest interval at which the session's deadline is read. A suspension of the machine moves
/// the deadline to an earlier instant.
const MAX_DEADLINE_POLL: Duration = Duration::from_secs(1);

/// The notice that the command must end now.
#[derive(Debug)]
pub(super) struct LossNotice {
    pub(super) reason: String,
    /// When to kill the processes that still run.
    pub(super) kill_at: Instant,
}

/// Waits until the lock is lost, or until only the grace period is left before it can be lost.
pub(super) async fn loss_notice(contender: &Contender, grace: Duration) -> LossNotice {
    let session = contender.session();
    // The interval at which the session task detects a suspension.
    let poll = (session.ttl() / 10).min(MAX_DEADLINE_POLL);
    let loss_imminent = async {
        loop {
            let deadline = session.deadline();
            let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(grace);
            if left.is_zero() {
                break deadline;
            }
            sleep(left.min(poll)).await;
        }
    };
    tokio::select! {
        biased;
        reason = contender.lost() => {
            // After its deadline the lease can end at any time.
            let deadline_passed =
                matches!(reason, LossReason::DeadlineUnconfirmed | LossReason::Expired);
            let grace = if deadline_passed { Duration::ZERO } else { grace };
            let reason = PrimitiveError::Lost(reason).to_string();
            LossNotice { reason, kill_at: Instant::now() + grace }
        }
        kill_at = loss_imminent => LossNotice {
            reason: "no keep-alive was confirmed, and the lease is about to end".to_owned(),
            kill_at,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use coord_core::queue::WaitQueue;
    use coord_core::{Client, Session};
    use coord_mem::MemBackend;
    use coord_testkit::{Action, Call, Intercept};
    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A holder with a TTL of 30 s whose keep-alives hang. The counter is the time in seconds for
    /// which its machine was suspended.
    async fn holder() -> (Contender, Arc<AtomicU64>) {
        let silent = Intercept::new(MemBackend::new(), |call: &Call| match call {
            Call::LeaseKeepAlive(_) => Action::Hang,
            _ => Action::Pass,
        });
        let client = Client::new(silent);
        let asleep_secs = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(&asleep_secs);
        let asleep = move || Duration::from_secs(clock.load(Relaxed));
        let session = Session::builder(&client).ttl(SECOND * 30).asleep(asleep).open().await;
        let session = session.expect("the store is available");
        let contender = WaitQueue::new(&session, "jobs").try_enqueue("").await;
        (contender.expect("the store is available").expect("the lock is free"), asleep_secs)
    }

    #[tokio::test(start_paused = true)]
    async fn loss_notice_after_suspension_kills_before_the_lease_ends() {
        let (contender, asleep_secs) = holder().await;
        let opened = Instant::now();
        sleep(SECOND).await;
        asleep_secs.store(20, Relaxed);
        let notice = loss_notice(&contender, SECOND * 6).await;
        let (term_at, kill_at) = (opened.elapsed(), notice.kill_at - opened);
        assert!(term_at <= SECOND * 3, "TERM is sent {term_at:?} after the start");
        assert!(kill_at <= SECOND * 7, "KILL is sent {kill_at:?} after the start");
    }

    #[tokio::test(start_paused = true)]
    async fn loss_notice_after_the_deadline_leaves_no_grace() {
        let (contender, asleep_secs) = holder().await;
        sleep(SECOND).await;
        asleep_secs.store(60, Relaxed);
        let notice = loss_notice(&contender, SECOND * 6).await;
        assert!(notice.kill_at <= Instant::now(), "the lease can have ended: {notice:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn loss_notice_without_suspension_leaves_the_grace() {
        let (contender, _) = holder().await;
        let opened = Instant::now();
        let notice = loss_notice(&contender, SECOND * 6).await;
        assert_eq!(opened.elapsed().as_secs(), 21, "the deadline of 27 s less the grace of 6 s");
        assert_eq!((notice.kill_at - opened).as_secs(), 27);
    }
}
