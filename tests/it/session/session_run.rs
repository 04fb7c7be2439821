//! `SessionBuilder::run`: closes the session, and releases its locks, when the work ends.

use std::panic::AssertUnwindSafe;

use coord_core::{
    Client, Error, Mutex, Session,
    error::{LossReason, PrimitiveError},
    session::SessionState,
};
use coord_mem::MemBackend;
use coord_testkit::Action;
use futures_util::FutureExt as _;

use crate::support::{intercepted, keys, only, secs, separate_client, timed};

/// The lock is released when `run` returns, without a wait for the session task.
#[tokio::test(start_paused = true)]
async fn session_is_closed_when_work_returns_fails_or_panics() {
    for end in ["returns", "fails", "panics"] {
        let store = Client::new(MemBackend::new());
        let work = async |session: Session| {
            let guard = Mutex::new(&session, "m").lock().await?;
            match end {
                "returns" => {
                    // So that the drop of the guard does not release the lock.
                    std::mem::forget(guard);
                    Ok(7)
                }
                "fails" => Err(PrimitiveError::Backend(Error::EmptyKey)),
                _ => panic!("injected panic"),
            }
        };
        let run = Session::builder(&separate_client(&store)).ttl(secs(60)).run(work);
        let (done, took) = timed(AssertUnwindSafe(run).catch_unwind()).await;
        match end {
            "returns" => assert_eq!(done.unwrap().unwrap(), 7),
            "fails" => assert!(matches!(done.unwrap(), Err(PrimitiveError::Backend(_)))),
            _ => drop(done.unwrap_err()),
        }
        assert_eq!((keys(&store, "m/").await, took), (Vec::<String>::new(), secs(0)), "{end}");
        assert!(store.leases().await.unwrap().leases.is_empty(), "{end}");
    }
}

/// An unavailable store delays the end of a program by five seconds, not by the TTL.
#[tokio::test(start_paused = true)]
async fn close_after_work_times_out_after_five_seconds() {
    let kv = intercepted(&Client::new(MemBackend::new()), only("lease_revoke", Action::Hang));
    let mut kept = None;
    let run = Session::builder(&kv).ttl(secs(600)).run(async |session: Session| {
        kept = Some(session);
        Ok::<_, Error>(())
    });
    let (done, took) = timed(run).await;
    done.unwrap();
    assert_eq!(took, secs(5));
    let kept = kept.unwrap();
    assert_eq!(kept.state(), SessionState::Lost(LossReason::Closed));
}
