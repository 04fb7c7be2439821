//! The double barrier: a fixed number of parties enter a round together, and leave it together.
//!
//! Each participant has a key on the lease of its session. The last one that arrives *completes*
//! the round: it writes the participants into the state, one persistent key. All participants have
//! entered when the state shows the round. No participant enters on a count of keys alone, because
//! another one may have seen less: a participant that arrives last and is lost at once.
//!
//! ```text
//! three parties     state, the key b/state      keys below b/…7/
//! A, B enter 7      6 finished 3 A6,B6,C6 -     A7 B7
//! C enters 7        6 finished 3 A6,B6,C6 -     A7 B7 C7
//! C completes it    7 entered 3 A7,B7,C7 -      A7 B7 C7               all enter
//! A, B leave        7 entered 3 A7,B7,C7 -      A7=left B7=left C7
//! C leaves          7 entered 3 A7,B7,C7 -      A7=left B7=left C7=left
//! C finishes it     7 finished 3 A7,B7,C7 -                            all have left
//! ```
//!
//! A7 stands for the key of A's seventh attempt, `a1-0-7`: lease, key suffix and number of the
//! attempt. A party that has dropped an attempt and enters again may have two keys for a moment; it
//! counts once.
//!
//! Any participant that sees all parties completes or finishes the round. So if C is lost between
//! two of these lines, A and B continue without its next step, or report that C was lost. Writes of
//! the state are compare-and-swap on its mod revision.

mod error;
mod guard;
mod state;
mod view;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::error::PrimitiveError;
use crate::kv::{Compare, Delete, IntoBytes, Op, Txn};
use crate::queue::KeyGuard;
use crate::retry_request::retry_request;
use crate::session::Session;
pub use error::DoubleBarrierError;
pub use guard::DoubleBarrierGuard;
use state::State;
use view::{Follower, RoundKeys, View};

/// What becomes of a round if one of its participants is lost: its session ends before all have
/// entered, or its key is deleted before all have left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnParticipantLoss {
    /// The others fail, with an error that names the participant's key.
    #[default]
    Fail,
    /// The others continue without it, in this round and in all later ones: the barrier has one
    /// party less from then on.
    Shrink,
}

/// A barrier that a fixed number of parties enter together and leave together, in numbered rounds.
///
/// [`enter`](Self::enter) returns when all parties have entered the round, and
/// [`leave`](DoubleBarrierGuard::leave) when all have left it. A participant that comes late for a
/// round that is over receives the error [`PastRound`](DoubleBarrierError::PastRound).
///
/// ```
/// use coord_core::recipes::DoubleBarrier;
/// use coord_core::{Client, Session};
/// use coord_mem::MemBackend;
///
/// async fn work(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
///     let session = Session::builder(client).open().await?;
///     let barrier = DoubleBarrier::new(&session, "simulation", 2)?;
///     for round in 1..=3 {
///         let inside = barrier.enter(round).await?; // both are here
///         inside.leave().await?; // both are done
///     }
///     Ok(())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(MemBackend::new());
/// tokio::try_join!(work(&client), work(&client))?;
/// # Ok(())
/// # }
/// ```
///
/// Source: etcd 3.5 `client/v3/experimental/recipes/double_barrier.go`, with its faults fixed.
#[derive(Clone, Debug)]
pub struct DoubleBarrier {
    session: Session,
    name: Bytes,
    parties: usize,
    on_loss: OnParticipantLoss,
    /// This party in the names of its keys: its lease, and a key suffix.
    party: Bytes,
    /// The number of the last attempt to enter, for all clones.
    attempts: Arc<AtomicU64>,
}

/// What a participant does next to enter.
enum Entry {
    Entered(Vec<String>),
    /// All parties are present: write this state.
    Complete(State),
    Wait,
}

impl DoubleBarrier {
    /// The double barrier `name` of `parties` parties, for one of them, on `session`. All parties
    /// give the same number. A clone is the same party; create a handle for each. The barrier owns
    /// all keys below `name/`.
    ///
    /// # Errors
    /// `NoParties` if `parties` is zero.
    pub fn new(
        session: &Session,
        name: impl IntoBytes,
        parties: usize,
    ) -> Result<Self, DoubleBarrierError> {
        if parties == 0 {
            return Err(DoubleBarrierError::NoParties);
        }
        // Keys with this suffix may be created late, at any time.
        let mut suffix = session.key_suffix();
        suffix.retire();
        Ok(Self {
            session: session.clone(),
            name: name.into_bytes(),
            parties,
            on_loss: OnParticipantLoss::default(),
            party: format!("{}-{suffix}", session.lease_id()).into(),
            attempts: Arc::default(),
        })
    }

