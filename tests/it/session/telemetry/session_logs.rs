//! Log lines of sessions and supervisors: each state change, its reason, and the next step.

use coord_core::{Error, Session, error::PrimitiveError, session::Generation};
use coord_testkit::{Action, Recorder};
use tokio::time::sleep;

use super::{lines_of, seeded_store};
use crate::session::supervisor::supervisor;
use crate::support::{intercepted, nth, only, secs, session, session_on};

/// The lease and generation of the first session of a [`seeded_store`].
const SESSION_IDS: &str = "lease=1918cc9458f6ddb8 generation=1";

/// The error field of a request that was dropped.
const DROPPED: &str = "error=the store is unavailable: the request was dropped";

#[test]
fn session_state_changes_are_logged_with_the_next_step() {
    let lines = lines_of(async {
        let dropped = nth("lease_keep_alive", 2, 2, Action::DropRequest);
        let session = session_on(intercepted(&seeded_store(), dropped)).await;
        sleep(secs(20)).await;
        session.close().await.unwrap();
    });
    assert_eq!(
        lines,
        [
            format!("INFO coord::session session opened: {SESSION_IDS} ttl=10s state=alive"),
            format!("DEBUG coord::session keep-alive failed: {SESSION_IDS} {DROPPED}"),
            format!(
                "WARN coord::session session suspect: {SESSION_IDS} state=suspect \
                 next=lost in 5.7s unless a keep-alive is confirmed"
            ),
            format!("INFO coord::session session confirmed again: {SESSION_IDS} state=alive"),
            format!(
                "INFO coord::session session ended: {SESSION_IDS} state=lost \
                 reason=the session was closed"
            ),
            format!("DEBUG coord::session lease revoked: {SESSION_IDS}"),
        ]
    );
}

#[test]
fn session_loss_is_logged_with_its_reason() {
    let lines = lines_of(async {
        let store = seeded_store();
        let revoked = session(&store).await;
        store.lease_revoke(revoked.lease_id()).await.unwrap();
        revoked.lost().await;
    });
    assert_eq!(
        lines[2..],
        [format!(
            "WARN coord::session session lost: {SESSION_IDS} state=lost \
             reason=the lease was revoked next=its locks and leaderships are lost: open another session"
        )]
    );
}

/// The last handle is dropped, so the log is the only place where the error is reported.
#[test]
fn failed_revoke_of_a_dropped_session_is_logged() {
    let lines = lines_of(async {
        drop(session_on(intercepted(&seeded_store(), only("lease_revoke", Action::Hang))).await);
        sleep(secs(20)).await;
    });
    assert_eq!(
        lines[2..],
        [format!(
            "WARN coord::session lease not revoked: {SESSION_IDS} error=no response within 9s \
             next=the lease, and the keys on it, expire by themselves"
        )]
    );
}

/// `SessionBuilder::run` does not return the error, so the log is the only place where it is
/// reported. Regression: a later call of `close` failed without a log line.
#[test]
fn failed_close_after_work_is_logged_once() {
    for closes_in_work in [false, true] {
        let lines = lines_of(async {
            let refused = Action::Fail(Error::PermissionDenied { reason: "no".to_owned() });
            let (store, record) = (seeded_store(), Recorder::new());
            let kv = intercepted(&store, only("lease_revoke", refused));
            let work = async |session: Session| {
                if closes_in_work {
                    session.close().await.unwrap_err();
                }
                Ok::<_, Error>(())
            };
            Session::builder(&intercepted(&kv, record.clone())).run(work).await.unwrap();
            assert_eq!(record.take().count("lease_revoke"), 1, "one request, and one line");
        });
        assert_eq!(
            lines[2..],
            [format!(
                "WARN coord::session lease not revoked: {SESSION_IDS} error=permission denied: no \
                 next=the lease, and the keys on it, expire by themselves"
            )]
        );
    }
}

