//! The runner of the conformance suite: as a libtest-mimic program, or as a plain future.
//!
//! Both ways run each case on a backend of its own, skip a case whose capabilities are not all
//! claimed, and report every error or panic in a case as a failure of that case alone.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use coord_core::{Client, KvBackend};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::{Capability, CaseFailure, Clock, ConformanceCase, cases};

/// Number of test threads on a real clock. Most cases spend their time waiting, so more cases than
/// cores can run at once.
const REAL_TIME_TEST_THREADS: usize = 8;

/// The timeout of a single case. A backend that hangs fails the case after this time.
const fn case_timeout(clock: Clock) -> Duration {
    match clock {
        Clock::Paused => Duration::from_secs(24 * 3600),
        Clock::Real => Duration::from_secs(120),
    }
}

fn runtime(clock: Clock) -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().start_paused(clock == Clock::Paused).build()
}

/// A factory's guard with an erased type. Dropped when the case has ended.
type Guard = Box<dyn Any + Send>;
/// A factory whose guard and backend have erased types.
type Factory = dyn Fn() -> BoxFuture<'static, (Guard, Client)> + Send + Sync;

/// A backend under test: its name, its clock, a factory, and the capabilities that the backend
/// claims.
///
/// ```
/// use coord_core::layer::PrefixLayer;
/// use coord_mem::MemBackend;
/// use coord_testkit::conformance::{Capability, Clock, Suite};
///
/// let suite = Suite::new("prefix", Clock::Paused, async || {
///     ((), PrefixLayer::new(MemBackend::new(), "p/"))
/// })
/// .claims([Capability::RetainedTombstone]);
/// # let _ = suite;
/// ```
#[derive(Clone)]
pub struct Suite {
    name: String,
    clock: Clock,
    claims: BTreeSet<Capability>,
    factory: Arc<Factory>,
    /// The factory of a fresh store, if it differs from `factory`.
    fresh: Option<Arc<Factory>>,
}

impl Suite {
    /// Creates a suite that claims no capability, over the backends that `factory` returns.
    ///
    /// The suite calls the factory for every case. The factory returns a guard, which lives as long
    /// as the case runs, and a backend without keys and without leases; see the
    /// [requirements](super#requirements-on-the-factory). If the factory panics, the case fails.
    pub fn new<F, O, G, B>(name: impl Into<String>, clock: Clock, factory: F) -> Self
    where
        F: Fn() -> O + Send + Sync + 'static,
        O: Future<Output = (G, B)> + Send + 'static,
        G: Send + 'static,
        B: KvBackend,
    {
        let factory = boxed_factory(factory);
        Self { name: name.into(), clock, claims: BTreeSet::new(), factory, fresh: None }
    }

    /// Claims [`Capability::FreshStore`], with a factory for the cases that require it.
    ///
    /// Use a second factory if starting a server takes longer than emptying one: only a few cases
    /// need a fresh store.
    #[must_use]
    pub fn fresh<F, O, G, B>(mut self, factory: F) -> Self
    where
        F: Fn() -> O + Send + Sync + 'static,
        O: Future<Output = (G, B)> + Send + 'static,
        G: Send + 'static,
        B: KvBackend,
    {
        self.fresh = Some(boxed_factory(factory));
        self.claims([Capability::FreshStore])
    }

    /// Claims capabilities, in addition to those claimed before.
    #[must_use]
    pub fn claims(mut self, capabilities: impl IntoIterator<Item = Capability>) -> Self {
        self.claims.extend(capabilities);
        self
    }

    /// Runs every case, one after the other, on the current runtime, whose clock must be the
    /// suite's.
    ///
    /// # Cancel safety
    /// Dropping the future stops the run; the remaining cases are not run.
    pub async fn run(&self) -> SuiteReport {
        let mut rows = Vec::new();
        for case in cases() {
            let result = match self.missing_capability(case) {
                Some(capability) => CaseResult::Skipped(capability),
                None => {
                    self.check(case).await.map_or_else(CaseResult::Failed, |()| CaseResult::Passed)
                }
            };
            rows.push((case, result));
        }
        SuiteReport { backend: self.name.clone(), rows }
    }

    /// The first capability that the case requires and the backend does not claim.
    fn missing_capability(&self, case: &ConformanceCase) -> Option<Capability> {
        let is_claimed = |capability: &Capability| match capability {
            Capability::VirtualTime => self.clock == Clock::Paused,
            capability => self.claims.contains(capability),
        };
        case.requires.iter().copied().find(|capability| !is_claimed(capability))
    }

