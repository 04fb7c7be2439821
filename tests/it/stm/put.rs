//! Writes of a transaction: the options of a put, and several writes to one key.

use coord_core::{
    Client, Error, Stm,
    kv::{LeaseGrant, Put},
    stm::{Isolation, StmError},
};
use coord_mem::MemBackend;

use super::store_with;
use crate::support::{secs, separate_client};

#[tokio::test(start_paused = true)]
async fn put_on_a_lease_is_deleted_with_the_lease() {
    for level in Isolation::ALL {
        let store = Client::new(MemBackend::new());
        let lease = store.lease_grant(LeaseGrant::new(secs(60))).await.unwrap().id;
        let stm = Stm::new(&separate_client(&store)).isolation(level);
        let run = stm.run(async |tx| {
            tx.get("a").await?;
            tx.put_with(Put::new("a", "1").lease(lease).with_prev_kv());
            Ok::<_, Error>(())
        });
        run.await.unwrap();
        assert_eq!(store.get("a").await.unwrap().unwrap().lease, Some(lease));
        store.lease_revoke(lease).await.unwrap();
        assert!(store.get("a").await.unwrap().is_none(), "at {level}");
    }
}

/// Regression: only the last write to a key was sent, so a put with `ignore_value` lost the value
/// that the transaction had put before.
#[tokio::test(start_paused = true)]
async fn ignore_value_and_ignore_lease_keep_the_earlier_put() {
    for level in Isolation::ALL {
        let store = store_with(&[("a", 1), ("b", 1)]).await;
        let lease = store.lease_grant(LeaseGrant::new(secs(60))).await.unwrap().id;
        let stm = Stm::new(&separate_client(&store)).isolation(level);
        let run = stm.run(async |tx| {
            tx.put("a", "2");
            tx.put_with(Put::new("a", "").ignore_value().lease(lease));
            tx.put_with(Put::new("b", "3").lease(lease));
            tx.put_with(Put::new("b", "4").ignore_lease());
            Ok::<_, Error>((tx.get("a").await?, tx.get("b").await?))
        });
        let read = run.await.unwrap().value;
        assert_eq!(read, (Some("2".into()), Some("4".into())));
        for (key, value) in [("a", "2"), ("b", "4")] {
            let kv = store.get(key).await.unwrap().unwrap();
            assert_eq!((&kv.value[..], kv.lease), (value.as_bytes(), Some(lease)), "at {level}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn ignore_value_on_a_missing_key_is_refused() {
    for level in Isolation::ALL {
        for deletes in [false, true] {
            let store = store_with(&[("a", 1)]).await;
            let stm = Stm::new(&separate_client(&store)).isolation(level);
            let run = stm.run(async |tx| {
                let key = if deletes { "a" } else { "absent" };
                if deletes {
                    tx.delete("a");
                }
                tx.put_with(Put::new(key, "").ignore_value());
                Ok::<_, Error>(())
            });
            let error = run.await.unwrap_err();
            assert!(matches!(error, StmError::Backend(Error::KeyNotFound { .. })), "{error}");
            assert_eq!(store.get("a").await.unwrap().unwrap().version, 1, "nothing was written");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn last_write_to_a_key_wins() {
    for level in Isolation::ALL {
        let store = store_with(&[("a", 1), ("b", 1)]).await;
        let stm = Stm::new(&separate_client(&store)).isolation(level);
        let run = stm.run(async |tx| {
            tx.put("a", "2");
            tx.delete("a");
            tx.delete("b");
            tx.put("b", "2");
            Ok::<_, Error>(())
        });
        run.await.unwrap();
        assert!(store.get("a").await.unwrap().is_none());
        let b = store.get("b").await.unwrap().unwrap();
        assert_eq!((&b.value[..], b.version), (&b"2"[..], 2), "at {level}");
    }
}

#[tokio::test(start_paused = true)]
async fn value_of_another_type_is_an_error_in_the_closure() {
    let store = Client::new(MemBackend::new());
    store.put("a", &b"\xff"[..]).await.unwrap();
    let stm = Stm::new(&separate_client(&store));
    let run = stm.run(async |tx| tx.get_as::<String>("a").await);
    let error = run.await.unwrap_err();
    assert!(matches!(error, StmError::Aborted(Error::InvalidValue { .. })), "{error}");
    let run = stm.run(async |tx| {
        let text = tx.get_as::<String>("a").await.unwrap_or_default().unwrap_or_default();
        tx.put_as("a", &format!("{text}changed"))
    });
    run.await.unwrap();
    assert_eq!(store.get("a").await.unwrap().unwrap().value, "changed");
}
