//! The end of a session whose lease may live on, with an adopter.
//!
//! A request that creates a key may arrive after its session has ended: the answer was lost, or the
//! future was dropped. If the lease was orphaned, or adopted after the session was lost, the key
//! hangs on a lease that the adopter keeps alive, and would block its wait queue for as long as the
//! adopter lives. The adopter cannot distinguish such a key from one that was left to it. So the
//! session task of the former owner keeps looking for the keys whose creation has an unknown
//! outcome, until they are deleted or the lease is gone:
//!
//! ```text
//!  2 s  enqueue given up: m/<lease>-0 may be created yet
//!  3    orphan: what exists by now is the adopter's
//!  4    adopted; the adopter's keys are m/<lease>-<generation>-0 and so on
//! 15    m/<lease>-0 is created
//! 25    found, created after the orphan and never changed since: deleted
//! ```
//!
//! Keys that surely exist when the session ends belong to the adopter, and so does a key that it
//! has given another value. Limits: when the former owner's process ends, nothing looks any more;
//! and an adopter that resumes such a key before it is found loses it again.

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::SessionState;
use super::keeper::{Command, Keeper};
use crate::error::{Error, Result};
use crate::kv::{LeaseTimeToLive, Revision};
use crate::loss::LossReason;

impl Keeper {
    /// Ends the session and refreshes its lease once more.
    pub(super) async fn orphan(&mut self) -> Result<()> {
        // Cleanup first, but not so long that the adopter has no time left.
        let deadline = self.deadline();
        let cleaned = deadline - self.ttl / 4;
        while let Ok(Some(_)) = timeout_at(cleaned, self.releasing.next()).await {}
        while let Ok(Some(later)) = timeout_at(cleaned, self.cleaning.next()).await {
            self.look_later(later);
        }
        self.enter(SessionState::Lost(LossReason::Orphaned));
        let refresh = self.backend.lease_keep_alive(self.lease);
        let after = deadline.saturating_duration_since(Instant::now());
        let refreshed = timeout_at(deadline, refresh).await;
        let result = refreshed.unwrap_or(Err(Error::Timeout { after }));
        // What exists by now is the adopter's.
        let exists = result.as_ref().map_or(Revision::ZERO, |answer| answer.header.revision);
        let _ = self.ended.set(exists);
        let result = result.map(|_| ());
        self.events.orphaned(&result);
        result
    }

    /// Goes on with the cleanup as long as there is anything to clean up, or a handle that may
    /// bring more, and the lease lives.
    pub(super) async fn clean_up_after_end(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        // What was released, and is still there, is the adopter's to keep or to delete.
        self.releasing.clear();
        let mut has_handles = true;
        let mut pause = self.ttl;
        let mut next_check = Instant::now() + pause;
        loop {
            let is_clean = self.cleaning.is_empty() && self.waiting_for_late.is_empty();
            if is_clean && !has_handles {
                return;
            }
            tokio::select! {
                biased;
                command = inbox.recv(), if has_handles => match command {
                    // A key that surely exists is the adopter's.
                    Some(Command::CleanUp(debris)) if debris.created.is_none() => {
                        self.clean_up(debris);
                    }
                    // The reply to `close` or `orphan` is dropped: the session has ended.
                    Some(_) => {}
                    None => has_handles = false,
                },
                Some(later) = self.cleaning.next() => self.look_later(later),
                Some(()) = self.waiting_for_late.next() => {}
                () = sleep_until(next_check), if !is_clean => {
                    let ask = self.backend.lease_time_to_live(LeaseTimeToLive::new(self.lease));
                    let answer = timeout(self.ttl / 4, ask).await;
                    if answer.is_ok_and(|answer| answer.is_ok_and(|found| found.lease.is_none())) {
                        return;
                    }
                    pause = pause.saturating_mul(2);
                    next_check = Instant::now() + pause;
                }
            }
        }
    }
}
