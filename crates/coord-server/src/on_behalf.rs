//! Standing in a line for a client, on the client's own lease.
//!
//! coord's primitives stand on a [`Session`], which keeps its lease alive and ends it. Here the
//! lease is the client's: it keeps it alive, or does not, and decides when it ends. So the session
//! is given a store in which leases are [only looked at](crate::only_looked).
//!
//! The key is Go's, `name/<lease>`, which is what clients of etcd's expect. So there is one for all
//! calls on that lease in that line: they wait together and are answered together. Whoever gives
//! up takes the key away if nobody else waits under it and nobody has been told that it holds. To
//! judge that, calls under one key enter and leave one after the other, each with its request.
//!
//! ```text
//! client               server                          line
//! Lock(m, L)           join on L, wait                 m/K m/L
//! Lock(m, L) again     finds m/L, waits too            m/K m/L
//! the first gives up   one more waits: nothing         m/K m/L
//! K unlocks            m/L is first: answer            m/L
//! Unlock(m/L)          delete                          (empty)
//! ```
//!
//! A call that is cancelled is a future that is dropped, and then there is no time for a request.
//! So what stands in the line is a task, which the call waits for and which outlives it to leave.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_core::queue::{Contender, FencingToken, WaitQueue};
use coord_core::{
    Error, Session,
    error::PrimitiveError,
    kv::{Header, LeaseGrant, LeaseId},
};
use futures_util::FutureExt;
use tokio::sync::oneshot;
use tonic::Status;

use crate::alarm::Change;
use crate::only_looked::OnlyLooked;
use crate::places::{Place, Shared};
use crate::services::Services;
use crate::status::{stopped, without_code};

/// How long a lease lives that a client leaves to the server: Go's `defaultSessionTTL`.
const TTL: Duration = Duration::from_secs(60);

/// The lease a client names; if it names none, a new one, which nobody keeps alive.
pub(crate) async fn lease(services: &Services, named: i64) -> Result<LeaseId, Status> {
    if let Some(lease) = LeaseId::new(named) {
        return Ok(lease);
    }
    allow(services, Change::Growth)?;
    let granted = services.backend().lease_grant(LeaseGrant::new(TTL)).await;
    granted.map(|granted| granted.id).map_err(|error| without_code(&error))
}

/// Refuses a change while an alarm forbids it, as these services put it.
pub(crate) fn allow(services: &Services, change: Change) -> Result<(), Status> {
    services.alarms().check(change).map_err(|refused| Status::unknown(refused.message()))
}

/// Where a client wants to be first.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) name: Bytes,
    pub(crate) lease: LeaseId,
    /// What others are to read under the key; what is there already stays if there is none.
    pub(crate) value: Option<Bytes>,
}

/// A client that is first.
#[derive(Debug)]
pub(crate) struct First {
    pub(crate) key: Bytes,
    pub(crate) token: FencingToken,
    /// Of the answer by which it joined the line.
    pub(crate) joined: Header,
    /// Of the answer that told that it is first.
    pub(crate) seen: Header,
}

/// Why a client is not first.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Its lease has ended, or its key is deleted.
    Lost,
    Said(Status),
}

impl From<PrimitiveError> for Refusal {
    fn from(error: PrimitiveError) -> Self {
        match error {
            PrimitiveError::Lost(_) => Self::Lost,
            PrimitiveError::Backend(error) => error.into(),
            error => Self::Said(Status::unknown(error.to_string())),
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Said(without_code(&error))
    }
}

/// Waits in a line until the client is first there, and leaves the key to it.
pub(crate) async fn first_in_line(services: &Services, wish: Wish) -> Result<First, Refusal> {
    allow(services, Change::Growth).map_err(Refusal::Said)?;
    let (reply, answer) = oneshot::channel();
    #[expect(
        clippy::disallowed_methods,
        reason = "its owner is the call, which it outlives to leave"
    )]
    tokio::spawn(stand(services.clone(), wish, reply));
    // Without an answer the runtime is being shut down.
    let (first, taken) = answer.await.unwrap_or_else(|_| Err(Refusal::Said(stopped())))?;
    // If nobody listens it is too late to give up anyway.
    let _ = taken.send(());
    Ok(first)
}

