//! `etcdctl lock` and `etcdctl elect`, which are Go's package at work, beside ours.

use rustix::process::Signal;

use crate::lock::{UNTIL_TOLD, holder};
use crate::program::Server;

crate::stories![
    etcdctl_and_coord_wait_for_each_others_locks,
    etcdctl_and_coord_wait_for_each_others_leaders,
    etcdctl_and_coord_observe_each_others_leaders,
    command_sees_the_same_lock_variables_as_under_etcdctl,
];

async fn etcdctl_and_coord_wait_for_each_others_locks(server: Server) {
    let mut ours = holder(&server, "jobs").await;
    let mut theirs = server.etcdctl(&["lock", "jobs"]);
    server.line_has("jobs", 2).await;
    theirs.is_silent().await;
    let mut later = server.coord(&["lock", "jobs", "--", "sh", "-c", UNTIL_TOLD]);
    server.line_has("jobs", 3).await;
    ours.hang_up();
    assert_eq!(ours.status().await, Some(0));
    assert!(theirs.line().await.starts_with("jobs/"));
    later.is_silent().await;
    assert_eq!(server.coord(&["lock", "jobs", "--try"]).status().await, Some(123));
    theirs.signal(Signal::INT);
    assert_eq!(theirs.status().await, Some(0));
    assert_eq!(later.line().await, "runs");
    later.hang_up();
    assert_eq!(later.status().await, Some(0));
    assert_eq!(server.keys("").await, [""; 0]);
}

async fn etcdctl_and_coord_wait_for_each_others_leaders(server: Server) {
    let mut ours = server.coord(&["elect", "jobs", "ours"]);
    ours.line().await;
    let mut theirs = server.etcdctl(&["elect", "jobs", "theirs"]);
    server.line_has("jobs", 2).await;
    theirs.is_silent().await;
    let mut later = server.coord(&["elect", "jobs", "later"]);
    server.line_has("jobs", 3).await;
    ours.signal(Signal::TERM);
    assert_eq!(ours.status().await, Some(0));
    assert!(theirs.line().await.starts_with("jobs/"));
    assert_eq!(theirs.line().await, "theirs");
    later.is_silent().await;
    theirs.signal(Signal::INT);
    assert_eq!(theirs.status().await, Some(0));
    assert!(later.line().await.starts_with("jobs/"));
    later.signal(Signal::TERM);
    assert_eq!(later.status().await, Some(0));
    assert_eq!(server.keys("").await, [""; 0]);
}

async fn etcdctl_and_coord_observe_each_others_leaders(server: Server) {
    let mut ours = server.coord(&["elect", "jobs", "ours"]);
    let key = ours.line().await;
    let mut their_eye = server.etcdctl(&["elect", "--listen", "jobs"]);
    assert_eq!([their_eye.line().await, their_eye.line().await], [key.as_str(), "ours"]);
    let mut our_eye = server.coord(&["observe", "jobs"]);
    assert!(our_eye.line().await.ends_with(" ours"));
    let mut theirs = server.etcdctl(&["elect", "jobs", "theirs"]);
    server.line_has("jobs", 2).await;
    ours.signal(Signal::TERM);
    assert_eq!(ours.status().await, Some(0));
    let key = theirs.line().await;
    assert!(our_eye.line().await.ends_with(" theirs"));
    assert_eq!([their_eye.line().await, their_eye.line().await], [key.as_str(), "theirs"]);
    theirs.signal(Signal::INT);
    assert_eq!(theirs.status().await, Some(0));
    assert_eq!(our_eye.line().await, "-");
}

/// A script that was written for `etcdctl lock` runs under ours.
async fn command_sees_the_same_lock_variables_as_under_etcdctl(server: Server) {
    let script = "echo ${ETCD_LOCK_KEY%/*}; echo ${ETCD_LOCK_REV:+a revision}; exit 9";
    // Its exit status is the command's since 3.5 only.
    let arguments = ["lock", "jobs", "--", "sh", "-c", script];
    let (_, theirs, _) = server.etcdctl(&arguments).end().await;
    let (status, ours, _) = server.coord(&arguments).end().await;
    assert_eq!((status, ours.as_str()), (Some(9), "jobs\na revision\n"));
    assert_eq!(ours, theirs);
}
