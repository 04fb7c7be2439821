//! Rate limiters under every fault: three processes with a slice at a time spend what they can, and
//! in no interval more than the bound.

use std::sync::{Arc, Mutex as SyncMutex};
use std::time::Duration;

use coord_core::recipes::{RateLimiter, RateSlice, Semaphore, SemaphorePermits};
use coord_core::{Session, sync};
use coord_testkit::sim::{Process, Sim, Sweep, Weaken};
use tokio::time::{Instant, sleep};

use crate::sim::mutants::{Family, TaskResult, assert_caught, family};
use crate::sim::{SEEDS, print};
use crate::support::secs;

/// Units per second.
const BUDGET: u32 = 6;

const BURST: Duration = Duration::from_millis(500);

/// The rate of the slice of each round.
const RATES: [u32; 4] = [4, 2, 6, 4];

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    SliceStartsFull,
    NoBurst,
    LossUnnoticed,
    UnconfirmedReleaseSpends,
}

fn rates() -> Family {
    family("rate limiter", contend)
        .mutant("a slice starts full", Flaw::SliceStartsFull)
        .mutant("an idle slice accrues without a limit", Flaw::NoBurst)
        .mutant("a slice is spent after its loss", Flaw::LossUnnoticed)
        .mutant("a slice is spent until its release is confirmed", Flaw::UnconfirmedReleaseSpends)
        .weakened(Weaken::LeaseEndsEarly)
        .done()
}

/// What all processes have spent, as they report it themselves.
#[derive(Clone, Default)]
struct Spent(Arc<SyncMutex<State>>);

#[derive(Default)]
struct State {
    slices: Vec<SliceHeld>,
    spent: Vec<Spending>,
}

/// A slice that a process has held.
struct SliceHeld {
    rate: u32,
    acquired: Instant,
}

/// Units that were spent at one time.
struct Spending {
    slice: usize,
    at: Instant,
    units: u32,
}

impl Spent {
    /// Notes a slice, and returns its number.
    fn note_slice(&self, rate: u32) -> usize {
        let mut state = sync::lock(&self.0);
        state.slices.push(SliceHeld { rate, acquired: Instant::now() });
        state.slices.len() - 1
    }

    fn note(&self, slice: usize, units: u32) {
        sync::lock(&self.0).spent.push(Spending { slice, at: Instant::now(), units });
    }

    /// Checks the bound in every interval from one spending to another: the budget for its length,
    /// and the burst of each slice that was held when it started and spends in it.
    fn check(&self) -> Result<(), String> {
        let state = sync::lock(&self.0);
        for (first, start) in state.spent.iter().enumerate() {
            let (mut units, mut burst) = (0, 0);
            let mut has_burst = vec![false; state.slices.len()];
            for spending in &state.spent[first..] {
                let slice = &state.slices[spending.slice];
                if slice.acquired < start.at && !has_burst[spending.slice] {
                    has_burst[spending.slice] = true;
                    burst += u128::from(slice.rate) * BURST.as_nanos();
                }
                units += spending.units;
                let length = spending.at - start.at;
                let bound = u128::from(BUDGET) * length.as_nanos() + burst;
                if u128::from(units) * secs(1).as_nanos() > bound {
                    let bound = bound / secs(1).as_nanos();
                    return Err(format!("{units} units in {length:?}, at most {bound}"));
                }
            }
        }
        Ok(())
    }
}

/// A slice as a user without the recipe may write it.
struct FlawedSlice {
    permits: SemaphorePermits,
    flaw: Flaw,
    level: f64,
    filled_at: Instant,
}

impl FlawedSlice {
    async fn acquire_slice(session: &Session, rate: u32, flaw: Flaw) -> TaskResult<Self> {
        let permits = Semaphore::new(session, "mails/rate", BUDGET).acquire(rate).await?;
        let is_full = flaw == Flaw::SliceStartsFull;
        let level = if is_full { f64::from(rate) * BURST.as_secs_f64() } else { 0.0 };
        Ok(Self { permits, flaw, level, filled_at: Instant::now() })
    }

