//! Running the table: over libtest-mimic, or as a plain future.
//!
//! The two differ only in who reports. In both, a promise gets a backend of its own, a promise
//! whose need is not claimed is not run, and whatever goes wrong in a check, a panic of the
//! backend included, is a failure of that promise alone.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use coord_core::KvBackend;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::{Failure, Need, Promise, promises};

/// How many promises wait at a time where waiting takes time: most of a run is waiting then.
const THREADS_ON_REAL_TIME: usize = 8;

/// Whose time a backend lives by, which decides on the runtime that [`main`] makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "time stands still or it does not")]
pub enum Clock {
    /// Tokio's, paused: waiting costs nothing. For backends in memory.
    Paused,
    /// Everybody's. For servers.
    Real,
}

impl Clock {
    /// How long a single promise may take: it must end, whatever the backend does.
    const fn patience(self) -> Duration {
        match self {
            Self::Paused => Duration::from_secs(24 * 3600),
            Self::Real => Duration::from_secs(120),
        }
    }

    fn runtime(self) -> std::io::Result<Runtime> {
        Builder::new_current_thread().enable_all().start_paused(self == Self::Paused).build()
    }
}

type Guard = Box<dyn Any + Send>;
type Factory = dyn Fn() -> BoxFuture<'static, (Guard, Arc<dyn KvBackend>)> + Send + Sync;

/// A backend to hold to the contract: its name, its clock, how to get one, and what it claims.
///
/// ```
/// use coord_core::layer::PrefixLayer;
/// use coord_mem::MemBackend;
/// use coord_testkit::conformance::{Clock, Need, Suite};
///
/// let suite = Suite::new("prefix", Clock::Paused, async || {
///     ((), PrefixLayer::new(MemBackend::new(), "p/"))
/// })
/// .claims([Need::RetainedTombstone]);
/// # let _ = suite;
/// ```
#[derive(Clone)]
pub struct Suite {
    name: String,
    clock: Clock,
    claims: BTreeSet<Need>,
    factory: Arc<Factory>,
    /// For the promises that need a fresh store.
    fresh: Option<Arc<Factory>>,
}

impl Suite {
    /// A suite over the backends that `factory` gives, claiming nothing beyond the contract.
    ///
    /// The factory is called for every promise, and gives a guard, which lives as long as the check
    /// runs, and a backend without keys and without leases. See the
    /// [module](super#what-a-factory-owes) for what else it owes. If it cannot give one, it panics,
    /// and the promise has failed.
    pub fn new<F, O, G, B>(name: impl Into<String>, clock: Clock, factory: F) -> Self
    where
        F: Fn() -> O + Send + Sync + 'static,
        O: Future<Output = (G, B)> + Send + 'static,
        G: Send + 'static,
        B: KvBackend,
    {
        let factory = boxed(factory);
        Self { name: name.into(), clock, claims: BTreeSet::new(), factory, fresh: None }
    }

    /// Claims [`Need::FreshStore`], with a factory of its own for the few promises that need it: a
    /// server is started in a second, and emptied in no time.
    #[must_use]
    pub fn fresh<F, O, G, B>(mut self, factory: F) -> Self
    where
        F: Fn() -> O + Send + Sync + 'static,
        O: Future<Output = (G, B)> + Send + 'static,
        G: Send + 'static,
        B: KvBackend,
    {
        self.fresh = Some(boxed(factory));
        self.claims([Need::FreshStore])
    }

    /// Claims what not every backend can.
    #[must_use]
    pub fn claims(mut self, needs: impl IntoIterator<Item = Need>) -> Self {
        self.claims.extend(needs);
        self
    }

    /// Runs every promise, one after the other, on the runtime it is awaited on, whose clock must
    /// be the suite's.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the promises that are left unchecked.
    pub async fn run(&self) -> Report {
        let mut rows = Vec::new();
        for promise in promises() {
            let verdict = match self.lacks(promise) {
                Some(need) => Verdict::Unclaimed(need),
                None => self.judge(promise).await.map_or_else(Verdict::Broken, |()| Verdict::Kept),
            };
            rows.push((promise, verdict));
        }
        Report { backend: self.name.clone(), rows }
    }

    /// The first need of the promise that the backend does not claim.
    fn lacks(&self, promise: &Promise) -> Option<Need> {
        let met = |need: &Need| match need {
            Need::VirtualTime => self.clock == Clock::Paused,
            need => self.claims.contains(need),
        };
        promise.needs.iter().copied().find(|need| !met(need))
    }

