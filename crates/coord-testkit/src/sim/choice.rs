//! Choices: every decision of a simulated run, as data.
//!
//! A run reaches *decision points*, for example the sending of the third request of process `b`. At
//! each point it chooses one of n options. Option 0 always means: no fault, least latency, oldest
//! first. The choices other than 0 are the *deviations* of a run. They determine the run
//! completely, and they are all that is saved, replayed and shrunk:
//!
//! ```text
//! b.request#3=5/11,a.process#7=2/9
//! |  |      | | |
//! |  |      | | the point had 11 options: checked on replay
//! |  |      | the option that was chosen
//! |  |      the third point of this lane in the run
//! |  the kind of decision
//! the process
//! ```
//!
//! Points are numbered per *lane* (process and kind), not through the whole run. Therefore a
//! deviation keeps its meaning when another one is removed: "the third request of `b`" stays the
//! same request as long as `b` itself behaves in the same way until then. This is what makes
//! shrinking fast (`docs/decisions/0021-choices-by-lane.md`). The store has lanes too
//! (`store.change`, `store.clock`), and so has each `buggify` point (`test.NAME`).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::faults::{ChoiceOption, FaultCoverage};
use super::generator::Generator;

/// One choice that is not 0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deviation {
    /// The process and the kind of decision, such as `b.request`; `store.change` and `store.clock`
    /// for the store, `test.NAME` for a [`buggify`](super::Sim::buggify) point.
    pub lane: Arc<str>,
    /// Which point of the lane, counted from 1.
    pub number: u32,
    /// The option that was chosen.
    pub value: u16,
    /// How many options the point had.
    pub options: u16,
}

impl Deviation {
    /// Whether the point has the option.
    const fn is_possible(&self) -> bool {
        0 < self.value && self.value < self.options
    }
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lane, number, value, options } = self;
        write!(f, "{lane}#{number}={value}/{options}")
    }
}

impl FromStr for Deviation {
    type Err = ParseDeviationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (point, choice) = text.trim().split_once('=')?;
            let (lane, number) = point.split_once('#')?;
            let (value, options) = choice.split_once('/')?;
            let (number, value) = (number.parse().ok()?, value.parse().ok()?);
            let deviation =
                Self { lane: lane.into(), number, value, options: options.parse().ok()? };
            (number > 0 && deviation.is_possible()).then_some(deviation)
        };
        parse().ok_or_else(|| ParseDeviationError { text: text.to_owned() })
    }
}

/// The error of a text that is not a list of deviations.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid deviation {text:?}: must look like b.request#3=5/11, option 5 of the options 0 to 10 at \
     the third such point"
)]
pub struct ParseDeviationError {
    text: String,
}

/// The deviations of a run, in the order in which the run reached them. The empty list is the run
/// without faults.
///
/// ```
/// use coord_testkit::sim::Deviations;
///
/// let list: Deviations = "b.request#3=5/11, a.process#7=2/9".parse()?;
/// assert_eq!(list.0.len(), 2);
/// assert_eq!(list.to_string(), "b.request#3=5/11,a.process#7=2/9");
/// # Ok::<_, coord_testkit::sim::ParseDeviationError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deviations(pub Vec<Deviation>);

impl fmt::Display for Deviations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, deviation) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{deviation}")?;
        }
        Ok(())
    }
}

impl FromStr for Deviations {
    type Err = ParseDeviationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split([',', '\n']).map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// Checks a name that becomes a part of the names of lanes, and must differ from `taken`.
///
/// # Panics
/// If it is empty, in `taken`, or has other characters than letters, digits, `_` and `-`.
pub(crate) fn check_name<'a>(kind: &str, name: &str, taken: impl IntoIterator<Item = &'a str>) {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    assert!(
        !name.is_empty() && name.chars().all(is_valid),
        "invalid {kind} name {name:?}: use letters, digits, `_` and `-`"
    );
    assert!(
        taken.into_iter().all(|other| other != name),
        "the {kind} name {name:?} is in use or reserved: give each {kind} its own"
    );
}

/// The index of a lane in [`Choices`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneId(usize);

/// The decision points of one process and kind.
#[derive(Debug)]
struct LaneState {
    name: Arc<str>,
    options: &'static [ChoiceOption],
    /// How many points the run has reached.
    reached: u32,
}

/// Where the choices of a run come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// Every choice is 0, except these.
    Replay(BTreeMap<(Arc<str>, u32), Deviation>),
    Generate(Generator),
}

impl Source {
    pub(crate) fn replay(list: &Deviations) -> Self {
        let key = |deviation: &Deviation| (Arc::clone(&deviation.lane), deviation.number);
        Self::Replay(list.0.iter().map(|deviation| (key(deviation), deviation.clone())).collect())
    }
}

