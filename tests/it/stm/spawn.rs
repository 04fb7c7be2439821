//! Spawned transactions: the future of `Stm::run` is `Send` if its closure owns its data.
//!
//! The future of a closure that borrows is not `Send`, because of a limitation of the compiler. A
//! `compile_fail` example of `Stm::run` shows it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use coord_core::{
    Client, Error, Session, Stm,
    kv::KeyRange,
    stm::{Retry, Transaction},
};
use coord_mem::MemBackend;
use tokio::task::JoinSet;

use super::store_with;
use crate::support::{separate_client, session};

/// Compiles only if `future` meets the bounds of `tokio::spawn`.
fn assert_spawnable<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) {
    drop(future);
}

/// Doubles a number: a helper that takes the transaction by reference, as applications have them.
async fn double(tx: &mut Transaction, key: &str) -> Result<u64, Error> {
    let text = tx.get_as::<String>(key.to_owned()).await?.unwrap_or_default();
    let n = text.parse::<u64>().unwrap_or(0) * 2;
    tx.put(key, n.to_string());
    Ok(n)
}

async fn run_double(stm: Stm, key: String) -> u64 {
    let run = stm.run(async move |tx| double(tx, &key).await);
    run.await.unwrap().value
}

#[tokio::test(start_paused = true)]
async fn run_can_be_spawned_when_its_closure_owns_its_data() {
    let kv = Client::new(MemBackend::new());
    let (one, two) = (String::from("one"), String::from("two"));
    assert_spawnable({
        let (kv, key) = (kv.clone(), one.clone());
        async move {
            Stm::new(&kv)
                .run(async move |tx| {
                    tx.get(key.clone()).await?;
                    tx.get_many([&*key, "x"].map(str::to_owned)).await?;
                    tx.range(KeyRange::prefix(&key)).await?;
                    tx.revision_of(key.clone()).await?;
                    tx.delete_range(KeyRange::prefix(&key)).await?;
                    tx.put(&key, "1");
                    tx.delete(&key);
                    Ok::<_, Error>(())
                })
                .await
        }
    });
    assert_spawnable({
        let (stm, counted) = (Stm::new(&kv), Arc::new(AtomicU32::new(0)));
        let mut amounts = BTreeMap::from([(one.clone(), 1), (two.clone(), 2)]);
        async move {
            // The closure may change its own data.
            stm.run(async move |tx| {
                counted.fetch_add(1, Ordering::Relaxed);
                for (key, amount) in &mut amounts {
                    *amount += 1;
                    tx.put(key, amount.to_string());
                }
                Ok::<_, Error>(())
            })
            .await
        }
    });
    assert_spawnable(run_double(Stm::new(&kv), one));
}

#[tokio::test(start_paused = true)]
async fn run_can_be_spawned_with_every_option() {
    async fn double_exactly_once(stm: Stm, session: Session, key: String) -> u64 {
        let stm = stm.exactly_once(&session).retry(Retry::default()).prefetch([key.clone()]);
        run_double(stm, key).await
    }
    let store = store_with(&[("n", 1)]).await;
    let session = session(&store).await;
    let mut tasks = JoinSet::new();
    for _ in 0..3 {
        let stm = Stm::new(&separate_client(&store));
        tasks.spawn(double_exactly_once(stm, session.clone(), "n".to_owned()));
    }
    let mut values = tasks.join_all().await;
    values.sort_unstable();
    assert_eq!(values, [2, 4, 8]);
}
