//! The tests that Go's package has for sessions, locks, elections and transactions, on any store.
//!
//! Each is named as in Go: `TestMutexLockSessionExpired` is `mutex_lock_session_expired`. It tells
//! the same story, and where Go's package and we differ on purpose, its comment says how. What the
//! scripts of etcd's end-to-end tests do with processes, `TestCtlV3Lock` for one, is done here with
//! clients. `docs/go.md` lists them all. They wait for what they want to see, so they run on a
//! paused clock as on a real one.
//!
//! Source: etcd `tests/integration` and `tests/e2e` at commit 2f59c9f; the facts, not the text.

mod election;
mod mutex;
mod session;
mod stm;

use std::sync::Arc;
use std::time::Duration;

use coord_core::{
    Client, KvBackend, Session,
    kv::{LeaseGrant, LeaseId},
};
use futures_util::future::{BoxFuture, LocalBoxFuture};
use libtest_mimic::Trial;
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep, timeout};

/// What every test relies on.
const THERE: &str = "the store is there, and nothing is lost";

/// Longer than anything here takes on a real store that is well.
const SOON: Duration = Duration::from_secs(30);

/// A store, and how to reach it: it gives a client for the member of this number.
#[derive(Clone)]
pub(crate) struct Store {
    connect: Arc<dyn Fn(usize) -> BoxFuture<'static, Arc<dyn KvBackend>> + Send + Sync>,
}

impl Store {
    pub(crate) fn new(
        connect: impl Fn(usize) -> BoxFuture<'static, Arc<dyn KvBackend>> + Send + Sync + 'static,
    ) -> Self {
        Self { connect: Arc::new(connect) }
    }

    /// A client of its own.
    async fn client(&self) -> Arc<dyn KvBackend> {
        self.client_of(0).await
    }

    /// A client of its own that knows only the `n`th member, counted round and round.
    async fn client_of(&self, n: usize) -> Arc<dyn KvBackend> {
        (self.connect)(n).await
    }

    /// A session with a client of its own.
    async fn session(&self) -> Session {
        self.session_of(0).await
    }

    /// A session with a client of its own that knows only the `n`th member.
    async fn session_of(&self, n: usize) -> Session {
        Session::builder(self.client_of(n).await).open().await.expect(THERE)
    }

    /// Waits until so many stand in the line `name`.
    async fn line_of(&self, name: &str, length: usize) {
        let (kv, prefix) = (self.client().await, format!("{name}/"));
        let deadline = Instant::now() + SOON;
        while kv.get_prefix(prefix.clone()).await.expect(THERE).len() != length {
            assert!(Instant::now() < deadline, "never {length} in the line {name}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Polls `future`, which must not be done before so many stand in the line `name`.
    async fn waits<F: Future<Output: std::fmt::Debug> + Unpin>(
        &self,
        future: &mut F,
        name: &str,
        length: usize,
    ) {
        tokio::select! {
            biased;
            output = future => panic!("{output:?}, and somebody else holds {name}"),
            () = self.line_of(name, length) => {}
        }
    }
}

/// What `future` gives, which must not take long.
async fn soon<F: Future>(future: F) -> F::Output {
    timeout(SOON, future).await.expect("half a minute has passed")
}

/// A lease that nobody keeps alive.
async fn lease(kv: &dyn KvBackend, secs: u64) -> LeaseId {
    kv.lease_grant(LeaseGrant::new(Duration::from_secs(secs))).await.expect(THERE).id
}

/// One of Go's tests.
pub(crate) struct Test {
    name: &'static str,
    /// How many members the store has in Go.
    members: usize,
    run: fn(Store) -> LocalBoxFuture<'static, ()>,
}

impl Test {
    /// The test as a trial named `on::name`, on a runtime of its own. `open` gives a store of so
    /// many members, with a guard that lives as long as the test runs.
    pub(crate) fn trial<G>(
        &'static self,
        on: &str,
        paused: bool,
        open: impl AsyncFnOnce(usize) -> (G, Store) + Send + 'static,
    ) -> Trial {
        Trial::test(format!("{on}::{}", self.name), move || {
            let mut runtime = Builder::new_current_thread();
            let runtime = runtime.enable_all().start_paused(paused).build()?;
            runtime.block_on(async {
                let (_guard, store) = open(self.members).await;
                let patience = Duration::from_secs(120);
                timeout(patience, (self.run)(store)).await.map_err(|_| "two minutes have passed")
            })?;
            Ok(())
        })
    }
}

/// Makes the table of tests from their paths, and how many members each has in Go.
macro_rules! tests {
    ($($module:ident::$name:ident on $members:literal,)*) => {
        &[$(Test {
            name: stringify!($name),
            members: $members,
            run: |store| Box::pin($module::$name(store)),
        }),*]
    };
}

/// Every test, in the order of `docs/go.md`.
pub(crate) const TESTS: &[Test] = tests![
    session::session_options on 1,
    session::session_ttl_options on 1,
    session::session_ctx on 1,
    mutex::mutex_lock_session_expired on 1,
    mutex::mutex_unlock on 1,
    mutex::mutex_lock_single_node on 3,
    mutex::mutex_lock_multi_node on 3,
    mutex::mutex_try_lock_single_node on 3,
    mutex::mutex_try_lock_multi_node on 3,
    mutex::mutex_session_relock on 3,
    mutex::mutex_waits_on_current_holder on 1,
    mutex::v3_lock_lock_waiter on 1,
    mutex::ctl_v3_lock on 1,
    election::resume_election on 1,
    election::election_wait on 3,
    election::election_failover on 3,
    election::election_session_recampaign on 1,
    election::election_on_prefix_of_existing_key on 1,
    election::election_on_session_restart on 1,
    election::election_observe_compacted on 1,
    election::election_observe_fresh_responses_on_proclaim on 1,
    election::v3_election_campaign on 1,
    election::v3_election_observe on 1,
    election::ctl_v3_elect on 1,
    stm::get on 1,
    stm::stm_conflict on 3,
    stm::stm_put_new_key on 1,
    stm::stm_abort on 1,
    stm::stm_serialize on 3,
    stm::stm_apply_on_concurrent_deletion on 1,
    stm::stm_serializable_snapshot_put on 1,
];
