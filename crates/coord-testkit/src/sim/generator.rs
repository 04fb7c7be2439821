//! Generators: where the choices of a random run come from.
//!
//! **Swarm.** Each run switches every kind of fault on or off, and draws its rate. A run with
//! few kinds of faults reaches states that a run with all of them never does: a process that always
//! crashes early never holds a lock for long.
//!
//! **Two scheduling policies.** The seed selects one. A *random walk* delays and postpones at
//! random: it finds races of two adjacent steps. *Probabilistic concurrency testing* (PCT) gives
//! each process a priority, lets a process act only when no process of a higher priority can, and
//! lowers the priority of the acting process at one or two random moments: it finds bugs in which
//! one process must be slow for a long time. Both policies are part of the swarm: a run without
//! reordering and latency takes the oldest step first, whatever the priorities.
//!
//! Sources: Groce et al., "Swarm Testing", ISSTA 2012. Burckhardt et al., "A Randomized Scheduler
//! with Probabilistic Guarantees of Finding Bugs", ASPLOS 2010.

use super::faults::{self, ChoiceOption, Fault, Rates};

/// The scheduling policy of a run.
#[derive(Clone, Debug)]
enum Policy {
    RandomWalk,
    Pct {
        /// The priority of each process, by the number that `acting` returns; the process
        /// with the highest priority acts first.
        priorities: Vec<i64>,
        /// The points at which the acting process gets the lowest priority.
        changes: Vec<u64>,
        /// The points reached so far.
        reached: u64,
    },
}

/// Generates the choices of one run from a seed.
#[derive(Debug)]
pub(crate) struct Generator {
    random: fastrand::Rng,
    rates: Rates,
    policy: Policy,
}

/// How the faults of random runs are chosen.
#[derive(Clone, Debug)]
pub(crate) struct Mix {
    /// The faults that runs may have.
    pub(crate) faults: Vec<Fault>,
    /// Whether each run switches faults off at random.
    pub(crate) is_swarm: bool,
    /// About how many points of the schedule a run has, for PCT: steps and latencies.
    pub(crate) points: u64,
}

impl Generator {
    pub(crate) fn new(seed: u64, mix: &Mix) -> Self {
        // Small seeds of the generator have similar first numbers.
        let mut random =
            fastrand::Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xC0FE);
        let rates = Rates::from_fn(|fault| {
            let is_on = mix.faults.contains(&fault) && (!mix.is_swarm || random.bool());
            let (least, most) = fault.rates();
            let rate = least * (most / least).powf(random.f32());
            if is_on { rate } else { 0.0 }
        });
        let policy = match seed % 4 {
            0 | 1 => Policy::RandomWalk,
            depth => {
                let changes = (1..depth).map(|_| random.u64(..mix.points.max(1))).collect();
                Policy::Pct { priorities: Vec::new(), changes, reached: 0 }
            }
        };
        Self { random, rates, policy }
    }

    pub(crate) const fn rates(&self) -> &Rates {
        &self.rates
    }

    /// The option at a point where `process` acts.
    pub(crate) fn pick(&mut self, options: &'static [ChoiceOption], process: usize) -> u16 {
        let mut left = self.random.f32();
        let mut first = 1;
        // The options of one fault share its rate, and are adjacent.
        while first < options.len() {
            let fault = options[first].fault;
            let count = options[first..].iter().take_while(|option| option.fault == fault).count();
            left -= self.rates.of(fault);
            if left < 0.0 {
                let chosen = first + self.random.usize(..count);
                return u16::try_from(chosen).unwrap_or(u16::MAX);
            }
            first += count;
        }
        if faults::has_latency(options) { self.latency_by_priority(process) } else { 0 }
    }

    /// The latency of a message of `process`: with PCT, a lower priority means a slower message.
    fn latency_by_priority(&mut self, process: usize) -> u16 {
        if self.rates.of(Fault::Latency) == 0.0 {
            return 0;
        }
        self.note_point(process);
        let Policy::Pct { priorities, .. } = &self.policy else { return 0 };
        let own = priorities[process];
        let higher = priorities.iter().filter(|priority| **priority > own).count();
        u16::try_from(higher.min(3)).unwrap_or(3)
    }

    /// Whether a step of `process` is postponed, while the processes `others` are ready.
    pub(crate) fn postpones(
        &mut self,
        process: usize,
        others: impl Iterator<Item = usize>,
    ) -> bool {
        if self.rates.of(Fault::Reorder) == 0.0 {
            return false;
        }
        self.note_point(process);
        match &mut self.policy {
            Policy::RandomWalk => self.random.f32() < self.rates.of(Fault::Reorder),
            Policy::Pct { priorities, .. } => {
                let own = priorities[process];
                others.into_iter().any(|other| priorities.get(other).is_some_and(|p| *p > own))
            }
        }
    }

    /// Gives `process` its priority, and lowers it at a point of change.
    fn note_point(&mut self, process: usize) {
        let Policy::Pct { priorities, changes, reached } = &mut self.policy else { return };
        while priorities.len() <= process {
            // The harness, number 0, has the lowest priority, so that it delays no process.
            let is_harness = priorities.is_empty();
            let priority = self.random.i64(1..1_000_000);
            priorities.push(if is_harness { i64::MIN } else { priority });
        }
        *reached += 1;
        if changes.contains(reached) {
            priorities[process] = -i64::try_from(*reached).unwrap_or(i64::MAX);
        }
    }

    /// Whether a point of the test is activated in this run: the first phase of `buggify`.
    pub(crate) fn activates(&mut self) -> bool {
        self.random.u8(..4) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The harness acts too, but no message is slower because of it.
    #[test]
    fn messages_of_the_only_process_are_not_slowed_by_priority() {
        let mix = Mix { faults: vec![Fault::Latency], is_swarm: false, points: 1_000 };
        for seed in (0..400).filter(|seed| seed % 4 > 1) {
            let mut generator = Generator::new(seed, &mix);
            assert_eq!(generator.latency_by_priority(1), 0, "seed {seed}");
        }
    }
}
