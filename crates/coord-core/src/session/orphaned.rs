//! The end of a session whose lease is left to an adopter.
//!
//! A request that creates a key may arrive after its session was orphaned: the answer was lost, or
//! the future was dropped. Its key hangs on the lease, which the adopter keeps alive, and would
//! block its wait queue for as long as the adopter lives. The adopter cannot tell such a key from
//! one that was left to it. So the session task of the former owner goes on looking for the keys
//! whose creation has an unknown outcome, until they are deleted or the lease is gone. No other
//! owner of the lease uses their names: see `numbers.rs`.
//!
//! Keys that surely exist when the session is orphaned belong to the adopter from then on.
//!
//! Limit: when the former owner's process ends, nothing looks any more.

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::SessionState;
use super::keeper::{Command, Keeper};
use crate::error::{Error, Result};
use crate::kv::LeaseTimeToLive;
use crate::loss::LossReason;

impl Keeper {
    /// Ends the session and refreshes its lease once more.
    pub(super) async fn orphan(&mut self) -> Result<()> {
        // Cleanup first, but not so long that the adopter has no time left.
        let deadline = self.deadline();
        let cleaned = deadline - self.ttl / 4;
        while let Ok(Some(later)) = timeout_at(cleaned, self.cleaning.next()).await {
            self.look_later(later);
        }
        self.enter(SessionState::Lost(LossReason::Orphaned));
        let refresh = self.backend.lease_keep_alive(self.lease);
        let after = deadline.saturating_duration_since(Instant::now());
        let refreshed = timeout_at(deadline, refresh).await;
        let result = refreshed.unwrap_or(Err(Error::Timeout { after })).map(|_| ());
        self.events.orphaned(&result);
        result
    }

    /// Goes on with the cleanup as long as there is anything to clean up, or a handle that may
    /// bring more, and the lease lives.
    pub(super) async fn clean_up_orphaned(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        let mut has_handles = true;
        let mut next_check = Instant::now() + self.ttl;
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
                        self.cleaning.push(self.clean(debris));
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
                    next_check = Instant::now() + self.ttl;
                }
            }
        }
    }
}
