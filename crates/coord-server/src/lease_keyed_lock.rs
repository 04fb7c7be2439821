//! Lease-keyed lock: acquires a lock or leadership for a client, on the client's own lease.
//!
//! coord's primitives contend on a [`Session`], which keeps its lease alive and revokes it. Here
//! the lease belongs to the client: only the client keeps it alive and revokes it. So the session
//! is opened on a backend through which [leases are read-only](crate::read_only_leases).
//!
//! The queue key is `name/<lease>`, as in Go, because clients of etcd expect it. So all calls on
//! one lease and one name share a single key: they wait together and return together. A cancelled
//! call deletes the key, unless another call waits for the key, or a call has already returned the
//! key to the client. Calls that share a key decide this one at a time, under the lock of their
//! [call group](crate::call_groups).
//!
//! ```text
//! client                  server                           queue of m
//! Lock(m, L)              enqueue on L, wait               m/K m/L
//! Lock(m, L) again        find m/L, wait                   m/K m/L
//! first call cancelled    another call waits: keep m/L     m/K m/L
//! K unlocks               m/L is first: respond            m/L
//! Unlock(m/L)             delete m/L                       (empty)
//! ```
//!
//! A cancelled call is a dropped future, which cannot send the request that deletes the key. So the
//! contender runs in a task of its own. The call waits for the task, and the task outlives the call
//! to delete the key.

use std::time::Duration;

use bytes::Bytes;
use coord_core::kv::FencingToken;
use coord_core::queue::{Contender, WaitQueue};
use coord_core::{
    Client, Error, Session,
    error::PrimitiveError,
    kv::{Header, LeaseGrant, LeaseId},
};
use futures_util::FutureExt;
use tokio::sync::oneshot;
use tonic::Status;

use crate::alarm::RequestKind;
use crate::call_groups::{CallGroup, GroupState};
use crate::read_only_leases::ReadOnlyLeases;
use crate::services::Services;
use crate::status::{server_stopped, status_without_code};

/// The TTL of the lease for a request without a lease: Go's `defaultSessionTTL`.
const DEFAULT_LEASE_TTL: Duration = Duration::from_secs(60);

/// The lease that the request names, or a new one, which neither client nor server keeps alive.
pub(crate) async fn named_or_new_lease(services: &Services, named: i64) -> Result<LeaseId, Status> {
    if let Some(lease) = LeaseId::new(named) {
        return Ok(lease);
    }
    check_alarms(services, RequestKind::GrowingWrite)?;
    let granted = services.backend().lease_grant(LeaseGrant::new(DEFAULT_LEASE_TTL)).await;
    granted.map(|granted| granted.id).map_err(|error| status_without_code(&error))
}

/// Rejects a request while an alarm forbids it, with the status of the Lock and Election services.
pub(crate) fn check_alarms(services: &Services, kind: RequestKind) -> Result<(), Status> {
    services.alarms().check(kind).map_err(|status| Status::unknown(status.message()))
}

/// A request to acquire a lock or leadership.
#[derive(Clone, Debug)]
pub(crate) struct AcquireRequest {
    pub(crate) name: Bytes,
    pub(crate) lease: LeaseId,
    /// The value to store under the key. Without one, an existing key keeps its value.
    pub(crate) value: Option<Bytes>,
}

/// A queue key that is first in its queue.
#[derive(Debug)]
pub(crate) struct Acquired {
    pub(crate) key: Bytes,
    pub(crate) token: FencingToken,
    /// Header of the response to the enqueue.
    pub(crate) enqueue_header: Header,
    /// Header of the response that showed that the key is first.
    pub(crate) acquire_header: Header,
}

/// Why a call did not acquire the lock or leadership.
#[derive(Debug)]
pub(crate) enum AcquireError {
    /// The session on the lease was lost, or the queue key was deleted.
    Lost,
    Status(Status),
}

impl From<PrimitiveError> for AcquireError {
    fn from(error: PrimitiveError) -> Self {
        match error {
            PrimitiveError::Lost(_) => Self::Lost,
            PrimitiveError::Backend(error) => error.into(),
            error => Self::Status(Status::unknown(error.to_string())),
        }
    }
}

impl From<Error> for AcquireError {
    fn from(error: Error) -> Self {
        Self::Status(status_without_code(&error))
    }
}

