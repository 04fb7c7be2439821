//! Wrong producers and takers of a message queue: each has one flaw.

use std::time::Duration;

use coord_core::Session;
use coord_core::kv::{Compare, CompareOp, Delete, KeyValue, Op, Put, Txn};
use coord_testkit::sim::Process;
use tokio::time::sleep;

use super::oracle::Messages;
use super::{Flaw, MAX_ATTEMPTS, is_poison};
use crate::sim::mutants::TaskResult;

/// Puts a message, and puts it again after an error.
pub(super) async fn put(process: &Process, payload: &str) {
    let mut tries = 0;
    let key = |tries: u32| {
        let id = payload.replace('/', "-");
        format!("q/messages/00100/0000000000000000/{id}-{tries}")
    };
    while process.client().put(key(tries), payload.to_owned()).await.is_err() {
        tries += 1;
        sleep(Duration::from_millis(100)).await;
    }
}

/// The first message without a claim, and the key of its claim.
async fn first(process: &Process) -> TaskResult<Option<(KeyValue, String)>> {
    let claims = process.client().get_prefix("q/messages-claimed/").await?;
    let mut messages = process.client().get_prefix("q/messages/").await?;
    messages.sort_by_key(|kv| kv.create_revision);
    let with_claim = messages.into_iter().map(|kv| {
        let key = String::from_utf8_lossy(&kv.key).into_owned();
        let id = key.rsplit('/').next().unwrap_or_default();
        let claim = format!("q/messages-claimed/{id}");
        (kv, claim)
    });
    let mut ready =
        with_claim.filter(|(_, claim)| claims.iter().all(|kv| kv.key != claim.as_bytes()));
    Ok(ready.next())
}

/// Takes messages, and acknowledges most of them.
pub(super) async fn consume(
    process: &Process,
    session: &Session,
    messages: &Messages,
    flaw: Flaw,
) -> TaskResult {
    let client = process.client();
    for round in 0..12 {
        let Some((kv, claim)) = first(process).await? else {
            sleep(Duration::from_millis(500)).await;
            continue;
        };
        let payload = String::from_utf8_lossy(&kv.value).into_owned();
        let lease = (flaw != Flaw::ClaimHasNoLease).then(|| session.lease_id());
        let unchanged = [
            Compare::absent(&claim),
            Compare::mod_revision(&kv.key, CompareOp::Equal, kv.mod_revision),
        ];
        let conditions = (flaw != Flaw::ClaimHasNoCondition).then_some(unchanged);
        let attempts = u32::try_from(kv.version)?;
        if attempts > MAX_ATTEMPTS.get() {
            let dead =
                Put::new(format!("q/dead/00100/0000000000000000/x/{}", attempts - 1), &kv.value);
            let give_up = Txn::new().when(conditions.into_iter().flatten());
            client.txn(give_up.and_then([Op::from(Delete::new(&kv.key)), dead.into()])).await?;
            continue;
        }
        let mut ops: Vec<Op> =
            vec![Put::new(&claim, process.name().to_owned()).lease(lease).into()];
        if flaw != Flaw::AttemptsAreNotCounted {
            ops.push(Put::new(&kv.key, &kv.value).into());
        }
        let claimed = Txn::new().when(conditions.into_iter().flatten()).and_then(ops);
        let claimed = client.txn(claimed).await?;
        if !claimed.succeeded {
            continue;
        }
        let taker = (process.name(), 2);
        let held = messages.deliver(taker, &payload, kv.create_revision, session);
        sleep(Duration::from_millis(300)).await;
        client.put("work", payload.clone()).await?;
        drop(held);
        if is_poison(&payload) || round % 4 == 3 {
            client.delete(Delete::new(&claim)).await?;
            continue;
        }
        messages.may_acknowledge(&payload);
        let revision = claimed.header.revision;
        let is_held = Compare::create_revision(&claim, CompareOp::Equal, revision);
        let is_checked = flaw != Flaw::AcknowledgesWithoutClaim;
        let end = Txn::new().when(is_checked.then_some(is_held));
        let end = end.and_then([Delete::new(&claim), Delete::new(&kv.key)]);
        if client.txn(end).await?.succeeded {
            messages.acknowledge(&payload);
        }
    }
    Ok(session.close().await?)
}
