//! The notice that what is held is lost, or will be before the command could stop.

use std::time::Duration;

use coord_core::contender::Contender;
use coord_core::{LossReason, PrimitiveError};
use tokio::time::{Instant, sleep};

/// How often to read the session's deadline at least: time that the machine was suspended for moves
/// it to an earlier moment.
const DEADLINE_POLL_MAX: Duration = Duration::from_secs(1);

/// That a command has to end.
#[derive(Debug)]
pub(super) struct Notice {
    pub(super) why: String,
    /// When nothing may be left of it.
    pub(super) kill_at: Instant,
}

/// Waits until what is held is lost, or would be before a command could stop.
pub(super) async fn notice(contender: &Contender, grace: Duration) -> Notice {
    let session = contender.session();
    // As often as the session task notices a suspension.
    let poll = (session.ttl() / 10).min(DEADLINE_POLL_MAX);
    let about_to_be_lost = async {
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
            // The lease can end at any moment after its deadline.
            let has_passed =
                matches!(reason, LossReason::DeadlineUnconfirmed | LossReason::Expired);
            let grace = if has_passed { Duration::ZERO } else { grace };
            let why = PrimitiveError::Lost(reason).to_string();
            Notice { why, kill_at: Instant::now() + grace }
        }
        kill_at = about_to_be_lost => Notice {
            why: "no keep-alive was confirmed, and the lease is about to end".to_owned(),
            kill_at,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use coord_core::contender::WaitingLine;
    use coord_core::{KvBackend, Session};
    use coord_mem::MemBackend;
    use coord_testkit::{Call, Fate, Intercept};
    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A holder on a lease of 30 s, with keep-alives that hang, and the time it is suspended for.
    async fn holder() -> (Contender, Arc<AtomicU64>) {
        let kv = Intercept::new(MemBackend::new(), |call: &Call| match call {
            Call::LeaseKeepAlive(_) => Fate::Hang,
            _ => Fate::Pass,
        });
        let kv: Arc<dyn KvBackend> = Arc::new(kv);
        let asleep_secs = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(&asleep_secs);
        let asleep = move || Duration::from_secs(clock.load(Relaxed));
        let session = Session::builder(kv).ttl(SECOND * 30).asleep(asleep).open().await;
        let session = session.expect("the store is there");
        let contender = WaitingLine::new(&session, "jobs").try_join("").await;
        (contender.expect("the store is there").expect("the lock is free"), asleep_secs)
    }

    #[tokio::test(start_paused = true)]
    async fn loss_notice_after_suspension_kills_before_the_lease_ends() {
        let (contender, asleep_secs) = holder().await;
        let opened = Instant::now();
        sleep(SECOND).await;
        asleep_secs.store(20, Relaxed);
        let notice = notice(&contender, SECOND * 6).await;
        let (noticed, kill_at) = (opened.elapsed(), notice.kill_at - opened);
        assert!(noticed <= SECOND * 3, "TERM is sent {noticed:?} after the start");
        assert!(kill_at <= SECOND * 7, "KILL is sent {kill_at:?} after the start");
    }

    #[tokio::test(start_paused = true)]
    async fn loss_notice_after_the_deadline_leaves_no_grace() {
        let (contender, asleep_secs) = holder().await;
        sleep(SECOND).await;
        asleep_secs.store(60, Relaxed);
        let notice = notice(&contender, SECOND * 6).await;
        assert!(notice.kill_at <= Instant::now(), "the lease can have ended: {notice:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn loss_notice_without_suspension_leaves_the_grace() {
        let (contender, _) = holder().await;
        let opened = Instant::now();
        let notice = notice(&contender, SECOND * 6).await;
        assert_eq!(opened.elapsed().as_secs(), 21, "27 s of the deadline, less the grace");
        assert_eq!((notice.kill_at - opened).as_secs(), 27);
    }
}
