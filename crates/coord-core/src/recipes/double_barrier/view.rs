//! What a participant sees of its round: the state and the participants as of one revision, and the
//! two watches that show when that has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, sleep_until};

use super::OnParticipantLoss;
use super::state::{State, party_and_attempt};
use crate::error::{Error, Result};
use crate::key_watch::{next_batch, watch_deletions};
use crate::kv::{
    Compare, CompareOp, EventKind, KeyRange, KeyValue, LeaseId, LeaseTimeToLive, Op, OpResponse,
    Put, Range, Revision, SortOrder, SortTarget, Txn, TxnResponse, Watch, WatchBatch, WatchFilter,
    Watcher,
};
use crate::retry_request::{RETRY_PAUSE_MIN, retry_request};
use crate::session::Session;

/// How long after a check that has found the lease of a missing participant it is checked again. A
/// server of etcd may apply the end of a lease a moment later than another one.
const RECHECK_AFTER: Duration = Duration::from_secs(1);

/// The keys of one round.
#[derive(Clone, Debug)]
pub(super) struct RoundKeys {
    /// The persistent key.
    pub(super) state: Bytes,
    /// The prefix of the participants' keys.
    pub(super) prefix: Bytes,
}

impl RoundKeys {
    pub(super) fn new(name: &Bytes, round: u64) -> Self {
        let state = [&name[..], b"/state"].concat().into();
        // Of one length, so that no round is a prefix of another.
        let prefix = [&name[..], format!("/{round:020}/").as_bytes()].concat().into();
        Self { state, prefix }
    }

    /// The key of a participant.
    pub(super) fn key(&self, participant: &str) -> Bytes {
        [&self.prefix[..], participant.as_bytes()].concat().into()
    }

    /// The participant of a key.
    pub(super) fn participant(&self, key: &[u8]) -> String {
        let participant = key.strip_prefix(&self.prefix[..]).unwrap_or(key);
        String::from_utf8_lossy(participant).into_owned()
    }

    /// The reads of a [`View`], the last two operations of a transaction.
    pub(super) fn reads(&self) -> [Op; 2] {
        let participants = Range::new(KeyRange::prefix(&self.prefix))
            .sorted(SortTarget::CreateRevision, SortOrder::Ascending);
        [Op::Range(Range::new(&self.state)), Op::Range(participants)]
    }
}

/// The state and the participants as of one revision.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) revision: Revision,
    pub(super) state: State,
    /// The mod revision of the state key; zero if it does not exist.
    pub(super) state_revision: Revision,
    /// The participants whose keys exist, in the order of their create revisions.
    pub(super) present: Vec<KeyValue>,
}

impl View {
    /// The view in the response to a transaction that ends with [`RoundKeys::reads`].
    pub(super) fn of(response: &TxnResponse) -> Result<Self> {
        let mut reads = response.responses.iter().rev().filter_map(OpResponse::as_range);
        let (Some(present), Some(state)) = (reads.next(), reads.next()) else {
            unreachable!("the transaction ends with two reads: {response:?}");
        };
        let mut view = Self {
            revision: response.header.revision,
            state: State::default(),
            state_revision: Revision::ZERO,
            present: present.kvs.clone(),
        };
        if let Some(kv) = state.kvs.first() {
            view.set_state(kv)?;
        }
        Ok(view)
    }

    /// The parties that are present, in the order in which they came, each with the key of its last
    /// attempt to enter. An earlier attempt was dropped, and its key is about to be deleted, or was
    /// created late.
    pub(super) fn parties(&self, keys: &RoundKeys) -> Vec<&KeyValue> {
        let mut parties: Vec<(String, u64, &KeyValue)> = Vec::new();
        for kv in &self.present {
            let participant = keys.participant(&kv.key);
            let (party, attempt) = party_and_attempt(&participant);
            let party = party.to_owned();
            match parties.iter_mut().find(|(known, ..)| *known == party) {
                Some(last) if last.1 < attempt => *last = (party, attempt, kv),
                Some(_) => {}
                None => parties.push((party, attempt, kv)),
            }
        }
        parties.into_iter().map(|(_, _, kv)| kv).collect()
    }

    fn set_state(&mut self, kv: &KeyValue) -> Result<()> {
        let text = String::from_utf8_lossy(&kv.value);
        let invalid =
            |source| Error::InvalidValue { key: kv.key.clone(), source: Arc::new(source) };
        self.state = text.parse().map_err(invalid)?;
        self.state_revision = kv.mod_revision;
        Ok(())
    }
}

