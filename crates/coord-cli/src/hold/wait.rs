//! The steps before the hold: connect, open a session, wait in the queue.
//!
//! A signal ends each step early, and so does `--timeout`, counted from the first step. Messages
//! name the step, the lock or election, and its holder if it is known.

use std::future::pending;
use std::time::Duration;

use anyhow::Context as _;
use coord_core::queue::{Contender, WaitQueue};
use coord_core::{Client, Session, error::PrimitiveError, kv::KeyValue, session::SessionBuilder};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::request::{
    HoldRequest, Primitive, TAKEN_STATUS, TIMED_OUT_STATUS, WaitMode, failure, primitive_failure,
};
use super::{progress, slots};
use crate::exit::ExitError;
use crate::queue::{QueueKeys, is_foreign};
use crate::signals::{Signals, status_of};
use crate::store::StoreFlags;
use crate::text;

/// Timeout of the read that finds the holder for a message.
const HOLDER_READ_TIMEOUT: Duration = Duration::from_secs(1);
/// The delay before a failed step is retried.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How much longer than `--timeout` the connection attempt may take, so that the timeout ends the
/// step and is named in the message.
const CONNECT_MARGIN: Duration = Duration::from_secs(1);
/// How many keys the read for the holder covers. Keys of child names can come before the holder's.
const HOLDER_READ_LIMIT: u64 = 100;

/// The time limit of all steps together.
#[derive(Clone, Copy, Debug)]
pub(super) struct WaitLimit {
    timeout: Option<Duration>,
    /// `None` if there is no timeout, or if it exceeds the range of `Instant`.
    until: Option<Instant>,
}

impl WaitLimit {
    pub(super) fn from_now(timeout: Option<Duration>) -> Self {
        Self { timeout, until: timeout.and_then(|timeout| Instant::now().checked_add(timeout)) }
    }

