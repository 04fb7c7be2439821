//! Whoever has found a line empty eight times in a row joins it without reading it. What it may
//! cost is counted, and that it is as safe as any other join.

use coord_core::Client;
use coord_core::error::{ErrorKind, PrimitiveError};
use coord_core::queue::{Contender, WaitQueue};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder, Rule, poll_at_most};
use futures_util::FutureExt as _;
use futures_util::future::try_join_all;

use crate::support::{POLLS_MAX, behind, keys, nth, secs, session, session_on, settle};

/// A line of a session of its own, on a store of its own, and what was asked of that.
struct Quiet {
    store: Client,
    record: Recorder,
    line: WaitQueue,
}

impl Quiet {
    /// After so many joins that have met nobody.
    async fn after(joins: usize) -> Self {
        Self::under(|_: &Call| Action::Pass, joins).await
    }

    /// The same, where requests meet these fates.
    async fn under(rule: impl Rule, joins: usize) -> Self {
        let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
        let recorded = record.clone();
        let rule = move |call: &Call| {
            recorded.action(call);
            rule.action(call)
        };
        let session = session_on(behind(&store, rule)).await;
        let quiet = Self { store, record, line: WaitQueue::new(&session, "l") };
        for _ in 0..joins {
            quiet.join().await.0.release().await.expect("the store is there");
        }
        quiet
    }

    /// Joins, and tells how many steps the requests had that this took.
    async fn join(&self) -> (Contender, Vec<usize>) {
        self.record.take();
        let joined = self.line.enqueue("").await.expect("the store is there");
        let steps = self.record.take().0.into_iter().map(|call| match call {
            Call::Txn(txn) => txn.success.len(),
            call => panic!("a join made a {}", call.name()),
        });
        (joined, steps.collect())
    }

    /// Somebody else, who joins this line or one below it.
    async fn other(&self, name: &'static str) -> Contender {
        let session = session(&self.store).await;
        WaitQueue::new(&session, name).enqueue("").await.expect("the store is there")
    }
}

/// Eight joins that meet nobody.
async fn eight_alone(line: &WaitQueue) {
    for _ in 0..8 {
        let joined = line.enqueue("").await.expect("the store is there");
        joined.release().await.expect("the store is there");
    }
}

#[tokio::test(start_paused = true)]
async fn line_that_was_empty_eight_times_is_joined_without_being_read() {
    let quiet = Quiet::after(0).await;
    for join in 0..300 {
        let (joined, steps) = quiet.join().await;
        assert_eq!(steps, [if join < 8 { 2 } else { 1 }], "join {join}");
        assert_eq!(joined.fencing_token().0, joined.header().revision);
        joined.release().await.expect("the store is there");
    }
}

#[tokio::test(start_paused = true)]
async fn clone_of_a_line_knows_what_the_line_knows_and_another_handle_does_not() {
    let mut quiet = Quiet::after(8).await;
    quiet.line = quiet.line.clone();
    let (joined, steps) = quiet.join().await;
    assert_eq!(steps, [1]);
    joined.release().await.expect("the store is there");
    quiet.line = WaitQueue::new(quiet.line.session(), "l");
    assert_eq!(quiet.join().await.1, [2]);
}

#[tokio::test(start_paused = true)]
async fn somebody_in_a_line_that_was_quiet_costs_one_request_and_then_no_more() {
    let quiet = Quiet::after(8).await;
    let holder = quiet.other("l").await;
    let (mut waiter, steps) = quiet.join().await;
    assert_eq!(steps, [1, 2]);
    assert!(waiter.acquired().now_or_never().is_none(), "it is behind the holder");
    holder.release().await.expect("the store is there");
    waiter.acquired().await.expect("its turn came");
    waiter.release().await.expect("the store is there");
    for join in 0..8 {
        let (joined, steps) = quiet.join().await;
        assert_eq!(steps, [2], "join {join}");
        joined.release().await.expect("the store is there");
    }
    assert_eq!(quiet.join().await.1, [1]);
}

