//! Keys of the queue that another client overwrites.

use coord_core::{Client, Mutex, kv::Txn};
use coord_mem::MemBackend;
use tokio::time::timeout;

use crate::support::{secs, session, settle};

/// A key without its lease is still the key of the holder.
#[tokio::test(start_paused = true)]
async fn waiter_waits_when_holder_key_loses_its_lease() {
    let store = Client::new(MemBackend::new());
    let (a, b) = (session(&store).await, session(&store).await);
    let held = Mutex::new(&a, "m").lock().await.unwrap();
    let mutex = Mutex::new(&b, "m");
    let overwrite = async {
        settle().await;
        store.put(held.key().clone(), "x").await.unwrap();
    };
    let (waited, ()) = tokio::join!(timeout(secs(60), mutex.lock()), overwrite);
    assert!(waited.is_err(), "the key of the holder is still there");
    held.txn(Txn::new()).await.unwrap();
}

/// The same for the key of the waiter itself.
#[tokio::test(start_paused = true)]
async fn waiter_keeps_position_when_its_key_loses_its_lease() {
    let store = Client::new(MemBackend::new());
    let (a, b) = (session(&store).await, session(&store).await);
    let held = Mutex::new(&a, "m").lock().await.unwrap();
    let mutex = Mutex::new(&b, "m");
    let overwrite = async {
        settle().await;
        let own = store.get_prefix("m/").await.unwrap().pop().expect("the waiter's");
        let own = if own.key == held.key() { panic!("the holder's") } else { own.key };
        store.put(own, "x").await.unwrap();
        settle().await;
        held.unlock().await.unwrap();
    };
    let (waited, ()) = tokio::join!(timeout(secs(60), mutex.lock()), overwrite);
    drop(waited.expect("served in time").expect("its key is there"));
}
