//! Faults: the options of each kind of decision point, and how often each fault was exercised.

use std::fmt;
use std::time::Duration;

use coord_core::Error;
use coord_core::error::Outcome;

use crate::{Call, intercept};

/// A kind of fault. A random run switches each kind on or off as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// A task or message that is ready is processed after others that became ready later.
    Reorder,
    /// A message is delivered up to a second late, after messages that were sent later.
    Latency,
    /// Every message of a process takes at least 50 ms, for the whole run.
    SlowLink,
    /// A message is delivered 10 s late, after the caller's timeout: a late request is applied.
    LateDelivery,
    /// A request is lost before it is applied.
    RequestLost,
    /// A response is lost after its request was applied.
    ResponseLost,
    /// The store rejects a request as unavailable, without applying it.
    Refused,
    /// The store rejects a request as overloaded, without applying it.
    Overloaded,
    /// The store rejects a request because the caller's token has expired.
    AuthExpired,
    /// The store rejects a put or transaction as too large.
    TooLarge,
    /// A watch is silent for 30 s, then delivers everything.
    WatchLate,
    /// The server ends a watch with a retryable error.
    WatchEnded,
    /// A watch does not receive a progress notification.
    ProgressWithheld,
    /// A stale member serves a serializable read.
    StaleRead,
    /// A process stops for 2 s or 100 s, and resumes with responses pending.
    Pause,
    /// No message passes between a process and the store, for 5 s or 100 s.
    Partition,
    /// Messages pass in one direction only, for 100 s.
    OneWayPartition,
    /// The processes are partitioned from the store one after the other, and healed in the reverse
    /// order.
    Swizzle,
    /// A process stops forever, a [service](super::Sim::service) too.
    Crash,
    /// A process stops. A [service](super::Sim::service) starts again a second later, without its
    /// memory; any other process stops forever.
    Restart,
    /// The history is compacted at the current revision.
    Compaction,
    /// A new leader gives every lease its whole TTL again.
    LeaderChange,
    /// The store rejects all changes for 5 s because its quota is reached.
    NoSpace,
    /// The store's clock runs 5 % fast or slow.
    ClockDrift,
    /// A decision that the test itself makes: [`Sim::buggify`](super::Sim::buggify).
    Buggify,
}

impl Fault {
    /// All faults, in the order of their declaration: the rates are indexed by it.
    pub const ALL: [Self; 25] = [
        Self::Reorder,
        Self::Latency,
        Self::SlowLink,
        Self::LateDelivery,
        Self::RequestLost,
        Self::ResponseLost,
        Self::Refused,
        Self::Overloaded,
        Self::AuthExpired,
        Self::TooLarge,
        Self::WatchLate,
        Self::WatchEnded,
        Self::ProgressWithheld,
        Self::StaleRead,
        Self::Pause,
        Self::Partition,
        Self::OneWayPartition,
        Self::Swizzle,
        Self::Crash,
        Self::Restart,
        Self::Compaction,
        Self::LeaderChange,
        Self::NoSpace,
        Self::ClockDrift,
        Self::Buggify,
    ];

    /// The range from which a random run draws the probability that the fault fires at a point.
    pub(crate) const fn rates(self) -> (f32, f32) {
        match self {
            Self::Reorder => (0.05, 0.6),
            Self::Latency => (0.02, 0.5),
            Self::SlowLink
            | Self::ProgressWithheld
            | Self::StaleRead
            | Self::ClockDrift
            | Self::Buggify => (0.2, 0.7),
            Self::WatchLate | Self::WatchEnded => (0.01, 0.2),
            Self::Pause | Self::Partition | Self::OneWayPartition => (0.003, 0.05),
            Self::Crash | Self::Restart => (0.002, 0.03),
            Self::Compaction | Self::LeaderChange => (0.01, 0.2),
            Self::NoSpace | Self::AuthExpired | Self::TooLarge | Self::Swizzle => (0.002, 0.02),
            Self::LateDelivery
            | Self::RequestLost
            | Self::ResponseLost
            | Self::Refused
            | Self::Overloaded => (0.004, 0.1),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Reorder => "reorder",
            Self::Latency => "latency",
            Self::SlowLink => "slow link",
            Self::LateDelivery => "late delivery",
            Self::RequestLost => "request lost",
            Self::ResponseLost => "response lost",
            Self::Refused => "refused",
            Self::Overloaded => "overloaded",
            Self::AuthExpired => "auth expired",
            Self::TooLarge => "too large",
            Self::WatchLate => "watch late",
            Self::WatchEnded => "watch ended",
            Self::ProgressWithheld => "progress withheld",
            Self::StaleRead => "stale read",
            Self::Pause => "pause",
            Self::Partition => "partition",
            Self::OneWayPartition => "one-way partition",
            Self::Swizzle => "swizzle",
            Self::Crash => "crash",
            Self::Restart => "restart",
            Self::Compaction => "compaction",
            Self::LeaderChange => "leader change",
            Self::NoSpace => "no space",
            Self::ClockDrift => "clock drift",
            Self::Buggify => "buggify",
        })
    }
}