    async fn judge(&self, promise: &Promise) -> Result<(), Failure> {
        let check = async {
            let fresh = self.fresh.as_ref().filter(|_| promise.needs.contains(&Need::FreshStore));
            let (_guard, kv) = fresh.unwrap_or(&self.factory)().await;
            promise.check(&*kv).await
        };
        let patience = self.clock.patience();
        match timeout(patience, AssertUnwindSafe(check).catch_unwind()).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(Failure::new(format!("panicked: {}", payload(&*panic)))),
            Err(_) => Err(Failure::new(format!("not done after {patience:?}"))),
        }
    }

    /// The promise as a named test.
    fn trial(&self, promise: &'static Promise) -> Trial {
        let name = format!("{}::{promise}", self.name);
        if let Some(need) = self.lacks(promise) {
            // Ignored unless somebody insists, and then it must not look as if it had passed.
            let insisted = move || Err(Failed::from(format!("not run: {need} is not claimed")));
            return Trial::test(name, insisted)
                .with_ignored_flag(true)
                .with_kind(format!("needs {need}"));
        }
        let suite = self.clone();
        Trial::test(name, move || {
            let runtime = suite.clock.runtime().map_err(|error| error.to_string())?;
            runtime.block_on(suite.judge(promise)).map_err(|failure| failure.to_string().into())
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

/// A factory with the types of its guard and its backend forgotten.
fn boxed<F, O, G, B>(factory: F) -> Arc<Factory>
where
    F: Fn() -> O + Send + Sync + 'static,
    O: Future<Output = (G, B)> + Send + 'static,
    G: Send + 'static,
    B: KvBackend,
{
    Arc::new(move || {
        let opening = factory();
        Box::pin(async move {
            let (guard, backend) = opening.await;
            (Box::new(guard) as Guard, Arc::new(backend) as Arc<dyn KvBackend>)
        })
    })
}

fn payload(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("with no message")
}

/// A whole test program: every promise on every suite is a test, each on a runtime of its own.
///
/// For a test target with `harness = false`. It takes the arguments of `cargo test` and of
/// `cargo nextest` from the command line; what is not claimed is listed as ignored.
///
/// ```
/// use coord_mem::MemBackend;
/// use coord_testkit::conformance::{self, Clock, Need, Suite};
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     let mem = Suite::new("mem", Clock::Paused, async || ((), MemBackend::new()));
///     conformance::main([mem.claims(Need::ALL)])
/// }
/// ```
pub fn main(suites: impl IntoIterator<Item = Suite>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    let suites: Vec<_> = suites.into_iter().collect();
    if suites.iter().any(|suite| suite.clock == Clock::Real) {
        arguments.test_threads = arguments.test_threads.or(Some(THREADS_ON_REAL_TIME));
    }
    let suites = suites.into_iter();
    let trials = suites.flat_map(|suite| promises().map(move |promise| suite.trial(promise)));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// What became of a promise.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a promise is kept, broken, or was never given")]
pub enum Verdict {
    /// The backend keeps it.
    Kept,
    /// The backend does not keep it, and this was seen.
    Broken(Failure),
    /// It was not checked, for want of this claim.
    Unclaimed(Need),
}

/// What became of every promise on one backend. Prints as a list of what is broken or unclaimed,
/// with a summary.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The name of the suite.
    pub backend: String,
    /// Each promise with its verdict, in the order of the table.
    pub rows: Vec<(&'static Promise, Verdict)>,
}

impl Report {
    /// The promises that the backend keeps.
    pub fn kept(&self) -> impl Iterator<Item = &'static Promise> {
        self.rows.iter().filter(|row| matches!(row.1, Verdict::Kept)).map(|row| row.0)
    }

    /// The promises that the backend does not keep, and what was seen.
    pub fn broken(&self) -> impl Iterator<Item = (&'static Promise, &Failure)> {
        self.rows.iter().filter_map(|(promise, verdict)| match verdict {
            Verdict::Broken(failure) => Some((*promise, failure)),
            Verdict::Kept | Verdict::Unclaimed(_) => None,
        })
    }

    /// The promises that were not checked, and the claim that was wanting.
    pub fn unclaimed(&self) -> impl Iterator<Item = (&'static Promise, Need)> {
        self.rows.iter().filter_map(|(promise, verdict)| match verdict {
            Verdict::Unclaimed(need) => Some((*promise, *need)),
            Verdict::Kept | Verdict::Broken(_) => None,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (promise, failure) in self.broken() {
            writeln!(f, "broken    {promise}: {failure}")?;
        }
        for (promise, need) in self.unclaimed() {
            writeln!(f, "unclaimed {promise}: needs {need}")?;
        }
        let (kept, broken) = (self.kept().count(), self.broken().count());
        let unclaimed = self.unclaimed().count();
        write!(f, "{}: {kept} kept, {broken} broken, {unclaimed} unclaimed", self.backend)
    }
}
