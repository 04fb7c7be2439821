//! Steps that many tests take.

use std::borrow::Borrow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coord_core::{
    Client, Session,
    kv::{LeaseGrant, LeaseId, Put, Range, Revision, WatchBatch},
};
use coord_testkit::{Action, Call, Intercept, Rule};
use proptest::prelude::*;
use tokio::time::{Instant, sleep};

/// More than any future under test is polled.
pub(crate) const POLLS_MAX: usize = 100;

/// Seconds.
pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// `store` as a client with `rule` in between sees it.
pub(crate) fn behind(store: &Client, rule: impl Rule) -> Client {
    Client::new(Intercept::new(Arc::clone(store.backend()), rule))
}

/// A client of the same store in another process: it shares nothing but the store.
pub(crate) fn another(store: &Client) -> Client {
    Client::from(Arc::clone(store.backend()))
}

/// How many random cases a test tries: `usual`, or what the variable `COORD_CASES` says, for a
/// longer search.
pub(crate) fn cases(usual: u32) -> u32 {
    match std::env::var("COORD_CASES") {
        Ok(cases) => cases.parse().expect("COORD_CASES is a number of cases"),
        Err(_) => usual,
    }
}

/// The newest revision of `store`.
pub(crate) async fn newest(store: &Client) -> Revision {
    store.range(Range::new("-")).await.expect("the store is there").header.revision
}

/// A session of 10 s through `client`.
pub(crate) async fn session_on(client: impl Borrow<Client>) -> Session {
    Session::builder(client.borrow()).ttl(secs(10)).open().await.expect("the store is there")
}

/// A session of 10 s in a process of its own.
pub(crate) async fn session(store: &Client) -> Session {
    session_on(another(store)).await
}

/// The keys under `prefix`.
pub(crate) async fn keys(store: &Client, prefix: &str) -> Vec<String> {
    let kvs = store.get_prefix(prefix.to_owned()).await.expect("the store is there");
    kvs.iter().map(|kv| kv.key.escape_ascii().to_string()).collect()
}

/// Lets everything happen that takes no more than a moment.
pub(crate) async fn settle() {
    sleep(Duration::from_millis(200)).await;
}

/// Whether a call is a keep-alive.
pub(crate) const fn is_keep_alive(call: &Call) -> bool {
    matches!(call, Call::LeaseKeepAlive(_))
}

/// A rule that lets calls of one kind meet `fate`, and all others pass.
pub(crate) fn only(kind: &'static str, fate: Action) -> impl Rule {
    move |call: &Call| if call.name() == kind { fate.clone() } else { Action::Pass }
}

/// The rule `fate` for the calls of a kind from the `first` to the `last`, counted from 1.
pub(crate) fn nth(kind: &'static str, first: usize, last: usize, fate: Action) -> impl Rule {
    let seen = AtomicUsize::new(0);
    move |call: &Call| {
        if call.name() != kind {
            return Action::Pass;
        }
        let n = seen.fetch_add(1, Ordering::Relaxed) + 1;
        if (first..=last).contains(&n) { fate.clone() } else { Action::Pass }
    }
}

/// A rule under which nothing that a watch tells arrives, and everything is remembered.
pub(crate) struct Silent(pub(crate) coord_testkit::Recorder);

impl Rule for Silent {
    fn action(&self, call: &Call) -> Action {
        self.0.action(call)
    }

    fn delivers(&self, _: &WatchBatch) -> bool {
        false
    }
}

/// What becomes of the requests, in the order in which they are made; then all pass.
pub(crate) fn scripted(fates: Vec<Action>) -> impl Rule {
    let next = AtomicUsize::new(0);
    move |_: &Call| {
        let next = next.fetch_add(1, Ordering::Relaxed);
        fates.get(next).cloned().unwrap_or(Action::Pass)
    }
}

/// Anything that a network does to a request.
pub(crate) fn any_fate() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => Just(Action::Pass),
        4 => Just(Action::Yield),
        3 => (1..4_000_u64).prop_map(|ms| Action::Delay(Duration::from_millis(ms))),
        // Longer than a lease of 10 s lives, and than anything is waited for.
        1 => (4_000..60_000_u64).prop_map(|ms| Action::Delay(Duration::from_millis(ms))),
        1 => Just(Action::DropRequest),
        1 => Just(Action::DropResponse),
        1 => Just(Action::Hang),
    ]
}

/// The clients of `store` whose requests meet these fates: each a process of its own, or all of
/// them one process, whose requests meet the fates of all.
pub(crate) fn clients<T>(
    store: &Client,
    clients: Vec<(T, Vec<Action>)>,
    in_one_process: bool,
) -> Vec<(Client, T)> {
    let (clients, fates): (Vec<_>, Vec<_>) = clients.into_iter().unzip();
    let backends = if in_one_process {
        vec![behind(store, scripted(fates.concat())); clients.len()]
    } else {
        fates.into_iter().map(|fates| behind(store, scripted(fates))).collect()
    };
    backends.into_iter().zip(clients).collect()
}

/// Runs `future` on a runtime of its own whose clock is virtual.
pub(crate) fn on_virtual_time<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime can be built")
        .block_on(future)
}

/// Puts a key as Go's package does: `line/<lease>`, with a lease of 60 s. Gives both.
pub(crate) async fn join_as_go(store: &Client, line: &str, value: &str) -> (LeaseId, String) {
    let lease = store.lease_grant(LeaseGrant::new(secs(60))).await.expect("the store is there").id;
    let key = format!("{line}/{lease}");
    let put = Put::new(&key, value).lease(lease);
    store.put_with(put).await.expect("the store is there");
    (lease, key)
}

/// How long `future` took on the virtual clock.
pub(crate) async fn timed<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    (future.await, began.elapsed())
}
