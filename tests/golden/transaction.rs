//! The transactions of a golden script: their steps and their execution.

use std::fmt::Debug;
use std::sync::Arc;

use coord_core::Stm;
use coord_core::kv::KeyRange;
use coord_core::stm::{Isolation, Retry, Transaction};
use tokio::sync::Semaphore;
use tracing::field::{Field, Visit};
use tracing::instrument::WithSubscriber as _;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::client_commands::Failure;
use crate::log::Log;

/// A step of a transaction.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// `get k`
    Get(String),
    /// `range p/`: reads the keys with this prefix.
    Range(String),
    /// `both k l`: aborts the transaction unless both keys exist.
    Both(String, String),
    /// `put k v`
    Put(String, String),
    /// `add k n`: reads a number, zero if the key is absent, and puts the number plus n.
    Add(String, i64),
    /// `take k n`: reads a number, zero if the key is absent, and puts the number minus n.
    Take(String, i64),
    /// `delete k`
    Delete(String),
    /// `pause`: waits for the command `go`.
    Pause,
}

/// A transaction to run: its steps and the state that they use.
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) steps: Vec<Step>,
    pub(crate) go: Arc<Semaphore>,
    pub(crate) log: Log,
}

/// Parses the steps of a transaction.
pub(crate) fn steps(words: &[String]) -> Result<Vec<Step>, Failure> {
    let mut words = words.iter().cloned();
    let mut steps = Vec::new();
    while let Some(verb) = words.next() {
        let mut word =
            || words.next().ok_or_else(|| format!("step {verb}: an argument is missing"));
        steps.push(match &verb[..] {
            "get" => Step::Get(word()?),
            "range" => Step::Range(word()?),
            "both" => Step::Both(word()?, word()?),
            "put" => Step::Put(word()?, word()?),
            "add" => Step::Add(word()?, word()?.parse()?),
            "take" => Step::Take(word()?, word()?.parse()?),
            "delete" => Step::Delete(word()?),
            "pause" => Step::Pause,
            other => {
                return Err(format!(
                    "unknown step {other}: see `Step` in tests/golden/transaction.rs"
                )
                .into());
            }
        });
    }
    Ok(steps)
}

/// Parses an isolation level.
pub(crate) fn level(name: &str) -> Result<Isolation, Failure> {
    use Isolation::{ReadCommitted, RepeatableReads, Serializable, SerializableSnapshot};
    let all = [SerializableSnapshot, Serializable, RepeatableReads, ReadCommitted];
    let level = all.into_iter().find(|level| level.to_string() == name);
    let unknown = || {
        let valid = all.map(|level| level.to_string()).join(", ");
        format!("unknown isolation level {name}: use one of {valid}")
    };
    Ok(level.ok_or_else(unknown)?)
}

impl Program {
    /// Runs the transaction and returns the line to print.
    pub(crate) async fn run(self, stm: Stm) -> Result<String, Failure> {
        let conflict_log = ConflictLog { name: self.name.clone(), log: self.log.clone() };
        // A fixed seed, so that every run of the script has the same backoff.
        let retry = Retry { seed: Some(0), ..Retry::default() };
        let stm = stm.retry(retry);
        let run = stm.run(async move |tx| self.attempt(tx).await);
        let run = run.with_subscriber(tracing_subscriber::registry().with(conflict_log)).await;
        let committed = run.map_err(|error| error.to_string())?;
        let (info, wrote) = (committed.info, committed.value);
        let what = if wrote { "committed at" } else { "has read as of" };
        let attempt = match info.attempts {
            1 => String::new(),
            n => format!(", attempt {n}"),
        };
        let resolved = if info.resolved { ", resolved by its idempotency key" } else { "" };
        Ok(format!("{what} revision {}{attempt}{resolved}", info.revision))
    }

    /// Runs the steps. Returns whether any of them writes.
    async fn attempt(&self, tx: &mut Transaction) -> Result<bool, Failure> {
        let mut wrote = false;
        for step in &self.steps {
            match step {
                Step::Get(key) => {
                    let value: Option<String> = tx.get_as(key).await?;
                    self.note(key, value.as_deref());
                }
                Step::Range(prefix) => {
                    let found = tx.range(KeyRange::prefix(prefix)).await?;
                    let keys: Vec<_> =
                        found.iter().map(|(key, _)| key.escape_ascii().to_string()).collect();
                    let keys = if keys.is_empty() { "nothing".to_owned() } else { keys.join(" ") };
                    self.log.note(&format!("{}: finds {keys} under {prefix}", self.name));
                }
                Step::Both(one, other) => {
                    let found = tx.get_many([one, other]).await?;
                    if found.iter().any(Option::is_none) {
                        return Err(format!("{one} or {other} does not exist").into());
                    }
                    self.log.note(&format!("{}: finds both {one} and {other}", self.name));
                }
                Step::Put(key, value) => tx.put(key, value),
                Step::Add(key, n) => self.add(tx, key, *n).await?,
                Step::Take(key, n) => self.add(tx, key, -n).await?,
                Step::Delete(key) => tx.delete(key),
                Step::Pause => self.go.acquire().await?.forget(),
            }
            wrote |= !matches!(step, Step::Get(_) | Step::Range(_) | Step::Both(..) | Step::Pause);
        }
        Ok(wrote)
    }

    async fn add(&self, tx: &mut Transaction, key: &String, n: i64) -> Result<(), Failure> {
        let number: Option<String> = tx.get_as(key).await?;
        self.note(key, number.as_deref());
        let number: i64 = number.as_deref().unwrap_or("0").parse()?;
        tx.put(key, (number + n).to_string());
        Ok(())
    }

    fn note(&self, key: &str, value: Option<&str>) {
        let line = match value {
            Some(value) => format!("{}: reads {key} = {value}", self.name),
            None => format!("{}: reads no {key}", self.name),
        };
        self.log.note(&line);
    }
}

/// Prints the conflicts of a transaction from its log lines, because an aborted or unfinished
/// transaction does not return them.
struct ConflictLog {
    name: String,
    log: Log,
}

impl<S: Subscriber> Layer<S> for ConflictLog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut conflict = ConflictFields::default();
        event.record(&mut conflict);
        let ConflictFields { message, attempt, count, first } = conflict;
        if message == "transaction conflicted" {
            let more = match count {
                1 => String::new(),
                n => format!(", {} more", n - 1),
            };
            let name = &self.name;
            self.log.note(&format!("{name}: attempt {attempt} conflicts: {first}{more}"));
        }
    }
}

/// The fields of the log line of a conflict.
#[derive(Default)]
struct ConflictFields {
    message: String,
    attempt: u64,
    count: u64,
    first: String,
}

impl Visit for ConflictFields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "attempt" => self.attempt = value,
            "count" => self.count = value,
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "first" => self.first = format!("{value:?}"),
            _ => {}
        }
    }
}