/// One option of a decision point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChoiceOption {
    pub(crate) fault: Fault,
    pub(crate) label: &'static str,
}

const fn option(fault: Fault, label: &'static str) -> ChoiceOption {
    ChoiceOption { fault, label }
}

/// What becomes of a request, at the moment it is sent.
pub(crate) const REQUEST: &[ChoiceOption] = &[
    option(Fault::Latency, "delivered"),
    option(Fault::Latency, "delivered after 5 ms"),
    option(Fault::Latency, "delivered after 50 ms"),
    option(Fault::Latency, "delivered after 1 s"),
    option(Fault::LateDelivery, "delivered after 10 s, later than the timeout"),
    option(Fault::RequestLost, "lost"),
    option(Fault::RequestLost, "lost, the connection broke"),
    option(Fault::Refused, "rejected as unavailable, not applied"),
    option(Fault::Overloaded, "rejected as overloaded, not applied"),
    option(Fault::AuthExpired, "rejected because the token has expired"),
    option(Fault::TooLarge, "rejected as too large, if it is a put or transaction"),
];

/// What becomes of a response, at the moment the request was processed.
pub(crate) const RESPONSE: &[ChoiceOption] = &[
    option(Fault::Latency, "delivered"),
    option(Fault::Latency, "delivered after 5 ms"),
    option(Fault::Latency, "delivered after 50 ms"),
    option(Fault::Latency, "delivered after 1 s"),
    option(Fault::LateDelivery, "delivered after 10 s, later than the timeout"),
    option(Fault::ResponseLost, "lost"),
    option(Fault::ResponseLost, "lost, the connection broke"),
];

/// What becomes of a batch of a watch.
pub(crate) const BATCH: &[ChoiceOption] = &[
    option(Fault::Latency, "delivered"),
    option(Fault::Latency, "delivered after 5 ms"),
    option(Fault::Latency, "delivered after 50 ms"),
    option(Fault::Latency, "delivered after 1 s"),
    option(Fault::WatchLate, "delivered after 30 s"),
    option(Fault::WatchEnded, "not delivered, the server ended the watch"),
];

/// What becomes of a progress notification of a watch, before it is a batch to deliver.
pub(crate) const PROGRESS: &[ChoiceOption] =
    &[option(Fault::ProgressWithheld, "sent"), option(Fault::ProgressWithheld, "withheld")];

/// The connection of a process to the store, when the process is created.
pub(crate) const LINK: &[ChoiceOption] =
    &[option(Fault::SlowLink, "fast"), option(Fault::SlowLink, "slow for the whole run")];

/// The least latency of a message on a slow link.
pub(crate) const SLOW_LINK: Duration = Duration::from_millis(50);

/// The latency that an option of a request, response or batch stands for.
pub(crate) const fn latency(value: u16) -> Duration {
    Duration::from_millis(match value {
        1 => 5,
        2 => 50,
        3 => 1_000,
        4 => 10_000,
        _ => 1,
    })
}

/// The error with which an option of a request rejects it; `unavailable` is the reason of an
/// unavailable store.
pub(crate) fn rejection(value: u16, call: &Call, unavailable: &str) -> Option<Error> {
    match value {
        7 => Some(intercept::unavailable(Outcome::NotApplied, unavailable)),
        8 => Some(Error::TooManyRequests),
        9 => Some(Error::Unauthenticated { reason: "the token has expired".to_owned() }),
        10 if matches!(call, Call::Put(_) | Call::Txn(_)) => {
            Some(Error::RequestTooLarge { size_bytes: 2, limit_bytes: 1 })
        }
        _ => None,
    }
}

/// How long a watch is silent.
pub(crate) const WATCH_SILENCE: Duration = Duration::from_secs(30);

/// What happens to a process, at each of its requests and responses.
pub(crate) const PROCESS: &[ChoiceOption] = &[
    option(Fault::Pause, "runs"),
    option(Fault::Pause, "paused for 2 s"),
    option(Fault::Pause, "paused for 100 s"),
    option(Fault::Partition, "partitioned for 5 s"),
    option(Fault::Partition, "partitioned for 100 s"),
    option(Fault::OneWayPartition, "its requests held for 100 s"),
    option(Fault::OneWayPartition, "its responses held for 100 s"),
    option(Fault::Crash, "crashed"),
    option(Fault::Restart, "crashed and started again"),
];

