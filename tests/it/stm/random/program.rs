//! Programs of transactions: what a transaction does, and what it would see if it ran alone.

use std::collections::BTreeMap;

use bytes::Bytes;
use coord_core::stm::Transaction;
use coord_core::{
    Error,
    kv::{KeyRange, Revision},
};

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
    /// Takes some milliseconds, so that other transactions wait in the conflict queue.
    Pause(u16),
    /// Another client puts (`true`) or deletes keys, in one transaction.
    Other(Vec<(u8, bool)>),
    Compact,
    GiveUp,
}

impl Step {
    /// Whether the step is about the transaction itself, and not about what happens beside it.
    const fn is_own(&self) -> bool {
        !matches!(self, Self::Yield | Self::Pause(_) | Self::Other(_) | Self::Compact)
    }
}

/// What a step has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Values(Vec<Option<Bytes>>),
    Revision(Revision),
    Range(Vec<(Bytes, Bytes)>),
    Deleted(usize),
}

/// The keys of the store, their values and when they were put.
pub(super) type State = BTreeMap<Bytes, (Bytes, Revision)>;

pub(super) fn key(n: u8) -> String {
    format!("x/{}", char::from(b'a' + n))
}

pub(super) fn range(from: u8, to: u8) -> KeyRange {
    KeyRange::between(key(from.min(to)), key(from.max(to) + 1))
}

pub(super) fn writes(program: &[Step]) -> bool {
    program.iter().any(|s| matches!(s, Step::Put(_) | Step::Delete(_) | Step::DeleteRange(..)))
}

/// Whether a step after those before it asks the store, rather than what the transaction has put.
pub(super) fn asks(step: &Step, before: &[Step]) -> bool {
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

/// Whether a program may ask the store for a key.
pub(super) fn reads(program: &[Step], n: u8) -> bool {
    program.iter().any(|step| match step {
        Step::Get(read) | Step::RevisionOf(read) => *read == n,
        Step::GetMany(read) => read.contains(&n),
        Step::Range(from, to) | Step::DeleteRange(from, to) => {
            range(*from, *to).contains(key(n).as_bytes())
        }
        _ => false,
    })
}

/// Takes a step; tells what it saw, if it looked.
pub(super) async fn take(
    step: &Step,
    tx: &mut Transaction,
    value: String,
) -> Result<Option<Seen>, Error> {
    let seen = match step {
        Step::Get(n) => Seen::Values(vec![tx.get(key(*n)).await?]),
        Step::GetMany(keys) => {
            Seen::Values(tx.get_many(keys.iter().copied().map(key).collect::<Vec<_>>()).await?)
        }
        Step::RevisionOf(n) => Seen::Revision(tx.revision_of(key(*n)).await?.unwrap_or_default()),
        Step::Range(from, to) => Seen::Range(tx.range(range(*from, *to)).await?),
        Step::DeleteRange(from, to) => Seen::Deleted(tx.delete_range(range(*from, *to)).await?),
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
    Ok(Some(seen))
}

/// What a program sees and leaves when it runs alone.
pub(super) fn replay(
    program: &[Step],
    tag: &str,
    before: &State,
) -> (Vec<Seen>, BTreeMap<Bytes, Bytes>) {
    let mut now: BTreeMap<Bytes, Bytes> =
        before.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect();
    let within = |now: &BTreeMap<Bytes, Bytes>, range: &KeyRange| -> Vec<(Bytes, Bytes)> {
        let found = now.iter().filter(|(key, _)| range.contains(key));
        found.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let mut seen = Vec::new();
    for (i, step) in program.iter().enumerate() {
        match step {
            Step::Get(n) => seen.push(Seen::Values(vec![now.get(key(*n).as_bytes()).cloned()])),
            Step::GetMany(keys) => {
                let value = |n: &u8| now.get(key(*n).as_bytes()).cloned();
                seen.push(Seen::Values(keys.iter().map(value).collect()));
            }
            Step::RevisionOf(n) => {
                let put = before.get(key(*n).as_bytes()).map_or(Revision::ZERO, |(_, put)| *put);
                seen.push(Seen::Revision(put));
            }
            Step::Range(from, to) => seen.push(Seen::Range(within(&now, &range(*from, *to)))),
            Step::DeleteRange(from, to) => {
                let found = within(&now, &range(*from, *to));
                now.retain(|key, _| !range(*from, *to).contains(key));
                seen.push(Seen::Deleted(found.len()));
            }
            Step::Put(n) => drop(now.insert(key(*n).into(), format!("{tag}.{i}").into())),
            Step::Delete(n) => drop(now.remove(key(*n).as_bytes())),
            Step::GiveUp => break,
            other => debug_assert!(!other.is_own(), "{other:?} is not replayed"),
        }
    }
    (seen, now)
}
