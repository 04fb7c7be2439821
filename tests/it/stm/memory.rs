//! While transactions of the process contend, those that begin remember what the last commit left.

use std::sync::Arc;

use coord_core::stm::{Committed, StmError, Transaction};
use coord_core::{Compact, Error, KvBackend, stm};
use coord_mem::MemBackend;
use coord_testkit::{Intercept, Lagging, Record};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{STRONG, number, put_all, store_with, stored};
use crate::support::{newest, settle};

/// A store on which transactions contend: one has conflicted on n, has its turn, and holds it. One
/// that has written a and b has come by.
struct Contended {
    store: MemBackend,
    member: Lagging<MemBackend>,
    record: Record,
    kv: Arc<dyn KvBackend>,
    holder: JoinSet<Result<Committed<()>, StmError<Error>>>,
}

impl Contended {
    async fn new() -> Self {
        let store = store_with(&[("n", 0), ("a", 0), ("b", 0), ("c", 1)]).await;
        let record = Record::new();
        let member = Lagging::new(store.clone());
        let kv: Arc<dyn KvBackend> = Arc::new(Intercept::new(member.clone(), record.clone()));
        let (theirs, contender, mut runs) = (store.clone(), stm(Arc::clone(&kv)), 0);
        let mut holder = JoinSet::new();
        holder.spawn(async move {
            let run = contender.run(async move |tx| {
                let n = number(tx, "n").await?;
                runs += 1;
                if runs == 1 {
                    put_all(&theirs, &[("n", n + 1)]).await;
                } else {
                    Notify::new().notified().await;
                }
                tx.put("n", "0");
                Ok::<_, Error>(())
            });
            run.await
        });
        settle().await;
        let contended = Self { store, member, record, kv, holder };
        contended.write().await;
        contended.record.take();
        contended
    }

    async fn write(&self) {
        let stm = stm(Arc::clone(&self.kv));
        let write = stm.run(async |tx| {
            tx.put("a", "1");
            tx.put("b", "1");
            Ok::<_, Error>(())
        });
        write.await.expect("the store is there");
    }

