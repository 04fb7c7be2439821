//! The minimum hold time, `coord lock --hold-at-least`.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use crate::program::{AVAILABLE, Server};

crate::tests![
    lock_is_kept_for_the_minimum_hold,
    signal_ends_the_minimum_hold_with_the_commands_status,
    signal_that_stopped_the_command_releases_the_lock,
    hangup_during_the_command_does_not_release_the_lock,
    loss_while_the_lock_is_kept_is_reported,
    command_that_cannot_be_run_releases_the_lock,
];

/// `coord lock jobs --hold-at-least 1h` with the script that follows as its command.
const HOLD_FOR_1H: [&str; 7] = ["lock", "jobs", "--hold-at-least", "1h", "--", "sh", "-c"];

/// The report of a signal that ends the minimum hold.
const RELEASED_BY_TERM: &str = "coord lock: TERM: jobs is released before --hold-at-least\n";

/// Regression: a machine whose clock was late ran the same job again.
async fn lock_is_kept_for_the_minimum_hold(server: Server) {
    let start = Instant::now();
    let arguments = ["lock", "jobs", "--hold-at-least", "1500ms", "--", "echo", "runs"];
    let first = server.coord(&arguments);
    assert_eq!(first.end().await, (Some(0), "runs\n".to_owned(), String::new()));
    assert!(start.elapsed() >= Duration::from_millis(1500), "{:?}", start.elapsed());
    server.assert_empty().await;
}

async fn signal_ends_the_minimum_hold_with_the_commands_status(server: Server) {
    for status in [0, 7] {
        let script = format!("echo runs; exec 1>&-; exit {status}");
        let mut holder = server.coord(&[&HOLD_FOR_1H[..], &[&script]].concat());
        assert_eq!(holder.line().await, "runs");
        let other = server.coord(&["lock", "jobs", "--try", "--", "echo", "runs"]).end().await;
        assert_eq!((other.0, other.1.as_str()), (Some(123), ""));
        holder.assert_silent().await;
        assert_eq!(server.keys("jobs/").await.len(), 1);
        holder.signal(Signal::TERM);
        assert_eq!(holder.end().await, (Some(status), String::new(), RELEASED_BY_TERM.to_owned()));
        server.assert_empty().await;
    }
}

/// The signal is meant for the whole job, and its sender does not send it twice.
async fn signal_that_stopped_the_command_releases_the_lock(server: Server) {
    for (signal, name) in [(Signal::INT, "INT"), (Signal::TERM, "TERM"), (Signal::QUIT, "QUIT")] {
        let script = format!("trap 'exit 6' {name}; echo ready; while :; do sleep 0.05; done");
        let mut holder = server.coord(&[&HOLD_FOR_1H[..], &[&script]].concat());
        assert_eq!(holder.line().await, "ready");
        holder.signal(signal);
        assert_eq!(holder.status().await, Some(6));
        server.assert_empty().await;
    }
}

/// Many programs reload their configuration on HUP.
async fn hangup_during_the_command_does_not_release_the_lock(server: Server) {
    let script = "trap 'echo again; exit 0' HUP; echo ready; while :; do sleep 0.05; done";
    let mut holder = server.coord(&[&HOLD_FOR_1H[..], &[script]].concat());
    assert_eq!(holder.line().await, "ready");
    holder.signal(Signal::HUP);
    assert_eq!(holder.line().await, "again");
    holder.assert_silent().await;
    assert_eq!(server.keys("jobs/").await.len(), 1);
    holder.signal(Signal::TERM);
    holder.wait_for_stderr(RELEASED_BY_TERM).await;
    assert_eq!(holder.status().await, Some(0));
    server.assert_empty().await;
}

async fn loss_while_the_lock_is_kept_is_reported(server: Server) {
    let mut holder = server.coord(&[&HOLD_FOR_1H[..], &["echo runs"]].concat());
    assert_eq!(holder.line().await, "runs");
    holder.assert_silent().await;
    let key = server.keys("jobs/").await.remove(0);
    server.client.delete(key).await.expect(AVAILABLE);
    let (status, _, stderr) = holder.end().await;
    let lost = "coord lock: lost: another client deleted the key\n";
    assert_eq!((status, stderr.as_str()), (Some(122), lost));
    server.assert_empty().await;
}

async fn command_that_cannot_be_run_releases_the_lock(server: Server) {
    let arguments = ["lock", "jobs", "--hold-at-least", "1h", "--", "/nowhere/at-all"];
    assert_eq!(server.coord(&arguments).status().await, Some(127));
    server.assert_empty().await;
    let without = server.coord(&["lock", "jobs", "--hold-at-least", "1h"]).end().await;
    assert!(without.0 == Some(2) && without.2.contains("needs a CMD"), "{without:?}");
}
