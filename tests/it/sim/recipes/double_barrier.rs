//! Double barriers under every fault: three parties, which crash, restart and continue with the
//! next round.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_core::kv::{LeaseId, Put, Range, Watch};
use coord_core::recipes::{DoubleBarrier, DoubleBarrierError, OnParticipantLoss};
use coord_core::{Session, sync};
use coord_testkit::sim::{Process, Sim, Sweep};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::sim::mutants::{Family, TaskResult, assert_caught, family};
use crate::sim::{SEEDS, print};

const PARTIES: [&str; 3] = ["a", "b", "c"];
const ROUNDS: u64 = 3;

/// How long a process takes part at most. Faults end sooner, and sessions of lost parties too.
const TIME_LIMIT: Duration = Duration::from_secs(500);

/// The same in the family of mutants, whose faults end after 15 s.
const SHORT_TIME_LIMIT: Duration = Duration::from_secs(50);

/// Shorter than the long partition of 100 s, so that sessions end.
const TTL: Duration = Duration::from_secs(10);

/// An oracle: no party is early, and none waits for a round that another one has entered.
#[derive(Clone, Default)]
struct Rounds(Arc<Mutex<RoundsState>>);

#[derive(Default)]
struct RoundsState {
    /// The parties that have begun to enter each round, and to leave it, by their leases: a process
    /// that starts again is another party, because the store cannot know that the former is gone.
    entering: BTreeMap<u64, BTreeSet<LeaseId>>,
    leaving: BTreeMap<u64, BTreeSet<LeaseId>>,
    entered: BTreeMap<u64, usize>,
    left: usize,
}

impl Rounds {
    fn enters(&self, party: &Session, round: u64) {
        let mut state = sync::lock(&self.0);
        state.entering.entry(round).or_default().insert(party.lease_id());
    }

    /// Notes that a party has entered, and that it leaves. `parties` is how many must have come.
    fn entered(&self, party: &Session, round: u64, parties: usize) {
        let mut state = sync::lock(&self.0);
        let came = state.entering[&round].len();
        assert!(came >= parties, "{} entered, and {came} have come", party.lease_id());
        *state.entered.entry(round).or_default() += 1;
        state.leaving.entry(round).or_default().insert(party.lease_id());
    }

    fn left(&self, party: &Session, round: u64, parties: usize) {
        let mut state = sync::lock(&self.0);
        let leaving = state.leaving[&round].len();
        assert!(leaving >= parties, "{} left, and {leaving} leave", party.lease_id());
        state.left += 1;
    }

    /// A party has waited for too long.
    fn gave_up(&self, party: &Session, round: u64) {
        let state = sync::lock(&self.0);
        let entered = state.entered.get(&round).copied().unwrap_or_default();
        assert!(entered == 0, "{} is stranded in round {round}", party.lease_id());
    }

    fn times_left(&self) -> usize {
        sync::lock(&self.0).left
    }
}

