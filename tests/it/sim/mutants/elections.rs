//! Leaders that act wrongly, elected by coord.

use std::time::Duration;

use coord_core::kv::{Put, Txn, Watcher};
use coord_core::{Election, Session};
use coord_testkit::sim::{Exclusive, Process, Sim};
use tokio::time::sleep;

use super::{Family, TaskResult, family};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    NoHeldCondition,
    LossIgnored,
}

pub(super) fn leaders() -> Family {
    family("leader that decides", lead_in_sequence)
        .mutant("the leader writes without the held condition", Flaw::NoHeldCondition)
        .mutant("the leader ignores that its session was lost", Flaw::LossIgnored)
        .done()
}

/// The decision of the current leader: its fencing token.
const DECISION: &str = "decision";

/// Leads once, and makes three decisions.
async fn lead(process: &Process, inside: &Exclusive, flaw: Option<Flaw>) -> TaskResult {
    let session = Session::builder(process.client()).ttl(Duration::from_secs(3)).open().await?;
    let leadership = Election::new(&session, "scheduler").campaign("me").await?;
    let token = leadership.fencing_token();
    let alone = match flaw {
        Some(Flaw::LossIgnored) => inside.enter_while(process, token, || true),
        _ => inside.enter(process, &leadership),
    };
    for _ in 0..3 {
        let put = Put::new(DECISION, token.to_string());
        if flaw == Some(Flaw::NoHeldCondition) {
            process.client().put_with(put).await?;
        } else {
            leadership.txn(Txn::new().and_then([put])).await?;
        }
        sleep(Duration::from_millis(500)).await;
    }
    drop(alone);
    leadership.resign().await?;
    session.close().await?;
    Ok(())
}

/// Candidates that lead one after the other. The tokens of the decisions must not decrease.
async fn lead_in_sequence(sim: Sim, flaw: Option<Flaw>) {
    let inside = sim.exclusive("leadership");
    let decisions = sim.client().watch(DECISION).await.unwrap();
    for (name, starts) in [("a", 0), ("b", 30), ("c", 60)] {
        let inside = inside.clone();
        sim.spawn(name, move |process| async move {
            sleep(Duration::from_millis(starts)).await;
            lead(&process, &inside, flaw).await
        });
    }
    tokio::select! {
        biased;
        () = check_decisions(decisions, &sim) => {}
        () = sim.join() => {}
    }
}

/// Fails the run when a decision has a smaller token than the decision before it.
async fn check_decisions(mut decisions: Watcher, sim: &Sim) {
    let mut newest = 0;
    while let Some(batch) = decisions.next().await {
        for event in batch.unwrap().events {
            let token: i64 = std::str::from_utf8(&event.kv.value).unwrap().parse().unwrap();
            if token < newest {
                sim.fail("decisions", format!("token {token} replaced token {newest}"));
            }
            newest = token;
        }
    }
}
