//! Observers whose watch is silent: it delivers nothing and reports no error.

use std::sync::atomic::{AtomicUsize, Ordering};

use coord_core::election::Observer;
use coord_core::kv::WatchBatch;
use coord_core::{Client, Election};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder, Rule};
use tokio::time::{Instant, timeout};

use super::{election, some, value_of};
use crate::support::{intercepted, secs};

/// A rule under which watches deliver nothing until a number of watches has been registered.
struct SilentUntil {
    registered: AtomicUsize,
    /// The number, counted from 1, of the first watch that delivers.
    first_delivering: usize,
    recorder: Recorder,
}

impl Rule for SilentUntil {
    fn action(&self, call: &Call) -> Action {
        if matches!(call, Call::Watch(_)) {
            self.registered.fetch_add(1, Ordering::Relaxed);
        }
        self.recorder.action(call)
    }

    fn delivers(&self, _: &WatchBatch) -> bool {
        self.registered.load(Ordering::Relaxed) >= self.first_delivering
    }
}

/// An observer whose watches before the `first_delivering`th are silent, and its recorder.
fn observer(store: &Client, first_delivering: usize) -> (Observer, Recorder) {
    let recorder = Recorder::new();
    let registered = AtomicUsize::new(0);
    let rule = SilentUntil { registered, first_delivering, recorder: recorder.clone() };
    (Election::observer(&intercepted(store, rule), "e"), recorder)
}

#[tokio::test(start_paused = true)]
async fn observer_with_silent_watch_catches_up_within_a_minute() {
    let store = Client::new(MemBackend::new());
    let mut leaders = observer(&store, 2).0.observe();
    assert_eq!(leaders.next().await.unwrap().unwrap(), None);
    let started = Instant::now();
    let first = election(&store).await.campaign("a").await.unwrap();
    first.proclaim("a2").await.unwrap();
    first.resign().await.unwrap();
    let _second = election(&store).await.campaign("b").await.unwrap();
    let mut values = Vec::new();
    for _ in 0..4 {
        values.push(leaders.next().await.unwrap().unwrap().map(value_of));
    }
    assert_eq!(values, [some("a"), some("a2"), None, some("b")]);
    assert!(started.elapsed() <= secs(61), "{:?}", started.elapsed());
}

/// Both of the observer's reads find no leader. The observer did not replace the watch, and never
/// yielded the leader in between.
#[tokio::test(start_paused = true)]
async fn observer_with_silent_watch_yields_leaders_between_reads() {
    let store = Client::new(MemBackend::new());
    let mut leaders = observer(&store, 2).0.observe();
    assert_eq!(leaders.next().await.unwrap().unwrap(), None);
    let started = Instant::now();
    let leadership = election(&store).await.campaign("a").await.unwrap();
    leadership.resign().await.unwrap();
    for expected in [some("a"), None] {
        let next = timeout(secs(61), leaders.next()).await.expect("within a minute");
        assert_eq!(next.unwrap().unwrap().map(value_of), expected);
    }
    assert!(started.elapsed() <= secs(61), "{:?}", started.elapsed());
}

/// An observer verifies its watch each 55 s: with one read while there is a leader, with two
/// reads and a new watch while there is none.
#[tokio::test(start_paused = true)]
async fn idle_observer_costs_one_or_two_reads_a_minute() {
    for has_leader in [false, true] {
        let store = Client::new(MemBackend::new());
        let election = election(&store).await;
        let leadership =
            if has_leader { Some(election.campaign("a").await.unwrap()) } else { None };
        let (observer, recorder) = observer(&store, 1);
        let mut leaders = observer.observe();
        leaders.next().await.unwrap().unwrap();
        recorder.take();
        timeout(secs(601), leaders.next()).await.expect_err("the leader does not change");
        let calls = recorder.take();
        let counts = (calls.count("watch"), calls.count("range"), calls.0.len());
        assert_eq!(counts, if has_leader { (1, 10, 11) } else { (11, 20, 31) }, "{calls}");
        drop(leadership);
    }
}