    async fn acquire(&mut self, units: u32) -> TaskResult {
        loop {
            let now = Instant::now();
            let rate = f64::from(self.permits.permits());
            let filled = self.level + (now - self.filled_at).as_secs_f64() * rate;
            let is_limited = self.flaw != Flaw::NoBurst;
            self.level = if is_limited { filled.min(rate * BURST.as_secs_f64()) } else { filled };
            self.filled_at = now;
            if self.flaw != Flaw::LossUnnoticed && now >= self.permits.session().deadline() {
                return Err("the session is lost".into());
            }
            if self.level >= f64::from(units) {
                self.level -= f64::from(units);
                return Ok(());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A slice of the recipe, or a flawed one.
enum Slice {
    Correct(RateSlice),
    Flawed(FlawedSlice),
}

impl Slice {
    async fn acquire_slice(session: &Session, rate: u32, flaw: Option<Flaw>) -> TaskResult<Self> {
        Ok(match flaw {
            Some(flaw) => Self::Flawed(FlawedSlice::acquire_slice(session, rate, flaw).await?),
            None => {
                let limiter = RateLimiter::new(session, "mails", BUDGET).burst(BURST);
                Self::Correct(match limiter.try_acquire_slice(rate).await? {
                    Some(slice) => slice,
                    None => limiter.acquire_slice(rate).await?,
                })
            }
        })
    }

    async fn acquire(&mut self, units: u32) -> TaskResult {
        match self {
            Self::Correct(slice) => Ok(slice.acquire(units).await?),
            Self::Flawed(slice) => slice.acquire(units).await,
        }
    }

    /// Spends units one at a time, as fast as possible.
    async fn spend(&mut self, number: usize, units: u32, spent: &Spent) -> TaskResult {
        for _ in 0..units {
            self.acquire(1).await?;
            spent.note(number, 1);
        }
        Ok(())
    }

    /// Releases the slice. If that fails, spends for some seconds what it still can.
    async fn release(mut self, number: usize, rate: u32, spent: &Spent) -> TaskResult {
        self = match self {
            Self::Correct(slice) => match slice.release().await {
                Ok(()) => return Ok(()),
                Err(error) => Self::Correct(*error.held),
            },
            Self::Flawed(FlawedSlice { permits, flaw, level, filled_at }) => {
                match permits.release().await {
                    Ok(()) => return Ok(()),
                    Err(error) if flaw == Flaw::UnconfirmedReleaseSpends => {
                        let permits = *error.held;
                        Self::Flawed(FlawedSlice { permits, flaw, level, filled_at })
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        };
        self.spend(number, 4 * rate, spent).await
    }
}

/// Acquires slices one after the other, and spends each of them: in single units, after a pause
/// what it can hold, and again in single units.
async fn spend(process: Process, spent: Spent, flaw: Option<Flaw>) -> TaskResult {
    let session = Session::builder(process.client()).ttl(secs(5)).open().await?;
    for rate in RATES {
        let mut slice = Slice::acquire_slice(&session, rate, flaw).await?;
        let number = spent.note_slice(rate);
        slice.spend(number, 2 * rate, &spent).await?;
        sleep(secs(1)).await;
        slice.acquire(rate / 2).await?;
        spent.note(number, rate / 2);
        slice.spend(number, rate, &spent).await?;
        slice.release(number, rate, &spent).await?;
    }
    Ok(session.close().await?)
}

async fn contend(sim: Sim, flaw: Option<Flaw>) {
    let spent = Spent::default();
    for name in ["a", "b", "c"] {
        let spent = spent.clone();
        sim.service(name, move |process| spend(process, spent.clone(), flaw));
    }
    sim.join().await;
    if let Err(text) = spent.check() {
        sim.fail("rate", text);
    }
    let left = sim.client().get_prefix("mails/rate/permits/").await.unwrap();
    let state = sync::lock(&spent.0);
    sim.sometimes("every process spends every slice", state.slices.len() >= 3 * RATES.len());
    sim.sometimes("no key is left", left.is_empty());
}

#[test]
fn rate_limiter_keeps_its_bound_under_every_fault() {
    let name = "rate_limiter_keeps_its_bound_under_every_fault";
    let sweep = Sweep::new(name).seeds(SEEDS).check_store();
    print(name, &sweep.run(|sim| contend(sim, None)));
}

#[test]
fn rate_limiter_mutants_are_caught() {
    assert_caught(&rates());
}