    /// Moves one from a to another key.
    async fn transfer(&self, to: &str) -> (Vec<(i64, i64)>, u32) {
        let mut seen = Vec::new();
        let stm = stm(Arc::clone(&self.kv));
        let run = stm.run(async |tx| {
            let (a, b) = (number(tx, "a").await?, number(tx, to).await?);
            seen.push((a, b));
            tx.put("a", (a - 1).to_string());
            tx.put(to, (b + 1).to_string());
            Ok::<_, Error>(())
        });
        let attempts = run.await.expect("the store is there").receipt.attempts;
        (seen, attempts)
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_begins_among_contenders_needs_no_request_for_what_the_last_commit_left() {
    let mut contended = Contended::new().await;
    assert_eq!(contended.transfer("b").await, (vec![(1, 1)], 1));
    assert_eq!(contended.record.take().names(), "txn", "both are as of one commit");
    assert_eq!(contended.transfer("c").await, (vec![(0, 1)], 1));
    assert_eq!(contended.record.take().names(), "txn txn", "c is read, and a confirmed");
    assert_eq!(contended.transfer("b").await, (vec![(-1, 2)], 1));
    assert_eq!(contended.record.take().names(), "txn txn", "they are not as of one commit");

    contended.holder.abort_all();
    settle().await;
    contended.transfer("b").await;
    assert_eq!(contended.record.take().names(), "range txn txn", "nobody contends");
}

/// A value that is remembered and has changed is no conflict: the transaction began just now.
#[tokio::test(start_paused = true)]
async fn what_is_remembered_wrongly_costs_the_closure_another_run_and_no_request() {
    let contended = Contended::new().await;
    put_all(&contended.store, &[("a", 5)]).await;
    let (seen, attempts) = contended.transfer("c").await;
    assert_eq!((&seen[..], attempts), (&[(1, 1), (5, 1)][..], 1), "old, but never a mixture");
    assert_eq!(contended.record.take().names(), "txn txn");
    assert_eq!((stored(&contended.store, "a").await, stored(&contended.store, "c").await), (4, 2));
}

#[tokio::test(start_paused = true)]
async fn what_only_the_commit_finds_to_be_remembered_wrongly_is_a_conflict() {
    let contended = Contended::new().await;
    put_all(&contended.store, &[("a", 5)]).await;
    let (seen, attempts) = contended.transfer("b").await;
    assert_eq!((&seen[..], attempts), (&[(1, 1), (5, 1)][..], 2));
    assert_eq!(contended.record.take().names(), "txn txn");
}

#[tokio::test(start_paused = true)]
async fn transaction_that_writes_nothing_does_not_believe_what_is_remembered() {
    for level in STRONG {
        let contended = Contended::new().await;
        put_all(&contended.store, &[("a", 5)]).await;
        let stm = stm(Arc::clone(&contended.kv)).isolation(level);
        let read = stm.run(async |tx| number(tx, "a").await).await.unwrap();
        assert_eq!((read.value, read.receipt.attempts), (5, 1));
        assert_eq!(contended.record.take().names(), "range");

        let refused = stm.run(async |tx| match number(tx, "a").await? {
            1 => Err(Error::EmptyKey),
            _ => Ok(()),
        });
        assert!(!matches!(refused.await, Err(StmError::GivenUp(_))), "it is 5 and not 1");
        contended.record.take();

        put_all(&contended.store, &[("c", 6)]).await;
        let two = async |tx: &mut Transaction| Ok((number(tx, "a").await?, number(tx, "c").await?));
        let read = stm.run(two).await.map_err(|error: StmError<Error>| error).unwrap();
        assert_eq!((read.value, read.receipt.attempts), ((5, 6), 1));
        assert_eq!(contended.record.take().names(), "txn", "all is known from the first run");
        contended.write().await;
        let read = stm.run(two).await.map_err(|error: StmError<Error>| error).unwrap();
        assert_eq!((read.value, read.receipt.attempts), ((1, 6), 1));
        assert_eq!(contended.record.take().names(), "txn txn", "one wrote, one read");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_of_a_time_that_is_compacted_costs_no_attempt() {
    for change in [false, true] {
        let contended = Contended::new().await;
        if change {
            put_all(&contended.store, &[("a", 5)]).await;
        }
        put_all(&contended.store, &[("other", 1)]).await;
        contended.store.compact(Compact::new(newest(&contended.store).await)).await.unwrap();
        let (seen, attempts) = contended.transfer("c").await;
        assert_eq!((seen.last().unwrap().1, attempts), (1, 1));
        assert_eq!(stored(&contended.store, "c").await, 2);
    }
}

/// What is written unread is compared as of the base, which is long ago.
#[tokio::test(start_paused = true)]
async fn blind_write_after_what_is_remembered_of_a_time_that_is_compacted_costs_no_attempt() {
    let contended = Contended::new().await;
    put_all(&contended.store, &[("other", 1)]).await;
    contended.store.compact(Compact::new(newest(&contended.store).await)).await.unwrap();
    let stm = stm(Arc::clone(&contended.kv));
    let write = stm.run(async |tx| {
        number(tx, "a").await?;
        tx.put("c", "7");
        Ok::<_, Error>(())
    });
    assert_eq!(write.await.unwrap().receipt.attempts, 1);
    assert_eq!(stored(&contended.store, "c").await, 7);
}

/// The member that is asked has a as it is remembered, and an older c.
#[tokio::test(start_paused = true)]
async fn member_that_lags_behind_does_not_confirm_what_is_remembered() {
    for level in STRONG {
        let contended = Contended::new().await;
        contended.member.fall_behind(newest(&contended.store).await);
        put_all(&contended.store, &[("c", 9)]).await;
        let stm = stm(Arc::clone(&contended.kv)).isolation(level);
        let read = stm.run(async |tx| {
            number(tx, "a").await?;
            number(tx, "c").await
        });
        assert_eq!(read.await.unwrap().value, 9, "it was committed before this began");
    }
}
