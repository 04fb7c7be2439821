//! What can be spawned: a transaction whose closure owns what it uses.
//!
//! That a closure which borrows cannot be spawned is shown by a `compile_fail` example at
//! `Stm::run`: it is a limit of the compiler, which asks whether the future of an async closure is
//! `Send` for lifetimes that cannot be.

use crate::support::another;
use coord_core::Client;
use coord_mem::MemBackend;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use coord_core::stm::{Retry, Transaction};
use coord_core::{Error, Session, Stm, kv::KeyRange};
use tokio::task::JoinSet;

use super::store_with;
use crate::support::session;

/// What `tokio::spawn` asks for.
fn spawnable<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) {
    drop(future);
}

/// One helper for all, that takes the transaction by reference, as users write them.
async fn double(tx: &mut Transaction, key: &str) -> Result<u64, Error> {
    let text = tx.get_as::<String>(key.to_owned()).await?.unwrap_or_default();
    let n = text.parse::<u64>().unwrap_or(0) * 2;
    tx.put(key, n.to_string());
    Ok(n)
}

async fn in_a_function(stm: Stm, key: String) -> u64 {
    let run = stm.run(async move |tx| double(tx, &key).await);
    run.await.unwrap().value
}

#[tokio::test(start_paused = true)]
async fn run_can_be_spawned_when_its_closure_owns_its_data() {
    let kv = Client::new(MemBackend::new());
    let (one, two) = (String::from("one"), String::from("two"));
    spawnable({
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
    spawnable({
        let (stm, counted) = (Stm::new(&kv), Arc::new(AtomicU32::new(0)));
        let mut amounts = BTreeMap::from([(one.clone(), 1), (two.clone(), 2)]);
        async move {
            // It may change what it owns.
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
    spawnable(in_a_function(Stm::new(&kv), one));
}

#[tokio::test(start_paused = true)]
async fn run_can_be_spawned_with_every_option() {
    async fn with_markers(stm: Stm, session: Session, key: String) -> u64 {
        let stm = stm.exactly_once(&session).retry(Retry::default()).prefetch([key.clone()]);
        in_a_function(stm, key).await
    }
    let store = store_with(&[("n", 1)]).await;
    let session = session(&store).await;
    let mut tasks = JoinSet::new();
    for _ in 0..3 {
        let stm = Stm::new(&another(&store));
        tasks.spawn(with_markers(stm, session.clone(), "n".to_owned()));
    }
    let mut values = tasks.join_all().await;
    values.sort_unstable();
    assert_eq!(values, [2, 4, 8]);
}
