//! Readers that take an older or a mixed state for the current one.

use std::time::Duration;

use coord_core::kv::{Compare, CompareOp, KeyValue, Put, Range, Txn};
use coord_testkit::sim::{Process, Sim, Weaken};
use tokio::time::sleep;

use super::{Family, TaskResult, family};

/// What is wrong with the audit of two accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TwoRequests;

pub(super) fn audits() -> Family {
    family("audit of two accounts", transfer_and_audit)
        .mutant("two keys are read in two requests", TwoRequests)
        .done()
}

fn amount(kv: Option<&KeyValue>) -> i64 {
    kv.map_or(0, |kv| String::from_utf8_lossy(&kv.value).parse().unwrap())
}

/// Moves 10 from `x` to `y`, unless another transfer is first.
async fn transfer(process: &Process) -> TaskResult {
    let x = process.client().get("x").await?.ok_or("x is missing")?;
    let left = amount(Some(&x)) - 10;
    let is_unchanged = Compare::mod_revision("x", CompareOp::Equal, x.mod_revision);
    let puts = [Put::new("x", left.to_string()), Put::new("y", (100 - left).to_string())];
    process.client().txn(Txn::new().when([is_unchanged]).and_then(puts)).await?;
    Ok(())
}

async fn audit(process: &Process, flaw: Option<TwoRequests>) -> TaskResult<i64> {
    let client = process.client();
    if flaw.is_some() {
        let x = client.get("x").await?;
        let y = client.get("y").await?;
        return Ok(amount(x.as_ref()) + amount(y.as_ref()));
    }
    let both = Txn::new().and_then([Range::new("x"), Range::new("y")]);
    let read = client.txn(both).await?.responses;
    let kvs = read.iter().filter_map(|response| response.as_range()?.kvs.first());
    Ok(kvs.map(|kv| amount(Some(kv))).sum())
}

async fn transfer_and_audit(sim: Sim, flaw: Option<TwoRequests>) {
    let accounts = [Put::new("x", "100"), Put::new("y", "0")];
    sim.client().txn(Txn::new().and_then(accounts)).await.unwrap();
    sim.spawn("a", |process| async move {
        for _ in 0..3 {
            transfer(&process).await?;
            sleep(Duration::from_millis(30)).await;
        }
        TaskResult::Ok(())
    });
    let auditor = sim.clone();
    sim.spawn("auditor", move |process| async move {
        for _ in 0..3 {
            sleep(Duration::from_millis(30)).await;
            let sum = audit(&process, flaw).await?;
            if sum != 100 {
                auditor.fail("audit", format!("the sum is {sum}, not 100"));
            }
        }
        TaskResult::Ok(())
    });
    sim.join().await;
}

/// What is wrong with a process that reads what it has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Serializable;

pub(super) fn own_writes() -> Family {
    family("reader of its own writes", read_own_writes)
        .mutant("a serializable read is taken for the current state", Serializable)
        .weakened(Weaken::StaleReads)
        .done()
}

async fn read_own_writes(sim: Sim, flaw: Option<Serializable>) {
    for name in ["a", "b"] {
        let reader = sim.clone();
        sim.spawn(name, move |process| async move {
            let key = format!("progress/{}", process.name());
            for step in 1..4 {
                process.client().put(&key, step.to_string()).await?;
                let read = Range::new(&key);
                let read = if flaw.is_some() { read.serializable() } else { read };
                let read = process.client().range(read).await?;
                let found = amount(read.kvs.first());
                if found != step {
                    reader.fail("own write", format!("wrote {step}, then read {found}"));
                }
            }
            TaskResult::Ok(())
        });
    }
    sim.join().await;
}
