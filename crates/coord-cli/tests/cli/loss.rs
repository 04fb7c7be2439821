//! Loss of the lock while the command runs: TERM, the grace period, KILL.

use std::time::Duration;

use coord_core::kv::LeaseId;
use rustix::process::Signal;
use tokio::time::Instant;

use crate::lock::RUN_UNTIL_EOF;
use crate::program::{AVAILABLE, Program, Server, is_running, wait_until};

crate::tests![
    revoked_lease_sends_term_then_kill_to_the_group,
    deleted_key_sends_term_and_the_next_waiter_acquires,
    command_that_ends_on_term_ends_the_grace,
    zero_grace_kills_the_command_at_once,
    unconfirmed_lease_kills_the_command_before_it_ends,
    holder_without_command_ends_on_a_loss,
    holder_with_full_stderr_still_terminates_its_command,
    resumed_holder_kills_its_command_after_a_loss,
    killed_holder_keeps_the_lock_closed_for_the_lock_delay,
];

/// Two shells of one group that ignore TERM. Each prints its process id, and a line for TERM.
const IGNORE_TERM: &str = "trap 'echo term' TERM; sh -c 'trap \"echo term\" TERM; echo $$; \
    while :; do sleep 0.05; done' & echo $$; while :; do sleep 0.05; done";

/// Prints a line for TERM and ends.
const END_ON_TERM: &str = "trap 'echo term; exit 0' TERM; echo runs; while :; do sleep 0.05; done";

/// A `coord lock` whose command ignores TERM, and the ids of its two processes.
async fn start_ignoring_term(server: &Server, flags: &[&str]) -> (Program, [i32; 2]) {
    let arguments = [&["lock", "jobs"], flags, &["--", "sh", "-c", IGNORE_TERM]].concat();
    let mut holder = server.coord(&arguments);
    let processes = [holder.number().await, holder.number().await];
    assert!(processes.into_iter().all(is_running));
    (holder, processes)
}

/// The lease of the holder.
async fn lease(server: &Server) -> LeaseId {
    let key = server.keys("jobs/").await.remove(0);
    server.client.get(key).await.expect(AVAILABLE).expect("it is held").lease.expect("on a lease")
}

async fn revoked_lease_sends_term_then_kill_to_the_group(server: Server) {
    let (mut holder, processes) =
        start_ignoring_term(&server, &["--ttl", "8s", "--grace", "2s"]).await;
    server.client.lease_revoke(lease(&server).await).await.expect(AVAILABLE);
    assert_eq!([holder.line().await, holder.line().await], ["term"; 2]);
    assert!(processes.into_iter().all(is_running), "the grace period is two seconds");
    let (status, _, stderr) = holder.end().await;
    assert!(!processes.into_iter().any(is_running), "nothing is left when it ends");
    let lost = "coord lock: lost: the lease was revoked\n";
    // The shells may report the processes that TERM ended.
    assert!(status == Some(122) && stderr.starts_with(lost), "{status:?}, {stderr}");
    server.assert_empty().await;
}

async fn deleted_key_sends_term_and_the_next_waiter_acquires(server: Server) {
    let mut holder = server.coord(&["lock", "jobs", "--", "sh", "-c", END_ON_TERM]);
    assert_eq!(holder.line().await, "runs");
    let mut next = server.coord(&["lock", "jobs", "--", "sh", "-c", RUN_UNTIL_EOF]);
    server.wait_for_queue_length("jobs", 2).await;
    let key = server.keys("jobs/").await.remove(0);
    server.client.delete(key).await.expect(AVAILABLE);
    assert_eq!(holder.line().await, "term");
    let (status, _, stderr) = holder.end().await;
    let lost = "coord lock: lost: another client deleted the key\n";
    // The shells may report the processes that TERM ended.
    assert!(status == Some(122) && stderr.starts_with(lost), "{status:?}, {stderr}");
    assert_eq!(next.line().await, "runs");
    next.close_input();
    assert_eq!(next.status().await, Some(0));
    server.assert_empty().await;
}

async fn command_that_ends_on_term_ends_the_grace(server: Server) {
    let arguments =
        ["lock", "jobs", "--ttl", "60s", "--grace", "15s", "--", "sh", "-c", END_ON_TERM];
    let mut holder = server.coord(&arguments);
    assert_eq!(holder.line().await, "runs");
    // coord detects the revoked lease by the deletion of the key.
    server.client.lease_revoke(lease(&server).await).await.expect(AVAILABLE);
    assert_eq!(holder.line().await, "term");
    let terminated = Instant::now();
    assert_eq!(holder.status().await, Some(122));
    assert!(terminated.elapsed() < Duration::from_secs(10), "{:?}", terminated.elapsed());
}

