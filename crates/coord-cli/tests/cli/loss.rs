//! What happens when the lock is lost while the command runs.

use std::time::Duration;

use coord_core::{Client, kv::LeaseId};
use tokio::time::Instant;

use crate::lock::UNTIL_TOLD;
use crate::program::{Program, Server, THERE, lives, until};

crate::stories![
    revoked_lease_sends_term_then_kill_to_the_group,
    deleted_key_sends_term_and_the_next_waiter_acquires,
    command_that_ends_on_term_ends_the_grace,
    zero_grace_kills_the_command_at_once,
    unconfirmed_lease_kills_the_command_before_it_ends,
    holder_without_command_ends_on_a_loss,
    holder_with_full_stderr_still_terminates_its_command,
    resumed_holder_kills_its_command_after_a_loss,
];

/// Two shells that note TERM and go on, in one group: their numbers, then a line for each TERM.
const STUBBORN: &str = "trap 'echo term' TERM; sh -c 'trap \"echo term\" TERM; echo $$; \
    while :; do sleep 0.05; done' & echo $$; while :; do sleep 0.05; done";

/// Ends on TERM, with a word.
const WILLING: &str = "trap 'echo term; exit 0' TERM; echo runs; while :; do sleep 0.05; done";

/// A `coord lock` of a stubborn command, and the numbers of its two processes.
async fn stubborn(server: &Server, flags: &[&str]) -> (Program, [i32; 2]) {
    let arguments = [&["lock", "jobs"], flags, &["--", "sh", "-c", STUBBORN]].concat();
    let mut holder = server.coord(&arguments);
    let processes = [holder.number().await, holder.number().await];
    assert!(processes.into_iter().all(lives));
    (holder, processes)
}

/// The lease of the holder.
async fn lease(server: &Server) -> LeaseId {
    let key = server.keys("jobs/").await.remove(0);
    server.kv.get(key).await.expect(THERE).expect("it is held").lease.expect("on a lease")
}

async fn revoked_lease_sends_term_then_kill_to_the_group(server: Server) {
    let (mut holder, processes) = stubborn(&server, &["--ttl", "8s", "--grace", "2s"]).await;
    server.kv.lease_revoke(lease(&server).await).await.expect(THERE);
    assert_eq!([holder.line().await, holder.line().await], ["term"; 2]);
    assert!(processes.into_iter().all(lives), "they have two seconds");
    let (status, _, complaint) = holder.end().await;
    assert!(!processes.into_iter().any(lives), "nothing is left when it ends");
    let lost = "coord lock: lost: the lease was revoked\n";
    // Behind it is what shells say of a part of them that ended on TERM.
    assert!(status == Some(122) && complaint.starts_with(lost), "{status:?}, {complaint}");
    server.is_empty().await;
}

async fn deleted_key_sends_term_and_the_next_waiter_acquires(server: Server) {
    let mut holder = server.coord(&["lock", "jobs", "--", "sh", "-c", WILLING]);
    assert_eq!(holder.line().await, "runs");
    let mut next = server.coord(&["lock", "jobs", "--", "sh", "-c", UNTIL_TOLD]);
    server.line_has("jobs", 2).await;
    let key = server.keys("jobs/").await.remove(0);
    server.kv.delete(key).await.expect(THERE);
    assert_eq!(holder.line().await, "term");
    let (status, _, complaint) = holder.end().await;
    let lost = "coord lock: lost: the key was deleted by somebody else\n";
    // Behind it is what shells say of a part of them that ended on TERM.
    assert!(status == Some(122) && complaint.starts_with(lost), "{status:?}, {complaint}");
    assert_eq!(next.line().await, "runs");
    next.hang_up();
    assert_eq!(next.status().await, Some(0));
    server.is_empty().await;
}

