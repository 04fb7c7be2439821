//! Tests of the Lock and Election services, on coord's server and on real etcd servers.
//!
//! Each test of [`TESTS`] runs on every etcd release and on coord's server over TCP, so etcd proves
//! what the test expects. Where coord's server deliberately differs, the test branches on
//! [`Target::is_etcd`], and `docs/semantics.md` lists the difference.
#![expect(clippy::unwrap_used, reason = "a call that fails fails the test")]

mod alarms;
mod election;
mod lock;
mod observe;
mod random_faults;
mod target;
mod waiters;

use std::process::ExitCode;
use std::time::Duration;

use coord_etcd_tests::{Pool, Release};
use futures_util::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::target::Target;

/// Builds the table of tests from their paths.
macro_rules! tests {
    ($($module:ident::$name:ident,)*) => {
        &[$(Test { name: stringify!($name), run: |target| Box::pin($module::$name(target)) }),*]
    };
}

/// A test that runs on any target.
struct Test {
    name: &'static str,
    run: fn(Target) -> LocalBoxFuture<'static, ()>,
}

/// The tests that run on real etcd servers and on coord's server.
const TESTS: &[Test] = tests![
    lock::lock_key_is_name_and_hex_lease_attached_to_lease,
    lock::lock_on_unknown_lease_is_rejected,
    lock::lock_without_lease_gets_lease_of_60_s,
    lock::lock_ends_when_its_lease_is_not_kept_alive,
    lock::lock_again_on_same_lease_returns_same_key,
    lock::lock_after_campaign_keeps_the_value,
    lock::unlock_deletes_any_existing_key,
    waiters::waiters_acquire_in_enqueue_order,
    waiters::waiter_fails_when_its_lease_ends,
    waiters::waiter_fails_when_its_key_is_deleted,
    waiters::cancelled_waiter_leaves_no_key_and_keeps_its_lease,
    waiters::waiter_with_lost_connection_leaves_no_key,
    waiters::calls_on_one_lease_share_one_key,
    waiters::child_name_has_a_queue_of_its_own,
    waiters::service_etcdctl_and_mutex_share_one_queue,
    alarms::nospace_alarm_rejects_acquire_but_not_release,
    alarms::corrupt_alarm_rejects_every_write,
    election::campaign_returns_leader_key_and_revision,
    election::campaign_without_lease_gets_lease_of_60_s,
    election::campaign_on_unknown_lease_is_rejected,
    election::campaign_again_on_same_lease_proclaims,
    election::candidate_elected_after_resign_gets_enqueue_revision,
    election::campaign_again_while_waiting_changes_the_value,
    election::cancelled_candidate_leaves_no_key_and_keeps_its_lease,
    election::candidate_without_lease_or_key_does_not_lead,
    election::leader_returns_current_leader_or_error,
    election::proclaim_and_resign_without_leader_are_rejected,
    election::proclaim_requires_key_and_create_revision,
    election::proclaim_attaches_key_to_named_lease,
    election::resign_of_another_leader_changes_nothing,
    observe::observer_receives_every_leader_and_value,
    observe::observer_waits_for_the_first_leader,
    observe::late_observer_receives_the_current_leader,
    observe::observer_receives_etcdctl_and_election_leaders,
];

/// The tests that run on coord's server only.
const COORD_TESTS: &[Test] = tests![waiters::waiting_calls_fail_when_the_server_stops,];

fn main() -> ExitCode {
    Release::run_on_all(run)
}

fn run(releases: &[Release]) -> ExitCode {
    let pools: Vec<_> = releases.iter().cloned().map(Pool::new).collect();
    let mut trials = random_faults::trials();
    for test in TESTS {
        for (release, pool) in releases.iter().zip(&pools) {
            let (release, pool) = (release.clone(), pool.clone());
            trials.push(test.trial(&format!("etcd-{}", release.minor()), async move || {
                Target::etcd(pool.take_empty().await)
            }));
        }
    }
    trials.extend(TESTS.iter().chain(COORD_TESTS).map(|test| test.trial("coord", Target::coord)));
    let code = libtest_mimic::run(&Arguments::from_args(), trials).exit_code();
    for pool in &pools {
        pool.close();
    }
    code
}

impl Test {
    /// The test as a trial named `on::name`, on its own runtime. `open` starts the target.
    fn trial(
        &'static self,
        on: &str,
        open: impl AsyncFnOnce() -> Target + Send + 'static,
    ) -> Trial {
        Trial::test(format!("{on}::{}", self.name), move || {
            Builder::new_current_thread().enable_all().build()?.block_on(async {
                let target = open().await;
                let time_limit = Duration::from_secs(60);
                timeout(time_limit, (self.run)(target))
                    .await
                    .map_err(|_| "the test took more than 60 s")
            })?;
            Ok(())
        })
    }
}
