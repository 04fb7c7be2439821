//! Ported tests of sessions.

use std::time::Duration;

use coord_core::{Session, error::LossReason, kv::LeaseTimeToLive, session::SessionState};

use super::{Store, in_time, lease};

/// A session adopts an existing lease. Orphaning ends the session but not the lease.
pub(super) async fn session_options(store: Store) {
    let kv = store.client().await;
    let lease = lease(&kv, 100).await;
    let session = Session::builder(&kv).lease(lease).open().await.unwrap();
    assert_eq!(session.lease_id(), lease);

    let (reason, orphaned) =
        in_time(async { tokio::join!(session.lost(), session.orphan()) }).await;
    assert_eq!((reason, orphaned.unwrap()), (LossReason::Orphaned, lease));
    let left = kv.lease_time_to_live(LeaseTimeToLive::new(lease)).await.unwrap();
    assert!(left.lease.is_some(), "the lease is still alive");
}

/// The lease is granted with the chosen TTL instead of the default of 60 s.
pub(super) async fn session_ttl_options(store: Store) {
    let kv = store.client().await;
    let chosen = Duration::from_secs(90);
    let session = Session::builder(&kv).ttl(chosen).open().await.unwrap();
    let read = kv.lease_time_to_live(LeaseTimeToLive::new(session.lease_id())).await;
    let lease = read.unwrap().lease.unwrap();
    assert_eq!((lease.granted, session.ttl()), (chosen, chosen));
    let expected = Duration::from_secs(70)..=chosen;
    assert!(expected.contains(&lease.remaining), "{:?} left", lease.remaining);
}

/// Work that is bound to a session ends with the session. In Go it uses a child of the session's
/// context; here it subscribes to the session's state, or awaits the loss.
pub(super) async fn session_ctx(store: Store) {
    let kv = store.client().await;
    let lease = lease(&kv, 100).await;
    let session = Session::builder(&kv).lease(lease).open().await.unwrap();
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
        in_time(async { tokio::join!(child, async { subscriber.await.map(|s| *s) }, orphan) })
            .await;
    assert_eq!(reason, LossReason::Orphaned);
    assert_eq!(state.ok(), Some(SessionState::Lost(LossReason::Orphaned)));
    assert_eq!(orphaned.unwrap(), lease);
}