/// What happens to the store, after each change.
pub(crate) const STORE: &[ChoiceOption] = &[
    option(Fault::Compaction, "runs"),
    option(Fault::Compaction, "compacted"),
    option(Fault::LeaderChange, "changed its leader"),
    option(Fault::NoSpace, "out of space for 5 s"),
    option(Fault::Swizzle, "partitioned from one process after the other"),
];

/// Which revision serves a serializable read.
pub(crate) const READ: &[ChoiceOption] = &[
    option(Fault::StaleRead, "current"),
    option(Fault::StaleRead, "1 revision behind"),
    option(Fault::StaleRead, "10 revisions behind"),
];

/// Whether a ready task or message is processed now.
pub(crate) const STEP: &[ChoiceOption] =
    &[option(Fault::Reorder, "now"), option(Fault::Reorder, "postponed")];

/// The speed of the store's clock.
pub(crate) const CLOCK: &[ChoiceOption] = &[
    option(Fault::ClockDrift, "exact"),
    option(Fault::ClockDrift, "5 % fast"),
    option(Fault::ClockDrift, "5 % slow"),
];

/// Whether a point of the test fires.
pub(crate) const BUGGIFY: &[ChoiceOption] =
    &[option(Fault::Buggify, "off"), option(Fault::Buggify, "fires")];

/// Whether the options are those of a message, which has a latency.
pub(crate) fn has_latency(options: &[ChoiceOption]) -> bool {
    options.len() > 3 && options[1].fault == Fault::Latency
}

/// Whether a choice between the options is a part of the schedule: of the order of events.
pub(crate) fn is_of_schedule(options: &[ChoiceOption]) -> bool {
    has_latency(options) || options[1].fault == Fault::Reorder
}

/// The options of the points of a lane, by the kind at the end of its name.
pub(crate) fn options_of(lane: &str) -> Option<&'static [ChoiceOption]> {
    let (process, kind) = lane.rsplit_once('.')?;
    Some(match kind {
        _ if process == "test" => BUGGIFY,
        "step" => STEP,
        "request" => REQUEST,
        "response" => RESPONSE,
        "batch" => BATCH,
        "progress" => PROGRESS,
        "process" => PROCESS,
        "read" => READ,
        "link" => LINK,
        "change" => STORE,
        "clock" => CLOCK,
        _ => return None,
    })
}

/// How often a fault was exercised, in all runs of a sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCount {
    /// At how many points the fault could have fired.
    pub possible: u64,
    /// How often it fired.
    pub fired: u64,
    /// How often it fired where it mattered: a lost response of a change that was applied, a crash
    /// of a process that has changed the store, a serializable read of an earlier revision.
    pub mattered: u64,
}

/// How often each fault was exercised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultCoverage([FaultCount; Fault::ALL.len()]);

impl FaultCoverage {
    /// Returns the counts of one fault.
    #[must_use]
    pub const fn count(&self, fault: Fault) -> FaultCount {
        self.0[fault as usize]
    }

    /// Returns the faults that could have fired and never mattered.
    #[must_use]
    pub fn missing(&self) -> Vec<Fault> {
        let is_missing = |fault: &Fault| {
            let count = self.count(*fault);
            count.possible > 0 && count.mattered == 0
        };
        Fault::ALL.into_iter().filter(is_missing).collect()
    }

    /// Counts a point for each enabled fault of its options. The options of one fault are adjacent.
    pub(crate) fn note_possible(&mut self, options: &[ChoiceOption], rates: &Rates) {
        let mut last = None;
        for option in &options[1..] {
            if last != Some(option.fault) && rates.of(option.fault) > 0.0 {
                self.0[option.fault as usize].possible += 1;
            }
            last = Some(option.fault);
        }
    }

    pub(crate) const fn note_fired(&mut self, fault: Fault) {
        self.0[fault as usize].fired += 1;
    }

    pub(crate) const fn note_mattered(&mut self, fault: Fault) {
        self.0[fault as usize].mattered += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, count) in self.0.iter_mut().zip(&other.0) {
            sum.possible += count.possible;
            sum.fired += count.fired;
            sum.mattered += count.mattered;
        }
    }
}

impl fmt::Display for FaultCoverage {
    /// A table, one fault per line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:18} {:>12} {:>9} {:>9}", "fault", "possible", "fired", "mattered")?;
        for fault in Fault::ALL {
            let FaultCount { possible, fired, mattered } = self.count(fault);
            writeln!(f, "{fault:18} {possible:>12} {fired:>9} {mattered:>9}")?;
        }
        Ok(())
    }
}

/// The probability of each fault at a point, in one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates([f32; Fault::ALL.len()]);

impl Rates {
    pub(crate) fn from_fn(rate: impl FnMut(Fault) -> f32) -> Self {
        Self(Fault::ALL.map(rate))
    }

    pub(crate) const fn of(&self, fault: Fault) -> f32 {
        self.0[fault as usize]
    }
}
