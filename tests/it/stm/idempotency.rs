//! Commits whose answer is lost: with `exactly_once` they are applied exactly interfere, without it the
//! caller is told that nobody knows.

use crate::support::another;
use coord_mem::MemBackend;
use std::time::Duration;

use coord_core::layer::PrefixLayer;
use coord_core::stm::{Committed, StmError};
use coord_core::{
    Client, Error, Session, Stm,
    error::{LossReason, Outcome},
};
use coord_testkit::{Action, Call, Recorder, poll_at_most};
use tokio::time::{sleep, timeout};

use super::{client_with_timeout, number, store_with, stored};
use crate::support::{POLLS_MAX, behind, keys, nth, only, secs, session};

/// Adds one to n.
async fn add(stm: &Stm) -> Result<Committed<()>, StmError<Error>> {
    let run = stm.run(async |tx| {
        let n = number(tx, "n").await?;
        tx.put("n", (n + 1).to_string());
        Ok(())
    });
    run.await
}

/// What happens to the first commit, if anything: the fence and everything else passes.
fn first_commit(action: Action) -> impl coord_testkit::Rule {
    nth("txn", 1, 1, action)
}

const LATE: Action = Action::Delay(Duration::from_millis(2_500));

#[tokio::test(start_paused = true)]
async fn commit_with_a_lost_response_is_applied_exactly_once() {
    // Which commit, whether it is found to have been applied, and how many attempts that makes.
    let rows = [
        (Action::DropResponse, true, 1),
        (Action::DropRequest, false, 2),
        // It arrives when nobody waits any more, after the fence.
        (LATE, false, 2),
        // It arrives when nobody waits any more, before the fence is asked.
        (Action::Hang, false, 2),
    ];
    for (action, resolved, attempts) in rows {
        let store = store_with(&[("n", 1)]).await;
        let session = session(&store).await;
        let stm = Stm::new(&client_with_timeout(&store, first_commit(action.clone()))).exactly_once(&session);
        let info = add(&stm).await.unwrap().info;
        assert_eq!((info.resolved, info.attempts), (resolved, attempts), "{action:?}");
        let now = store.get("n").await.unwrap().unwrap().mod_revision;
        assert_eq!(info.revision, now, "{action:?}");
        sleep(secs(5)).await;
        assert_eq!(stored(&store, "n").await, 2, "{action:?}");
        // The idempotency_key is as good as before.
        assert_eq!(add(&stm).await.unwrap().info.attempts, 1);
        assert_eq!((stored(&store, "n").await, idempotency_keys(&store).await.len()), (3, 1), "{action:?}");
    }
}

