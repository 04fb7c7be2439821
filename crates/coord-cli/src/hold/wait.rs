//! Waiting for what is to be held: connect, open a session, stand in the wait queue.
//!
//! Each step ends early when a signal comes, or when `--timeout` has passed since the first step
//! began. The messages name the step, what was to be held, and its holder where one is known.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use coord_core::queue::{Contender, WaitQueue};
use coord_core::{KvBackend, Session, error::PrimitiveError, kv::KeyValue};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::progress;
use super::stake::{Kind, Patience, Stake, TAKEN, TIMED_OUT, failed, lost_or_failed};
use crate::end::End;
use crate::line::Line;
use crate::signals::{Signals, status_of};
use crate::store::StoreFlags;
use crate::text;

/// How long to look for the holder, to name it in a message.
const LOOK_FOR_HOLDER: Duration = Duration::from_secs(1);
/// The pause before another try to open a session, where the last one was refused at once.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);
/// How much longer to try to connect than `--timeout`, so that it is the timeout that ends the
/// wait.
const CONNECT_MARGIN: Duration = Duration::from_secs(1);
/// How many keys to look through for the holder: keys of nested names can come before it.
const KEYS_TO_LOOK_THROUGH: i64 = 100;

/// How long all steps together may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    timeout: Option<Duration>,
    /// `None` if the timeout is none, or beyond the end of the clock.
    until: Option<Instant>,
}

impl Limit {
    pub(super) fn from_now(timeout: Option<Duration>) -> Self {
        Self { timeout, until: timeout.and_then(|timeout| Instant::now().checked_add(timeout)) }
    }