    /// Runs a case on a backend of its own. Reports a panic and a timeout as failures.
    async fn check(&self, case: &ConformanceCase) -> Result<(), CaseFailure> {
        let check = async {
            let needs_fresh = case.requires.contains(&Capability::FreshStore);
            let fresh = self.fresh.as_ref().filter(|_| needs_fresh);
            let (_guard, kv) = fresh.unwrap_or(&self.factory)().await;
            case.check(&kv).await
        };
        let after = case_timeout(self.clock);
        match timeout(after, AssertUnwindSafe(check).catch_unwind()).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => {
                Err(CaseFailure::new(format!("panicked: {}", panic_message(&*panic))))
            }
            Err(_) => Err(CaseFailure::new(format!("did not complete within {after:?}"))),
        }
    }

    /// Converts a case to a test of libtest-mimic.
    fn trial(&self, case: &'static ConformanceCase) -> Trial {
        let name = format!("{}::{case}", self.name);
        if let Some(capability) = self.missing_capability(case) {
            // Ignored by default. With `--ignored`, the test runs and must not pass.
            let skipped =
                move || Err(Failed::from(format!("skipped: {capability} is not claimed")));
            return Trial::test(name, skipped)
                .with_ignored_flag(true)
                .with_kind(format!("requires {capability}"));
        }
        let suite = self.clone();
        Trial::test(name, move || {
            let runtime = runtime(suite.clock).map_err(|error| error.to_string())?;
            runtime.block_on(suite.check(case)).map_err(|failure| failure.to_string().into())
        })
    }
}

impl fmt::Debug for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suite")
            .field("name", &self.name)
            .field("clock", &self.clock)
            .field("claims", &self.claims)
            .finish_non_exhaustive()
    }
}

/// Erases the types of a factory's guard and backend.
fn boxed_factory<F, O, G, B>(factory: F) -> Arc<Factory>
where
    F: Fn() -> O + Send + Sync + 'static,
    O: Future<Output = (G, B)> + Send + 'static,
    G: Send + 'static,
    B: KvBackend,
{
    Arc::new(move || {
        let created = factory();
        Box::pin(async move {
            let (guard, backend) = created.await;
            (Box::new(guard) as Guard, Client::new(backend))
        })
    })
}

/// The message of a panic.
fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// A complete test program: each case of each suite is a test, on a runtime of its own.
///
/// For a test target with `harness = false`. The program accepts the command-line arguments of
/// `cargo test` and `cargo nextest`, and lists skipped cases as ignored.
///
/// ```
/// use coord_mem::MemBackend;
/// use coord_testkit::conformance::{self, Clock, Capability, Suite};
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     let mem = Suite::new("mem", Clock::Paused, async || ((), MemBackend::new()));
///     conformance::main([mem.claims(Capability::ALL)])
/// }
/// ```
pub fn main(suites: impl IntoIterator<Item = Suite>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    let suites: Vec<_> = suites.into_iter().collect();
    if suites.iter().any(|suite| suite.clock == Clock::Real) {
        arguments.test_threads = arguments.test_threads.or(Some(REAL_TIME_TEST_THREADS));
    }
    let suites = suites.into_iter();
    let trials = suites.flat_map(|suite| cases().map(move |case| suite.trial(case)));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// The result of one case.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a case passes, fails or is skipped")]
pub enum CaseResult {
    /// Every assertion held.
    Passed,
    /// An assertion failed, a request returned an unexpected error, the case or its backend
    /// panicked, or the case timed out.
    Failed(CaseFailure),
    /// The case was not run, because the backend does not claim this capability.
    Skipped(Capability),
}

/// The results of all cases on one backend. `Display` prints the failed and the skipped cases, and
/// a summary.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SuiteReport {
    /// The name of the suite.
    pub backend: String,
    /// Each case with its result, in the order of the table.
    pub rows: Vec<(&'static ConformanceCase, CaseResult)>,
}

impl SuiteReport {
    /// The cases that passed.
    pub fn passed(&self) -> impl Iterator<Item = &'static ConformanceCase> {
        self.rows.iter().filter(|row| matches!(row.1, CaseResult::Passed)).map(|row| row.0)
    }

    /// The cases that failed, each with the reason.
    pub fn failed(&self) -> impl Iterator<Item = (&'static ConformanceCase, &CaseFailure)> {
        self.rows.iter().filter_map(|(case, result)| match result {
            CaseResult::Failed(failure) => Some((*case, failure)),
            CaseResult::Passed | CaseResult::Skipped(_) => None,
        })
    }

    /// The cases that were skipped, each with the first capability that the backend does not claim.
    pub fn skipped(&self) -> impl Iterator<Item = (&'static ConformanceCase, Capability)> {
        self.rows.iter().filter_map(|(case, result)| match result {
            CaseResult::Skipped(capability) => Some((*case, *capability)),
            CaseResult::Passed | CaseResult::Failed(_) => None,
        })
    }
}

impl fmt::Display for SuiteReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (case, failure) in self.failed() {
            writeln!(f, "failed  {case}: {failure}")?;
        }
        for (case, capability) in self.skipped() {
            writeln!(f, "skipped {case}: requires {capability}")?;
        }
        let (passed, failed) = (self.passed().count(), self.failed().count());
        let skipped = self.skipped().count();
        write!(f, "{}: {passed} passed, {failed} failed, {skipped} skipped", self.backend)
    }
}