/// The fence may be late and lost as well, and come when the commit has come or before.
#[tokio::test(start_paused = true)]
async fn lost_or_late_resolving_request_is_repeated() {
    let late = |ms| Action::Delay(Duration::from_millis(ms));
    for commit in [Action::DropResponse, Action::DropRequest, late(1_500), late(4_000), late(9_000)]
    {
        for fence in
            [Action::DropResponse, Action::DropRequest, late(1_200), late(5_000), Action::Hang]
        {
            let store = store_with(&[("n", 1)]).await;
            let session = session(&store).await;
            let (first, second) = (commit.clone(), fence.clone());
            let both = crate::support::scripted(vec![Action::Pass, first, second]);
            let stm = Stm::new(&client_with_timeout(&store, both)).exactly_once(&session);
            add(&stm).await.unwrap();
            sleep(secs(10)).await;
            assert_eq!(stored(&store, "n").await, 2, "{commit:?}, {fence:?}");
            add(&stm).await.unwrap();
            assert_eq!(stored(&store, "n").await, 3, "{commit:?}, {fence:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lost_response_without_idempotency_key_is_ambiguous() {
    for (action, left) in [(Action::DropResponse, 2), (Action::DropRequest, 1), (LATE, 2)] {
        let store = store_with(&[("n", 1)]).await;
        let stm = Stm::new(&client_with_timeout(&store, first_commit(action)));
        let error = add(&stm).await.unwrap_err();
        assert!(matches!(error, StmError::OutcomeUnknown(_)), "{error}");
        assert_eq!(error.outcome(), Outcome::Unknown);
        sleep(secs(5)).await;
        assert_eq!(stored(&store, "n").await, left);
    }
}

#[tokio::test(start_paused = true)]
async fn read_only_commit_never_has_an_unknown_outcome() {
    let store = store_with(&[("n", 1), ("m", 1)]).await;
    let level = coord_core::stm::Isolation::RepeatableReads;
    let stm = Stm::new(&behind(&store, first_commit(Action::DropResponse))).isolation(level);
    let read = stm.run(async |tx| Ok::<_, Error>((number(tx, "n").await?, number(tx, "m").await?)));
    let read = read.await.unwrap();
    assert_eq!((read.value, read.info.attempts), ((1, 1), 2));
}

async fn idempotency_keys(store: &Client) -> Vec<String> {
    keys(store, "coord/stm/").await
}

#[tokio::test(start_paused = true)]
async fn idempotency_key_costs_no_request() {
    let (store, record) = (store_with(&[("n", 1)]).await, Recorder::new());
    let session = session(&store).await;
    let stm = Stm::new(&behind(&store, record.clone())).exactly_once(&session);
    for _ in 0..3 {
        add(&stm).await.unwrap();
        let calls = record.take().0;
        let [Call::Range(_), Call::Txn(commit)] = &calls[..] else { panic!("{calls:?}") };
        assert_eq!((commit.compares.len(), commit.success.len(), commit.failure.len()), (2, 2, 1));
    }
    stm.run(async |tx| number(tx, "n").await).await.unwrap();
    assert_eq!(record.take().names(), "range", "who only reads needs none");
}

#[tokio::test(start_paused = true)]
async fn idempotency_keys_are_reused_and_expire_with_the_session() {
    let store = store_with(&[("n", 1)]).await;
    let session = session(&store).await;
    let stm = Stm::new(&behind(&store, |_: &Call| Action::Yield)).exactly_once(&session);
    for _ in 0..20 {
        add(&stm).await.unwrap();
        add(&stm.clone()).await.unwrap();
    }
    assert_eq!(idempotency_keys(&store).await, [format!("coord/stm/{}-0", session.lease_id())]);
    let (a, b, c) = tokio::join!(add(&stm), add(&stm), add(&stm));
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert_eq!((idempotency_keys(&store).await.len(), stored(&store, "n").await), (3, 44));
    let idempotency_key = store.get(idempotency_keys(&store).await[0].clone()).await.unwrap().unwrap();
    assert_eq!(idempotency_key.lease, Some(session.lease_id()));
    assert!(idempotency_key.value.len() < 8, "{:?}", idempotency_key.value);
    session.close().await.unwrap();
    assert_eq!(idempotency_keys(&store).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn commit_on_a_lost_session_writes_nothing() {
    let store = store_with(&[("n", 1)]).await;
    let session = session(&store).await;
    let stm = Stm::new(&another(&store)).exactly_once(&session);
    add(&stm).await.unwrap();
    store.lease_revoke(session.lease_id()).await.unwrap();
    let error = add(&stm).await.unwrap_err();
    assert!(matches!(error, StmError::Lost(LossReason::Revoked)), "{error}");
    assert_eq!((error.outcome(), stored(&store, "n").await), (Outcome::NotApplied, 2));
}

/// Whoever asks for the idempotency_key of a session that is over finds none, and cannot tell.
#[tokio::test(start_paused = true)]
async fn session_lost_before_resolving_makes_outcome_unknown() {
    for before in [0, 1] {
        for (action, applied) in [(Action::DropResponse, 1), (Action::DropRequest, 0)] {
            let store = store_with(&[("n", 1)]).await;
            let session: Session = session(&store).await;
            let lost = nth("txn", before + 1, before + 1, action);
            // The second fence is the first that arrives.
            let fence = nth("txn", before + 2, before + 2, Action::DropRequest);
            let both = move |call: &Call| {
                use coord_testkit::Rule as _;
                match (lost.action(call), fence.action(call)) {
                    (Action::Pass, action) | (action, _) => action,
                }
            };
            let stm = Stm::new(&behind(&store, both)).exactly_once(&session);
            for _ in 0..before {
                add(&stm).await.unwrap();
            }
            let (error, ()) = tokio::join!(add(&stm), async {
                sleep(Duration::from_millis(20)).await;
                store.lease_revoke(session.lease_id()).await.unwrap();
            });
            let error = error.unwrap_err();
            assert!(matches!(error, StmError::OutcomeUnknown(_)), "{error}");
            let left = i64::try_from(1 + before + applied).unwrap();
            assert_eq!(stored(&store, "n").await, left);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn unreachable_idempotency_key_makes_outcome_unknown() {
    let store = store_with(&[("n", 1)]).await;
    let session = session(&store).await;
    let stm = Stm::new(&behind(&store, only("txn", Action::DropRequest))).exactly_once(&session);
    let error = timeout(secs(70), add(&stm)).await.expect("60 s at most").unwrap_err();
    assert!(matches!(error, StmError::OutcomeUnknown(_)), "{error}");
}

/// Whoever is cut off while it commits leaves its idempotency_key alone; nobody else is misled by what
/// becomes of the commit.
#[tokio::test(start_paused = true)]
async fn transaction_dropped_at_any_await_applies_at_most_once() {
    for late in [Action::Yield, Action::Delay(secs(2)), Action::DropResponse] {
        let mut seen = [false; 2];
        for polls in 1..POLLS_MAX {
            let store = store_with(&[("n", 1)]).await;
            let session = session(&store).await;
            let action = late.clone();
            let rule = move |call: &Call| match call {
                Call::Txn(_) => action.clone(),
                _ => Action::Yield,
            };
            let hasty = Stm::new(&behind(&store, rule)).exactly_once(&session);
            // One idempotency_key that was used before.
            let run = async {
                let stm = hasty.clone();
                let run = stm.run(async move |tx| {
                    let n = tx.get("n".to_owned()).await?.unwrap();
                    let n: i64 = std::str::from_utf8(&n).unwrap().parse().unwrap();
                    tx.put("n", (n + 1).to_string());
                    Ok::<_, Error>(())
                });
                run.await.is_ok()
            };
            let done = timeout(secs(1), poll_at_most(polls, run)).await.ok().flatten();
            sleep(secs(5)).await;
            let n = stored(&store, "n").await;
            assert!(n <= 2, "applied {} times after {polls} polls", n - 1);
            seen[usize::from(n == 2)] = true;
            drop(hasty);
            let calm = Stm::new(&another(&store)).exactly_once(&session);
            add(&calm).await.unwrap();
            assert_eq!(stored(&store, "n").await, n + 1);
            if done == Some(true) {
                assert_eq!(n, 2);
                break;
            }
        }
        assert_eq!(seen, [true; 2], "{late:?}");
    }
}

/// Somebody cleans up what he does not know.
#[tokio::test(start_paused = true)]
async fn deleted_idempotency_key_is_replaced() {
    let store = store_with(&[("n", 1)]).await;
    let session = session(&store).await;
    let stm = Stm::new(&another(&store)).exactly_once(&session);
    add(&stm).await.unwrap();
    store.delete(idempotency_keys(&store).await[0].clone()).await.unwrap();
    let committed = add(&stm).await.unwrap();
    assert_eq!(committed.info.attempts, 2);
    assert_eq!((stored(&store, "n").await, idempotency_keys(&store).await.len()), (3, 1));
}

/// The idempotency_key was put where the transaction is, under a prefix, and asked for where the session is:
/// there was none, so the commit was believed lost and applied again.
#[tokio::test(start_paused = true)]
async fn idempotency_key_is_queried_in_its_own_namespace() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let kv: Client = Client::new(PrefixLayer::new(
        behind(&store, first_commit(Action::DropResponse)),
        "tenant/",
    ));
    let stm = Stm::new(&kv).exactly_once(&session);
    let info = add(&stm).await.unwrap().info;
    assert_eq!((info.resolved, info.attempts), (true, 1));
    assert_eq!(stored(&store, "tenant/n").await, 1);
}
