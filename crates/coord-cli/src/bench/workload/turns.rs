//! Taking something that one has at a time, holding it, and giving it back.
//!
//! The workers either share one thing or have one each. Where they share it, the [`Baton`] watches
//! them: that no two have it at once, and how long it takes from one to the next.
//!
//! ```text
//! worker 0   ----take----|hold|--give back--
//! worker 1   -----------take--------------------|hold|--give back--
//!                             |---- hand-off ---|
//! ```

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Result, ensure};
use coord_core::Session;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Facts, Worker, Workload};
use crate::bench::notes::Notes;
use crate::bench::store::Store;

/// A worker's claim to something that one has at a time.
pub(crate) trait Claim: Sized + Send + Sync + 'static {
    /// What taking is called in the report.
    const TAKE: &'static str;
    /// What giving back is called in the report.
    const GIVE_BACK: &'static str;

    /// Had while it is held.
    type Held: Send;

    /// The claim to the thing with this name.
    fn staked(session: &Session, name: String, worker: usize) -> Self;

    fn take(&self) -> impl Future<Output = Result<Self::Held>> + Send;

    fn give_back(held: Self::Held) -> impl Future<Output = Result<()>> + Send;
}

pub(crate) struct Turns<C> {
    /// `None` where every worker has a thing of its own.
    baton: Option<Arc<Baton>>,
    ttl: Duration,
    hold: Duration,
    claims: PhantomData<fn() -> C>,
}

pub(crate) struct Taker<C> {
    number: usize,
    session: Session,
    claim: C,
    baton: Option<Arc<Baton>>,
    hold: Duration,
}

impl<C: Claim> Turns<C> {
    /// All workers take turns at one thing.
    pub(crate) fn shared(ttl: Duration, hold: Duration) -> Self {
        Self { baton: Some(Arc::default()), ttl, hold, claims: PhantomData }
    }

    /// Every worker has a thing of its own.
    pub(crate) fn apart(ttl: Duration, hold: Duration) -> Self {
        Self { baton: None, ttl, hold, claims: PhantomData }
    }
}

impl<C: Claim> Workload for Turns<C> {
    type Worker = Taker<C>;

    async fn worker(&self, store: &Store, number: usize) -> Result<Taker<C>> {
        let kv = Arc::clone(store.of_worker(number));
        let session = Session::builder(kv).ttl(self.ttl).open().await?;
        let name = match self.baton {
            Some(_) => store.key("shared"),
            None => store.key(&format!("of-worker-{number}")),
        };
        let claim = C::staked(&session, name, number);
        Ok(Taker { number, session, claim, baton: self.baton.clone(), hold: self.hold })
    }

    fn begin(&self) {
        if let Some(baton) = &self.baton {
            baton.begin();
        }
    }

    async fn judged(&self, _: &Store, _: u64) -> Result<Facts> {
        self.verdict()
    }
}

impl<C: Claim> Turns<C> {
    /// How turns went; an error if two ever had one.
    fn verdict(&self) -> Result<Facts> {
        let mut facts = Facts::new();
        facts.insert("hold_us".to_owned(), json!(self.hold.as_micros()));
        if let Some(baton) = &self.baton {
            let turns = baton.turns();
            ensure!(turns.violations == 0, "{} exclusion violations", turns.violations);
            facts.insert("exclusion_violations".to_owned(), json!(turns.violations));
            facts.insert("max_consecutive_by_one_worker".to_owned(), json!(turns.longest_row));
        }
        Ok(facts)
    }
}

impl<C: Claim> Worker for Taker<C> {
    async fn step(&mut self, notes: &mut Notes) -> Result<()> {
        let begun = Instant::now();
        let held = self.claim.take().await?;
        let taken = Instant::now();
        let handoff = self.baton.as_ref().and_then(|baton| baton.taken(self.number, taken));
        if !self.hold.is_zero() {
            sleep(self.hold).await;
        }
        let let_go = Instant::now();
        if let Some(baton) = &self.baton {
            baton.let_go(let_go);
        }
        C::give_back(held).await?;
        let given_back = Instant::now();

        notes.add("cycle", given_back - begun);
        notes.add(C::TAKE, taken - begun);
        notes.add(C::GIVE_BACK, given_back - let_go);
        if let Some(handoff) = handoff {
            notes.add("handoff", handoff);
        }
        Ok(())
    }

