//! Contender groups: contenders of several queues that are enqueued in one transaction.
//!
//! All keys of a group have one create revision, so each wait of a group, as of any contender, is
//! for a key of a lower revision. A cycle of waits would need a wait for a higher revision. So no
//! deadlock is possible, in whatever order the queues are named, and single contenders may be
//! mixed in:
//!
//! ```text
//!            queue a    queue b    queue c
//! group 1    a@5        b@5                    holds a and b
//! group 2               b@6        c@6         waits for b@5; is first in c
//! single                           c@7         waits for c@6
//! group 3    a@8                   c@8         waits for a@5 and c@7
//! ```
//!
//! A contender that is first stays first as long as its key exists. So the contenders of a group
//! wait at the same time, and each keeps what it has acquired. A key that was first early may have
//! been deleted while others waited, so success is reported only after one read shows all keys.

use std::{fmt, iter};

use bytes::Bytes;
use futures_util::future::{join_all, select_all, try_join_all};
use tokio::time::sleep;

use super::contender::Contender;
use super::key_guard::{KeyGuard, Ownership};
use super::position::Position;
use super::{MAX_TRY_READS, WATCH_AFTER, WaitQueue};
use crate::error::{LossReason, PrimitiveError};
use crate::kv::{
    Compare, FencingToken, Header, KeyValue, Op, OpResponse, Range, RangeResponse, Txn, TxnResponse,
};
use crate::retry_request::retry_request;
use crate::session::{Session, SessionState};

/// Contenders of several queues, of one session, with one create revision. Dropping the group
/// removes all of them, in the background.
#[must_use = "dropping a group removes its contenders from their queues"]
pub(crate) struct ContenderGroup {
    // Invariant: not empty.
    contenders: Vec<Contender>,
}

impl ContenderGroup {
    /// How many operations per queue a transaction of a group has at most: the put of the key, and
    /// the read of the queue.
    pub(crate) const OPS_PER_QUEUE: usize = 2;

    /// Enqueues a contender in each of `queues`, which have one session and different names.
    ///
    /// # Errors
    /// As [`WaitQueue::enqueue`]. No key stays in any queue while the session lives.
    ///
    /// # Cancel safety
    /// Dropping the future removes all contenders.
    pub(crate) async fn enqueue(queues: &[WaitQueue]) -> Result<Self, PrimitiveError> {
        loop {
            let mut guards: Vec<_> = queues.iter().map(WaitQueue::new_guard).collect();
            let are_new = guards.iter().map(|guard| Compare::absent(guard.ownership().key()));
            let reads = queues.iter().map(|queue| Op::Range(queue.keys.read_newest()));
            let enqueue = Txn::new().when(are_new).and_then(puts(&guards).chain(reads));
            let enqueued = KeyGuard::create_all(&mut guards, enqueue).await?;
            if enqueued.succeeded {
                let reads = enqueued.responses.iter().skip(queues.len());
                let positions = reads.zip(queues).zip(&guards).map(|((read, queue), guard)| {
                    let own = guard.ownership().entry();
                    let read = read.as_range();
                    read.and_then(|read| Position::read(&queue.keys, &own, read))
                        .unwrap_or(Position::Unknown)
                });
                let positions: Vec<_> = positions.collect();
                return Ok(Self::new(queues, guards, enqueued.header, positions));
            }
            // Another owner of the lease has created one of these keys.
            guards.into_iter().for_each(KeyGuard::retire_suffix);
        }
    }

    /// Enqueues a contender in each queue if all of them are empty. Otherwise it returns `None` and
    /// writes nothing, with the exception of [`WaitQueue::try_enqueue`].
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    ///
    /// # Cancel safety
    /// Dropping the future removes all contenders.
    pub(crate) async fn try_enqueue(queues: &[WaitQueue]) -> Result<Option<Self>, PrimitiveError> {
        let mut are_empty: Vec<_> =
            queues.iter().map(|queue| Compare::absent(queue.keys.range())).collect();
        let mut reads: Vec<_> = queues.iter().map(|queue| queue.keys.read_some()).collect();
        for _ in 0..MAX_TRY_READS {
            let mut guards: Vec<_> = queues.iter().map(WaitQueue::new_guard).collect();
            let enqueue = Txn::new().when(are_empty).and_then(puts(&guards)).or_else(reads);
            let response = KeyGuard::create_all(&mut guards, enqueue).await?;
            if response.succeeded {
                let positions = vec![Position::First; queues.len()];
                return Ok(Some(Self::new(queues, guards, response.header, positions)));
            }
            let found = response.responses.iter().filter_map(OpResponse::as_range).zip(queues);
            let is_owned = |(read, queue): (&RangeResponse, &WaitQueue)| {
                read.kvs.iter().any(|kv| queue.keys.owns(&kv.key))
            };
            if found.clone().any(is_owned) {
                return Ok(None);
            }
            // As in `WaitQueue::try_enqueue`.
            reads = queues.iter().map(|queue| queue.keys.read_all()).collect();
            let revision = response.header.revision;
            let still_empty =
                found.map(|(read, queue)| queue.keys.still_empty(Some(read), revision));
            are_empty = still_empty.collect();
        }
        let mut group = Self::enqueue(queues).await?;
        for contender in &mut group.contenders {
            if contender.position == Position::Unknown {
                let session = contender.session().clone();
                session.while_held(contender.refresh()).await?;
            }
        }
        if !group.are_first() {
            return Ok(None);
        }
        let session = group.session().clone();
        session.while_held(group.confirm()).await?;
        session.check_deadline().await?;
        Ok(Some(group))
    }

