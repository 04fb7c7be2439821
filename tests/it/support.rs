//! Steps that many tests take.

use std::sync::Arc;
use std::time::Duration;

use coord_core::{KvBackend, KvBackendExt as _, Session};
use coord_mem::MemBackend;
use coord_testkit::{Call, Fate, Intercept, Rule};
use tokio::time::{Instant, sleep};

/// Seconds.
pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// `store` as a client with `rule` in between sees it.
pub(crate) fn behind(store: &MemBackend, rule: impl Rule) -> Arc<dyn KvBackend> {
    Arc::new(Intercept::new(store.clone(), rule))
}

/// A session of 10 s on `backend`.
pub(crate) async fn session_on(backend: Arc<dyn KvBackend>) -> Session {
    Session::builder(backend).ttl(secs(10)).open().await.expect("the store is there")
}

/// A session of 10 s on `store` itself.
pub(crate) async fn session(store: &MemBackend) -> Session {
    session_on(Arc::new(store.clone())).await
}

/// The keys under `prefix`.
pub(crate) async fn keys(store: &MemBackend, prefix: &str) -> Vec<String> {
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
pub(crate) fn only(kind: &'static str, fate: Fate) -> impl Rule {
    move |call: &Call| if call.name() == kind { fate.clone() } else { Fate::Pass }
}

/// The rule `fate` for the calls of a kind from the `first` to the `last`, counted from 1.
pub(crate) fn nth(kind: &'static str, first: usize, last: usize, fate: Fate) -> impl Rule {
    let seen = std::sync::atomic::AtomicUsize::new(0);
    move |call: &Call| {
        if call.name() != kind {
            return Fate::Pass;
        }
        let n = seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        if (first..=last).contains(&n) { fate.clone() } else { Fate::Pass }
    }
}

/// How long `future` took on the virtual clock.
pub(crate) async fn timed<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    (future.await, began.elapsed())
}
