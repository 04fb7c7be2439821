//! Shared steps of the tests: clients, sessions, fault-injection rules and virtual time.

use std::borrow::Borrow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use coord_core::{
    Client, Session,
    kv::{LeaseGrant, LeaseId, Put, Range, Revision, WatchBatch},
    layer::Layer,
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Intercept, Rule};
use proptest::prelude::*;
use tokio::time::{Instant, sleep};

/// More polls than any future under test needs.
pub(crate) const POLLS_MAX: usize = 100;

/// Seconds.
pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A client of `store` whose requests go through `rule`.
pub(crate) fn intercepted(store: &Client, rule: impl Rule) -> Client {
    Client::new(Intercept::new(Arc::clone(store.backend()), rule))
}

/// A client as in another process: it shares nothing with other clients except the store.
pub(crate) fn separate_client(store: &Client) -> Client {
    Client::from(Arc::clone(store.backend()))
}

/// The number of random cases of a test: `usual`, or the value of the environment variable
/// `COORD_CASES`, for a longer search.
pub(crate) fn cases(usual: u32) -> u32 {
    match std::env::var("COORD_CASES") {
        Ok(cases) => cases.parse().expect("COORD_CASES is a number"),
        Err(_) => usual,
    }
}

/// The newest revision of `store`.
pub(crate) async fn newest_revision(store: &Client) -> Revision {
    store.range(Range::new("-")).await.unwrap().header.revision
}

/// Opens a session with a TTL of 10 s on `client`.
pub(crate) async fn session_on(client: impl Borrow<Client>) -> Session {
    Session::builder(client.borrow()).ttl(secs(10)).open().await.unwrap()
}

/// Opens a session with a TTL of 10 s on a [`separate_client`].
pub(crate) async fn session(store: &Client) -> Session {
    session_on(separate_client(store)).await
}

/// The keys with this prefix.
pub(crate) async fn keys(store: &Client, prefix: &str) -> Vec<String> {
    let kvs = store.get_prefix(prefix.to_owned()).await.unwrap();
    kvs.iter().map(|kv| kv.key.escape_ascii().to_string()).collect()
}

/// Sleeps for 200 ms, in which all pending tasks run.
pub(crate) async fn settle() {
    sleep(Duration::from_millis(200)).await;
}

/// Whether a call is a keep-alive.
pub(crate) const fn is_keep_alive(call: &Call) -> bool {
    matches!(call, Call::LeaseKeepAlive(_))
}

/// A rule with `action` for calls of one kind. All other calls pass.
pub(crate) fn only(kind: &'static str, action: Action) -> impl Rule {
    move |call: &Call| if call.name() == kind { action.clone() } else { Action::Pass }
}

/// A rule with `action` for the calls of one kind from the `first` to the `last`, counted from 1.
/// All other calls pass.
pub(crate) fn nth(kind: &'static str, first: usize, last: usize, action: Action) -> impl Rule {
    let count = AtomicUsize::new(0);
    move |call: &Call| {
        if call.name() != kind {
            return Action::Pass;
        }
        let n = count.fetch_add(1, Ordering::Relaxed) + 1;
        if (first..=last).contains(&n) { action.clone() } else { Action::Pass }
    }
}

/// A rule under which watches deliver no batches. It records every call.
pub(crate) struct SilentWatches(pub(crate) coord_testkit::Recorder);

impl Rule for SilentWatches {
    fn action(&self, call: &Call) -> Action {
        self.0.action(call)
    }

    fn delivers(&self, _: &WatchBatch) -> bool {
        false
    }
}

/// A rule with one action for each call, in order. Later calls pass.
pub(crate) fn scripted(actions: Vec<Action>) -> impl Rule {
    let next = AtomicUsize::new(0);
    move |_: &Call| {
        let next = next.fetch_add(1, Ordering::Relaxed);
        actions.get(next).cloned().unwrap_or(Action::Pass)
    }
}

/// A backend whose store can be replaced once, as etcd's by another data directory. Watches of the
/// old store then deliver nothing more.
#[derive(Clone, Debug)]
pub(crate) struct ReplaceableStore(Arc<(MemBackend, OnceLock<MemBackend>)>);

impl ReplaceableStore {
    pub(crate) fn new(store: MemBackend) -> Self {
        Self(Arc::new((store, OnceLock::new())))
    }

    pub(crate) fn replace(&self, store: MemBackend) {
        self.0.1.set(store).expect("the store is replaced once");
    }

    /// A client of the current store.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.clone())
    }
}

impl Layer for ReplaceableStore {
    type Inner = MemBackend;

    fn inner(&self) -> &MemBackend {
        let (old, new) = &*self.0;
        new.get().unwrap_or(old)
    }
}

/// Random actions: any fault that a network can inject into a request.
pub(crate) fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => Just(Action::Pass),
        4 => Just(Action::Yield),
        3 => (1..4_000_u64).prop_map(|ms| Action::Delay(Duration::from_millis(ms))),
        // Up to a minute: most exceed a TTL of 10 s and every timeout.
        1 => (4_000..60_000_u64).prop_map(|ms| Action::Delay(Duration::from_millis(ms))),
        1 => Just(Action::DropRequest),
        1 => Just(Action::DropResponse),
        1 => Just(Action::Hang),
    ]
}

/// One client of `store` for each entry, with these actions for its requests. With
/// `in_one_client`, the clients are clones of one client, and the actions of all entries apply to
/// its requests in order.
pub(crate) fn clients<T>(
    store: &Client,
    clients: Vec<(T, Vec<Action>)>,
    in_one_client: bool,
) -> Vec<(Client, T)> {
    let (clients, actions): (Vec<_>, Vec<_>) = clients.into_iter().unzip();
    let backends = if in_one_client {
        vec![intercepted(store, scripted(actions.concat())); clients.len()]
    } else {
        actions.into_iter().map(|actions| intercepted(store, scripted(actions))).collect()
    };
    backends.into_iter().zip(clients).collect()
}

/// Runs `future` on its own runtime, on virtual time.
pub(crate) fn on_virtual_time<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime can be built")
        .block_on(future)
}

/// Enqueues a contender of Go's package in the wait queue `name`: puts the key `name/<lease>` on a
/// new lease with a TTL of 60 s. Returns the lease and the key.
pub(crate) async fn enqueue_like_go(store: &Client, name: &str, value: &str) -> (LeaseId, String) {
    let lease = store.lease_grant(LeaseGrant::new(secs(60))).await.unwrap().id;
    let key = format!("{name}/{lease}");
    let put = Put::new(&key, value).lease(lease);
    store.put_with(put).await.unwrap();
    (lease, key)
}

/// The output of `future`, and the virtual time that it took.
pub(crate) async fn timed<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    (future.await, began.elapsed())
}
