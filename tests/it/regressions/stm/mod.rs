//! The faults of Go's transactions: what they did, shown on a copy of them, and that coord do not.

mod failed;
#[path = "../../../go/old_stm.rs"]
mod old;
mod seen;

use crate::support::another;

use coord_core::{
    Client,
    kv::{Put, Revision, Txn},
    stm::Isolation,
};

const STRONG_LEVELS: [Isolation; 2] = [Isolation::SerializableSnapshot, Isolation::Serializable];

fn another(store: &Client) -> Client {
    another(store)
}

/// Puts the keys together.
async fn put(store: &Client, keys: &[&'static str], value: &'static str) -> Revision {
    let txn = Txn::new().and_then(keys.iter().map(|key| Put::new(*key, value)));
    store.txn(txn).await.unwrap().header.revision
}

/// The value of a key, now; empty if it is not there.
async fn value(store: &Client, key: &'static str) -> String {
    let found = store.get(key).await.unwrap();
    found.map(|kv| kv.value.escape_ascii().to_string()).unwrap_or_default()
}
