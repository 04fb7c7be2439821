//! Random transactions as programs: their steps, and a replay on a state of the store.

use std::collections::BTreeMap;

use bytes::Bytes;
use coord_core::{
    Error,
    kv::{KeyRange, Revision},
    stm::Transaction,
};

/// A step of a transaction. Keys are numbers, see [`key`].
#[derive(Clone, Debug)]
pub(super) enum Step {
    Get(u8),
    GetMany(Vec<u8>),
    RevisionOf(u8),
    Range(u8, u8),
    Put(u8),
    Delete(u8),
    DeleteRange(u8, u8),
    Yield,
    /// Sleeps for some milliseconds, so that other transactions wait in the conflict queue.
    Pause(u16),
    /// Another client puts (`true`) or deletes keys, in one transaction.
    Interfere(Vec<(u8, bool)>),
    Compact,
    Abort,
}

impl Step {
    /// Whether the step is a call of the transaction, not an event beside it.
    const fn is_own(&self) -> bool {
        !matches!(self, Self::Yield | Self::Pause(_) | Self::Interfere(_) | Self::Compact)
    }
}

/// What a step has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Observation {
    Values(Vec<Option<Bytes>>),
    Revision(Revision),
    Range(Vec<(Bytes, Bytes)>),
    Deleted(usize),
}

/// The keys of the store, with their values and mod revisions.
pub(super) type StoreState = BTreeMap<Bytes, (Bytes, Revision)>;

/// The key with number `n`.
pub(super) fn key(n: u8) -> String {
    format!("x/{}", char::from(b'a' + n))
}

pub(super) fn range(from: u8, to: u8) -> KeyRange {
    KeyRange::between(key(from.min(to)), key(from.max(to) + 1))
}

/// Whether a program writes, so that it commits at a revision of its own.
pub(super) fn writes(program: &[Step]) -> bool {
    program.iter().any(|s| matches!(s, Step::Put(_) | Step::Delete(_) | Step::DeleteRange(..)))
}

/// Whether a step reads the store, not only the writes of the steps `before` it.
pub(super) fn reads_store(step: &Step, before: &[Step]) -> bool {
    let own = |n: &u8| {
        before.iter().any(|step| matches!(step, Step::Put(put) | Step::Delete(put) if put == n))
    };
    match step {
        Step::Get(n) => !own(n),
        Step::GetMany(keys) => !keys.iter().all(own),
        Step::RevisionOf(_) | Step::Range(..) | Step::DeleteRange(..) => true,
        _ => false,
    }
}

/// Whether a program may read a key from the store.
pub(super) fn may_read(program: &[Step], n: u8) -> bool {
    program.iter().any(|step| match step {
        Step::Get(read) | Step::RevisionOf(read) => *read == n,
        Step::GetMany(read) => read.contains(&n),
        Step::Range(from, to) | Step::DeleteRange(from, to) => {
            range(*from, *to).contains(key(n).as_bytes())
        }
        _ => false,
    })
}

/// Runs a step of a transaction. Returns what it has read, or `None` for a write.
pub(super) async fn perform(
    step: &Step,
    tx: &mut Transaction,
    value: String,
) -> Result<Option<Observation>, Error> {
    let observed = match step {
        Step::Get(n) => Observation::Values(vec![tx.get(key(*n)).await?]),
        Step::GetMany(keys) => Observation::Values(
            tx.get_many(keys.iter().copied().map(key).collect::<Vec<_>>()).await?,
        ),
        Step::RevisionOf(n) => {
            Observation::Revision(tx.revision_of(key(*n)).await?.unwrap_or_default())
        }
        Step::Range(from, to) => Observation::Range(tx.range(range(*from, *to)).await?),
        Step::DeleteRange(from, to) => {
            Observation::Deleted(tx.delete_range(range(*from, *to)).await?)
        }
        Step::Put(n) => {
            tx.put(key(*n), value);
            return Ok(None);
        }
        Step::Delete(n) => {
            tx.delete(key(*n));
            return Ok(None);
        }
        _ => return Ok(None),
    };
    Ok(Some(observed))
}

/// Runs a program alone on the state `before`. Returns what it reads, and the keys and values after
/// it.
pub(super) fn replay(
    program: &[Step],
    tag: &str,
    before: &StoreState,
) -> (Vec<Observation>, BTreeMap<Bytes, Bytes>) {
    let mut now: BTreeMap<Bytes, Bytes> =
        before.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect();
    let within = |now: &BTreeMap<Bytes, Bytes>, range: &KeyRange| -> Vec<(Bytes, Bytes)> {
        let found = now.iter().filter(|(key, _)| range.contains(key));
        found.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let mut observed = Vec::new();
    for (i, step) in program.iter().enumerate() {
        match step {
            Step::Get(n) => {
                observed.push(Observation::Values(vec![now.get(key(*n).as_bytes()).cloned()]))
            }
            Step::GetMany(keys) => {
                let value = |n: &u8| now.get(key(*n).as_bytes()).cloned();
                observed.push(Observation::Values(keys.iter().map(value).collect()));
            }
            Step::RevisionOf(n) => {
                let put = before.get(key(*n).as_bytes()).map_or(Revision::ZERO, |(_, put)| *put);
                observed.push(Observation::Revision(put));
            }
            Step::Range(from, to) => {
                observed.push(Observation::Range(within(&now, &range(*from, *to))))
            }
            Step::DeleteRange(from, to) => {
                let found = within(&now, &range(*from, *to));
                now.retain(|key, _| !range(*from, *to).contains(key));
                observed.push(Observation::Deleted(found.len()));
            }
            Step::Put(n) => drop(now.insert(key(*n).into(), format!("{tag}.{i}").into())),
            Step::Delete(n) => drop(now.remove(key(*n).as_bytes())),
            Step::Abort => break,
            other => debug_assert!(!other.is_own(), "{other:?} is not replayed"),
        }
    }
    (observed, now)
}
