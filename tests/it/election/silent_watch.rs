//! Watches that stand, and tell nothing any more.

use coord_core::Client;
use coord_core::Election;
use coord_mem::MemBackend;
use std::sync::atomic::{AtomicUsize, Ordering};

use coord_core::election::Observer;
use coord_core::kv::WatchBatch;
use coord_testkit::{Action, Call, Recorder, Rule};
use tokio::time::{Instant, timeout};

use super::{election, some};
use crate::support::{behind, secs};

/// Of all watches only those from the `audible`th on tell anything.
struct Mute {
    watches: AtomicUsize,
    audible: usize,
    record: Recorder,
}

impl Rule for Mute {
    fn action(&self, call: &Call) -> Action {
        if matches!(call, Call::Watch(_)) {
            self.watches.fetch_add(1, Ordering::Relaxed);
        }
        self.record.action(call)
    }

    fn delivers(&self, _: &WatchBatch) -> bool {
        self.watches.load(Ordering::Relaxed) >= self.audible
    }
}

/// An observer whose watches are silent up to one, and what it asks of the store.
fn observer(store: &Client, audible: usize) -> (Observer, Recorder) {
    let record = Recorder::new();
    let rule = Mute { watches: AtomicUsize::new(0), audible, record: record.clone() };
    (Election::observer(&behind(store, rule), "e"), record)
}

#[tokio::test(start_paused = true)]
async fn observer_with_silent_watch_catches_up_within_a_minute() {
    let store = Client::new(MemBackend::new());
    let mut leaders = observer(&store, 2).0.observe();
    assert_eq!(leaders.next().await.unwrap().unwrap(), None);
    let begun = Instant::now();
    let first = election(&store).await.campaign("a").await.unwrap();
    first.proclaim("a2").await.unwrap();
    first.resign().await.unwrap();
    let _second = election(&store).await.campaign("b").await.unwrap();
    let mut shown = Vec::new();
    for _ in 0..4 {
        let leader = leaders.next().await.unwrap().unwrap();
        shown.push(leader.map(|leader| leader.value().escape_ascii().to_string()));
    }
    assert_eq!(shown, [some("a"), some("a2"), None, some("b")]);
    assert!(begun.elapsed() <= secs(61), "{:?}", begun.elapsed());
}

/// Nobody led whenever it looked, so it took the watch to be well, and never showed who had led
/// in between.
#[tokio::test(start_paused = true)]
async fn observer_with_silent_watch_yields_leaders_between_reads() {
    let store = Client::new(MemBackend::new());
    let mut leaders = observer(&store, 2).0.observe();
    assert_eq!(leaders.next().await.unwrap().unwrap(), None);
    let begun = Instant::now();
    let leadership = election(&store).await.campaign("a").await.unwrap();
    leadership.resign().await.unwrap();
    for shown in [some("a"), None] {
        let next = timeout(secs(61), leaders.next()).await.expect("within a minute");
        let leader = next.unwrap().unwrap();
        assert_eq!(leader.map(|leader| leader.value().escape_ascii().to_string()), shown);
    }
    assert!(begun.elapsed() <= secs(61), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn idle_observer_costs_one_or_two_reads_a_minute() {
    for led in [false, true] {
        let store = Client::new(MemBackend::new());
        let election = election(&store).await;
        let leadership = if led { Some(election.campaign("a").await.unwrap()) } else { None };
        let (observer, record) = observer(&store, 1);
        let mut leaders = observer.observe();
        leaders.next().await.unwrap().unwrap();
        record.take();
        timeout(secs(601), leaders.next()).await.expect_err("nothing happens");
        let calls = record.take();
        let asked = (calls.count("watch"), calls.count("range"), calls.0.len());
        assert_eq!(asked, if led { (1, 10, 11) } else { (11, 20, 31) }, "{calls}");
        drop(leadership);
    }
}