    /// The output of `step`, or `None` when the time is up.
    ///
    /// # Errors
    /// A signal came.
    async fn apply<T>(
        &self,
        signals: &mut Signals,
        step: impl Future<Output = T>,
    ) -> Result<Option<T>, End> {
        let passed = async {
            match self.until {
                Some(until) => sleep_until(until).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            signal = signals.next() => Err(End::silent(status_of(signal))),
            output = step => Ok(Some(output)),
            () = passed => Ok(None),
        }
    }

    fn passed(&self, step: &str) -> End {
        let timeout = self.timeout.unwrap_or_default();
        End::new(TIMED_OUT, format!("timed out after {timeout:?} {step}"))
    }
}

/// Connects to the store. One that is not up yet is waited for as long as `--timeout` says.
pub(super) async fn connected(
    store: &StoreFlags,
    stake: &Stake,
    limit: &Limit,
    signals: &mut Signals,
) -> Result<Arc<dyn KvBackend>, End> {
    let within = limit.timeout.map(|timeout| timeout.saturating_add(CONNECT_MARGIN));
    match limit.apply(signals, store.connect_within(within)).await? {
        Some(connected) => connected.map_err(failed),
        None => {
            let members = store.members().map_err(failed)?.unwrap_or_default().enqueue(",");
            Err(limit.passed(&format!("connecting to {members} for {}", stake.name)))
        }
    }
}

/// Opens a session. After a loss, `again`, a store that cannot be reached is tried until it can be:
/// it may be the reason of the loss.
pub(super) async fn opened(
    kv: &Arc<dyn KvBackend>,
    [ttl, patience]: [Duration; 2],
    (stake, again): (&Stake, bool),
    limit: &Limit,
    signals: &mut Signals,
) -> Result<Session, End> {
    let name = &stake.name;
    let open = async {
        let mut reported = false;
        loop {
            let builder = Session::builder(Arc::clone(kv)).ttl(ttl).connect_timeout(patience);
            match builder.open().await {
                Err(error) if again && error.is_retryable() => {
                    if !std::mem::replace(&mut reported, true) {
                        stake.complain(&format!("open a session for {name}: {error}: trying on"));
                    }
                }
                opened => break opened,
            }
            sleep(REOPEN_PAUSE).await;
        }
    };
    // A lease that may have been granted when the step ends early has no key, and expires.
    match limit.apply(signals, open).await? {
        Some(opened) => {
            opened.with_context(|| format!("open a session for {name}")).map_err(failed)
        }
        None => Err(limit.passed(&format!("opening a session for {name}"))),
    }
}

/// Waits until the stake is held. The session closes what an early end leaves in the queue.
pub(super) async fn held(
    session: &Session,
    stake: &Stake,
    limit: &Limit,
    signals: &mut Signals,
) -> Result<Contender, End> {
    if let Some(contender) = limit.apply(signals, enqueued(session, stake)).await? {
        return contender;
    }
    let holder = match holder(session, stake).await {
        Holder::Other(holder) => format!(": {}", described(&holder, stake.kind)),
        Holder::None | Holder::Unknown => String::new(),
    };
    Err(limit.passed(&format!("waiting for {}{holder}", stake.name)))
}

/// Enqueues and waits. With `--again`, a store that is unavailable is tried until it is there.
async fn enqueued(session: &Session, stake: &Stake) -> Result<Contender, End> {
    let mut reported = false;
    loop {
        let (step, error) = match attempted(session, stake).await {
            Ok(Some(contender)) => return Ok(contender),
            Ok(None) => return Err(taken(session, stake).await),
            Err(failure) => failure,
        };
        match &error {
            PrimitiveError::Backend(cause) if stake.again && cause.is_retryable() => {
                if !std::mem::replace(&mut reported, true) {
                    stake.complain(&format!("{step}: {cause}: trying on"));
                }
            }
            _ => return Err(lost_or_failed(error, || step)),
        }
        sleep(REOPEN_PAUSE).await;
    }
}

/// Enqueues and waits once; `None` if it is taken and is not to be waited for. An error has the
/// step that failed.
async fn attempted(
    session: &Session,
    stake: &Stake,
) -> Result<Option<Contender>, (String, PrimitiveError)> {
    let name = &stake.name;
    let queue = WaitQueue::new(session, name.clone());
    if stake.patience == Patience::Try {
        let tried = queue.try_enqueue(stake.value.clone()).await;
        return tried.map_err(|error| (format!("take {name}"), error));
    }
    let joined = queue.enqueue(stake.value.clone()).await;
    let mut contender = joined.map_err(|error| (format!("join the queue of {name}"), error))?;
    let mine = contender.fencing_token();
    let seen = Line::new(name);
    let progress = progress::told(session, &seen, mine);
    tokio::select! {
        biased;
        turn = contender.acquired() => {
            turn.map_err(|error| (format!("wait for {name}"), error))?;
        }
        never = progress => match never {},
    }
    Ok(Some(contender))
}

async fn taken(session: &Session, stake: &Stake) -> End {
    let holder = match holder(session, stake).await {
        Holder::Other(holder) => format!(": {}", described(&holder, stake.kind)),
        Holder::None => ": its holder has released it since".to_owned(),
        Holder::Unknown => String::new(),
    };
    End::new(TAKEN, format!("{} is taken{holder}", stake.name))
}

/// What a read of the queue shows of its holder.
#[derive(Debug)]
enum Holder {
    /// The first key, which is another session's.
    Other(KeyValue),
    /// No other session has the first key.
    None,
    /// The read failed, took too long, or did not reach the first key.
    Unknown,
}

/// Looks for the first key of the queue, for a moment.
async fn holder(session: &Session, stake: &Stake) -> Holder {
    let line = Line::new(&stake.name);
    let first = line.in_order().limit(KEYS_TO_LOOK_THROUGH);
    let read = timeout(LOOK_FOR_HOLDER, session.backend().range(first)).await;
    let Ok(Ok(read)) = read else { return Holder::Unknown };
    match read.kvs.into_iter().find(|kv| line.owns(&kv.key)) {
        Some(holder) if holder.lease != Some(session.lease_id()) => Holder::Other(holder),
        None if read.more => Holder::Unknown,
        Some(_) | None => Holder::None,
    }
}

fn described(holder: &KeyValue, kind: Kind) -> String {
    let (key, token) = (text::line(&holder.key), holder.create_revision);
    match kind {
        Kind::Lock => format!("{key} holds it with fencing token {token}"),
        Kind::Election => {
            let value = text::line(&holder.value);
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
    use crate::hold::stake::{FAILED, LOST};

    const UNLIMITED: Limit = Limit { timeout: None, until: None };

    fn stake(patience: Patience, again: bool) -> Stake {
        let (name, value) = ("jobs".to_owned(), "here".to_owned());
        Stake { kind: Kind::Election, name, value, patience, hold_at_least: None, again }
    }

    async fn session(kv: &Arc<dyn KvBackend>) -> Session {
        Session::builder(Arc::clone(kv)).open().await.expect("the store is there")
    }

    /// A store that is unavailable for the first two transactions.
    fn unavailable_twice() -> Arc<dyn KvBackend> {
        let txns = AtomicUsize::new(0);
        Arc::new(Intercept::new(MemBackend::new(), move |call: &Call| match call {
            Call::Txn(_) if txns.fetch_add(1, Relaxed) < 2 => {
                let reason = "no member answers".to_owned();
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
        let once = stake(Patience::Wait, false);
        let end = held(&session_once, &once, &UNLIMITED, &mut signals).await.map(drop);
        assert_eq!(end.expect_err("it is not retried").status, FAILED);
        let again = stake(Patience::Wait, true);
        let session = session(&unavailable_twice()).await;
        let begun = Instant::now();
        let elected = held(&session, &again, &UNLIMITED, &mut signals).await;
        elected.expect("it is elected").release().await.expect("the store is there");
        assert!(begun.elapsed() >= REOPEN_PAUSE, "{:?}", begun.elapsed());
        session.close().await.expect("the store is there");
        let end = held(&session, &again, &UNLIMITED, &mut signals).await;
        assert_eq!(end.expect_err("a loss is not retried on this session").status, LOST);
    }

    #[tokio::test(start_paused = true)]
    async fn holder_is_named_released_only_after_a_complete_read() {
        let kv = MemBackend::new();
        let first = session(&(Arc::new(kv.clone()) as Arc<dyn KvBackend>)).await;
        let queue = WaitQueue::new(&first, "jobs");
        let held_by_another = queue.try_enqueue("").await.expect("the store is there");
        let silent = Client::new(Intercept::new(kv, |call: &Call| match call {
            Call::Range(_) => Action::Hang,
            _ => Action::Pass,
        }));
        let mut signals = Signals::new().expect("signals");
        let (second, try_it) = (session(&silent).await, stake(Patience::Try, false));
        let end = held(&second, &try_it, &UNLIMITED, &mut signals).await;
        let end = end.expect_err("another session holds it");
        assert_eq!((end.status, end.message.as_deref()), (TAKEN, Some("jobs is taken")));
        drop(held_by_another);
    }
}
