//! Transactions: isolation, conflicts, retries, idempotency keys and cost.

#![expect(clippy::future_not_send, reason = "closures under test borrow from their test")]

mod conflict_queue;
mod cost;
mod idempotency;
mod isolation;
mod opacity;
mod put;
mod random;
mod ranges;
mod recording;
mod retry;
mod snapshot;
mod spawn;

use std::cell::Cell;
use std::sync::Arc;

use coord_core::{
    Client, Error, Stm,
    kv::{Put, Txn},
    stm::{Committed, Isolation, StmError, Transaction},
};
use coord_mem::MemBackend;
use coord_testkit::{Intercept, Rule, StaleMember};

use crate::support::{newest_revision, secs};

/// The levels at which each attempt sees one snapshot.
const STRONG_LEVELS: [Isolation; 2] = [Isolation::SerializableSnapshot, Isolation::Serializable];

/// The number at a key, or 0 if the key does not exist.
async fn number(tx: &mut Transaction, key: &str) -> Result<i64, Error> {
    let text = tx.get_as::<String>(key.to_owned()).await?;
    Ok(text.map_or(0, |text| text.parse().unwrap()))
}

/// Adds one to the number at a key, and yields between the read and the write.
async fn add_one(kv: Client, key: &str) -> Result<Committed<i64>, StmError<Error>> {
    // Owned, so that the future is `'static` and can be spawned.
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

/// A store that contains numbers, all put at one revision.
async fn store_with(numbers: &[(&str, i64)]) -> Client {
    let store = Client::new(MemBackend::new());
    put_all(&store, numbers).await;
    store
}

/// Puts numbers in one transaction of another client.
async fn put_all(store: &Client, numbers: &[(&str, i64)]) {
    let puts = numbers.iter().map(|(key, n)| Put::new(*key, n.to_string()));
    store.txn(Txn::new().and_then(puts)).await.unwrap();
}

/// The number at a key, as another client reads it.
async fn stored_number(store: &Client, key: &str) -> i64 {
    let kv = store.get(key.to_owned()).await.unwrap().unwrap();
    std::str::from_utf8(&kv.value).unwrap().parse().unwrap()
}

/// A flag that is set until its first use. With it, another client writes during the first attempt
/// and not during the retries.
struct OneShot(Cell<bool>);

impl OneShot {
    const fn new() -> Self {
        Self(Cell::new(true))
    }

    /// Returns whether this is the first call.
    fn take(&self) -> bool {
        self.0.replace(false)
    }
}

/// A client of `store` whose serializable reads go to a stale member, which stays at the current
/// revision.
async fn stale_client(store: &Client) -> Client {
    let member = Arc::new(StaleMember::new(store.clone()));
    fall_behind(&member, store).await;
    Client::new(member)
}

/// Moves a member to the current revision of `store`, where it stays.
async fn fall_behind(member: &StaleMember<Client>, store: &Client) {
    member.fall_behind(newest_revision(store).await);
}

/// A client of `store` with `rule` in between, whose requests time out after 1 s.
fn client_with_timeout(store: &Client, rule: impl Rule) -> Client {
    Client::new(Intercept::new(Arc::clone(store.backend()), rule).timeout(secs(1)))
}
