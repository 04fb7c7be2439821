//! Statistics of a run: latency percentiles by nearest rank, and fairness among workers.

use std::time::Duration;

use serde::Serialize;

/// Rounds to a number of digits after the point.
pub(crate) fn round_to(value: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(digits);
    (value * unit).round() / unit
}

/// The latency distribution of one series, in microseconds.
///
/// Percentile p is the smallest latency that p percent of the latencies do not exceed. There is no
/// interpolation, and there are no histogram buckets.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) n: usize,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// Summarizes latencies; `None` if there are none.
    pub(crate) fn of(mut latencies: Vec<Duration>) -> Option<Self> {
        latencies.sort_unstable();
        let n = latencies.len();
        let max = micros(*latencies.last()?);
        let permille = |p: usize| micros(latencies[(n * p).div_ceil(1000) - 1]);
        let mean = latencies.iter().map(Duration::as_secs_f64).sum::<f64>() * 1e6 / n as f64;
        Some(Self {
            n,
            mean: round_to(mean, 1),
            p50: permille(500),
            p90: permille(900),
            p99: permille(990),
            p999: permille(999),
            max,
        })
    }
}

fn micros(latency: Duration) -> f64 {
    round_to(latency.as_nanos() as f64 / 1e3, 1)
}

/// How evenly the operations were distributed among the workers.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Fairness {
    /// The smallest number of operations of a worker.
    pub(crate) min: u64,
    /// The largest number of operations of a worker.
    pub(crate) max: u64,
    /// Jain's index: 1 if all workers completed equally many, 1/n if one of n completed all.
    pub(crate) jain: f64,
}

impl Fairness {
    /// The fairness of a run, from the number of operations of each worker.
    pub(crate) fn of(by_worker: &[u64]) -> Self {
        let min = by_worker.iter().copied().min().unwrap_or(0);
        let max = by_worker.iter().copied().max().unwrap_or(0);
        let sum: f64 = by_worker.iter().map(|&n| n as f64).sum();
        let squares: f64 = by_worker.iter().map(|&n| (n as f64).powi(2)).sum();
        let workers = by_worker.len() as f64;
        let jain = if max == 0 { 0.0 } else { round_to(sum * sum / (workers * squares), 4) };
        Self { min, max, jain }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(micros: impl IntoIterator<Item = u64>) -> Summary {
        let latencies = micros.into_iter().map(Duration::from_micros).collect();
        Summary::of(latencies).expect("there are latencies")
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let summary = summary((1..=2000).rev());
        assert_eq!((summary.n, summary.mean), (2000, 1000.5));
        assert_eq!((summary.p50, summary.p90), (1000.0, 1800.0));
        assert_eq!((summary.p99, summary.p999, summary.max), (1980.0, 1998.0, 2000.0));
    }

    #[test]
    fn percentile_between_two_latencies_is_the_larger() {
        let summary = summary([10, 20, 30]);
        assert_eq!((summary.p50, summary.p90, summary.p999), (20.0, 30.0, 30.0));
    }

    #[test]
    fn every_percentile_of_one_latency_equals_it() {
        let summary = summary([7]);
        assert_eq!((summary.p50, summary.p999, summary.max), (7.0, 7.0, 7.0));
    }

    #[test]
    fn summary_of_no_latencies_is_none() {
        assert_eq!(Summary::of(Vec::new()), None);
    }

    #[test]
    fn fairness_of_equal_workers_is_one() {
        assert_eq!(Fairness::of(&[5, 5, 5]), Fairness { min: 5, max: 5, jain: 1.0 });
    }

    #[test]
    fn fairness_of_one_active_worker_is_one_in_n() {
        assert_eq!(Fairness::of(&[0, 8, 0, 0]), Fairness { min: 0, max: 8, jain: 0.25 });
        assert_eq!(Fairness::of(&[1, 3]), Fairness { min: 1, max: 3, jain: 0.8 });
    }
}
