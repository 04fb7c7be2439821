//! Waiting for what is to be held: connect, open a session, stand in the wait queue.
//!
//! Each step ends early when a signal comes, or when `--timeout` has passed since the first step
//! began. The messages name the step, what was to be held, and its holder where one is known.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use coord_core::contender::{Contender, WaitingLine};
use coord_core::{KeyValue, KvBackend, Session};
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
            let members = store.members().map_err(failed)?.unwrap_or_default().join(",");
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
        Some(holder) => format!(": {}", described(&holder, stake.kind)),
        None => String::new(),
    };
    Err(limit.passed(&format!("waiting for {}{holder}", stake.name)))
}

async fn enqueued(session: &Session, stake: &Stake) -> Result<Contender, End> {
    let name = &stake.name;
    let queue = WaitingLine::new(session, name.clone());
    if stake.patience == Patience::Try {
        let tried = queue.try_join(stake.value.clone()).await;
        let tried = tried.map_err(|error| lost_or_failed(error, || format!("take {name}")))?;
        let Some(contender) = tried else { return Err(taken(session, stake).await) };
        return Ok(contender);
    }
    let joined = queue.join(stake.value.clone()).await;
    let mut contender =
        joined.map_err(|error| lost_or_failed(error, || format!("join the queue of {name}")))?;
    let mine = contender.fencing_token();
    let seen = Line::new(name);
    let progress = progress::told(session, &seen, mine);
    tokio::select! {
        biased;
        turn = contender.wait_turn() => {
            turn.map_err(|error| lost_or_failed(error, || format!("wait for {name}")))?;
        }
        never = progress => match never {},
    }
    Ok(contender)
}

async fn taken(session: &Session, stake: &Stake) -> End {
    let holder = match holder(session, stake).await {
        Some(holder) => described(&holder, stake.kind),
        None => "its holder has released it since".to_owned(),
    };
    End::new(TAKEN, format!("{} is taken: {holder}", stake.name))
}

/// The first key of the queue, if it is another session's and is found within a moment.
async fn holder(session: &Session, stake: &Stake) -> Option<KeyValue> {
    let line = Line::new(&stake.name);
    let first = line.in_order().limit(KEYS_TO_LOOK_THROUGH);
    let read = timeout(LOOK_FOR_HOLDER, session.backend().range(first)).await.ok()?.ok()?;
    let holder = read.kvs.into_iter().find(|kv| line.owns(&kv.key))?;
    (holder.lease != Some(session.lease_id())).then_some(holder)
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
