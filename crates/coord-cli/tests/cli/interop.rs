//! Interoperation with Go's package: `etcdctl lock` and `etcdctl elect` in the same queues.

use rustix::process::Signal;

use crate::lock::{RUN_UNTIL_EOF, holder};
use crate::program::Server;

crate::tests![
    etcdctl_and_coord_wait_for_each_others_locks,
    etcdctl_and_coord_wait_for_each_others_leaders,
    etcdctl_and_coord_observe_each_others_leaders,
    command_sees_the_same_lock_variables_as_under_etcdctl,
];

async fn etcdctl_and_coord_wait_for_each_others_locks(server: Server) {
    let mut coord = holder(&server, "jobs").await;
    let mut go = server.etcdctl(&["lock", "jobs"]);
    server.wait_for_queue_length("jobs", 2).await;
    go.assert_silent().await;
    let mut later = server.coord(&["lock", "jobs", "--", "sh", "-c", RUN_UNTIL_EOF]);
    server.wait_for_queue_length("jobs", 3).await;
    coord.close_input();
    assert_eq!(coord.status().await, Some(0));
    assert!(go.line().await.starts_with("jobs/"));
    later.assert_silent().await;
    assert_eq!(server.coord(&["lock", "jobs", "--try"]).status().await, Some(123));
    go.signal(Signal::INT);
    assert_eq!(go.status().await, Some(0));
    assert_eq!(later.line().await, "runs");
    later.close_input();
    assert_eq!(later.status().await, Some(0));
    assert_eq!(server.keys("").await, [""; 0]);
}

async fn etcdctl_and_coord_wait_for_each_others_leaders(server: Server) {
    let mut coord = server.coord(&["elect", "jobs", "coord"]);
    coord.line().await;
    let mut go = server.etcdctl(&["elect", "jobs", "go"]);
    server.wait_for_queue_length("jobs", 2).await;
    go.assert_silent().await;
    let mut later = server.coord(&["elect", "jobs", "later"]);
    server.wait_for_queue_length("jobs", 3).await;
    coord.signal(Signal::TERM);
    assert_eq!(coord.status().await, Some(0));
    assert!(go.line().await.starts_with("jobs/"));
    assert_eq!(go.line().await, "go");
    later.assert_silent().await;
    go.signal(Signal::INT);
    assert_eq!(go.status().await, Some(0));
    assert!(later.line().await.starts_with("jobs/"));
    later.signal(Signal::TERM);
    assert_eq!(later.status().await, Some(0));
    assert_eq!(server.keys("").await, [""; 0]);
}

async fn etcdctl_and_coord_observe_each_others_leaders(server: Server) {
    let mut coord = server.coord(&["elect", "jobs", "coord"]);
    let key = coord.line().await;
    let mut go_observer = server.etcdctl(&["elect", "--listen", "jobs"]);
    assert_eq!([go_observer.line().await, go_observer.line().await], [key.as_str(), "coord"]);
    let mut coord_observer = server.coord(&["observe", "jobs"]);
    assert!(coord_observer.line().await.ends_with(" coord"));
    let mut go = server.etcdctl(&["elect", "jobs", "go"]);
    server.wait_for_queue_length("jobs", 2).await;
    coord.signal(Signal::TERM);
    assert_eq!(coord.status().await, Some(0));
    let key = go.line().await;
    assert!(coord_observer.line().await.ends_with(" go"));
    assert_eq!([go_observer.line().await, go_observer.line().await], [key.as_str(), "go"]);
    go.signal(Signal::INT);
    assert_eq!(go.status().await, Some(0));
    assert_eq!(coord_observer.line().await, "-");
}

/// A script that was written for `etcdctl lock` runs under `coord lock`.
async fn command_sees_the_same_lock_variables_as_under_etcdctl(server: Server) {
    let script = "echo ${ETCD_LOCK_KEY%/*}; echo ${ETCD_LOCK_REV:+a revision}; exit 9";
    // etcdctl 3.4 does not return the exit status of the command.
    let arguments = ["lock", "jobs", "--", "sh", "-c", script];
    let (_, go, _) = server.etcdctl(&arguments).end().await;
    let (status, coord, _) = server.coord(&arguments).end().await;
    assert_eq!((status, coord.as_str()), (Some(9), "jobs\na revision\n"));
    assert_eq!(coord, go);
}