async fn take_part(
    process: Process,
    rounds: Rounds,
    (on_loss, time_limit): (OnParticipantLoss, Duration),
) -> TaskResult {
    let parties = if on_loss == OnParticipantLoss::Fail { PARTIES.len() } else { 1 };
    let session = Session::builder(process.client()).ttl(TTL).open().await?;
    let barrier = DoubleBarrier::new(&session, "b", PARTIES.len())?.on_loss(on_loss);
    let deadline = Instant::now() + time_limit;
    let mut round = 1;
    while round <= ROUNDS {
        rounds.enters(&session, round);
        let began = Instant::now();
        let Ok(entered) = timeout_at(deadline, barrier.enter(round)).await else {
            // Long enough to be stranded.
            if began.elapsed() >= time_limit * 4 / 5 {
                rounds.gave_up(&session, round);
            }
            break;
        };
        match entered {
            Ok(inside) => {
                rounds.entered(&session, round, parties);
                match inside.leave().await {
                    Ok(()) => rounds.left(&session, round, parties),
                    Err(DoubleBarrierError::Primitive(error)) => return Err(error.into()),
                    Err(_) => {}
                }
                round += 1;
            }
            Err(DoubleBarrierError::PastRound { last, .. }) => round = last + 1,
            Err(DoubleBarrierError::TooManyParties { .. }) => round += 1,
            Err(DoubleBarrierError::ParticipantLost { .. }) => sleep(Duration::from_secs(1)).await,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(session.close().await?)
}

async fn meet(sim: Sim, options: (OnParticipantLoss, Duration)) {
    let rounds = Rounds::default();
    for party in PARTIES {
        let rounds = rounds.clone();
        sim.service(party, move |process| take_part(process, rounds.clone(), options));
    }
    sim.join().await;
    let all = PARTIES.len() * usize::try_from(ROUNDS).expect("a small number");
    sim.sometimes("every party leaves every round", rounds.times_left() >= all);
}

#[test]
fn no_party_is_early_or_stranded_under_every_fault() {
    let name = "no_party_is_early_or_stranded_under_every_fault";
    let scenario = |sim| meet(sim, (OnParticipantLoss::Fail, TIME_LIMIT));
    print(name, &Sweep::new(name).seeds(SEEDS).check_store().run(scenario));
}

#[test]
fn shrinking_barrier_strands_no_party_under_every_fault() {
    let name = "shrinking_barrier_strands_no_party_under_every_fault";
    let scenario = |sim| meet(sim, (OnParticipantLoss::Shrink, TIME_LIMIT));
    print(name, &Sweep::new(name).seeds(SEEDS).check_store().run(scenario));
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    EndOfWatchIsEntry,
    WatchAfterCount,
    LastPartyKeepsItToItself,
    CountsAttempts,
    LeavesAtOnce,
}

fn double_barriers() -> Family {
    family("double barrier", meet_flawed)
        .mutant("the end of a watch is taken for the entry of all", Flaw::EndOfWatchIsEntry)
        .mutant("the watch starts after the count, from now on", Flaw::WatchAfterCount)
        .mutant("the last party does not notify the others", Flaw::LastPartyKeepsItToItself)
        .mutant("a dropped attempt of a party counts too", Flaw::CountsAttempts)
        .mutant("a party does not wait for the others to leave", Flaw::LeavesAtOnce)
        .done()
}

/// Enters a double barrier as Go's, with a flaw.
async fn enter_flawed(
    process: &Process,
    session: &Session,
    attempt: u32,
    flaw: Flaw,
) -> TaskResult {
    let client = process.client();
    let key = match flaw {
        Flaw::CountsAttempts => format!("b/in/{}-{attempt}", process.name()),
        _ => format!("b/in/{}", process.name()),
    };
    client.put_with(Put::new(&key, "").lease(session.lease_id())).await?;
    let count = client.range(Range::prefix("b/in/").count_only()).await?;
    if usize::try_from(count.count)? >= PARTIES.len() {
        if flaw != Flaw::LastPartyKeepsItToItself {
            client.put("b/ready", "").await?;
        }
        return Ok(());
    }
    let watch = match flaw {
        Flaw::WatchAfterCount => Watch::new("b/ready"),
        _ => Watch::new("b/ready").start_at(count.header.revision.next()),
    };
    let mut watch = client.watch(watch).await?;
    loop {
        match watch.next().await {
            Some(Ok(batch)) if batch.events.is_empty() => {}
            Some(Ok(_)) => return Ok(()),
            Some(Err(_)) | None if flaw == Flaw::EndOfWatchIsEntry => return Ok(()),
            Some(Err(error)) => return Err(error.into()),
            None => return Err("the watch has ended".into()),
        }
    }
}

async fn take_part_flawed(process: Process, rounds: Rounds, flaw: Flaw) -> TaskResult {
    let session = Session::builder(process.client()).ttl(TTL).open().await?;
    rounds.enters(&session, 1);
    if flaw == Flaw::CountsAttempts {
        let attempt = enter_flawed(&process, &session, 1, flaw);
        // Parties that come later find the key of this attempt.
        drop(timeout(Duration::from_millis(50), attempt).await);
    }
    match timeout(SHORT_TIME_LIMIT, enter_flawed(&process, &session, 2, flaw)).await {
        Ok(entered) => entered?,
        Err(_) => {
            // Also without this flaw, a party that fails before it has notified the others strands
            // them.
            if flaw != Flaw::EndOfWatchIsEntry {
                rounds.gave_up(&session, 1);
            }
            return Ok(());
        }
    }
    rounds.entered(&session, 1, PARTIES.len());
    process.client().delete_prefix(format!("b/in/{}", process.name())).await?;
    if flaw == Flaw::LeavesAtOnce {
        rounds.left(&session, 1, PARTIES.len());
    }
    Ok(session.close().await?)
}

/// Three parties that come one after the other and meet in one round.
async fn meet_flawed(sim: Sim, flaw: Option<Flaw>) {
    let Some(flaw) = flaw else {
        return meet(sim, (OnParticipantLoss::Fail, SHORT_TIME_LIMIT)).await;
    };
    let rounds = Rounds::default();
    for (party, comes_after) in PARTIES.into_iter().zip([0, 100, 400]) {
        let rounds = rounds.clone();
        sim.spawn(party, |process| async move {
            sleep(Duration::from_millis(comes_after)).await;
            take_part_flawed(process, rounds, flaw).await
        });
    }
    sim.join().await;
}

#[test]
fn double_barrier_mutants_are_caught() {
    assert_caught(&double_barriers());
}
