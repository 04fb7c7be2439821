//! The guard of a participant that has entered a round.

use std::fmt;

use bytes::Bytes;

use super::state::State;
use super::view::{Follower, RoundKeys, View};
use super::{DoubleBarrier, DoubleBarrierError, OnParticipantLoss, withdraw};
use crate::error::PrimitiveError;
use crate::kv::{Delete, Op, Put, Txn};
use crate::queue::{KeyGuard, held_methods, key_guard_methods};
use crate::retry_request::retry_request;

/// The value of the key of a participant that leaves, and waits for the others.
const LEFT: &[u8] = b"left";

/// The guard of a participant that has entered a round of a [`DoubleBarrier`].
///
/// Call [`leave`](Self::leave) at the end of the round. A guard that is dropped instead is lost for
/// the other participants. [`lost`](Self::lost) reports the loss of this participant; `leave` also
/// reports that of another one.
#[must_use = "dropping the guard is a loss for the other participants: call `leave`"]
pub struct DoubleBarrierGuard {
    pub(super) barrier: DoubleBarrier,
    pub(super) round: u64,
    pub(super) participants: Vec<String>,
    pub(super) keys: RoundKeys,
    pub(super) guard: KeyGuard,
}

impl DoubleBarrierGuard {
    held_methods!("the place in the round");
    key_guard_methods!("the place in the round");

    /// Returns the round.
    #[must_use]
    pub const fn round(&self) -> u64 {
        self.round
    }

    /// Returns the participant's key.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        self.guard.ownership().key()
    }

    /// Returns the keys of all participants of the round, in the order in which they came.
    pub fn participants(&self) -> impl Iterator<Item = Bytes> {
        self.participants.iter().map(|participant| self.keys.key(participant))
    }

    /// Leaves the round: waits until all participants have left it.
    ///
    /// # Errors
    /// - `ParticipantLost` if another participant was lost before all had left, for each
    ///   participant that leaves, unless the barrier [shrinks](OnParticipantLoss::Shrink). The
    ///   round is over: enter the next one.
    /// - `PastRound` if a later round was entered meanwhile.
    /// - `Primitive` if this participant is lost, or with the error of the backend.
    ///
    /// # Cancel safety
    /// Dropping the future is like dropping the guard: the participant is lost for the others,
    /// unless all of them have left.
    pub async fn leave(mut self) -> Result<(), DoubleBarrierError> {
        let session = self.session().clone();
        let left = tokio::select! {
            biased;
            reason = session.lost() => Err(PrimitiveError::Lost(reason).into()),
            left = self.wait_left() => left,
        };
        match left {
            Ok(()) => {
                // The transaction that finished the round has deleted the key.
                self.guard.set_armed(false);
                Ok(())
            }
            Err(error) => {
                withdraw(self.guard).await;
                Err(error)
            }
        }
    }

    async fn wait_left(&self) -> Result<(), DoubleBarrierError> {
        let mut follower = Follower::new(self.session(), self.keys.clone());
        let mut view = self.put_left().await?;
        loop {
            let state = &view.state;
            if state.round > self.round {
                return Err(DoubleBarrierError::PastRound { round: self.round, last: state.round });
            }
            if state.is_over(self.round) {
                let own = self.keys.participant(self.guard.ownership().key());
                if state.lost.contains(&own) {
                    let reason = self.guard.ownership().why_evicted().await;
                    return Err(PrimitiveError::Lost(reason).into());
                }
                return match (self.barrier.on_loss, state.lost.first()) {
                    (OnParticipantLoss::Fail, Some(lost)) => Err(self.participant_lost(lost)),
                    _ => Ok(()),
                };
            }
            if !view.present.iter().any(|kv| self.guard.ownership().is(kv)) {
                return Err(PrimitiveError::Lost(self.guard.ownership().why_evicted().await).into());
            }
            if let Some((finished, delete)) = self.finished(&view) {
                view = follower.write(&view, &finished, delete).await?;
                continue;
            }
            let round = self.round;
            let is_undecided = move |state: &State| state.round == round && !state.is_finished;
            follower.changed(&mut view, is_undecided).await?;
        }
    }

    /// Notes in the participant's key that it leaves, if the key exists, and reads the round.
    async fn put_left(&self) -> Result<View, DoubleBarrierError> {
        let ownership = self.guard.ownership();
        let put = Put::new(ownership.key(), LEFT).lease(self.session().lease_id());
        let leave = Txn::new()
            .when([ownership.held_condition()])
            .and_then([Op::Put(put)].into_iter().chain(self.keys.reads()))
            .or_else(self.keys.reads());
        let backend = self.session().backend();
        // Safe to repeat: a second put changes nothing but the version and the mod revision.
        Ok(View::of(&retry_request(|| backend.txn(leave.clone())).await?)?)
    }

    /// The state of the finished round, if it is finished. If the barrier does not shrink, the loss
    /// of a participant finishes the round. Otherwise the round is finished when all participants
    /// that are not lost have left, and the deletion of its keys is returned too.
    fn finished(&self, view: &View) -> Option<(State, Option<Op>)> {
        let of = |participant: &String| {
            let key = self.keys.key(participant);
            view.present.iter().find(|kv| kv.key == key)
        };
        let is_missing = |participant: &&String| of(participant).is_none();
        let mut finished = State { is_finished: true, ..view.state.clone() };
        let lost = view.state.participants.iter().filter(is_missing).cloned();
        match self.barrier.on_loss {
            OnParticipantLoss::Fail => finished.lost = lost.take(1).collect(),
            OnParticipantLoss::Shrink => finished.add_lost(lost.collect::<Vec<_>>()),
        }
        if self.barrier.on_loss == OnParticipantLoss::Fail && !finished.lost.is_empty() {
            // The others may still work: each of them deletes its own key when it leaves.
            return Some((finished, None));
        }
        let have_left = view.state.participants.iter().filter_map(of).all(|kv| kv.value == LEFT);
        let delete = Op::Delete(Delete::prefix(&self.keys.prefix));
        have_left.then_some((finished, Some(delete)))
    }

    fn participant_lost(&self, participant: &str) -> DoubleBarrierError {
        DoubleBarrierError::ParticipantLost { round: self.round, key: self.keys.key(participant) }
    }
}

impl fmt::Debug for DoubleBarrierGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DoubleBarrierGuard(round {}, {:?})", self.round, self.guard.ownership())
    }
}
