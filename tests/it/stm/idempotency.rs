//! Idempotency keys: `Stm::exactly_once` resolves a commit whose response was lost.
//!
//! Each commit puts an idempotency key. After a commit without a response, the *resolving request*
//! puts the key too, on the condition that the commit has not: it shows whether the commit was
//! applied, and keeps a delayed commit from being applied later. Without `exactly_once` the outcome
//! of such a commit is unknown.

use std::time::Duration;

use coord_core::{
    Client, Error, Stm,
    error::{LossReason, Outcome},
    layer::PrefixLayer,
    stm::{Committed, Isolation, StmError},
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder, Rule, poll_at_most};
use tokio::time::{sleep, timeout};

use super::{client_with_timeout, number, store_with, stored_number};
use crate::support::{
    POLLS_MAX, intercepted, keys, nth, only, scripted, secs, separate_client, session,
};

/// Adds one to n.
async fn add_one_to_n(stm: &Stm) -> Result<Committed<()>, StmError<Error>> {
    let run = stm.run(async |tx| {
        let n = number(tx, "n").await?;
        tx.put("n", (n + 1).to_string());
        Ok(())
    });
    run.await
}

/// A rule that applies `action` to the first commit. Its resolving request and all others pass.
fn on_first_commit(action: Action) -> impl Rule {
    nth("txn", 1, 1, action)
}

/// Delays a request until its client has stopped waiting.
const DELAY_PAST_TIMEOUT: Action = Action::Delay(Duration::from_millis(2_500));

#[tokio::test(start_paused = true)]
async fn commit_with_a_lost_response_is_applied_exactly_once() {
    // The fault of the first commit, whether it is resolved as applied, and the attempts.
    let rows = [
        (Action::DropResponse, true, 1),
        (Action::DropRequest, false, 2),
        // Arrives after the timeout and after the resolving request.
        (DELAY_PAST_TIMEOUT, false, 2),
        // Never arrives, and fails only by the timeout.
        (Action::Hang, false, 2),
    ];
    for (action, resolved, attempts) in rows {
        let store = store_with(&[("n", 1)]).await;
        let session = session(&store).await;
        let stm = Stm::new(&client_with_timeout(&store, on_first_commit(action.clone())))
            .exactly_once(&session);
        let info = add_one_to_n(&stm).await.unwrap().info;
        assert_eq!((info.resolved, info.attempts), (resolved, attempts), "{action:?}");
        let now = store.get("n").await.unwrap().unwrap().mod_revision;
        assert_eq!(info.revision, now, "{action:?}");
        sleep(secs(5)).await;
        assert_eq!(stored_number(&store, "n").await, 2, "{action:?}");
        // The idempotency key is used again.
        assert_eq!(add_one_to_n(&stm).await.unwrap().info.attempts, 1);
        assert_eq!(
            (stored_number(&store, "n").await, idempotency_keys(&store).await.len()),
            (3, 1),
            "{action:?}"
        );
    }
}