    async fn leave(self) -> Result<()> {
        Ok(self.session.close().await?)
    }
}

/// Watches, within this process, who has the one thing that all workers want.
///
/// Only who has it comes here, so its lock is never waited for, unless exclusion is broken.
#[derive(Debug, Default)]
struct Baton {
    turns: Mutex<Seen>,
}

/// What the baton has seen.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// How many workers have it now: one at most, if exclusion holds.
    holders: usize,
    /// How often somebody took it while another had it, warm-up included.
    violations: u64,
    /// Who took it last.
    last: Option<usize>,
    /// When it was last let go.
    let_go: Option<Instant>,
    /// How often in a row the last one has had it.
    row: u64,
    /// The longest row so far.
    longest_row: u64,
}

impl Baton {
    /// A phase begins: nobody has had it yet.
    fn begin(&self) {
        let mut turns = self.lock();
        *turns = Seen { holders: turns.holders, violations: turns.violations, ..Seen::default() };
    }

    /// `worker` has it. Gives the time since another let it go.
    fn taken(&self, worker: usize, now: Instant) -> Option<Duration> {
        let mut turns = self.lock();
        turns.holders += 1;
        if turns.holders > 1 {
            turns.violations += 1;
        }
        let again = turns.last.replace(worker) == Some(worker);
        turns.row = if again { turns.row + 1 } else { 1 };
        turns.longest_row = turns.longest_row.max(turns.row);
        let let_go = turns.let_go.filter(|_| !again);
        let_go.map(|let_go| now.saturating_duration_since(let_go))
    }

    /// Who has it is about to give it back.
    fn let_go(&self, now: Instant) {
        let mut turns = self.lock();
        turns.holders -= 1;
        turns.let_go = Some(now);
    }

    fn turns(&self) -> Seen {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.turns.lock().expect("no holder panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many milliseconds after some moment.
    fn at(moment: Instant, ms: u64) -> Instant {
        moment + Duration::from_millis(ms)
    }

    #[test]
    fn handoff_lasts_from_release_to_the_next_holder() {
        let (baton, start) = (Baton::default(), Instant::now());
        assert_eq!(baton.taken(0, start), None, "nobody had it before");
        baton.let_go(at(start, 5));
        assert_eq!(baton.taken(1, at(start, 8)), Some(Duration::from_millis(3)));
        baton.let_go(at(start, 9));
        assert_eq!(baton.taken(1, at(start, 10)), None, "the same worker again is no hand-off");
        assert_eq!(baton.turns().longest_row, 2);
        assert_eq!(baton.turns().violations, 0);
    }

    #[test]
    fn violation_is_counted_across_phases() {
        let (baton, now) = (Baton::default(), Instant::now());
        baton.taken(0, now);
        baton.taken(1, now);
        baton.let_go(now);
        baton.let_go(now);
        baton.begin();
        assert_eq!(baton.turns().violations, 1);
        assert_eq!(baton.taken(0, now), None, "the hand-offs of the warm-up are forgotten");
    }

    #[test]
    fn exclusion_violation_fails_the_run() {
        let turns = Turns::<coord_core::Mutex>::shared(Duration::from_secs(60), Duration::ZERO);
        let baton = turns.baton.as_ref().expect("it is shared");
        assert_eq!(turns.verdict().expect("nothing is broken")["exclusion_violations"], 0);
        baton.taken(0, Instant::now());
        baton.taken(1, Instant::now());
        let broken = turns.verdict().expect_err("two have it");
        assert_eq!(broken.to_string(), "1 exclusion violations");
    }
}
