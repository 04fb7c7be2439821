//! Release requests under every fault: a holder that waits for a request receives it, no other
//! holder does, and no request is left.

use std::sync::{Arc, Mutex as SyncMutex};
use std::time::Duration;

use coord_core::kv::{FencingToken, Put, Watch};
use coord_core::mutex::MutexGuard;
use coord_core::{Mutex, Session, sync};
use coord_testkit::sim::{Process, Sim, Sweep};
use tokio::time::sleep;

use crate::sim::mutants::{Family, TaskResult, assert_caught, family};
use crate::sim::{SEEDS, print};
use crate::support::{keys, secs};

const TTL: Duration = secs(10);

/// The prefix of all requests.
const REQUESTS: &str = "coord/release/";

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    TokenIsNotCompared,
    WatchWithoutRead,
    RequestHasNoLease,
}

fn family_of_requests() -> Family {
    family("release requests", request)
        .mutant("a request to an earlier holder is received", Flaw::TokenIsNotCompared)
        .mutant("the holder watches and does not read", Flaw::WatchWithoutRead)
        .mutant("the request has no lease", Flaw::RequestHasNoLease)
        .done()
}

/// What the test knows of the holders.
#[derive(Clone, Default)]
struct Holders(Arc<SyncMutex<State>>);

#[derive(Default)]
struct State {
    newest: Option<FencingToken>,
    received: u64,
}

/// Waits for a request as a user without the recipe may do it. Returns the revision of the request.
async fn wait_wrongly(process: &Process, guard: &MutexGuard, flaw: Flaw) -> TaskResult<i64> {
    let key = [REQUESTS.as_bytes(), guard.key()].concat();
    loop {
        let Ok(mut watch) = process.client().watch(Watch::new(key.clone())).await else {
            sleep(secs(1)).await;
            continue;
        };
        if flaw == Flaw::TokenIsNotCompared
            && let Ok(Some(kv)) = process.client().get(key.clone()).await
        {
            return Ok(kv.mod_revision.0);
        }
        while let Some(Ok(batch)) = watch.next().await {
            if let Some(event) = batch.events.first() {
                return Ok(event.kv.mod_revision.0);
            }
        }
    }
}

/// Waits for a request. Returns its revision.
async fn requested(process: &Process, guard: &MutexGuard, flaw: Option<Flaw>) -> TaskResult<i64> {
    match flaw {
        Some(flaw @ (Flaw::TokenIsNotCompared | Flaw::WatchWithoutRead)) => {
            wait_wrongly(process, guard, flaw).await
        }
        _ => Ok(guard.release_requested().await?.revision.0),
    }
}

/// Holds the lock four times: until a request is received, and every other time for a second at
/// most.
async fn hold(sim: Sim, process: Process, holders: Holders, flaw: Option<Flaw>) -> TaskResult {
    let session = Session::builder(process.client()).ttl(TTL).open().await?;
    let mutex = Mutex::new(&session, "printer");
    for round in 0..4 {
        let guard = mutex.lock().await?;
        let token = guard.fencing_token();
        {
            let mut state = sync::lock(&holders.0);
            state.newest = state.newest.max(Some(token));
        }
        let limit = if round % 2 == 0 { secs(1) } else { Duration::MAX };
        tokio::select! {
            biased;
            reason = guard.lost() => return Err(reason.into()),
            revision = requested(&process, &guard, flaw) => {
                let revision = revision?;
                sync::lock(&holders.0).received += 1;
                if revision <= token.0.0 {
                    let text = format!("token {token} receives a request of revision {revision}");
                    sim.fail("request", text);
                }
            }
            () = sleep(limit) => {}
        }
        guard.unlock().await?;
    }
    Ok(session.close().await?)
}

/// Sends one request to each holder, until the processes have ended. No fault affects it.
async fn send_requests(sim: &Sim, holders: &Holders, names: &[&str], flaw: Option<Flaw>) {
    let session = Session::builder(sim.client()).ttl(TTL).open().await.unwrap();
    let mutex = Mutex::new(&session, "printer");
    let have_ended = || names.iter().all(|name| sim.exit(name).is_some());
    let mut newest_requested = None;
    while !have_ended() {
        sleep(Duration::from_millis(900)).await;
        let newest = sync::lock(&holders.0).newest;
        if newest.is_none() || newest <= newest_requested {
            continue;
        }
        if flaw == Some(Flaw::RequestHasNoLease) {
            let holder = sim.client().get_prefix("printer/").await.unwrap();
            if let Some(kv) = holder.iter().min_by_key(|kv| kv.create_revision) {
                let key = [REQUESTS.as_bytes(), &kv.key].concat();
                let value = format!("{} requested", FencingToken(kv.create_revision));
                sim.client().put_with(Put::new(key, value)).await.unwrap();
                newest_requested = newest_requested.max(Some(FencingToken(kv.create_revision)));
            }
            continue;
        }
        newest_requested = newest_requested.max(mutex.request_release("requested").await.unwrap());
    }
    session.close().await.unwrap();
}

async fn request(sim: Sim, flaw: Option<Flaw>) {
    let holders = Holders::default();
    let names = ["a", "b", "c"];
    for name in names {
        let (own, holders) = (sim.clone(), holders.clone());
        sim.spawn(name, |process| hold(own, process, holders, flaw));
    }
    send_requests(&sim, &holders, &names, flaw).await;
    sim.join().await;
    // Leases of processes that have crashed end.
    sleep(secs(60)).await;
    let left = keys(sim.client(), REQUESTS).await;
    if !left.is_empty() {
        sim.fail("request", format!("requests are left: {left:?}"));
    }
    let received = sync::lock(&holders.0).received;
    sim.sometimes("every process receives requests", received >= 6);
}

#[test]
fn release_requests_reach_the_holder_under_every_fault() {
    let name = "release_requests_reach_the_holder_under_every_fault";
    let sweep = Sweep::new(name).seeds(SEEDS).check_store();
    print(name, &sweep.run(|sim| request(sim, None)));
}

#[test]
fn release_request_mutants_are_caught() {
    assert_caught(&family_of_requests());
}
