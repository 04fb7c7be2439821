//! The cleanup after the end of a session whose lease may have an adopter.
//!
//! A request that creates a key may arrive after its session has ended: its response was lost, or
//! its future was dropped. If the lease was orphaned, or adopted after the session was lost, the
//! key is attached to a lease that the adopter keeps alive. The key would block its wait queue for
//! as long as the adopter lives, because the adopter cannot distinguish it from a key that the
//! former owner left to it. So the session task of the former owner continues to search for keys
//! whose creation has an unknown outcome, until they are deleted or the lease is gone:
//!
//! ```text
//! TTL 10 s, session opened at 0 s
//!  2 s  the future of an enqueue is dropped: m/<lease>-0 may still be created
//!  3    orphan is called: the cleanup continues until TTL/4 before the deadline, which is at 9 s
//!  6.5  orphaned: keys that exist now belong to the adopter
//!  7    adopted: the adopter's keys are m/<lease>-<adopter tag>-0 and so on
//! 15    the late request creates m/<lease>-0
//! 25    the cleanup finds the key, created after 6.5 s and never changed since: deleted
//! ```
//!
//! Keys that surely exist when the session ends belong to the adopter, and so does a key whose
//! value the adopter has changed. Limits: the cleanup ends with the former owner's process; an
//! adopter that resumes a key that was created late, but before the adoption, loses the key again
//! when the cleanup finds it.

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::SessionState;
use super::handover::current_revision;
use super::task::{Command, SessionTask};
use crate::backoff::Backoff;
use crate::error::{Error, LossReason, Result};
use crate::kv::{LeaseTimeToLive, TTL_MAX};
use crate::retry_request::retry_request;

impl SessionTask {
    /// Ends the session and sends one more keep-alive, after a read of the revision.
    pub(super) async fn orphan(&mut self) -> Result<()> {
        let deadline = self.deadline_now();
        // Cleanup first, but not so long that no time is left for the adopter.
        self.cleanup.finish_until(deadline - self.ttl / 4).await;
        self.enter(SessionState::Lost(LossReason::Orphaned));
        // The read precedes the keep-alive, so that the adopter has the whole TTL. It takes at most
        // half of the time that is left.
        let left = deadline.saturating_duration_since(Instant::now());
        let current = retry_request(|| current_revision(&*self.backend));
        let current = timeout((left / 2).min(self.ttl / 8), current).await;
        let refresh = self.backend.lease_keep_alive(self.lease);
        let after = deadline.saturating_duration_since(Instant::now());
        let refreshed = timeout_at(deadline, refresh).await;
        let refreshed = refreshed.unwrap_or(Err(Error::Timeout { after }));
        // Without the read, the revision of the member that has received the keep-alive. Also after
        // a failed keep-alive: an adopter may be in time.
        let current = current.ok().and_then(Result::ok);
        let of_member = refreshed.as_ref().ok().map(|response| response.header.revision);
        if let Some(revision) = current.max(of_member) {
            self.cleanup.set_orphaned_at(revision);
        }
        let result = refreshed.map(|_| ());
        self.events.orphaned(&result);
        result
    }

    /// Continues the cleanup until the lease is gone, or until no key may be created late and the
    /// last session handle, which could add more keys, is dropped.
    pub(super) async fn clean_up_after_end(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        self.cleanup.leave_created_keys();
        let mut has_handles = true;
        let mut backoff = Backoff::new(self.ttl, TTL_MAX.max(self.ttl));
        let mut next_check = Instant::now() + backoff.next();
        loop {
            let has_keys = self.cleanup.has_unconfirmed_keys();
            if !has_keys && !has_handles {
                return;
            }
            tokio::select! {
                biased;
                command = inbox.recv(), if has_handles => match command {
                    // A key that surely exists belongs to the adopter.
                    Some(Command::CleanUp(key)) if key.created.is_none() => self.cleanup.add(key),
                    // Dropping the reply to `close` or `orphan` reports that the session has ended.
                    Some(_) => {}
                    None => has_handles = false,
                },
                () = self.cleanup.next() => {}
                () = sleep_until(next_check), if has_keys => {
                    if self.is_lease_gone().await {
                        return;
                    }
                    next_check = Instant::now() + backoff.next();
                }
            }
        }
    }

    /// Whether the store confirms that the lease does not exist.
    async fn is_lease_gone(&mut self) -> bool {
        let request = self.backend.lease_time_to_live(LeaseTimeToLive::new(self.lease));
        match timeout(self.ttl / 4, request).await {
            Ok(Ok(response)) => response.lease.is_none(),
            Ok(Err(_)) | Err(_) => false,
        }
    }
}