    /// Resumes the group of a former process on the lease that the session has adopted; `None` if
    /// it has left none that is first in all queues. Groups that waited are deleted, in the
    /// background.
    ///
    /// # Errors
    /// - `Lost` if the session is lost.
    /// - The error of the backend, if it is not retryable.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub(crate) async fn resume(queues: &[WaitQueue]) -> Result<Option<Self>, PrimitiveError> {
        let [first, ..] = queues else { unreachable!("a group has at least one queue") };
        let session = first.session();
        let read = Txn::new().and_then(queues.iter().map(|queue| queue.keys.read_all()));
        let sent = async { Ok(retry_request(|| session.backend().txn(read.clone())).await?) };
        let TxnResponse { header, responses, .. } = session.while_held(sent).await?;
        session.check_deadline().await?;
        let reads = responses.into_iter().filter_map(OpResponse::into_range).zip(queues);
        let owned = reads.map(|(read, queue)| {
            read.kvs.into_iter().filter(|kv| queue.keys.owns(&kv.key)).collect()
        });
        let owned: Vec<Vec<KeyValue>> = owned.collect();
        let former = |kvs: &Vec<KeyValue>, created| {
            let is_former =
                |kv: &&KeyValue| kv.create_revision == created && session.has_adopted(kv);
            kvs.iter().find(is_former).cloned()
        };
        let mut revisions: Vec<_> = owned[0].iter().map(|kv| kv.create_revision).collect();
        revisions.sort();
        let groups = revisions.into_iter().filter_map(|created| {
            let keys: Option<Vec<_>> = owned.iter().map(|kvs| former(kvs, created)).collect();
            let guards = keys?.into_iter().map(|kv| {
                let mut guard = KeyGuard::existing(session, kv.key, created);
                guard.set_armed(true);
                guard
            });
            let positions = owned.iter().map(|kvs| {
                let is_first = kvs.iter().all(|kv| kv.create_revision >= created);
                if is_first { Position::First } else { Position::Unknown }
            });
            Some(Self::new(queues, guards.collect(), header, positions.collect()))
        });
        // Only the oldest can be first. The others are dropped.
        Ok(groups.filter(Self::are_first).fold(None, |oldest, group| oldest.or(Some(group))))
    }

    fn new(
        queues: &[WaitQueue],
        guards: Vec<KeyGuard>,
        header: Header,
        positions: Vec<Position>,
    ) -> Self {
        let parts = queues.iter().zip(guards).zip(positions);
        let contenders = parts.map(|((queue, guard), position)| {
            Contender::new(queue.clone(), guard, header, position)
        });
        Self { contenders: contenders.collect() }
    }

    /// The contenders, in the order of the queues.
    pub(crate) fn into_contenders(self) -> impl Iterator<Item = Contender> {
        self.contenders.into_iter()
    }

    fn are_first(&self) -> bool {
        self.contenders.iter().all(|contender| contender.position.is_first())
    }

    /// The session of all contenders.
    pub(crate) fn session(&self) -> &Session {
        self.contenders[0].session()
    }

    /// The keys, in the order of the queues.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.contenders.iter().map(|contender| contender.key())
    }

    /// The create revision of all keys.
    pub(crate) fn fencing_token(&self) -> FencingToken {
        self.contenders[0].fencing_token()
    }

    /// The compares that hold as long as all keys are in their queues.
    pub(crate) fn held_conditions(&self) -> impl Iterator<Item = Compare> {
        self.contenders.iter().map(|contender| contender.held_condition())
    }

    /// Waits until every contender is first.
    ///
    /// # Errors
    /// As [`Contender::acquired`], if any contender of the group is lost.
    ///
    /// # Cancel safety
    /// Dropping the future keeps the positions: wait again, or drop the group too.
    pub(crate) async fn acquired(&mut self) -> Result<(), PrimitiveError> {
        let session = self.session().clone();
        if !self.are_first() {
            let ownerships: Vec<_> =
                self.contenders.iter().map(|contender| contender.ownership().clone()).collect();
            let evicted = async {
                sleep(WATCH_AFTER).await;
                first_of(ownerships.iter().map(Ownership::wait_evicted)).await
            };
            let wait = async {
                try_join_all(self.contenders.iter_mut().map(Contender::wait)).await?;
                if let [_, _, ..] = &self.contenders[..] { self.confirm().await } else { Ok(()) }
            };
            tokio::select! {
                biased;
                reason = session.lost() => return Err(reason.into()),
                waited = wait => waited?,
                reason = evicted => return Err(reason.into()),
            }
        }
        session.check_deadline().await
    }

    /// Reads all keys at one revision: each of them must be in its queue.
    async fn confirm(&self) -> Result<(), PrimitiveError> {
        // The linearizable read makes the transaction linearizable: etcd evaluates the compares of
        // a transaction without operations on one member.
        let read = Range::new(self.contenders[0].key()).keys_only();
        let confirm = self.while_in_queues([Op::Range(read)]);
        let backend = self.session().backend();
        let response = retry_request(|| backend.txn(confirm.clone())).await?;
        if response.succeeded { Ok(()) } else { Err(self.why_evicted(&response).await) }
    }

    /// Applies `txn` if all keys are in their queues.
    ///
    /// # Errors
    /// As [`Ownership::txn`].
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the transaction was applied.
    pub(crate) async fn txn(&self, txn: Txn) -> Result<TxnResponse, PrimitiveError> {
        if let SessionState::Lost(reason) = self.session().state() {
            return Err(reason.into());
        }
        let guarded = self.while_in_queues([Op::Txn(txn)]);
        let response = self.session().backend().txn(guarded).await?;
        if !response.succeeded {
            return Err(self.why_evicted(&response).await);
        }
        match response.responses.into_iter().next() {
            Some(OpResponse::Txn(nested)) => Ok(TxnResponse { header: response.header, ..nested }),
            other => unreachable!("the response to a nested transaction is {other:?}"),
        }
    }

    /// A transaction that applies `ops` if all keys are in their queues, and otherwise reads the
    /// keys.
    fn while_in_queues(&self, ops: impl IntoIterator<Item = Op>) -> Txn {
        let reads = self.keys().map(|key| Range::new(key).keys_only());
        Txn::new().when(self.held_conditions()).and_then(ops).or_else(reads)
    }

    /// The loss of the first key that is missing in the response of
    /// [`while_in_queues`](Self::while_in_queues).
    async fn why_evicted(&self, response: &TxnResponse) -> PrimitiveError {
        let mut reads = response.responses.iter().zip(&self.contenders);
        let missing = reads.find(|(read, contender)| {
            let found = read.as_range().and_then(|read| read.kvs.first());
            found.map(|kv| kv.create_revision) != Some(contender.create_revision())
        });
        let contender = missing.map_or(&self.contenders[0], |(_, contender)| contender);
        contender.ownership().why_evicted().await.into()
    }

    /// Waits until any key is lost, and returns the reason.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub(crate) async fn lost(&self) -> LossReason {
        first_of(self.contenders.iter().map(|contender| contender.ownership().lost())).await
    }

    /// Releases all contenders in one transaction, or leaves them unchanged if the release is not
    /// confirmed. A key that was lost does not keep the others from being deleted.
    ///
    /// # Errors
    /// As [`Contender::release`]. `Lost` if any key was lost.
    ///
    /// # Cancel safety
    /// After a drop of the future, drop the group too.
    pub(crate) async fn try_release(&mut self) -> Result<(), PrimitiveError> {
        let session = self.session().clone();
        let (successors, releases): (Vec<_>, Vec<_>) = iter::zip(
            self.contenders.iter().map(|contender| contender.held_condition()).collect::<Vec<_>>(),
            self.contenders.iter_mut().map(Contender::start_release),
        )
        .map(|(is_held, (successor, ops))| (successor, Txn::new().when([is_held]).and_then(ops)))
        .unzip();
        let sent = async { Ok(session.backend().txn(Txn::new().and_then(releases)).await?) };
        let released = session.while_held(sent).await;
        let contenders = self.contenders.iter_mut().zip(successors);
        let (header, responses) = match released {
            Ok(released) => (released.header, released.responses),
            Err(error) => {
                for (contender, successor) in contenders {
                    // Each of them returns this error.
                    let _ = contender.end_release(successor, Err(error.clone()));
                }
                return Err(error);
            }
        };
        let mut evicted = Vec::new();
        for (response, (contender, successor)) in responses.into_iter().zip(contenders) {
            match response {
                OpResponse::Txn(nested) if nested.succeeded => {
                    let released = Ok(TxnResponse { header, ..nested });
                    contender.end_release(successor, released)?;
                }
                _ => evicted.push((contender, successor)),
            }
        }
        // After the releases that wake other contenders, because this may wait for the store.
        let ended = evicted.into_iter().map(async |(contender, successor)| {
            let reason = contender.ownership().why_evicted().await;
            contender.end_release(successor, Err(reason.into()))
        });
        join_all(ended).await.into_iter().collect()
    }
}

/// The puts that create the keys of `guards`, without values.
fn puts(guards: &[KeyGuard]) -> impl Iterator<Item = Op> {
    guards.iter().map(|guard| Op::Put(guard.put(&Bytes::new())))
}

/// The output of the first future that completes. If several complete at once, it is the first one
/// in order.
async fn first_of<F: Future + Send>(futures: impl Iterator<Item = F>) -> F::Output {
    select_all(futures.map(Box::pin)).await.0
}

impl fmt::Debug for ContenderGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.contenders).finish()
    }
}
