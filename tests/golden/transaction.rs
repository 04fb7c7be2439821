//! What the transactions of a script do.

use std::sync::Arc;

use coord_core::stm::{Conflict, Hooks, Retry, Transaction};
use coord_core::{Stm, kv::KeyRange, stm::Isolation};
use tokio::sync::Semaphore;

use crate::log::Log;
use crate::work::Failure;

/// A step of a transaction.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// `get k`
    Get(String),
    /// `range p/`: the keys that begin so.
    Range(String),
    /// `both k l`: gives up unless both are there.
    Both(String, String),
    /// `put k v`
    Put(String, String),
    /// `add k n`: reads a number, zero if there is none, and puts one that is n more.
    Add(String, i64),
    /// `take k n`: likewise, n less.
    Take(String, i64),
    /// `delete k`
    Delete(String),
    /// `pause`: waits for a `go`.
    Pause,
}

/// The steps of a transaction, and what they need.
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) steps: Vec<Step>,
    pub(crate) go: Arc<Semaphore>,
    pub(crate) log: Log,
}

/// The steps that these words are.
pub(crate) fn steps(words: &[String]) -> Result<Vec<Step>, Failure> {
    let mut words = words.iter().cloned();
    let mut steps = Vec::new();
    while let Some(verb) = words.next() {
        let mut word = || words.next().ok_or_else(|| format!("{verb} what?"));
        steps.push(match &verb[..] {
            "get" => Step::Get(word()?),
            "range" => Step::Range(word()?),
            "both" => Step::Both(word()?, word()?),
            "put" => Step::Put(word()?, word()?),
            "add" => Step::Add(word()?, word()?.parse()?),
            "take" => Step::Take(word()?, word()?.parse()?),
            "delete" => Step::Delete(word()?),
            "pause" => Step::Pause,
            other => return Err(format!("no step of a transaction: {other}").into()),
        });
    }
    Ok(steps)
}

/// The level of this name.
pub(crate) fn level(name: &str) -> Result<Isolation, Failure> {
    use Isolation::{ReadCommitted, RepeatableReads, Serializable, SerializableSnapshot};
    let all = [SerializableSnapshot, Serializable, RepeatableReads, ReadCommitted];
    let level = all.into_iter().find(|level| level.to_string() == name);
    Ok(level.ok_or_else(|| format!("no such level: {name}"))?)
}

impl Program {
    /// Runs the transaction, and tells what became of it.
    pub(crate) async fn run(self, stm: Stm) -> Result<String, Failure> {
        let notes = Notes { name: self.name.clone(), log: self.log.clone() };
        // Paused alike in every run of the script.
        let retry = Retry { seed: Some(0), ..Retry::default() };
        let stm = stm.retry(retry).hooks(Arc::new(notes));
        let run = stm.run(async move |tx| self.attempt(tx).await).await;
        let committed = run.map_err(|error| error.to_string())?;
        let (receipt, wrote) = (committed.receipt, committed.value);
        let what = if wrote { "committed at" } else { "has read as of" };
        let attempt = match receipt.attempts {
            1 => String::new(),
            n => format!(", attempt {n}"),
        };
        let marker = if receipt.resolved { ", as its marker tells" } else { "" };
        Ok(format!("{what} revision {}{attempt}{marker}", receipt.revision))
    }

    /// Takes the steps, and tells whether any was to write.
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
                        return Err(format!("{one} and {other} are not both there").into());
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

/// Notes the conflicts of a transaction.
struct Notes {
    name: String,
    log: Log,
}

impl Hooks for Notes {
    fn conflicted(&self, attempt: u32, conflicts: &[Conflict]) {
        let conflicts: Vec<_> = conflicts.iter().map(ToString::to_string).collect();
        let conflicts = conflicts.join(", ");
        self.log.note(&format!("{}: attempt {attempt} conflicts: {conflicts}", self.name));
    }
}
