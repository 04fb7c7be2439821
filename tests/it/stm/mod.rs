//! What transactions promise.

#![expect(clippy::future_not_send, reason = "closures under test borrow from their test")]

mod cost;
mod isolation;
mod idempotency_key;
mod opacity;
mod put;
mod random;
mod ranges;
mod retry;
mod snapshot;
mod spawn;
mod turns;

use coord_mem::MemBackend;
use std::cell::Cell;
use std::sync::Arc;

use coord_core::stm::{Committed, StmError, Transaction};
use coord_core::{
    Client, Error, Stm,
    kv::{Put, Txn},
    stm::Isolation,
};
use coord_testkit::{Intercept, Rule, StaleMember};

use crate::support::{newest, secs};

/// Every level, the strongest first.
const LEVELS: [Isolation; 4] = [
    Isolation::SerializableSnapshot,
    Isolation::Serializable,
    Isolation::RepeatableReads,
    Isolation::ReadCommitted,
];

/// The levels at which every attempt sees one revision.
const STRONG_LEVELS: [Isolation; 2] = [Isolation::SerializableSnapshot, Isolation::Serializable];

/// A number under a key.
async fn number(tx: &mut Transaction, key: &str) -> Result<i64, Error> {
    let text = tx.get_as::<String>(key.to_owned()).await?;
    Ok(text.map_or(0, |text| text.parse().unwrap()))
}

/// Adds one to a number, and lets others do something in between.
async fn add_one(kv: Client, key: &str) -> Result<Committed<i64>, StmError<Error>> {
    // Owned, so that it can be spawned.
    let key = key.to_owned();
    Stm::new(&kv)
        .run(async move |tx| {
            let n = number(tx, &key).await? + 1;
            tokio::task::yield_now().await;
            tx.put(&key, n.to_string());
            Ok(n)
        })
        .await
}

/// A store with numbers in it, all put at one revision.
async fn store_with(numbers: &[(&str, i64)]) -> Client {
    let store = Client::new(MemBackend::new());
    put_all(&store, numbers).await;
    store
}

/// Puts numbers, all at one revision, as another client would.
async fn put_all(store: &Client, numbers: &[(&str, i64)]) {
    let puts = numbers.iter().map(|(key, n)| Put::new(*key, n.to_string()));
    store.txn(Txn::new().and_then(puts)).await.unwrap();
}

/// The number that is in the store.
async fn stored(store: &Client, key: &str) -> i64 {
    let kv = store.get(key.to_owned()).await.unwrap().unwrap();
    std::str::from_utf8(&kv.value).unwrap().parse().unwrap()
}

/// Says yes once: what others do between two steps of an attempt, they do once.
struct OneShot(Cell<bool>);

impl OneShot {
    const fn new() -> Self {
        Self(Cell::new(true))
    }

    fn now(&self) -> bool {
        self.0.replace(false)
    }
}

/// A client of `store` whose serializable reads are answered by a member that gets no further than
/// where the store is now.
async fn stale_client(store: &Client) -> Client {
    let member = Arc::new(StaleMember::new(store.clone()));
    fall_behind(&member, store).await;
    Client::new(member)
}

async fn fall_behind(member: &StaleMember<Client>, store: &Client) {
    member.fall_behind(newest(store).await);
}

/// A client of `store` that waits for a second for each answer, with `rule` in between.
fn client_with_timeout(store: &Client, rule: impl Rule) -> Client {
    Client::new(Intercept::new(Arc::clone(store.backend()), rule).timeout(secs(1)))
}
