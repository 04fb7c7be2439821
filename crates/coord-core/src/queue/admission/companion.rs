//! Companion keys: a second key of one holder, in another queue, that is deleted together with the
//! holder's key.
//!
//! The holder of a write lock has a key among the writers and one among the readers. It becomes a
//! reader by deleting the first, and a reader becomes a writer by creating it:
//!
//! ```text
//! contender     own key     companion     takes as companion       releases to its companion
//! writer        W           R                                      reader with the key R
//! reader        R           none
//! upgrading     W           none          the reader with R:
//!                                         writer with W and R      reader with the key R
//! ```

use std::sync::Arc;

use super::{Admission, AdmissionRule, Ahead};
use crate::error::{LossReason, Outcome, PrimitiveError};
use crate::kv::{Delete, Op, Txn};
use crate::queue::{Contender, WaitQueue};

impl Contender {
    /// Makes the key of `other` the companion of this contender.
    pub(crate) fn take_as_companion(&mut self, mut other: Self) {
        self.companion = Some(other.guard.take());
    }

    /// Releases the own key and keeps the companion, in one transaction. Returns the contender of
    /// the companion, which is in `queue` and is admitted by `rule`.
    ///
    /// # Errors
    /// - `Lost` if either key is lost.
    /// - The error of the backend: call it again, or drop the contender.
    ///
    /// # Panics
    /// If the contender has no companion.
    pub(crate) async fn release_to_companion(
        &mut self,
        queue: &WaitQueue,
        rule: Arc<dyn AdmissionRule>,
    ) -> Result<Self, PrimitiveError> {
        let Some(companion) = &self.companion else { unreachable!("a writer has a companion") };
        let companion = companion.ownership().clone();
        let delete = Txn::new().when([self.held_condition()]).and_then([Delete::new(self.key())]);
        self.ownership().set_released(true);
        let sent = companion.while_in_queue([Op::Txn(delete)]);
        let response = match self.session().while_held(sent).await {
            Ok(response) => response,
            Err(error) => {
                let is_unknown = error.loss().is_none() && error.outcome() == Outcome::Unknown;
                self.may_be_released |= is_unknown;
                self.ownership().set_released(self.may_be_released);
                return Err(error);
            }
        };
        let deleted = response.responses.first().and_then(|response| response.as_txn());
        if deleted.is_none_or(|deleted| !deleted.succeeded) && !self.may_be_released {
            self.ownership().set_released(false);
            let reason = self.ownership().why_evicted().await;
            self.phase.lost(reason);
            return Err(reason.into());
        }
        // After a pause of the process the session may be lost, and a writer may hold the lock.
        self.session().check_deadline().await?;
        self.guard.set_armed(false);
        self.phase.released();
        let Some(guard) = self.companion.take() else { return Err(LossReason::KeyDeleted.into()) };
        let ahead =
            Ahead::read(rule.scope(), companion.create_revision(), response.header.revision, []);
        let admission = Admission::new(rule, ahead);
        Ok(Self::with_admission(queue.clone(), (guard, None), response.header, admission))
    }
}