    /// Sets what becomes of a round if a participant is lost. All parties set the same.
    #[must_use]
    pub const fn on_loss(mut self, on_loss: OnParticipantLoss) -> Self {
        self.on_loss = on_loss;
        self
    }

    /// Returns the name.
    #[must_use]
    pub const fn name(&self) -> &Bytes {
        &self.name
    }

    /// Enters a round: waits until all parties have entered it. Rounds are numbered from 1. A round
    /// that is entered ends all earlier rounds.
    ///
    /// To bound the wait, wrap it in `tokio::time::timeout`: a participant whose future is dropped
    /// withdraws, and the others keep waiting. While the store is unavailable, a participant keeps
    /// waiting until its session is lost.
    ///
    /// # Errors
    /// - `RoundZero`: nothing was sent.
    /// - `PastRound` if the round is over.
    /// - `TooManyParties` if all parties are present already.
    /// - `PartiesDisagree` if another number of parties was given before.
    /// - `ParticipantLost` if the session of another participant ends while this one waits, unless
    ///   the barrier [shrinks](OnParticipantLoss::Shrink). It is reported when the store has
    ///   deleted the participant's key; within a second after that if the server that this one
    ///   reaches is behind, and when that server has caught up if it is further behind. A
    ///   participant that withdraws, and ends its session within a second, may count as lost. Enter
    ///   the same round again.
    /// - `Primitive` if this session is lost, or with the error of the backend.
    ///
    /// In each case no key of this participant stays while its session lives.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws from the round, and leaves no key behind. If all parties were
    /// present at that moment, the others may enter, and this participant is lost for them.
    pub async fn enter(&self, round: u64) -> Result<DoubleBarrierGuard, DoubleBarrierError> {
        if round == 0 {
            return Err(DoubleBarrierError::RoundZero);
        }
        let keys = RoundKeys::new(&self.name, round);
        let (guard, view) = self.join(&keys).await?;
        let mut follower = Follower::new(&self.session, keys.clone());
        let entered = tokio::select! {
            biased;
            reason = self.session.lost() => Err(PrimitiveError::Lost(reason).into()),
            entered = self.wait_entered(&guard, (round, &keys), &mut follower, view) => entered,
        };
        match entered {
            Ok(participants) => {
                self.session.check_deadline().await?;
                let barrier = self.clone();
                Ok(DoubleBarrierGuard { barrier, round, participants, keys, guard })
            }
            Err(error) => {
                withdraw(guard).await;
                Err(error)
            }
        }
    }

