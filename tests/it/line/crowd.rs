//! Whoever comes back into a long line asks whether its neighbour of last time is there, which the
//! store can tell without reading the line. That is a guess, and may cost a look, never the order.

use coord_core::Client;
use coord_mem::MemBackend;
use std::time::Duration;

use coord_core::kv::Op;
use coord_core::queue::{Contender, WaitQueue};
use coord_testkit::{Call, Recorder};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::{behind, secs, session, session_on, settle};

/// A long line, one contender to a session, and one who has just been through it, behind the last.
struct Crowd {
    others: Vec<(WaitQueue, Contender)>,
    mine: WaitQueue,
    record: Recorder,
}

impl Crowd {
    /// So many others have each been served and come back, and `mine` has been served and left.
    async fn new(store: &Client, name: &'static str, others: usize) -> Self {
        let record = Recorder::new();
        let mine = session_on(behind(store, record.clone())).await;
        let mut crowd =
            Self { others: Vec::new(), mine: WaitQueue::new(&mine, name), record: record.clone() };
        for _ in 0..others {
            crowd.one_more(store).await;
        }
        let mut me = crowd.mine.enqueue("").await.expect("the store is there");
        let (served, ()) = tokio::join!(me.acquired(), async {
            for _ in 0..others {
                settle().await;
                let (line, contender) = crowd.others.remove(0);
                contender.release().await.expect("the store is there");
                let back = line.enqueue("").await.expect("the store is there");
                crowd.others.push((line, back));
            }
        });
        served.expect("the store is there");
        me.release().await.expect("the store is there");
        record.take();
        crowd
    }

    async fn one_more(&mut self, store: &Client) {
        let line = WaitQueue::new(&session(store).await, self.mine.name());
        let contender = line.enqueue("").await.expect("the store is there");
        self.others.push((line, contender));
    }

    /// The first `count` leave for good.
    async fn leave(&mut self, count: usize) {
        for (_, contender) in self.others.drain(..count) {
            contender.release().await.expect("the store is there");
        }
    }

    /// Joins, and says whether it asked for a neighbour before all.
    async fn come_back(&self) -> (Contender, bool) {
        let back = self.mine.enqueue("").await.expect("the store is there");
        let calls = self.record.take();
        let [Call::Txn(join)] = &calls.0[..] else { panic!("{calls}") };
        (back, matches!(join.success[..], [Op::Put(_), Op::Txn(_)]))
    }
}

/// A contender that waits, and whether it has been served.
struct Waiting(JoinSet<Contender>);

impl Waiting {
    fn new(mut contender: Contender) -> Self {
        let mut waiting = JoinSet::new();
        waiting.spawn(async move {
            contender.acquired().await.expect("the store is there");
            contender
        });
        Self(waiting)
    }

    async fn served(&mut self) -> Option<Contender> {
        settle().await;
        Some(self.0.try_join_next()?.expect("the store is there"))
    }
}

/// Where the line was short, a read of it costs little and tells more.
#[tokio::test(start_paused = true)]
async fn one_who_comes_back_into_a_long_line_asks_for_its_neighbour_first() {
    for others in [1, 4, 5, 30] {
        let store = Client::new(MemBackend::new());
        let mut crowd = Crowd::new(&store, "l", others).await;
        let (back, asked) = crowd.come_back().await;
        assert_eq!(asked, others > 4, "behind {others}");

        let mut back = Waiting::new(back);
        crowd.leave(others - 1).await;
        assert!(back.served().await.is_none(), "its neighbour is there");
        crowd.leave(1).await;
        let back = back.served().await.expect("nobody is before it");
        let calls = crowd.record.take();
        assert_eq!(calls.count("watch"), 0, "it stood from last time: {calls}");

        sleep(secs(1)).await;
        back.release().await.unwrap();
        crowd.record.take();
        let (_back, asked) = crowd.come_back().await;
        assert!(!asked, "that was too long ago");
    }
}

