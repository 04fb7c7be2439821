//! The requests of a transaction.

use coord_core::{Client, Error, Stm, stm::Isolation};
use coord_mem::MemBackend;
use coord_testkit::Recorder;

use crate::support::intercepted;

#[tokio::test(start_paused = true)]
async fn transaction_costs_one_request_per_read_and_a_commit() {
    let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
    store.put("a", "1").await.unwrap();
    let kv = intercepted(&store, record.clone());
    let run = async |stm: Stm, writes: bool| {
        let committed = stm.run(async |tx| {
            let a = tx.get("a").await?;
            let b = tx.get("b").await?;
            assert_eq!(tx.get("a").await?, a);
            if writes {
                tx.put("a", "2");
            }
            Ok::<_, Error>(b)
        });
        committed.await.unwrap();
        record.take().names()
    };
    assert_eq!(run(Stm::new(&kv), true).await, "range txn txn");
    assert_eq!(run(Stm::new(&kv), false).await, "range txn");
    assert_eq!(run(Stm::new(&kv).prefetch(["a", "b"]), true).await, "txn txn");
    assert_eq!(
        run(Stm::new(&kv).isolation(Isolation::RepeatableReads), false).await,
        "range range txn"
    );
}