    /// Runs a step. Returns its output, or `None` when the time limit is reached.
    ///
    /// # Errors
    /// A signal was received.
    async fn run<T>(
        &self,
        signals: &mut Signals,
        step: impl Future<Output = T>,
    ) -> Result<Option<T>, ExitError> {
        let timed_out = async {
            match self.until {
                Some(until) => sleep_until(until).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            signal = signals.next() => Err(ExitError::silent(status_of(signal))),
            output = step => Ok(Some(output)),
            () = timed_out => Ok(None),
        }
    }

    /// The error of a step that did not end within the time limit.
    fn error(&self, step: &str) -> ExitError {
        let timeout = self.timeout.unwrap_or_default();
        ExitError::new(TIMED_OUT_STATUS, format!("timed out after {timeout:?} {step}"))
    }
}

/// Connects to the store. Retries within `--timeout` while the store is unavailable.
pub(super) async fn connect(
    store: &StoreFlags,
    request: &HoldRequest,
    limit: &WaitLimit,
    signals: &mut Signals,
) -> Result<Client, ExitError> {
    let within = limit.timeout.map(|timeout| timeout.saturating_add(CONNECT_MARGIN));
    match limit.run(signals, store.connect_within(within)).await? {
        Some(connected) => connected.map_err(failure),
        None => {
            let members = store.members().map_err(failure)?.unwrap_or_default().join(",");
            Err(limit.error(&format!("connecting to {members} for {}", request.name)))
        }
    }
}

/// Opens a session with these options. After a loss, `retry` is set: the step is then retried while
/// the store is unavailable, because an unavailable store may have caused the loss.
pub(super) async fn open_session(
    options: &SessionBuilder,
    (request, retry): (&HoldRequest, bool),
    limit: &WaitLimit,
    signals: &mut Signals,
) -> Result<Session, ExitError> {
    let name = &request.name;
    let open = async {
        let mut reported = false;
        loop {
            match options.clone().open().await {
                Err(error) if retry && error.is_retryable() => {
                    if !std::mem::replace(&mut reported, true) {
                        request.report(&format!("open a session for {name}: {error}: retrying"));
                    }
                }
                result => break result,
            }
            sleep(RETRY_DELAY).await;
        }
    };
    // If the step ends early, a lease that was granted has no key, and expires.
    match limit.run(signals, open).await? {
        Some(result) => {
            result.with_context(|| format!("open a session for {name}")).map_err(failure)
        }
        None => Err(limit.error(&format!("opening a session for {name}"))),
    }
}

/// Waits until the lock is acquired or the candidate leads. If the step ends early, a key may be
/// left in the queue, which the caller deletes by closing the session.
pub(super) async fn acquire(
    session: &Session,
    request: &HoldRequest,
    limit: &WaitLimit,
    signals: &mut Signals,
) -> Result<Contender, ExitError> {
    if let Some(contender) = limit.run(signals, wait_in_queue(session, request)).await? {
        return contender;
    }
    let holder = match (request.slots, find_holder(session, request).await) {
        (Some(slots), _) => slots::describe_taken(slots),
        (None, Holder::OtherSession(holder)) => {
            format!(": {}", describe_holder(&holder, request.primitive))
        }
        (None, Holder::None | Holder::Unknown) => String::new(),
    };
    Err(limit.error(&format!("waiting for {}{holder}", request.name)))
}

/// Enqueues and waits. With `--again`, retries while the store is unavailable.
async fn wait_in_queue(session: &Session, request: &HoldRequest) -> Result<Contender, ExitError> {
    if let Some(slots) = request.slots {
        return slots::acquire(session, request, slots).await;
    }
    let mut reported = false;
    loop {
        let (step, error) = match attempt(session, request).await {
            Ok(Some(contender)) => return Ok(contender),
            Ok(None) => return Err(taken_error(session, request).await),
            Err(failure) => failure,
        };
        match &error {
            PrimitiveError::Backend(cause) if request.again && cause.is_retryable() => {
                if !std::mem::replace(&mut reported, true) {
                    request.report(&format!("{step}: {cause}: retrying"));
                }
            }
            _ => return Err(primitive_failure(error, || step)),
        }
        sleep(RETRY_DELAY).await;
    }
}

/// Enqueues and waits once. Returns `None` if the lock is taken and the request does
/// not wait. An error includes the step that failed.
async fn attempt(
    session: &Session,
    request: &HoldRequest,
) -> Result<Option<Contender>, (String, PrimitiveError)> {
    let name = &request.name;
    let queue = WaitQueue::new(session, name.clone());
    if request.wait_mode == WaitMode::Try {
        let tried = queue.try_enqueue(request.value.clone()).await;
        return tried.map_err(|error| (format!("acquire {name}"), error));
    }
    let enqueued = queue.enqueue(request.value.clone()).await;
    let mut contender = enqueued.map_err(|error| (format!("enqueue for {name}"), error))?;
    let keys = QueueKeys::new(name);
    let progress = progress::show_contenders_ahead(session, &keys);
    tokio::select! {
        biased;
        acquired = contender.acquired() => {
            acquired.map_err(|error| (format!("wait for {name}"), error))?;
        }
        never = progress => match never {},
    }
    Ok(Some(contender))
}

/// The error of a request that does not wait for the holder.
async fn taken_error(session: &Session, request: &HoldRequest) -> ExitError {
    let holder = match find_holder(session, request).await {
        Holder::OtherSession(holder) => {
            format!(": {}", describe_holder(&holder, request.primitive))
        }
        Holder::None => ": its holder has released it since".to_owned(),
        Holder::Unknown => String::new(),
    };
    ExitError::new(TAKEN_STATUS, format!("{} is taken{holder}", request.name))
}

/// The holder of the queue, as far as a read shows it.
#[derive(Debug)]
enum Holder {
    /// The first key, which belongs to another session or is a foreign key.
    OtherSession(KeyValue),
    /// There is no key, or this session owns the first key.
    None,
    /// The read failed, took too long, or did not reach the first key.
    Unknown,
}

/// Reads the first key of the queue.
async fn find_holder(session: &Session, request: &HoldRequest) -> Holder {
    let queue = QueueKeys::new(&request.name);
    let first = queue.in_order().limit(HOLDER_READ_LIMIT);
    let read = timeout(HOLDER_READ_TIMEOUT, session.client().range(first)).await;
    let Ok(Ok(read)) = read else { return Holder::Unknown };
    match read.kvs.into_iter().find(|kv| queue.contains(&kv.key)) {
        Some(holder) if holder.lease != Some(session.lease_id()) => Holder::OtherSession(holder),
        None if read.more => Holder::Unknown,
        Some(_) | None => Holder::None,
    }
}

/// Describes the holder for a message.
fn describe_holder(holder: &KeyValue, primitive: Primitive) -> String {
    let (key, token) = (text::escape(&holder.key), holder.create_revision);
    if is_foreign(holder) {
        return format!("the foreign key {key}, which no contender has created, blocks its queue");
    }
    match primitive {
        Primitive::Lock => format!("{key} holds it with fencing token {token}"),
        Primitive::Election => {
            let value = text::escape(&holder.value);
            format!("{key} leads with fencing token {token} and value {value}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use coord_core::{Error, error::Outcome};
    use coord_mem::MemBackend;
    use coord_testkit::{Action, Call, Intercept};

    use super::*;
    use crate::hold::request::{FAILED_STATUS, LOST_STATUS};

    const UNLIMITED: WaitLimit = WaitLimit { timeout: None, until: None };

    fn campaign(wait_mode: WaitMode, again: bool) -> HoldRequest {
        let (name, value) = ("jobs".to_owned(), "here".to_owned());
        let primitive = Primitive::Election;
        let (slots, hold_at_least) = (None, None);
        HoldRequest { primitive, name, value, wait_mode, slots, hold_at_least, again }
    }

    async fn session(client: &Client) -> Session {
        Session::builder(client).open().await.expect("the store is available")
    }

    /// A store that fails the first two transactions as unavailable.
    fn unavailable_twice() -> Client {
        let txns = AtomicUsize::new(0);
        Client::new(Intercept::new(MemBackend::new(), move |call: &Call| match call {
            Call::Txn(_) if txns.fetch_add(1, Relaxed) < 2 => {
                let reason = "no member responds".to_owned();
                let outcome = Outcome::NotApplied;
                Action::Fail(Error::Unavailable { outcome, reason, source: None })
            }
            _ => Action::Pass,
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn campaign_again_is_retried_while_the_store_is_unavailable() {
        let mut signals = Signals::new().expect("signals");
        let session_once = session(&unavailable_twice()).await;
        let once = campaign(WaitMode::Wait, false);
        let error = acquire(&session_once, &once, &UNLIMITED, &mut signals).await.map(drop);
        assert_eq!(error.expect_err("it is not retried").status, FAILED_STATUS);
        let again = campaign(WaitMode::Wait, true);
        let session = session(&unavailable_twice()).await;
        let start = Instant::now();
        let elected = acquire(&session, &again, &UNLIMITED, &mut signals).await;
        elected.expect("it is elected").release().await.expect("the store is available");
        assert!(start.elapsed() >= RETRY_DELAY, "{:?}", start.elapsed());
        session.close().await.expect("the store is available");
        let error = acquire(&session, &again, &UNLIMITED, &mut signals).await;
        assert_eq!(error.expect_err("a loss is not retried on this session").status, LOST_STATUS);
    }

    #[tokio::test(start_paused = true)]
    async fn holder_is_named_released_only_after_a_complete_read() {
        let kv = MemBackend::new();
        let first = session(&Client::new(kv.clone())).await;
        let queue = WaitQueue::new(&first, "jobs");
        let held_by_another = queue.try_enqueue("").await.expect("the store is available");
        let silent = Client::new(Intercept::new(kv, |call: &Call| match call {
            Call::Range(_) => Action::Hang,
            _ => Action::Pass,
        }));
        let mut signals = Signals::new().expect("signals");
        let (second, try_it) = (session(&silent).await, campaign(WaitMode::Try, false));
        let error = acquire(&second, &try_it, &UNLIMITED, &mut signals).await;
        let error = error.expect_err("another session holds it");
        assert_eq!((error.status, error.message.as_deref()), (TAKEN_STATUS, Some("jobs is taken")));
        drop(held_by_another);
    }
}
