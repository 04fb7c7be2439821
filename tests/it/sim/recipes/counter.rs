//! Counters under every fault: each addition counts once, and a sum is exact as of one revision.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_core::kv::Put;
use coord_core::recipes::{Counter, CounterError, StripedCounter};
use coord_core::stm::StmError;
use coord_core::{Client, Session, sync};
use coord_testkit::sim::{Process, Sim, Sweep, Weaken};
use tokio::time::sleep;

use crate::sim::mutants::{Family, TaskResult, assert_caught, family};
use crate::sim::{SEEDS, print};
use crate::support::secs;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    AddIsReadAndPut,
    UnknownAdditionIsRepeated,
    StripesAreReadOneByOne,
}

fn family_of_counters() -> Family {
    family("shared counter", count)
        .mutant("an addition reads and puts", Flaw::AddIsReadAndPut)
        .mutant("an addition with an unknown outcome is repeated", Flaw::UnknownAdditionIsRepeated)
        .mutant("the stripes are read one by one", Flaw::StripesAreReadOneByOne)
        .weakened(Weaken::TxnIgnoresCompare)
        .weakened(Weaken::ChangeAppliedTwice)
        .done()
}

const STRIPES: usize = 4;

/// The additions of all processes.
#[derive(Default)]
struct Additions {
    started: i64,
    /// The values that additions have returned.
    returned: BTreeSet<i64>,
    /// A value that two additions have returned.
    repeated: Option<i64>,
}

impl Additions {
    fn note(&mut self, value: i64) {
        if !self.returned.insert(value) {
            self.repeated = Some(value);
        }
    }
}

/// Adds one to the exact counter.
async fn add(
    client: &Client,
    counter: &Counter,
    flaw: Option<Flaw>,
) -> Result<i64, StmError<CounterError>> {
    loop {
        let added = match flaw {
            Some(Flaw::AddIsReadAndPut) => {
                let new = counter.get().await.map_err(StmError::Backend)? + 1;
                let put = Put::new(counter.key(), new.to_string());
                client.put_with(put).await.map(|_| new).map_err(StmError::OutcomeUnknown)
            }
            _ => counter.add(1).await,
        };
        let is_unknown = matches!(added, Err(StmError::OutcomeUnknown(_)));
        if !(is_unknown && flaw == Some(Flaw::UnknownAdditionIsRepeated)) {
            return added;
        }
    }
}

/// Counts up the exact counter, and counts the striped counter up and down: its value is 1 at most
/// for each process.
async fn work(
    process: Process,
    additions: Arc<Mutex<Additions>>,
    flaw: Option<Flaw>,
) -> TaskResult {
    let client = process.client();
    let session = Session::builder(client).open().await?;
    let (exact, striped) =
        (Counter::new(client, "exact"), StripedCounter::new(client, "striped", STRIPES)?);
    let (exact, striped) = match flaw {
        Some(Flaw::UnknownAdditionIsRepeated) => (exact, striped),
        _ => (exact.exactly_once(&session), striped.exactly_once(&session)),
    };
    let seed = process.name().bytes().map(u64::from).sum();
    let striped = striped.seed(seed);
    for _ in 0..3 {
        sync::lock(&additions).started += 1;
        let value = add(client, &exact, flaw).await?;
        sync::lock(&additions).note(value);
        striped.add(1).await?;
        striped.add(-1).await?;
    }
    Ok(session.close().await?)
}

/// Reads the sum of the stripes.
async fn sum(client: &Client, flaw: Option<Flaw>) -> TaskResult<i64> {
    if flaw != Some(Flaw::StripesAreReadOneByOne) {
        return Ok(StripedCounter::new(client, "striped", STRIPES)?.get().await?);
    }
    let mut sum = 0;
    for stripe in 0..STRIPES {
        sum += Counter::new(client, format!("striped/{stripe}")).get().await?;
    }
    Ok(sum)
}

/// Checks the sum of the stripes.
async fn read(sim: Sim, process: Process, flaw: Option<Flaw>) -> TaskResult {
    for _ in 0..20 {
        let sum = sum(process.client(), flaw).await?;
        if !(0..=3).contains(&sum) {
            sim.fail("sum", format!("the sum of the stripes is {sum}, not from 0 to 3"));
        }
        sleep(Duration::from_millis(3)).await;
    }
    Ok(())
}

async fn count(sim: Sim, flaw: Option<Flaw>) {
    let additions = Arc::<Mutex<Additions>>::default();
    for name in ["a", "b", "c"] {
        let additions = Arc::clone(&additions);
        sim.spawn(name, |process| work(process, additions, flaw));
    }
    let reader = sim.clone();
    sim.spawn("reader", |process| read(reader, process, flaw));
    sim.join().await;
    // A delayed request may still arrive.
    sleep(secs(30)).await;
    let found = Counter::new(sim.client(), "exact").get().await.unwrap();
    let additions = sync::lock(&additions);
    let confirmed = i64::try_from(additions.returned.len()).unwrap();
    if !(confirmed..=additions.started).contains(&found) {
        let started = additions.started;
        sim.fail("counter", format!("{found}, not from {confirmed} to {started}"));
    }
    if let Some(value) = additions.repeated {
        sim.fail("counter", format!("two additions returned {value}"));
    }
    sim.sometimes("every addition is confirmed", confirmed == 9);
}

#[test]
fn counters_count_each_addition_once_under_every_fault() {
    let name = "counters_count_each_addition_once_under_every_fault";
    let sweep = Sweep::new(name).seeds(SEEDS).check_store();
    print(name, &sweep.run(|sim| count(sim, None)));
}

#[test]
fn counter_mutants_are_caught() {
    assert_caught(&family_of_counters());
}
