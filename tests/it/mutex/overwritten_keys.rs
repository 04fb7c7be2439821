//! Keys of a mutex that another client overwrites, without their lease.

use coord_core::{Client, Mutex, kv::Txn};
use coord_mem::MemBackend;
use tokio::time::timeout;

use crate::support::{secs, session, settle};
use crate::while_waiting::while_waiting;

/// The overwritten key is still the key of the holder: its create revision is unchanged.
#[tokio::test(start_paused = true)]
async fn waiter_waits_when_holder_key_loses_its_lease() {
    let store = Client::new(MemBackend::new());
    let holder = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let waiter = Mutex::new(&session(&store).await, "m");
    let overwrite = store.put(holder.key().clone(), "x");
    let (acquired, put) = while_waiting(timeout(secs(60), waiter.lock()), overwrite).await;
    put.unwrap();
    assert!(acquired.is_err(), "acquired beside the holder");
    holder.txn(Txn::new()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn waiter_keeps_position_when_its_key_loses_its_lease() {
    let store = Client::new(MemBackend::new());
    let holder = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let waiter = Mutex::new(&session(&store).await, "m");
    let overwrite = async {
        let waiter_key = store.get_prefix("m/").await.unwrap().pop().unwrap().key;
        assert_ne!(waiter_key, holder.key());
        store.put(waiter_key, "x").await.unwrap();
        settle().await;
        holder.unlock().await.unwrap();
    };
    let (acquired, ()) = while_waiting(timeout(secs(60), waiter.lock()), overwrite).await;
    drop(acquired.expect("acquires within 60 s").expect("its key exists"));
}
