//! The flags of `coord bench`: names and defaults are those of the Go program.
//!
//! Every workload takes [`RunFlags`], and beside them only those that mean something to it.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::{ArgAction, Args};
use coord_core::Isolation;

use crate::store::StoreFlags;

/// The flags of one workload: those of every run, and its own.
#[derive(Args, Debug)]
pub(crate) struct Flags<F: Args> {
    #[command(flatten)]
    pub(crate) own: F,
    #[command(flatten)]
    pub(crate) run: RunFlags,
}

#[derive(Args, Debug)]
pub(crate) struct RunFlags {
    /// Concurrent workers
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) workers: NonZeroUsize,
    /// Connections, shared round-robin by the workers; 0: one for each worker
    #[arg(long, value_name = "N", default_value_t = 1)]
    conns: usize,
    /// Length of the measured phase; with `--count` at least 60s, as a cap
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// Stop after so many operations in all; 0: by duration
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) count: u64,
    /// Length of the warm-up
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = humantime::parse_duration)]
    pub(crate) warmup: Duration,
    /// Operations in the warm-up; 0: by time
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) warmup_count: u64,
    /// Give up after so long, with exit status 3 [default: 2min and twice the duration]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// What the keys start with
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
    // Last: in the help, all that follows stands under its heading.
    #[command(flatten)]
    pub(crate) store: StoreFlags,
}

impl RunFlags {
    /// How many connections there are to be: no more than workers.
    pub(crate) fn conns(&self) -> usize {
        let workers = self.workers.get();
        if self.conns == 0 { workers } else { self.conns.min(workers) }
    }
}

/// Of a workload that has none of its own.
#[derive(Args, Debug)]
pub(crate) struct NoFlags {}

#[derive(Args, Debug)]
pub(crate) struct RawFlags {
    /// Size of the values, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 16)]
    pub(crate) val_size: usize,
    /// Keys of each worker
    #[arg(long, value_name = "N", default_value = "1000")]
    pub(crate) keys: NonZeroUsize,
}

#[derive(Args, Debug)]
pub(crate) struct SessionFlags {
    /// Time to live of the sessions, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    ttl: u32,
}

impl SessionFlags {
    pub(crate) fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl.into())
    }
}

#[derive(Args, Debug)]
pub(crate) struct HoldFlags {
    #[command(flatten)]
    pub(crate) session: SessionFlags,
    /// How long what was waited for is held
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    pub(crate) hold: Duration,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct StmFlags {
    /// What transactions may see of each other: serializable-snapshot, serializable,
    /// repeatable-reads or read-committed
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
    /// What the accounts are drawn with
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Args, Debug)]
pub(crate) struct TransferFlags {
    #[command(flatten)]
    pub(crate) stm: StmFlags,
    /// Accounts, two or more
    #[arg(long, value_name = "N", default_value = "5", value_parser = accounts)]
    pub(crate) accounts: NonZeroUsize,
}

fn isolation(level: &str) -> Result<Isolation, String> {
    let known = [
        Isolation::SerializableSnapshot,
        Isolation::Serializable,
        Isolation::RepeatableReads,
        Isolation::ReadCommitted,
    ];
    known.into_iter().find(|known| known.to_string() == level).ok_or_else(|| {
        let known = known.map(|known| known.to_string());
        format!("there is no such level; there are: {}", known.join(" "))
    })
}

fn accounts(count: &str) -> Result<NonZeroUsize, String> {
    let count: NonZeroUsize = count.parse().map_err(|error| format!("{error}"))?;
    if count.get() < 2 { Err("a transfer needs two".to_owned()) } else { Ok(count) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags<HoldFlags>,
    }

    fn parsed(line: &str) -> Flags<HoldFlags> {
        Line::try_parse_from(line.split_whitespace()).expect("it is well-formed").flags
    }

    #[test]
    fn durations_are_parsed_as_in_go() {
        let flags = parsed("bench --duration 2s --warmup 300ms --hold 5ms --timeout 1m30s");
        assert_eq!(flags.run.duration, Duration::from_secs(2));
        assert_eq!(flags.run.warmup, Duration::from_millis(300));
        assert_eq!(flags.own.hold, Duration::from_millis(5));
        assert_eq!(flags.run.timeout, Some(Duration::from_secs(90)));
        assert_eq!(parsed("bench --warmup 0s").run.warmup, Duration::ZERO);
        assert!(Line::try_parse_from(["bench", "--duration", "2"]).is_err(), "of what?");
    }

    #[test]
    fn connections_are_limited_to_workers() {
        assert_eq!(parsed("bench --workers 8").run.conns(), 1);
        assert_eq!(parsed("bench --workers 8 --conns 3").run.conns(), 3);
        assert_eq!(parsed("bench --workers 8 --conns 0").run.conns(), 8);
        assert_eq!(parsed("bench --workers 8 --conns 9").run.conns(), 8);
    }
}