#[tokio::test(start_paused = true)]
async fn newcomer_between_two_neighbours_of_last_time_is_served_before_the_second() {
    for newcomers in 1..=6 {
        let store = Client::new(MemBackend::new());
        let mut crowd = Crowd::new(&store, "l", 6).await;
        for _ in 0..newcomers {
            crowd.one_more(&store).await;
        }
        let (back, asked) = crowd.come_back().await;
        assert!(asked);
        let mut back = Waiting::new(back);
        crowd.leave(6).await;
        assert!(back.served().await.is_none(), "the newcomers are before it");
        assert_eq!(crowd.record.take().names(), "range watch", "the price of a wrong guess");
        crowd.leave(newcomers - 1).await;
        assert!(back.served().await.is_none(), "a newcomer is before it");
        crowd.leave(1).await;
        assert!(back.served().await.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn one_whose_neighbour_of_last_time_is_gone_waits_for_whoever_is_there() {
    for gone in 1..=6 {
        let store = Client::new(MemBackend::new());
        let mut crowd = Crowd::new(&store, "l", 6).await;
        for (_, contender) in crowd.others.drain(6 - gone..) {
            contender.release().await.unwrap();
        }
        let (back, asked) = crowd.come_back().await;
        assert!(asked);
        let mut back = Waiting::new(back);
        if gone < 6 {
            assert!(back.served().await.is_none(), "{} are before it", 6 - gone);
            crowd.leave(6 - gone).await;
        }
        assert!(back.served().await.is_some());
    }
}

/// Two of one session took the same neighbour for theirs. The watch that the first has read to the
/// end was left to the second, who then slept through its turn until it watched its own key.
#[tokio::test(start_paused = true)]
async fn watch_that_another_has_read_is_left_to_nobody_who_needs_what_it_told() {
    let store = Client::new(MemBackend::new());
    let mut crowd = Crowd::new(&store, "l", 6).await;
    let (first, asked) = crowd.come_back().await;
    assert!(asked);
    let (second, asked) = crowd.come_back().await;
    assert!(asked, "its answer comes late");
    let mut first = Waiting::new(first);
    crowd.leave(6).await;
    let first = first.served().await.expect("nobody is before it");
    let mut second = Waiting::new(second);
    settle().await;
    first.release().await.unwrap();
    let served = timeout(Duration::from_millis(10), second.0.join_next()).await;
    let _second = served.expect("at once").expect("it waits").expect("no panic");
}

/// Neighbours of one session use each other's keys: the neighbour's key of last time is now mine.
#[tokio::test(start_paused = true)]
async fn one_who_has_the_key_of_its_neighbour_of_last_time_does_not_wait_for_itself() {
    let store = Client::new(MemBackend::new());
    let line = WaitQueue::new(&session(&store).await, "l");
    let mut others = Vec::new();
    for _ in 0..6 {
        others.push(line.enqueue("").await.unwrap());
    }
    let neighbour = others[5].key().clone();
    let mut last = line.enqueue("").await.unwrap();
    let (served, ()) = tokio::join!(last.acquired(), async {
        for other in others {
            settle().await;
            other.release().await.unwrap();
        }
    });
    served.unwrap();

    // Numbers are given out again lowest first: the sixth to join has the neighbour's key.
    let mut back: Vec<_> = Vec::new();
    while back.last().map(Contender::key) != Some(&neighbour) {
        back.push(line.enqueue("").await.unwrap());
    }
    last.release().await.unwrap();
    for contender in back {
        let served = Waiting::new(contender).served().await;
        served.expect("nobody is before it").release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn neighbour_in_a_line_below_is_nobody_to_wait_for() {
    let store = Client::new(MemBackend::new());
    let mut crowd = Crowd::new(&store, "l/below", 6).await;
    crowd.mine = WaitQueue::new(crowd.mine.session(), "l");
    let (back, asked) = crowd.come_back().await;
    assert!(!asked);
    assert!(Waiting::new(back).served().await.is_some());
}
