//! The tests of Go's package for sessions, locks, elections and transactions, ported to any store.
//!
//! Each test has the name of Go's test: `TestMutexLockSessionExpired` is
//! `mutex_lock_session_expired`. It runs the same scenario; where coord deliberately differs from
//! Go's package, the comment of the test states how. Go's end-to-end tests with several processes,
//! such as `TestCtlV3Lock`, use several clients here. `docs/go.md` lists all tests. The tests wait
//! for conditions instead of fixed times, so that they run on a paused clock and in real time.
//!
//! Three files of this folder are not modules of the tests. `go_locks.rs` and `go_stm.rs` are
//! copies of Go's algorithms with their faults, for the regression tests in `tests/it/regressions`.
//! `examples.rs` is the output of Go's examples, for the tests of coord's examples.
//!
//! Source: etcd `tests/integration` and `tests/e2e` at commit 2f59c9f; the facts, not the text.
#![expect(clippy::unwrap_used, reason = "a call that fails fails the test")]

mod election;
mod mutex;
mod rwlock;
mod session;
mod stm;

use std::sync::Arc;
use std::time::Duration;

use coord_core::{
    Client, Session,
    kv::{LeaseGrant, LeaseId},
};
use futures_util::future::{BoxFuture, LocalBoxFuture};
use libtest_mimic::Trial;
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep, timeout};

/// The time limit of each wait. On a healthy real store a wait takes less.
const WAIT_LIMIT: Duration = Duration::from_secs(30);

/// A store under test, as a function that connects to its `n`th member.
#[derive(Clone)]
pub(crate) struct Store {
    connect: Arc<dyn Fn(usize) -> BoxFuture<'static, Client> + Send + Sync>,
}

impl Store {
    pub(crate) fn new(
        connect: impl Fn(usize) -> BoxFuture<'static, Client> + Send + Sync + 'static,
    ) -> Self {
        Self { connect: Arc::new(connect) }
    }

    /// A new client of the first member.
    async fn client(&self) -> Client {
        self.client_of(0).await
    }

    /// A new client of the `n`th member, modulo the number of members.
    async fn client_of(&self, n: usize) -> Client {
        (self.connect)(n).await
    }

    /// A session of a new client of the first member.
    async fn session(&self) -> Session {
        self.session_of(0).await
    }

    /// A session of a new client of the `n`th member.
    async fn session_of(&self, n: usize) -> Session {
        Session::builder(&self.client_of(n).await).open().await.unwrap()
    }

    /// Waits until the wait queue `name` has `length` entries.
    async fn wait_for_queue_length(&self, name: &str, length: usize) {
        let (kv, prefix) = (self.client().await, format!("{name}/"));
        let deadline = Instant::now() + WAIT_LIMIT;
        while kv.get_prefix(prefix.clone()).await.unwrap().len() != length {
            assert!(Instant::now() < deadline, "the queue {name} never had {length} entries");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Polls `future` until the wait queue `name` has `length` entries. It must not complete
    /// before.
    async fn assert_waits<F: Future<Output: std::fmt::Debug> + Unpin>(
        &self,
        future: &mut F,
        name: &str,
        length: usize,
    ) {
        tokio::select! {
            biased;
            output = future => panic!("{output:?}, but another session holds {name}"),
            () = self.wait_for_queue_length(name, length) => {}
        }
    }
}

/// The output of `future`, which must complete within [`WAIT_LIMIT`].
async fn in_time<F: Future>(future: F) -> F::Output {
    timeout(WAIT_LIMIT, future).await.expect("the future completes within the wait limit")
}

/// Grants a lease that no session keeps alive.
async fn lease(kv: &Client, secs: u64) -> LeaseId {
    kv.lease_grant(LeaseGrant::new(Duration::from_secs(secs))).await.unwrap().id
}

/// One of Go's tests.
pub(crate) struct Test {
    name: &'static str,
    /// The number of members of the store in Go's test.
    members: usize,
    run: fn(Store) -> LocalBoxFuture<'static, ()>,
}

impl Test {
    /// The test as a trial named `on::name`, on its own runtime. `open` returns a store with the
    /// given number of members, and a guard that is dropped after the test.
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
                let limit = Duration::from_secs(120);
                timeout(limit, (self.run)(store)).await.map_err(|_| "timed out after two minutes")
            })?;
            Ok(())
        })
    }
}

/// Builds the table of tests from their paths and the number of members in Go's test.
macro_rules! tests {
    ($($module:ident::$name:ident on $members:literal,)*) => {
        &[$(Test {
            name: stringify!($name),
            members: $members,
            run: |store| Box::pin($module::$name(store)),
        }),*]
    };
}

/// Every test of this folder, in the order of `docs/go.md`.
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
    rwlock::rw_mutex_single_node on 3,
    rwlock::rw_mutex_multi_node on 3,
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