/// Follows a round: reads it again when it has changed.
#[derive(Debug)]
pub(super) struct Follower {
    session: Session,
    keys: RoundKeys,
    watches: Option<Watches>,
    /// The participants that were seen and are not forgotten, with their leases if these are known.
    seen: BTreeMap<String, Option<LeaseId>>,
    /// The missing participants whose leases existed when they were checked.
    rechecks: BTreeMap<String, Recheck>,
}

/// The next check of the lease of a missing participant.
#[derive(Clone, Copy, Debug)]
struct Recheck {
    at: Instant,
    /// Whether the server of a check had applied the deletion of the participant's key. Otherwise
    /// it may also be behind the end of the lease.
    was_current: bool,
}

/// One watch of the state, and one of the deletions of participants' keys. A watch of all changes
/// of these keys would receive an event for each participant that enters or leaves.
#[derive(Debug)]
struct Watches {
    state: Watcher,
    deletions: Watcher,
}

impl Follower {
    pub(super) fn new(session: &Session, keys: RoundKeys) -> Self {
        let (session, watches) = (session.clone(), None);
        Self { session, keys, watches, seen: BTreeMap::new(), rechecks: BTreeMap::new() }
    }

    /// Notes the participants that are present, and returns the participants that were seen before
    /// and are not present now.
    pub(super) fn missing(&mut self, view: &View) -> Vec<String> {
        let present: BTreeMap<_, _> =
            view.present.iter().map(|kv| (self.keys.participant(&kv.key), kv.lease)).collect();
        let missing = self.seen.keys().filter(|seen| !present.contains_key(*seen)).cloned();
        let missing = missing.collect();
        self.rechecks.retain(|missing, _| !present.contains_key(missing));
        self.seen.extend(present);
        missing
    }

    /// The first of the participants that are missing in `view` that is lost: its lease does not
    /// exist any more. Participants whose sessions live have withdrawn. They are forgotten, and so
    /// are participants whose loss is known already: for a barrier that shrinks, all of a lost
    /// party.
    ///
    /// A lease that exists is checked again after [`RECHECK_AFTER`], until two checks have found it
    /// that were not behind the view.
    pub(super) async fn first_lost(
        &mut self,
        missing: &[String],
        view: &View,
        on_loss: OnParticipantLoss,
    ) -> Result<Option<String>> {
        let is_known = |participant: &String| match on_loss {
            // A party that was lost in the last round may have entered this one.
            OnParticipantLoss::Fail => view.state.lost.contains(participant),
            OnParticipantLoss::Shrink => view.state.has_lost_party_of(participant),
        };
        for participant in missing {
            let recheck = self.rechecks.get(participant).copied();
            if recheck.is_some_and(|recheck| Instant::now() < recheck.at) {
                continue;
            }
            let lease = self.seen.get(participant).copied().flatten();
            if let Some(lease) = lease.or_else(|| lease_of(participant))
                && !is_known(participant)
            {
                let request = LeaseTimeToLive::new(lease);
                let backend = self.session.backend();
                let response = retry_request(|| backend.lease_time_to_live(request)).await?;
                if response.lease.is_none() {
                    return Ok(Some(participant.clone()));
                }
                let is_current = response.header.revision >= view.revision;
                let was_current = recheck.is_some_and(|recheck| recheck.was_current);
                if !(is_current && was_current) {
                    let at = Instant::now() + RECHECK_AFTER;
                    let recheck = Recheck { at, was_current: is_current || was_current };
                    self.rechecks.insert(participant.clone(), recheck);
                    continue;
                }
            }
            self.seen.remove(participant);
            self.rechecks.remove(participant);
        }
        Ok(None)
    }

    /// Waits until the round may have changed, and brings `view` up to date. After an event of the
    /// state key only the state is: `needs_read` returns whether the rest must be read too.
    pub(super) async fn changed(
        &mut self,
        view: &mut View,
        needs_read: impl Fn(&State) -> bool + Send,
    ) -> Result<()> {
        if !self.wait(view).await? || needs_read(&view.state) {
            *view = self.read().await?;
        }
        Ok(())
    }

    /// Reads the round.
    async fn read(&mut self) -> Result<View> {
        let read = Txn::new().and_then(self.keys.reads());
        let backend = self.session.backend();
        View::of(&retry_request(|| backend.txn(read.clone())).await?)
    }