#[test]
fn orphan_is_logged_with_its_result() {
    let lines = lines_of(async {
        session(&seeded_store()).await.orphan().await.unwrap();
        let cut_off = intercepted(&seeded_store(), only("lease_keep_alive", Action::Hang));
        session_on(cut_off).await.orphan().await.unwrap_err();
    });
    let ended = "reason=the lease of the session was orphaned";
    let ended = format!("INFO coord::session session ended: {SESSION_IDS} state=lost {ended}");
    assert_eq!((&lines[1], &lines[4]), (&ended, &ended));
    assert_eq!(
        (&lines[2], &lines[5]),
        (
            &format!(
                "INFO coord::session lease orphaned: {SESSION_IDS} \
                 next=an adopter keeps it alive, or it expires"
            ),
            &format!(
                "WARN coord::session lease not refreshed: {SESSION_IDS} error=no response within 9s \
                 next=an adopter may have less than the whole TTL, \
                 or the lease may have ended"
            )
        )
    );
}

#[test]
fn failed_open_is_logged_with_the_next_attempt() {
    let lines = lines_of(async {
        let kv = intercepted(&seeded_store(), nth("lease_grant", 1, 1, Action::DropRequest));
        session_on(kv).await.close().await.unwrap();
        let refused = Action::Fail(Error::PermissionDenied { reason: "no".to_owned() });
        let kv = intercepted(&seeded_store(), only("lease_grant", refused));
        Session::builder(&kv).open().await.unwrap_err();
    });
    let failed = "DEBUG coord::session opening a session failed:";
    assert_eq!(lines[0], format!("{failed} generation=1 {DROPPED} next=retrying in 100ms"));
    let aborted = "DEBUG coord::session session not opened:";
    let aborted = format!("{aborted} generation=1 error=permission denied: no");
    assert_eq!(lines.last(), Some(&aborted));
}

#[test]
fn supervisor_logs_start_and_end_of_each_generation() {
    let lines = lines_of(async {
        let store = seeded_store();
        let supervisor =
            supervisor(intercepted(&store, nth("lease_grant", 2, 3, Action::DropRequest)));
        let supervisor = supervisor.await;
        store.lease_revoke(supervisor.session().lease_id()).await.unwrap();
        let work = supervisor.run(async |session: Session| {
            if session.generation() > Generation::FIRST {
                return Ok::<_, PrimitiveError>(());
            }
            Err(session.lost().await.into())
        });
        work.await.unwrap();
        supervisor.close().await.unwrap();
    });
    let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(count("coord::supervisor"), 6, "{lines:#?}");
    for line in [
        "WARN coord::supervisor generation lost: generation=1 state=down \
         reason=the lease was revoked next=opening another session",
        // The pause depends on the lease id.
        &format!(
            "WARN coord::supervisor opening another session failed: generation=1 state=down \
             {DROPPED} next=retrying in "
        ),
        &format!(
            "DEBUG coord::supervisor opening another session failed again: generation=1 state=down \
             attempt=2 {DROPPED} next=retrying in "
        ),
        "INFO coord::supervisor work ended by a loss: generation=1 reason=the lease was revoked \
         next=calling the work again",
        "INFO coord::supervisor generation begun: generation=2 state=up \
         next=locks and leaderships of the previous generation can be acquired again",
        "INFO coord::supervisor supervisor ended: generation=2 state=ended \
         reason=the session was closed",
    ] {
        assert_eq!(count(line), 1, "{line}: {lines:#?}");
    }
}

#[test]
fn failed_supervisor_logs_an_error() {
    let lines = lines_of(async {
        let refused = Action::Fail(Error::PermissionDenied { reason: "no".to_owned() });
        let store = seeded_store();
        let supervisor = supervisor(intercepted(&store, nth("lease_grant", 2, 9, refused))).await;
        store.lease_revoke(supervisor.session().lease_id()).await.unwrap();
        supervisor.session().lost().await;
        supervisor.ready().await.unwrap_err();
    });
    assert_eq!(
        lines.last().unwrap(),
        "ERROR coord::supervisor supervisor failed: generation=1 state=failed \
         error=permission denied: no next=remove the cause and start another supervisor"
    );
}

#[test]
fn runtime_shutdown_of_an_open_session_is_logged() {
    let lines = lines_of(async {
        std::mem::forget(session(&seeded_store()).await);
    });
    assert_eq!(
        lines[1..],
        [format!(
            "WARN coord::session session left open when its runtime was shut down: {SESSION_IDS} \
             state=lost next=the lease, and the keys on it, expire by themselves"
        )]
    );
}