/// An answer may be dropped on its way to a call that is dropped; only one that was taken counts.
type Reply = oneshot::Sender<Result<(First, oneshot::Sender<()>), Refusal>>;

/// Stands in the line for a call, as long as there is one.
async fn stand(services: Services, wish: Wish, reply: Reply) {
    // Had from before the session is opened: whatever becomes of the key since then is known here.
    let place = services.places().of(wish.lease, &wish.name);
    let store = Arc::new(OnlyLooked::new(services.backend()));
    match Session::builder(store).lease(wish.lease).open().await {
        Ok(session) => {
            match enter(&session, &place, &wish).await {
                Ok(entered) => wait(&services, &session, &place, entered, reply).await,
                Err(refusal) => drop(reply.send(Err(refusal))),
            }
            let _ = session.orphan().await;
        }
        // Whoever is not there any more need not know.
        Err(error) => drop(reply.send(Err(error.into()))),
    }
    services.places().forget(wish.lease, &wish.name, place);
}

/// One who has joined the line.
struct Entered {
    contender: Contender,
    joined: Header,
    /// What is to be read under the key, if that is something else than it was.
    change: Option<Bytes>,
}

/// Joins the line, or finds the place in it that other calls on the lease have.
async fn enter(session: &Session, place: &Place, wish: &Wish) -> Result<Entered, Refusal> {
    let line = WaitQueue::new(session, wish.name.clone());
    let mut shared = place.0.lock().await;
    let value = wish.value.clone().unwrap_or_default();
    let (mut contender, found) = line.enqueue_by_lease(value).await?;
    let joined = contender.header();
    let life = Some(contender.fencing_token());
    if shared.life != life {
        // If it was there before this call and is first, somebody may have been told so.
        let old = found.as_ref().is_some_and(|kv| kv.create_revision <= session.opened());
        let held = old && contender.acquired().now_or_never().is_some_and(|first| first.is_ok());
        *shared = Shared { life, calls: 0, held };
    }
    shared.calls += 1;
    let change = wish.value.clone().filter(|value| found.is_some_and(|kv| kv.value != *value));
    Ok(Entered { contender, joined, change })
}

/// Waits until the contender is first, nobody waits for it any more, or it cannot be.
async fn wait(
    services: &Services,
    session: &Session,
    place: &Place,
    Entered { mut contender, joined, change }: Entered,
    mut reply: Reply,
) {
    let turn = async {
        if let Some(value) = change {
            contender.set_value(value).await?;
        }
        contender.acquired().await
    };
    let waited = tokio::select! {
        biased;
        waited = turn => Some(waited.map_err(Refusal::from)),
        () = services.stopping() => Some(Err(Refusal::Said(stopped()))),
        () = reply.closed() => None,
    };
    let mut shared = place.0.lock().await;
    let (key, token) = (contender.key().clone(), contender.fencing_token());
    let told = match waited {
        Some(Ok(())) => {
            let (taken, was_taken) = oneshot::channel();
            let first = First { key, token, joined, seen: contender.header() };
            reply.send(Ok((first, taken))).is_ok() && was_taken.await.is_ok()
        }
        Some(Err(refusal)) => {
            // Whoever is not there any more need not know.
            let _ = reply.send(Err(refusal));
            false
        }
        None => false,
    };
    // If it is about another life of the key, this one is over.
    if shared.life == Some(token) {
        shared.calls -= 1;
        shared.held |= told;
        if shared.calls == 0 && !shared.held {
            // The session removes the key, and is not over before it has.
            drop(contender);
            let _ = session.orphan().await;
            return;
        }
    }
    // Only then can the contender be dropped and its key stay.
    let _ = session.orphan().await;
}
