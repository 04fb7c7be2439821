//! Go's tests of sessions.

use std::sync::Arc;
use std::time::Duration;

use coord_core::{Session, error::LossReason, kv::LeaseTimeToLive, session::SessionState};

use super::{Store, THERE, lease, soon};

/// A session takes a lease that is there, and orphaning it ends the session and not the lease.
pub(super) async fn session_options(store: Store) {
    let kv = store.client().await;
    let lease = lease(&*kv, 100).await;
    let session = Session::builder(&kv).lease(lease).open().await.expect(THERE);
    assert_eq!(session.lease_id(), lease);

    let (reason, orphaned) = soon(async { tokio::join!(session.lost(), session.orphan()) }).await;
    assert_eq!((reason, orphaned.expect(THERE)), (LossReason::Orphaned, lease));
    let left = kv.lease_time_to_live(LeaseTimeToLive::new(lease)).await.expect(THERE);
    assert!(left.lease.is_some(), "the lease lives on");
}

/// The store is asked for the time to live that was chosen, not for the usual 60 s.
pub(super) async fn session_ttl_options(store: Store) {
    let kv = store.client().await;
    let chosen = Duration::from_secs(90);
    let session = Session::builder(&kv).ttl(chosen).open().await.expect(THERE);
    let asked = kv.lease_time_to_live(LeaseTimeToLive::new(session.lease_id())).await;
    let lease = asked.expect(THERE).lease.expect("the session keeps it alive");
    assert_eq!((lease.granted, session.ttl()), (chosen, chosen));
    let usual = Duration::from_secs(70)..=chosen;
    assert!(usual.contains(&lease.remaining), "{:?} left", lease.remaining);
}

/// What was started under a session ends with it. In Go that is a child of the session's context;
/// here it is a subscriber to its state, and whoever waits for it to be lost.
pub(super) async fn session_ctx(store: Store) {
    let kv = store.client().await;
    let lease = lease(&*kv, 100).await;
    let session = Session::builder(kv).lease(lease).open().await.expect(THERE);
    let mut states = session.subscribe();
    let child = async {
        tokio::select! {
            biased;
            reason = session.lost() => reason,
            () = std::future::pending() => LossReason::Expired,
        }
    };
    let subscriber = states.wait_for(|state| matches!(state, SessionState::Lost(_)));
    let orphan = session.orphan();
    let (reason, state, orphaned) =
        soon(async { tokio::join!(child, async { subscriber.await.map(|s| *s) }, orphan) }).await;
    assert_eq!(reason, LossReason::Orphaned);
    assert_eq!(state.ok(), Some(SessionState::Lost(LossReason::Orphaned)));
    assert_eq!(orphaned.expect(THERE), lease);
}