    /// Resumes the participants of a round that a former process has left on the lease that this
    /// session has [adopted](crate::session::SessionBuilder::lease), in the order in which they
    /// came. Otherwise the others would wait for them as long as the adopter lives.
    ///
    /// Keys of participants that waited to enter are deleted, in the background: they have
    /// withdrawn. Call it once in each process, before it enters: a second call returns guards of
    /// the same keys. It costs 1 request.
    ///
    /// ```
    /// use coord_core::recipes::DoubleBarrier;
    /// use coord_core::{Client, Session};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::new(MemBackend::new());
    /// let old = Session::builder(&client).open().await?;
    /// let _inside = DoubleBarrier::new(&old, "simulation", 1)?.enter(7).await?;
    /// let lease = old.orphan().await?;
    ///
    /// let new = Session::builder(&client).lease(lease).open().await?;
    /// for inside in DoubleBarrier::new(&new, "simulation", 1)?.resume(7).await? {
    ///     inside.leave().await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// - `PartiesDisagree` if another number of parties was given before: nothing was changed.
    /// - `Primitive` if this session is lost, or with the error of the backend, if it is not
    ///   retryable.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn resume(&self, round: u64) -> Result<Vec<DoubleBarrierGuard>, DoubleBarrierError> {
        let keys = RoundKeys::new(&self.name, round);
        let read = Txn::new().and_then(keys.reads());
        let backend = self.session.backend();
        let sent = async { Ok(retry_request(|| backend.txn(read.clone())).await?) };
        let view = View::of(&self.session.while_held(sent).await?)?;
        self.session.check_deadline().await?;
        let (given, stored) = (self.parties, view.state.parties);
        if stored != 0 && stored != given {
            return Err(DoubleBarrierError::PartiesDisagree { given, stored });
        }
        let is_open = view.state.round == round && !view.state.is_finished;
        let participants = &view.state.participants;
        let resumed = view.present.iter().filter(|kv| self.session.has_adopted(kv)).map(|kv| {
            let mut guard = KeyGuard::existing(&self.session, kv.key.clone(), kv.create_revision);
            guard.set_armed(true);
            let is_participant = participants.contains(&keys.participant(&kv.key));
            let (barrier, participants, keys) = (self.clone(), participants.clone(), keys.clone());
            let resumed = DoubleBarrierGuard { barrier, round, participants, keys, guard };
            // Otherwise it is dropped, which deletes the key.
            (is_open && is_participant).then_some(resumed)
        });
        Ok(resumed.flatten().collect())
    }

    /// Creates the key of a participant, and reads the round.
    async fn join(&self, keys: &RoundKeys) -> Result<(KeyGuard, View), PrimitiveError> {
        loop {
            let attempt = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
            let key = keys.key(&format!("{}-{attempt}", self.party.escape_ascii()));
            let mut guard = KeyGuard::new(&self.session, key.clone(), None);
            let put = Op::Put(guard.put(&Bytes::new()));
            let ops = [put].into_iter().chain(keys.reads());
            let join = Txn::new().when([Compare::absent(key)]).and_then(ops);
            let joined = guard.create(join).await?;
            if joined.succeeded {
                return Ok((guard, View::of(&joined)?));
            }
            // Another owner of the lease has created this key.
        }
    }

    async fn wait_entered(
        &self,
        guard: &KeyGuard,
        (round, keys): (u64, &RoundKeys),
        follower: &mut Follower,
        mut view: View,
    ) -> Result<Vec<String>, DoubleBarrierError> {
        loop {
            let missing = follower.missing(&view);
            match self.entry(guard, (round, keys), &view).await? {
                Entry::Entered(participants) => return Ok(participants),
                Entry::Complete(complete) => {
                    view = follower.write(&view, &complete, None).await?;
                    continue;
                }
                Entry::Wait => {}
            }
            if let Some(lost) = follower.first_lost(&missing, &view, self.on_loss).await? {
                if self.on_loss == OnParticipantLoss::Fail {
                    let key = keys.key(&lost);
                    return Err(DoubleBarrierError::ParticipantLost { round, key });
                }
                let mut smaller = State { parties: self.parties, ..view.state.clone() };
                smaller.add_lost([lost]);
                view = follower.write(&view, &smaller, None).await?;
                continue;
            }
            follower.changed(&mut view, |state| state.round < round).await?;
        }
    }

    /// Decides what a participant does next, by a view of the round.
    async fn entry(
        &self,
        guard: &KeyGuard,
        (round, keys): (u64, &RoundKeys),
        view: &View,
    ) -> Result<Entry, DoubleBarrierError> {
        let state = &view.state;
        let own = guard.ownership();
        let (given, stored) = (self.parties, state.parties);
        if stored != 0 && stored != given {
            return Err(DoubleBarrierError::PartiesDisagree { given, stored });
        }
        if state.is_over(round) {
            return Err(DoubleBarrierError::PastRound { round, last: state.round });
        }
        let too_many = DoubleBarrierError::TooManyParties { round, parties: self.needed(state) };
        if state.round == round {
            let is_participant = state.participants.contains(&keys.participant(own.key()));
            let entered = || Entry::Entered(state.participants.clone());
            return if is_participant { Ok(entered()) } else { Err(too_many) };
        }
        if !view.present.iter().any(|kv| own.is(kv)) {
            return Err(PrimitiveError::Lost(own.why_evicted().await).into());
        }
        let present = view.parties(keys);
        let position = present.iter().position(|kv| own.is(kv));
        match position {
            // `None` if a clone of this handle has entered later.
            None => Err(too_many),
            Some(position) if position >= self.needed(state) => Err(too_many),
            Some(_) if present.len() < self.needed(state) => Ok(Entry::Wait),
            Some(_) => {
                let first = present.iter().take(self.needed(state));
                let participants = first.map(|kv| keys.participant(&kv.key)).collect();
                let lost = match self.on_loss {
                    OnParticipantLoss::Fail => Vec::new(),
                    OnParticipantLoss::Shrink => state.lost.clone(),
                };
                let (is_finished, parties) = (false, self.parties);
                Ok(Entry::Complete(State { round, is_finished, parties, participants, lost }))
            }
        }
    }

    /// How many parties must enter, by the state.
    fn needed(&self, state: &State) -> usize {
        match self.on_loss {
            OnParticipantLoss::Fail => self.parties,
            // This participant is not lost.
            OnParticipantLoss::Shrink => self.parties.saturating_sub(state.lost.len()).max(1),
        }
    }
}

/// Deletes the key of a participant that fails. If the request fails, dropping the guard deletes
/// the key, in the background.
async fn withdraw(mut guard: KeyGuard) {
    let ownership = guard.ownership().clone();
    ownership.set_released(true);
    let delete = ownership.while_in_queue([Op::Delete(Delete::new(ownership.key()))]);
    let deleted = ownership.session().while_held(delete).await;
    guard.set_armed(deleted.is_err());
}
