//! Faults of Go's transactions that coord does not have.

#[path = "../../../go/go_stm.rs"]
mod go_stm;
mod reads;
mod retries;

use coord_core::{
    Client,
    kv::{Put, Revision, Txn},
    stm::Isolation,
};

/// The levels at which each attempt sees one snapshot.
const STRONG_LEVELS: [Isolation; 2] = [Isolation::SerializableSnapshot, Isolation::Serializable];

/// Puts the keys in one transaction. Returns its revision.
async fn put_all(store: &Client, keys: &[&'static str], value: &'static str) -> Revision {
    let txn = Txn::new().and_then(keys.iter().map(|key| Put::new(*key, value)));
    store.txn(txn).await.unwrap().header.revision
}

/// The value of a key, or an empty string if the key does not exist.
async fn value(store: &Client, key: &'static str) -> String {
    let found = store.get(key).await.unwrap();
    found.map(|kv| kv.value.escape_ascii().to_string()).unwrap_or_default()
}