/// The resolving request may be delayed or lost as well, and arrive before or after the commit.
#[tokio::test(start_paused = true)]
async fn lost_or_late_resolving_request_is_repeated() {
    let delay = |ms| Action::Delay(Duration::from_millis(ms));
    let (request, response) = (Action::DropRequest, Action::DropResponse);
    let commit_actions =
        [response.clone(), request.clone(), delay(1_500), delay(4_000), delay(9_000)];
    let resolve_actions = [response, request, delay(1_200), delay(5_000), Action::Hang];
    for commit in &commit_actions {
        for resolve in &resolve_actions {
            let store = store_with(&[("n", 1)]).await;
            let session = session(&store).await;
            let both = scripted(vec![Action::Pass, commit.clone(), resolve.clone()]);
            let stm = Stm::new(&client_with_timeout(&store, both)).exactly_once(&session);
            add_one_to_n(&stm).await.unwrap();
            sleep(secs(10)).await;
            assert_eq!(stored_number(&store, "n").await, 2, "{commit:?}, {resolve:?}");
            add_one_to_n(&stm).await.unwrap();
            assert_eq!(stored_number(&store, "n").await, 3, "{commit:?}, {resolve:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lost_response_without_idempotency_key_is_ambiguous() {
    for (action, left) in
        [(Action::DropResponse, 2), (Action::DropRequest, 1), (DELAY_PAST_TIMEOUT, 2)]
    {
        let store = store_with(&[("n", 1)]).await;
        let stm = Stm::new(&client_with_timeout(&store, on_first_commit(action)));
        let error = add_one_to_n(&stm).await.unwrap_err();
        assert!(matches!(error, StmError::OutcomeUnknown(_)), "{error}");
        assert_eq!(error.outcome(), Outcome::Unknown);
        sleep(secs(5)).await;
        assert_eq!(stored_number(&store, "n").await, left);
    }
}

#[tokio::test(start_paused = true)]
async fn read_only_commit_never_has_an_unknown_outcome() {
    let store = store_with(&[("n", 1), ("m", 1)]).await;
    let level = Isolation::RepeatableReads;
    let stm =
        Stm::new(&intercepted(&store, on_first_commit(Action::DropResponse))).isolation(level);
    let read = stm.run(async |tx| Ok::<_, Error>((number(tx, "n").await?, number(tx, "m").await?)));
    let read = read.await.unwrap();
    assert_eq!((read.value, read.info.attempts), ((1, 1), 2));
}

/// The idempotency keys of all sessions.
async fn idempotency_keys(store: &Client) -> Vec<String> {
    keys(store, "coord/stm/").await
}

#[tokio::test(start_paused = true)]
async fn idempotency_key_costs_no_request() {
    let (store, record) = (store_with(&[("n", 1)]).await, Recorder::new());
    let session = session(&store).await;
    let stm = Stm::new(&intercepted(&store, record.clone())).exactly_once(&session);
    for _ in 0..3 {
        add_one_to_n(&stm).await.unwrap();
        let calls = record.take().0;
        let [Call::Range(_), Call::Txn(commit)] = &calls[..] else { panic!("{calls:?}") };
        assert_eq!((commit.compares.len(), commit.success.len(), commit.failure.len()), (2, 2, 1));
    }
    stm.run(async |tx| number(tx, "n").await).await.unwrap();
    assert_eq!(record.take().names(), "range", "a read-only transaction puts no key");
}

#[tokio::test(start_paused = true)]
async fn idempotency_keys_are_reused_and_expire_with_the_session() {
    let store = store_with(&[("n", 1)]).await;
    let session = session(&store).await;
    let stm = Stm::new(&intercepted(&store, |_: &Call| Action::Yield)).exactly_once(&session);
    for _ in 0..20 {
        add_one_to_n(&stm).await.unwrap();
        add_one_to_n(&stm.clone()).await.unwrap();
    }
    assert_eq!(idempotency_keys(&store).await, [format!("coord/stm/{}-0", session.lease_id())]);
    let (a, b, c) = tokio::join!(add_one_to_n(&stm), add_one_to_n(&stm), add_one_to_n(&stm));
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert_eq!((idempotency_keys(&store).await.len(), stored_number(&store, "n").await), (3, 44));
    let key = store.get(idempotency_keys(&store).await[0].clone()).await.unwrap().unwrap();
    assert_eq!(key.lease, Some(session.lease_id()));
    assert!(key.value.len() < 8, "{:?}", key.value);
    session.close().await.unwrap();
    assert_eq!(idempotency_keys(&store).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn commit_on_a_lost_session_writes_nothing() {
    let store = store_with(&[("n", 1)]).await;
    let session = session(&store).await;
    let stm = Stm::new(&separate_client(&store)).exactly_once(&session);
    add_one_to_n(&stm).await.unwrap();
    store.lease_revoke(session.lease_id()).await.unwrap();
    let error = add_one_to_n(&stm).await.unwrap_err();
    assert!(matches!(error, StmError::Lost(LossReason::Revoked)), "{error}");
    assert_eq!((error.outcome(), stored_number(&store, "n").await), (Outcome::NotApplied, 2));
}

/// The idempotency key is deleted with the lease of the session, so a commit cannot be resolved
/// after the session was lost.
#[tokio::test(start_paused = true)]
async fn session_lost_before_resolving_makes_outcome_unknown() {
    for before in [0, 1] {
        for (action, applied) in [(Action::DropResponse, 1), (Action::DropRequest, 0)] {
            let store = store_with(&[("n", 1)]).await;
            let session = session(&store).await;
            let commit = nth("txn", before + 1, before + 1, action);
            // The first resolving request is dropped, so the second arrives after the loss.
            let resolve = nth("txn", before + 2, before + 2, Action::DropRequest);
            let both = move |call: &Call| match (commit.action(call), resolve.action(call)) {
                (Action::Pass, action) | (action, _) => action,
            };
            let stm = Stm::new(&intercepted(&store, both)).exactly_once(&session);
            for _ in 0..before {
                add_one_to_n(&stm).await.unwrap();
            }
            let (error, ()) = tokio::join!(add_one_to_n(&stm), async {
                sleep(Duration::from_millis(20)).await;
                store.lease_revoke(session.lease_id()).await.unwrap();
            });
            let error = error.unwrap_err();
            assert!(matches!(error, StmError::OutcomeUnknown(_)), "{error}");
            let left = i64::try_from(1 + before + applied).unwrap();
            assert_eq!(stored_number(&store, "n").await, left);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn unreachable_idempotency_key_makes_outcome_unknown() {
    let store = store_with(&[("n", 1)]).await;
    let session = session(&store).await;
    let stm =
        Stm::new(&intercepted(&store, only("txn", Action::DropRequest))).exactly_once(&session);
    let error = timeout(secs(70), add_one_to_n(&stm)).await.expect("60 s at most").unwrap_err();
    assert!(matches!(error, StmError::OutcomeUnknown(_)), "{error}");
}

/// The next transaction does not use the idempotency key of a dropped transaction, so the outcome
/// of the dropped commit does not affect it.
#[tokio::test(start_paused = true)]
async fn transaction_dropped_at_any_await_applies_at_most_once() {
    for txn_action in [Action::Yield, Action::Delay(secs(2)), Action::DropResponse] {
        let mut outcomes = [false; 2];
        for polls in 1..POLLS_MAX {
            let store = store_with(&[("n", 1)]).await;
            let session = session(&store).await;
            let action = txn_action.clone();
            let rule = move |call: &Call| match call {
                Call::Txn(_) => action.clone(),
                _ => Action::Yield,
            };
            let dropped = Stm::new(&intercepted(&store, rule)).exactly_once(&session);
            let run = async {
                let stm = dropped.clone();
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
            let n = stored_number(&store, "n").await;
            assert!(n <= 2, "applied {} times after {polls} polls", n - 1);
            outcomes[usize::from(n == 2)] = true;
            drop(dropped);
            let next = Stm::new(&separate_client(&store)).exactly_once(&session);
            add_one_to_n(&next).await.unwrap();
            assert_eq!(stored_number(&store, "n").await, n + 1);
            if done == Some(true) {
                assert_eq!(n, 2);
                break;
            }
        }
        assert_eq!(outcomes, [true; 2], "applied and not applied must both occur: {txn_action:?}");
    }
}

/// Another client may delete an idempotency key, for example an operator that cleans up.
#[tokio::test(start_paused = true)]
async fn deleted_idempotency_key_is_replaced() {
    let store = store_with(&[("n", 1)]).await;
    let session = session(&store).await;
    let stm = Stm::new(&separate_client(&store)).exactly_once(&session);
    add_one_to_n(&stm).await.unwrap();
    store.delete(idempotency_keys(&store).await[0].clone()).await.unwrap();
    let committed = add_one_to_n(&stm).await.unwrap();
    assert_eq!(committed.info.attempts, 2);
    assert_eq!((stored_number(&store, "n").await, idempotency_keys(&store).await.len()), (3, 1));
}

/// Regression: under a prefix layer the key was queried in the namespace of the session, not in
/// that of the transaction. It was not found, so the commit was applied twice.
#[tokio::test(start_paused = true)]
async fn idempotency_key_is_queried_in_its_own_namespace() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let intercepted = intercepted(&store, on_first_commit(Action::DropResponse));
    let kv = Client::new(PrefixLayer::new(intercepted, "tenant/"));
    let stm = Stm::new(&kv).exactly_once(&session);
    let info = add_one_to_n(&stm).await.unwrap().info;
    assert_eq!((info.resolved, info.attempts), (true, 1));
    assert_eq!(stored_number(&store, "tenant/n").await, 1);
}
