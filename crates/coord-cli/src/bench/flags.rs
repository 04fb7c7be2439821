//! The flags of `coord bench`, with the names and defaults of the Go program that measures etcd's
//! `concurrency` package.
//!
//! Every workload accepts [`RunFlags`] and the flags that apply to it. Other flags are refused.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use clap::{ArgAction, Args};
use coord_core::stm::Isolation;

use crate::store::StoreFlags;

/// The flags of one workload: its own and those of every run.
#[derive(Args, Debug)]
pub(crate) struct Flags<F: Args> {
    #[command(flatten)]
    pub(crate) own: F,
    #[command(flatten)]
    pub(crate) run: RunFlags,
}

/// The flags of every run.
#[derive(Args, Debug)]
pub(crate) struct RunFlags {
    /// Number of concurrent workers
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) workers: NonZeroUsize,
    /// Number of connections, assigned round-robin to the workers; 0: one for each worker
    #[arg(long, value_name = "N", default_value_t = 1)]
    conns: usize,
    /// Duration of the measured phase; with `--count` a limit of at least 60s
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// Number of operations of all workers after which the phase ends; 0: by duration
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) count: u64,
    /// Duration of the warm-up
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = humantime::parse_duration)]
    pub(crate) warmup: Duration,
    /// Number of operations of the warm-up; 0: by duration
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) warmup_count: u64,
    /// Time limit of the whole run, with exit status 3 [default: 2min and twice the duration]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Prefix of the keys of the run
    #[arg(long, default_value = "coordbench")]
    pub(crate) prefix: String,
    /// Number of this repetition, copied into the output
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) run: u64,
    /// Free text, copied into the output
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) tag: String,
    /// Print JSON also on a terminal
    #[arg(long)]
    pub(crate) json: bool,
    // Last, because in the help its heading applies to all flags that follow.
    #[command(flatten)]
    pub(crate) store: StoreFlags,
}

impl RunFlags {
    /// The number of connections, at most one for each worker.
    pub(crate) fn conns(&self) -> usize {
        let workers = self.workers.get();
        if self.conns == 0 { workers } else { self.conns.min(workers) }
    }
}

/// The flags of a workload that has none of its own.
#[derive(Args, Debug)]
pub(crate) struct NoFlags {}

/// The flags of the `raw-*` workloads.
#[derive(Args, Debug)]
pub(crate) struct RawFlags {
    /// Size of the values, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 16)]
    pub(crate) val_size: usize,
    /// Number of keys of each worker
    #[arg(long, value_name = "N", default_value = "1000")]
    pub(crate) keys: NonZeroUsize,
}

/// The flags of workloads that open sessions.
#[derive(Args, Debug)]
pub(crate) struct SessionFlags {
    /// TTL of the sessions, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) ttl: u32,
}

impl SessionFlags {
    /// The TTL of the sessions.
    pub(crate) fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl.into())
    }
}

/// The flags of workloads that acquire and release.
#[derive(Args, Debug)]
pub(crate) struct HoldTimeFlags {
    #[command(flatten)]
    pub(crate) session: SessionFlags,
    /// Time between acquisition and release
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    pub(crate) hold: Duration,
}

/// The flags of `rwlock-mixed`.
#[derive(Args, Debug)]
pub(crate) struct MixedFlags {
    #[command(flatten)]
    pub(crate) hold: HoldTimeFlags,
    /// Seed of the random choice between reading and writing
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

/// The flags of `semaphore-contended`.
#[derive(Args, Debug)]
pub(crate) struct SemaphoreFlags {
    #[command(flatten)]
    pub(crate) hold: HoldTimeFlags,
    /// Number of permits of the semaphore
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) limit: NonZeroU32,
}

/// The flags of `barrier`.
#[derive(Args, Debug)]
pub(crate) struct BarrierFlags {
    #[command(flatten)]
    pub(crate) hold: HoldTimeFlags,
    /// Number of waiters of each worker's barrier
    #[arg(long, value_name = "N", default_value = "8")]
    pub(crate) waiters: NonZeroUsize,
}

/// The flags of `double-barrier`.
#[derive(Args, Debug)]
pub(crate) struct DoubleBarrierFlags {
    #[command(flatten)]
    pub(crate) session: SessionFlags,
    /// Number of parties of each worker's barrier
    #[arg(long, value_name = "N", default_value = "8")]
    pub(crate) parties: NonZeroUsize,
}

/// The flags of the `stm-*` workloads.
#[derive(Args, Clone, Debug)]
pub(crate) struct StmFlags {
    /// Isolation level: serializable-snapshot, serializable, repeatable-reads or read-committed
    #[arg(long, value_name = "LEVEL", default_value_t, value_parser = isolation)]
    pub(crate) isolation: Isolation,
    /// Read the keys of a transaction in one request
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = false,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = ArgAction::Set
    )]
    pub(crate) prefetch: bool,
    /// Seed of the random choice of accounts
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

/// The flags of `stm-transfer`.
#[derive(Args, Debug)]
pub(crate) struct TransferFlags {
    #[command(flatten)]
    pub(crate) stm: StmFlags,
    /// Number of accounts, at least 2
    #[arg(long, value_name = "N", default_value = "5", value_parser = accounts)]
    pub(crate) accounts: NonZeroUsize,
}

/// Parses an isolation level.
fn isolation(level: &str) -> Result<Isolation, String> {
    let known = [
        Isolation::SerializableSnapshot,
        Isolation::Serializable,
        Isolation::RepeatableReads,
        Isolation::ReadCommitted,
    ];
    known.into_iter().find(|known| known.to_string() == level).ok_or_else(|| {
        let known = known.map(|known| known.to_string());
        format!("unknown isolation level: use one of {}", known.join(" "))
    })
}

/// Parses a number of accounts.
fn accounts(count: &str) -> Result<NonZeroUsize, String> {
    let count: NonZeroUsize = count.parse().map_err(|error| format!("{error}"))?;
    if count.get() < 2 { Err("a transfer needs at least 2 accounts".to_owned()) } else { Ok(count) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct TestCli {
        #[command(flatten)]
        flags: Flags<HoldTimeFlags>,
    }

    fn parse(line: &str) -> Flags<HoldTimeFlags> {
        TestCli::try_parse_from(line.split_whitespace()).expect("it is well-formed").flags
    }

    #[test]
    fn durations_are_parsed_as_in_go() {
        let flags = parse("bench --duration 2s --warmup 300ms --hold 5ms --timeout 1m30s");
        assert_eq!(flags.run.duration, Duration::from_secs(2));
        assert_eq!(flags.run.warmup, Duration::from_millis(300));
        assert_eq!(flags.own.hold, Duration::from_millis(5));
        assert_eq!(flags.run.timeout, Some(Duration::from_secs(90)));
        assert_eq!(parse("bench --warmup 0s").run.warmup, Duration::ZERO);
        let without_unit = TestCli::try_parse_from(["bench", "--duration", "2"]);
        assert!(without_unit.is_err(), "a duration needs a unit");
    }

    #[test]
    fn connections_are_limited_to_workers() {
        assert_eq!(parse("bench --workers 8").run.conns(), 1);
        assert_eq!(parse("bench --workers 8 --conns 3").run.conns(), 3);
        assert_eq!(parse("bench --workers 8 --conns 0").run.conns(), 8);
        assert_eq!(parse("bench --workers 8 --conns 9").run.conns(), 8);
    }
}