    /// Writes the state, and applies `op`, if the state is that of `view`. Returns the round as of
    /// then.
    pub(super) async fn write(
        &mut self,
        view: &View,
        state: &State,
        op: Option<Op>,
    ) -> Result<View> {
        let key = &self.keys.state;
        let put = Op::Put(Put::new(key, state.to_string()));
        let write = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, view.state_revision)])
            .and_then([put].into_iter().chain(op).chain(self.keys.reads()))
            .or_else(self.keys.reads());
        let backend = self.session.backend();
        // Safe to repeat: once it is applied, its condition no longer holds.
        View::of(&retry_request(|| backend.txn(write.clone())).await?)
    }

    /// Waits until the round may have changed. Returns whether an event has updated the state in
    /// `view`; otherwise the round must be read.
    async fn wait(&mut self, view: &mut View) -> Result<bool> {
        if self.watches.is_none() {
            let watches = self.register(view.revision).await?;
            let registered =
                watches.state.header().revision.max(watches.deletions.header().revision);
            self.watches = Some(watches);
            if registered > view.revision {
                return Ok(false);
            }
        }
        let read_due = Instant::now() + self.session.ttl();
        let recheck = self.rechecks.values().map(|recheck| recheck.at).min();
        let read_due = recheck.map_or(read_due, |recheck| recheck.min(read_due));
        loop {
            let Some(watches) = &mut self.watches else { return Ok(false) };
            let (batch, is_of_state) = tokio::select! {
                biased;
                batch = next_batch(&mut watches.state) => (batch?, true),
                batch = next_batch(&mut watches.deletions) => (batch?, false),
                // A watch may have fallen silent, or the lease of a participant must be checked.
                () = sleep_until(read_due) => return Ok(false),
            };
            match batch {
                Some(WatchBatch { events, .. }) if events.is_empty() => {}
                Some(batch) if is_of_state && batch.revision <= view.revision => {}
                Some(batch) if is_of_state => {
                    let put = batch.events.iter().rfind(|event| event.kind == EventKind::Put);
                    let Some(put) = put else { return Ok(false) };
                    view.set_state(&put.kv)?;
                    return Ok(true);
                }
                Some(batch) => {
                    let deleted: BTreeSet<_> =
                        batch.events.iter().map(|e| self.keys.participant(&e.kv.key)).collect();
                    // Also a participant that came and went between two reads may be lost.
                    let known = self.seen.len();
                    for participant in deleted {
                        self.seen.entry(participant).or_default();
                    }
                    if batch.revision > view.revision || self.seen.len() > known {
                        return Ok(false);
                    }
                }
                None => return self.watch_ended().await,
            }
        }
    }

    async fn watch_ended(&mut self) -> Result<bool> {
        self.watches = None;
        sleep(RETRY_PAUSE_MIN).await;
        Ok(false)
    }

    /// Registers the watches, after a view as of `revision`.
    async fn register(&mut self, revision: Revision) -> Result<Watches> {
        let backend = self.session.backend();
        let state = Watch::new(&self.keys.state).filter(WatchFilter::NoDelete);
        let state = retry_request(|| backend.watch(state.clone())).await?;
        // A read does not show a participant that has come and gone since the view.
        let deletions = Watch::prefix(&self.keys.prefix).start_at(revision.next());
        let deletions = watch_deletions(backend, deletions).await?;
        Ok(Watches { state, deletions })
    }
}

/// The lease of a participant: the start of its name, as in the keys of a wait queue.
fn lease_of(participant: &str) -> Option<LeaseId> {
    // The id of a lease may be negative.
    let end = participant.get(1..)?.find('-')? + 1;
    participant[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn party_is_counted_once_with_its_last_attempt() {
        let keys = RoundKeys::new(&"b".into(), 7);
        let present = ["a1-0-2", "-b2-0-1", "a1-0-10", "a1-1-1", "a1-0-3"]
            .map(|participant| KeyValue { key: keys.key(participant), ..KeyValue::default() });
        let view = View {
            revision: Revision(9),
            state: State::default(),
            state_revision: Revision::ZERO,
            present: present.to_vec(),
        };
        let parties = view.parties(&keys);
        let parties: Vec<_> = parties.iter().map(|kv| keys.participant(&kv.key)).collect();
        assert_eq!(parties, ["a1-0-10", "-b2-0-1", "a1-1-1"]);
    }

    #[test]
    fn lease_is_the_start_of_a_participant() {
        assert_eq!(lease_of("a1-0-2"), LeaseId::new(0xa1));
        assert_eq!(lease_of("-a1-5f3a9c0e-0-2"), LeaseId::new(-0xa1));
        assert_eq!((lease_of("config"), lease_of("")), (None, None));
    }
}