/// Otherwise two who hold a lock for a moment, in turns, would guess wrong each time.
#[tokio::test(start_paused = true)]
async fn guess_was_wrong_although_whoever_was_there_left_before_the_second_request() {
    // Eight joins and leavings, and the guess, come before.
    let quiet = Quiet::under(nth("txn", 18, 18, Action::Delay(secs(1))), 8).await;
    let holder = quiet.other("l").await;
    let ((mut joined, steps), left) = tokio::join!(quiet.join(), async {
        settle().await;
        holder.release().await
    });
    left.expect("the store is there");
    assert_eq!(steps, [1, 2]);
    joined.acquired().now_or_never().expect("nobody is before it").expect("and it is told so");
    joined.release().await.expect("the store is there");
    assert_eq!(quiet.join().await.1, [2]);
}

#[tokio::test(start_paused = true)]
async fn line_with_others_below_it_is_not_taken_to_be_empty() {
    let quiet = Quiet::after(8).await;
    let _below = quiet.other("l/below").await;
    for steps in [vec![1, 2], vec![2], vec![2]].into_iter().chain(vec![vec![2]; 20]) {
        let (mut joined, taken) = quiet.join().await;
        assert_eq!(taken, steps);
        joined.acquired().await.expect("who is below is not before it");
        joined.release().await.expect("the store is there");
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_who_take_a_line_to_be_empty_one_waits_for_the_other() {
    let store = Client::new(MemBackend::new());
    let session = session_on(behind(&store, |_: &Call| Action::Yield)).await;
    let line = WaitQueue::new(&session, "l");
    eight_alone(&line).await;
    // Each has asked before either is answered.
    let mut both = try_join_all([line.enqueue(""), line.enqueue("")]).await.unwrap();
    both.sort_by_key(Contender::fencing_token);
    let [mut first, mut second] = <[_; 2]>::try_from(both).unwrap();
    first.acquired().now_or_never().expect("it was first").expect("and is told so");
    assert!(second.acquired().now_or_never().is_none());
    first.release().await.unwrap();
    second.acquired().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dropping_a_join_of_a_quiet_line_at_any_await_leaves_no_key() {
    for held in [false, true] {
        let mut done = false;
        for polls in 1..POLLS_MAX {
            let quiet = Quiet::after(0).await;
            let session = session_on(behind(&quiet.store, |_: &Call| Action::Yield)).await;
            let line = WaitQueue::new(&session, "l");
            eight_alone(&line).await;
            let holder = if held { Some(quiet.other("l").await) } else { None };
            let joined = poll_at_most(polls, line.enqueue("")).await;
            done = joined.is_some();
            drop(joined);
            settle().await;
            let left = keys(&quiet.store, "l/").await.len();
            assert_eq!(left, holder.iter().count(), "dropped after {polls} polls");
            if done {
                assert!(polls > if held { 3 } else { 2 }, "it was never dropped on its way");
                break;
            }
        }
        assert!(done, "the line was never joined");
    }
}

/// An answer that is lost after the key was created is no reason to create another.
#[tokio::test(start_paused = true)]
async fn join_of_a_quiet_line_with_unknown_outcome_is_an_error_and_leaves_no_key() {
    for fate in [Action::DropRequest, Action::DropResponse] {
        let store = Client::new(MemBackend::new());
        // The seventeenth: eight joins, each with its leaving, come before.
        let session = session_on(behind(&store, nth("txn", 17, 17, fate))).await;
        let line = WaitQueue::new(&session, "l");
        eight_alone(&line).await;
        let error = line.enqueue("").await.unwrap_err();
        assert!(matches!(error, PrimitiveError::Backend(e) if e.kind() == ErrorKind::Unavailable));
        settle().await;
        assert_eq!(keys(&store, "l/").await, [""; 0]);
        line.enqueue("").await.unwrap().release().await.unwrap();
    }
}