/// Waits until the client's key is first in the queue, and leaves the key to the client.
pub(crate) async fn acquire(
    services: &Services,
    request: AcquireRequest,
) -> Result<Acquired, AcquireError> {
    check_alarms(services, RequestKind::GrowingWrite).map_err(AcquireError::Status)?;
    let (reply, result) = oneshot::channel();
    #[expect(
        clippy::disallowed_methods,
        reason = "owned by the call, but must outlive it to clean up"
    )]
    tokio::spawn(run_contender(services.clone(), request, reply));
    // The task sends no result only if the runtime is being shut down.
    let (acquired, acknowledge) =
        result.await.unwrap_or_else(|_| Err(AcquireError::Status(server_stopped())))?;
    // Fails only if the task has ended. The key then stays, as after any acquisition.
    let _ = acknowledge.send(());
    Ok(acquired)
}

/// Sends the result to the call, with a channel to acknowledge it. A result can be dropped together
/// with the call, so it counts as returned only when the call has acknowledged it.
type ReplySender = oneshot::Sender<Result<(Acquired, oneshot::Sender<()>), AcquireError>>;

/// The task of one call: enqueues, waits, and cleans up if the call is dropped.
async fn run_contender(services: Services, request: AcquireRequest, reply: ReplySender) {
    // Before the session opens, so that the group records every later change of the key.
    let group = services.call_groups().get_or_create(request.lease, &request.name);
    let client = Client::new(ReadOnlyLeases::new(services.backend()));
    match Session::builder(&client).lease(request.lease).open().await {
        Ok(session) => {
            match enqueue(&session, &group, &request).await {
                Ok(entry) => wait_and_reply(&services, &session, &group, entry, reply).await,
                Err(error) => drop(reply.send(Err(error))),
            }
            let _ = session.orphan().await;
        }
        // Fails if the call was dropped.
        Err(error) => drop(reply.send(Err(error.into()))),
    }
    services.call_groups().release(request.lease, &request.name, group);
}

/// The contender of a call, enqueued and possibly not first yet.
struct QueueEntry {
    contender: Contender,
    enqueue_header: Header,
    /// The value to store under the key; `None` if the key has it already.
    new_value: Option<Bytes>,
}

/// Enqueues, or finds the queue key that another call on the same lease created.
async fn enqueue(
    session: &Session,
    group: &CallGroup,
    request: &AcquireRequest,
) -> Result<QueueEntry, AcquireError> {
    let queue = WaitQueue::new(session, request.name.clone());
    let mut state = group.0.lock().await;
    let value = request.value.clone().unwrap_or_default();
    let (mut contender, found) = queue.enqueue_by_lease(value).await?;
    let enqueue_header = contender.header();
    let token = Some(contender.fencing_token());
    if state.token != token {
        // An earlier call may already have returned the key to a client, if the key is older than
        // this call and first in the queue.
        let existed = found.as_ref().is_some_and(|kv| kv.create_revision <= session.opened());
        let reported_held =
            existed && contender.acquired().now_or_never().is_some_and(|acquired| acquired.is_ok());
        *state = GroupState { token, waiting_calls: 0, reported_held };
    }
    state.waiting_calls += 1;
    let new_value =
        request.value.clone().filter(|value| found.is_some_and(|kv| kv.value != *value));
    Ok(QueueEntry { contender, enqueue_header, new_value })
}

/// Waits until the contender acquires, fails, or its call is dropped, and replies to the call.
async fn wait_and_reply(
    services: &Services,
    session: &Session,
    group: &CallGroup,
    QueueEntry { mut contender, enqueue_header, new_value }: QueueEntry,
    mut reply: ReplySender,
) {
    let acquire = async {
        if let Some(value) = new_value {
            contender.set_value(value).await?;
        }
        contender.acquired().await
    };
    let waited = tokio::select! {
        biased;
        waited = acquire => Some(waited.map_err(AcquireError::from)),
        () = services.stop_signal() => Some(Err(AcquireError::Status(server_stopped()))),
        () = reply.closed() => None,
    };
    let mut state = group.0.lock().await;
    let (key, token) = (contender.key().clone(), contender.fencing_token());
    let acknowledged = match waited {
        Some(Ok(())) => {
            let (acknowledge, acknowledgement) = oneshot::channel();
            let acquired =
                Acquired { key, token, enqueue_header, acquire_header: contender.header() };
            reply.send(Ok((acquired, acknowledge))).is_ok() && acknowledgement.await.is_ok()
        }
        Some(Err(error)) => {
            // Fails if the call was dropped.
            let _ = reply.send(Err(error));
            false
        }
        None => false,
    };
    // Another token means that the contender's key was deleted, and created again by another call.
    if state.token == Some(token) {
        state.waiting_calls -= 1;
        state.reported_held |= acknowledged;
        if state.waiting_calls == 0 && !state.reported_held {
            // The session task deletes the key of a dropped contender, and `orphan` waits for that.
            drop(contender);
            let _ = session.orphan().await;
            return;
        }
    }
    // Once the session is orphaned, dropping the contender no longer deletes the key.
    let _ = session.orphan().await;
}