/// A decision point that a run reached, with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReachedPoint {
    pub(crate) lane: Arc<str>,
    pub(crate) number: u32,
    pub(crate) options: &'static [ChoiceOption],
}

/// The choices of one run.
#[derive(Debug)]
pub(crate) struct Choices {
    lanes: Vec<LaneState>,
    source: Source,
    taken: Vec<Deviation>,
    /// What each deviation meant; filled only while the run is recorded.
    words: Vec<String>,
    is_recorded: bool,
    /// The points of the run; `None` unless they are listed, for example for an exploration.
    reached: Option<Vec<ReachedPoint>>,
    /// Whether the fault phase is over: every choice is 0.
    is_healed: bool,
    mismatch: Option<String>,
    pub(crate) coverage: FaultCoverage,
}

impl Choices {
    pub(crate) fn new(source: Source, is_recorded: bool, lists_points: bool) -> Self {
        Self {
            lanes: Vec::new(),
            source,
            taken: Vec::new(),
            words: Vec::new(),
            is_recorded,
            reached: lists_points.then(Vec::new),
            is_healed: false,
            mismatch: None,
            coverage: FaultCoverage::default(),
        }
    }

    /// Adds the lane of a process and a kind of decision.
    pub(crate) fn add_lane(&mut self, name: String, options: &'static [ChoiceOption]) -> LaneId {
        if let Some(known) = self.lanes.iter().position(|lane| *lane.name == *name) {
            return LaneId(known);
        }
        self.lanes.push(LaneState { name: name.into(), options, reached: 0 });
        LaneId(self.lanes.len() - 1)
    }

    /// What the deviations from number `first` on mean; none unless the run is recorded.
    pub(crate) fn words_since(&self, first: usize) -> &[String] {
        self.words.get(first..).unwrap_or_default()
    }

    /// Whether the run has deviated so far.
    pub(crate) const fn has_deviated(&self) -> bool {
        !self.taken.is_empty()
    }

    pub(crate) const fn is_healed(&self) -> bool {
        self.is_healed
    }

    pub(crate) const fn heal(&mut self) {
        self.is_healed = true;
    }

    /// The generator, if choices are generated and the fault phase is not over.
    pub(crate) const fn generator(&mut self) -> Option<&mut Generator> {
        match &mut self.source {
            Source::Generate(generator) if !self.is_healed => Some(generator),
            _ => None,
        }
    }

    /// Chooses an option at the next point of a lane. `process` is the number of the process that
    /// acts there, as returned by `acting`; `pick` overrides the generator's choice; `words`
    /// describes the point.
    pub(crate) fn choose(
        &mut self,
        lane: LaneId,
        process: usize,
        pick: Option<u16>,
        words: impl FnOnce() -> String,
    ) -> u16 {
        if self.is_healed {
            return 0;
        }
        let LaneState { name, options, reached } = &mut self.lanes[lane.0];
        *reached += 1;
        let number = *reached;
        if let Some(points) = &mut self.reached {
            points.push(ReachedPoint { lane: Arc::clone(name), number, options });
        }
        let value = match &mut self.source {
            Source::Generate(generator) => {
                self.coverage.note_possible(options, generator.rates());
                pick.unwrap_or_else(|| generator.pick(options, process))
            }
            Source::Replay(list) if list.is_empty() => 0,
            Source::Replay(list) => match list.remove(&(Arc::clone(name), number)) {
                Some(deviation)
                    if usize::from(deviation.options) == options.len()
                        && deviation.is_possible() =>
                {
                    deviation.value
                }
                Some(deviation) => {
                    let now = options.len();
                    self.mismatch =
                        Some(format!("{deviation}: the point has the options 0 to {}", now - 1));
                    0
                }
                None => 0,
            },
        };
        if value > 0 {
            let options = u16::try_from(options.len()).unwrap_or(u16::MAX);
            self.taken.push(Deviation { lane: Arc::clone(name), number, value, options });
            let option = self.lanes[lane.0].options[usize::from(value)];
            self.coverage.note_fired(option.fault);
            if self.is_recorded {
                self.words.push(format!("{}: {}", words(), option.label));
            }
        }
        value
    }

    /// What no longer fits of a replayed list, if anything: a point that was not reached, or that
    /// has another number of options.
    pub(crate) fn mismatch(&self) -> Option<String> {
        let unreached = match &self.source {
            Source::Replay(list) => list.values().next(),
            Source::Generate(_) => None,
        };
        let unreached =
            unreached.map(|deviation| format!("{deviation}: the run has no such point"));
        self.mismatch.clone().or(unreached)
    }

    /// The deviations of the run, their meaning if the run is recorded, its decision points if they
    /// are listed, and its coverage.
    pub(crate) fn into_parts(self) -> (Deviations, Vec<String>, Vec<ReachedPoint>, FaultCoverage) {
        (Deviations(self.taken), self.words, self.reached.unwrap_or_default(), self.coverage)
    }
}
