//! The Lock and Election services beside etcd's own.
//!
//! One body for each promise, and every body is run on a real etcd of each version as it is on
//! ours over TCP: so what a body expects is what etcd does. Where we differ on purpose it asks
//! [`Place::is_etcd`], and `docs/semantics.md` says why.

mod alarm;
mod election;
mod line;
mod lock;
mod observe;
mod place;
mod storm;

use std::process::ExitCode;
use std::time::Duration;

use coord_etcd_tests::{Pool, Release};
use futures_util::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::place::Place;

/// Makes the table of tests from their paths.
macro_rules! tests {
    ($($module:ident::$name:ident,)*) => {
        &[$(Test { name: stringify!($name), run: |place| Box::pin($module::$name(place)) }),*]
    };
}

/// What is promised of either service.
struct Test {
    name: &'static str,
    run: fn(Place) -> LocalBoxFuture<'static, ()>,
}

/// Every test that a real etcd can pass.
const TESTS: &[Test] = tests![
    lock::key_is_the_name_and_the_lease_in_hex_and_hangs_on_the_lease,
    lock::lease_that_is_not_there_is_refused,
    lock::lock_without_a_lease_has_one_of_a_minute,
    lock::lock_ends_with_its_lease_which_the_server_does_not_keep_alive,
    lock::same_lease_and_name_again_is_answered_at_once_with_the_same_key,
    lock::lock_leaves_the_value_of_a_campaign_as_it_is,
    lock::unlock_deletes_any_key_and_none,
    line::those_who_wait_are_served_in_the_order_in_which_they_came,
    line::waiter_whose_lease_ends_is_told_that_its_session_has,
    line::waiter_whose_key_is_deleted_is_told_that_its_session_has_ended,
    line::waiter_that_gives_up_leaves_no_key_and_keeps_its_lease,
    line::waiter_whose_connection_is_lost_leaves_no_key,
    line::two_calls_on_one_lease_wait_under_one_key,
    line::names_that_nest_are_two_lines_for_us,
    line::service_etcdctl_and_our_mutex_stand_in_one_line,
    alarm::without_space_nobody_comes_and_whoever_is_there_may_go,
    alarm::of_a_corrupt_store_nothing_is_changed,
    election::campaign_answers_with_what_stands_for_the_leader,
    election::campaign_without_a_lease_has_one_of_a_minute,
    election::campaign_on_a_lease_that_is_not_there_is_refused,
    election::campaign_again_on_the_same_lease_proclaims,
    election::candidate_is_elected_when_the_leader_resigns_and_told_when_it_entered,
    election::candidate_that_campaigns_again_while_it_waits_changes_its_value,
    election::candidate_that_gives_up_leaves_no_key_and_keeps_its_lease,
    election::candidate_whose_lease_ends_does_not_lead_with_a_key,
    election::leader_is_named_or_there_is_none,
    election::proclaim_and_resign_want_a_leader,
    election::proclaim_is_for_whoever_has_the_key,
    election::proclaim_on_a_lease_that_is_not_there_is_refused,
    election::resign_of_what_is_not_there_changes_nothing,
    observe::observer_is_shown_every_leader_and_every_value,
    observe::observer_who_comes_first_waits_for_a_leader,
    observe::observer_who_comes_late_is_shown_the_present,
    observe::etcdctl_elect_and_our_election_are_observed,
];

/// Those that need a server of ours.
const OURS: &[Test] = tests![line::whoever_waits_is_told_that_the_server_is_stopped,];

fn main() -> ExitCode {
    Release::run_on_all(run)
}

fn run(releases: &[Release]) -> ExitCode {
    let pools: Vec<_> = releases.iter().cloned().map(Pool::new).collect();
    let mut trials = storm::trials();
    for test in TESTS {
        for (release, pool) in releases.iter().zip(&pools) {
            let (release, pool) = (release.clone(), pool.clone());
            trials.push(test.trial(&format!("etcd-{}", release.minor()), async move || {
                Place::etcd(pool.emptied().await)
            }));
        }
    }
    trials.extend(TESTS.iter().chain(OURS).map(|test| test.trial("coord", Place::ours)));
    let code = libtest_mimic::run(&Arguments::from_args(), trials).exit_code();
    for pool in &pools {
        pool.close();
    }
    code
}

impl Test {
    fn trial(&'static self, on: &str, open: impl AsyncFnOnce() -> Place + Send + 'static) -> Trial {
        Trial::test(format!("{on}::{}", self.name), move || {
            Builder::new_current_thread().enable_all().build()?.block_on(async {
                let place = open().await;
                let minute = Duration::from_secs(60);
                timeout(minute, (self.run)(place)).await.map_err(|_| "a minute has passed")
            })?;
            Ok(())
        })
    }
}