async fn command_that_ends_on_term_ends_the_grace(server: Server) {
    let arguments = ["lock", "jobs", "--ttl", "60s", "--grace", "15s", "--", "sh", "-c", WILLING];
    let mut holder = server.coord(&arguments);
    assert_eq!(holder.line().await, "runs");
    // A lease that was revoked is noticed by its key's deletion.
    server.kv.lease_revoke(lease(&server).await).await.expect(THERE);
    assert_eq!(holder.line().await, "term");
    let told = Instant::now();
    assert_eq!(holder.status().await, Some(122));
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
}

async fn zero_grace_kills_the_command_at_once(server: Server) {
    let (holder, processes) = stubborn(&server, &["--grace", "0s"]).await;
    server.kv.lease_revoke(lease(&server).await).await.expect(THERE);
    assert_eq!(holder.status().await, Some(122));
    assert!(!processes.into_iter().any(lives));
}

/// The server does not answer any more: TERM comes early enough for the command to have its grace,
/// and KILL a tenth of the time to live before the lease can end.
async fn unconfirmed_lease_kills_the_command_before_it_ends(server: Server) {
    let (ttl, grace) = (Duration::from_secs(8), Duration::from_secs(2));
    let (mut holder, processes) = stubborn(&server, &["--ttl", "8s", "--grace", "2s"]).await;
    // No keep-alive that is sent from now on is confirmed.
    server[0].pause();
    let paused = Instant::now();
    assert_eq!([holder.line().await, holder.line().await], ["term"; 2]);
    let term = paused.elapsed();
    until("all are gone", async || !processes.into_iter().any(lives)).await;
    let killed = paused.elapsed();
    assert!(killed < ttl, "killed after {killed:?}, and the lease ends after {ttl:?}");
    assert!(killed - term > grace / 2, "TERM after {term:?}, KILL after {killed:?}");
    let (status, _, complaint) = holder.end().await;
    server[0].resume();
    let told = "coord lock: no keep-alive was confirmed, and the lease is about to end\n";
    assert!(status == Some(122) && complaint.starts_with(told), "{status:?}, {complaint}");
}

async fn holder_without_command_ends_on_a_loss(server: Server) {
    let mut holder = server.coord(&["lock", "jobs"]);
    let key = holder.line().await;
    server.kv.delete(key).await.expect(THERE);
    let (status, _, complaint) = holder.end().await;
    let lost = "coord lock: lost: the key was deleted by somebody else\n";
    // Behind it is what shells say of a part of them that ended on TERM.
    assert!(status == Some(122) && complaint.starts_with(lost), "{status:?}, {complaint}");
    server.is_empty().await;
}

/// What it says goes to a disk that is full: the command was killed without its grace.
async fn holder_with_full_stderr_still_terminates_its_command(server: Server) {
    let script = "exec \"$0\" lock jobs -- sh -c \"$1\" 2> /dev/full";
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_coord"), WILLING]);
    command.env("ETCDCTL_ENDPOINTS", server.endpoints().join(","));
    let mut holder = Program::started(command);
    assert_eq!(holder.line().await, "runs");
    server.kv.lease_revoke(lease(&server).await).await.expect(THERE);
    assert_eq!(holder.line().await, "term");
    assert_eq!(holder.status().await, Some(122));
    server.is_empty().await;
}

/// This program is suspended, the lease ends, somebody else has the lock: as soon as it runs
/// again it ends the command.
async fn resumed_holder_kills_its_command_after_a_loss(server: Server) {
    let flags = ["--ttl", "2s", "--grace", "0s"];
    let (holder, processes) = stubborn(&server, &flags).await;
    let mut next = server.coord(&["lock", "jobs", "--", "sh", "-c", UNTIL_TOLD]);
    server.line_has("jobs", 2).await;
    holder.signal(rustix::process::Signal::STOP);
    assert_eq!(next.line().await, "runs");
    assert!(processes.into_iter().all(lives), "nobody can have told them");
    holder.signal(rustix::process::Signal::CONT);
    assert_eq!(holder.status().await, Some(122));
    assert!(!processes.into_iter().any(lives));
    next.hang_up();
    assert_eq!(next.status().await, Some(0));
    server.is_empty().await;
}