async fn zero_grace_kills_the_command_at_once(server: Server) {
    let (holder, processes) = start_ignoring_term(&server, &["--grace", "0s"]).await;
    server.client.lease_revoke(lease(&server).await).await.expect(AVAILABLE);
    assert_eq!(holder.status().await, Some(122));
    assert!(!processes.into_iter().any(is_running));
}

/// The server sends no responses. TERM precedes KILL by the grace period, and KILL precedes the end
/// of the lease by a tenth of the TTL.
async fn unconfirmed_lease_kills_the_command_before_it_ends(server: Server) {
    let (ttl, grace) = (Duration::from_secs(8), Duration::from_secs(2));
    let (mut holder, processes) =
        start_ignoring_term(&server, &["--ttl", "8s", "--grace", "2s"]).await;
    // From here on, no keep-alive is confirmed.
    server[0].pause();
    let paused = Instant::now();
    assert_eq!([holder.line().await, holder.line().await], ["term"; 2]);
    let term = paused.elapsed();
    wait_until("both processes have ended", async || !processes.into_iter().any(is_running)).await;
    let killed = paused.elapsed();
    assert!(killed < ttl, "killed after {killed:?}, and the lease ends after {ttl:?}");
    assert!(killed - term > grace / 2, "TERM after {term:?}, KILL after {killed:?}");
    let (status, _, stderr) = holder.end().await;
    server[0].resume();
    let expected = "coord lock: no keep-alive was confirmed, and the lease is about to end\n";
    assert!(status == Some(122) && stderr.starts_with(expected), "{status:?}, {stderr}");
}

async fn holder_without_command_ends_on_a_loss(server: Server) {
    let mut holder = server.coord(&["lock", "jobs"]);
    let key = holder.line().await;
    server.client.delete(key).await.expect(AVAILABLE);
    let (status, _, stderr) = holder.end().await;
    let lost = "coord lock: lost: another client deleted the key\n";
    assert_eq!((status, stderr.as_str()), (Some(122), lost));
    server.assert_empty().await;
}

/// Regression: with a full disk behind standard error, the command was killed without its grace.
async fn holder_with_full_stderr_still_terminates_its_command(server: Server) {
    let script = "exec \"$0\" lock jobs -- sh -c \"$1\" 2> /dev/full";
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_coord"), END_ON_TERM]);
    command.env("ETCDCTL_ENDPOINTS", server.endpoints().join(","));
    let mut holder = Program::start(command);
    assert_eq!(holder.line().await, "runs");
    server.client.lease_revoke(lease(&server).await).await.expect(AVAILABLE);
    assert_eq!(holder.line().await, "term");
    assert_eq!(holder.status().await, Some(122));
    server.assert_empty().await;
}

/// While coord is suspended, its lease ends and another client acquires the lock. When coord
/// continues, it kills the command.
async fn resumed_holder_kills_its_command_after_a_loss(server: Server) {
    let flags = ["--ttl", "2s", "--grace", "0s"];
    let (holder, processes) = start_ignoring_term(&server, &flags).await;
    let mut next = server.coord(&["lock", "jobs", "--", "sh", "-c", RUN_UNTIL_EOF]);
    server.wait_for_queue_length("jobs", 2).await;
    holder.signal(rustix::process::Signal::STOP);
    assert_eq!(next.line().await, "runs");
    assert!(processes.into_iter().all(is_running), "coord is suspended and cannot kill them");
    holder.signal(rustix::process::Signal::CONT);
    assert_eq!(holder.status().await, Some(122));
    assert!(!processes.into_iter().any(is_running));
    next.close_input();
    assert_eq!(next.status().await, Some(0));
    server.assert_empty().await;
}

/// The lease of 2 s lives 4 s longer: the lock-delay of 3 s, and a ninth of it in whole seconds.
async fn killed_holder_keeps_the_lock_closed_for_the_lock_delay(server: Server) {
    let flags = ["lock", "jobs", "--ttl", "2s", "--lock-delay", "3s", "--", "sh", "-c"];
    let mut holder = server.coord(&[&flags[..], &[RUN_UNTIL_EOF]].concat());
    holder.line().await;
    let start = Instant::now();
    holder.signal(Signal::KILL);
    let next = server.coord(&["lock", "jobs", "--", "echo", "runs"]);
    assert_eq!(next.end().await.1, "runs\n");
    // The last keep-alive was sent up to a third of the TTL before.
    assert!(start.elapsed() >= Duration::from_secs(5), "{:?}", start.elapsed());
    // A holder that releases the lock frees it at once.
    let holder = server.coord(&[&flags[..7], &["true"]].concat());
    assert_eq!(holder.end().await.0, Some(0));
    let next = server.coord(&["lock", "jobs", "--try", "--", "echo", "runs"]);
    assert_eq!(next.end().await.1, "runs\n");
}
