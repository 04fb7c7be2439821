//! `coord lock` without a loss.

use std::time::Duration;

use coord_core::{Mutex, Session, kv::Range};
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::sleep;

use crate::program::{AVAILABLE, Program, Server, state, wait_until};

crate::tests![
    command_receives_key_and_token_of_the_held_lock,
    exit_status_is_that_of_the_command,
    command_missing_or_not_executable_has_own_exit_status,
    signals_reach_every_process_of_the_command,
    waiter_prints_nothing_and_runs_after_the_holder_ends,
    try_on_a_taken_lock_fails_without_a_write,
    try_on_a_free_lock_runs_the_command,
    try_behind_a_foreign_key_names_the_key,
    waiter_times_out_and_deletes_its_key,
    signalled_waiter_deletes_its_key,
    lock_without_command_prints_key_and_holds_until_signal,
    signals_ignored_at_start_stay_ignored,
    lock_of_a_child_name_is_independent,
    command_receives_the_key_unescaped,
    duplicate_signal_counts_once_and_the_lock_is_released,
    second_signal_ends_the_wait_for_an_unresponsive_store,
    stopped_command_receives_signals,
];

/// Prints the variables that it receives, and runs until its input ends.
const PRINT_VARIABLES: &str = "echo $COORD_LOCK_KEY; echo $COORD_FENCING_TOKEN; echo $ETCD_LOCK_KEY; \
    echo $ETCD_LOCK_REV; read -r end; exit 0";

/// Runs until its input ends.
pub(crate) const RUN_UNTIL_EOF: &str = "echo runs; read -r end; exit 0";

/// A `coord lock` whose command runs, until its input ends.
pub(crate) async fn holder(server: &Server, name: &str) -> Program {
    let mut holder = server.coord(&["lock", name, "--", "sh", "-c", RUN_UNTIL_EOF]);
    assert_eq!(holder.line().await, "runs");
    holder
}

/// The variables of an outer lock are replaced.
async fn command_receives_key_and_token_of_the_held_lock(server: Server) {
    let mut holder = server.coord_with(|command| {
        let outer = ["COORD_LOCK_KEY", "COORD_FENCING_TOKEN", "ETCD_LOCK_KEY", "ETCD_LOCK_REV"];
        command.envs(outer.map(|name| (name, "of an outer lock")));
        command.args(["lock", "jobs", "--", "sh", "-c", PRINT_VARIABLES])
    });
    let (key, token) = (holder.line().await, holder.line().await);
    assert_eq!(holder.line().await, key);
    assert_eq!(holder.line().await, token, "the lock was free: nothing was written since");
    assert!(key.starts_with("jobs/"), "{key}");
    let held = server.client.get(key.clone()).await.expect(AVAILABLE).expect("it is held");
    assert_eq!(held.create_revision.to_string(), token);
    assert_eq!(held.value, "", "empty as the value of etcdctl");

    holder.close_input();
    assert_eq!(holder.end().await, (Some(0), String::new(), String::new()));
    server.assert_empty().await;
}

async fn exit_status_is_that_of_the_command(server: Server) {
    for (script, status) in [("exit 0", 0), ("exit 7", 7), ("exit 255", 255)] {
        let ended = server.coord(&["lock", "jobs", "--", "sh", "-c", script]).end().await;
        assert_eq!(ended, (Some(status), String::new(), String::new()), "{script}");
        server.assert_empty().await;
    }
    for (signal, status) in [("KILL", 137), ("TERM", 143), ("INT", 130)] {
        let script = format!("kill -s {signal} $$");
        let ended = server.coord(&["lock", "jobs", "--", "sh", "-c", &script]).end().await;
        assert_eq!(ended, (Some(status), String::new(), String::new()), "{script}");
        server.assert_empty().await;
    }
}

async fn command_missing_or_not_executable_has_own_exit_status(server: Server) {
    for (command, status) in [("/nowhere/at-all", 127), ("/etc/passwd", 126)] {
        let (ended, stdout, stderr) = server.coord(&["lock", "jobs", "--", command]).end().await;
        assert_eq!((ended, stdout.as_str()), (Some(status), ""), "{command}");
        assert!(stderr.starts_with(&format!("coord lock: {command}: ")), "{stderr}");
        server.assert_empty().await;
    }
}

/// The command is a shell that runs another shell, and both receive the signal.
async fn signals_reach_every_process_of_the_command(server: Server) {
    for (signal, name) in
        [(Signal::INT, "INT"), (Signal::TERM, "TERM"), (Signal::HUP, "HUP"), (Signal::QUIT, "QUIT")]
    {
        let inner =
            format!("trap 'echo inner; exit 0' {name}; echo ready; while :; do sleep 0.05; done");
        let outer =
            format!("trap 'echo outer; exit 40' {name}; sh -c \"$INNER\"; echo not reached");
        let mut holder = server.coord_with(|command| {
            command.env("INNER", &inner).args(["lock", "jobs", "--", "sh", "-c", &outer])
        });
        assert_eq!(holder.line().await, "ready");
        holder.signal(signal);
        assert_eq!(holder.line().await, "inner", "{name}");
        let (status, stdout, stderr) = holder.end().await;
        assert_eq!((status, stdout.as_str()), (Some(40), "outer\n"), "{name}");
        // The shells may report that their `sleep` was terminated.
        assert!(!stderr.contains("coord"), "{name}: {stderr}");
        server.assert_empty().await;
    }
}

async fn waiter_prints_nothing_and_runs_after_the_holder_ends(server: Server) {
    let mut first = holder(&server, "jobs").await;
    let mut second = server.coord(&["lock", "jobs", "--", "sh", "-c", PRINT_VARIABLES]);
    server.wait_for_queue_length("jobs", 2).await;
    second.assert_silent().await;
    first.close_input();
    assert_eq!(first.status().await, Some(0));
    let (key, token) = (second.line().await, second.line().await);
    assert_eq!(second.line().await, key);
    // Acquired by a read, at the store's revision of that time.
    let acquired: i64 = second.line().await.parse().expect("a revision");
    assert!(acquired > token.parse().expect("a token"), "{acquired}, {token}");
    second.close_input();
    assert_eq!(second.end().await, (Some(0), String::new(), String::new()));
    server.assert_empty().await;
}

async fn try_on_a_taken_lock_fails_without_a_write(server: Server) {
    let mut first = holder(&server, "jobs").await;
    let key = server.keys("jobs/").await.remove(0);
    let before =
        server.client.get(key.clone()).await.expect(AVAILABLE).expect("it is held").create_revision;
    let tried = server.coord(&["lock", "jobs", "--try", "--", "echo", "runs"]).end().await;
    let taken = format!("coord lock: jobs is taken: {key} holds it with fencing token {before}\n");
    assert_eq!(tried, (Some(123), String::new(), taken));
    let after = server.client.range(Range::new(key)).await.expect(AVAILABLE).header.revision;
    assert_eq!(after, before, "nothing was written, not even for a moment");
    first.close_input();
    assert_eq!(first.status().await, Some(0));
    server.assert_empty().await;
}

async fn try_on_a_free_lock_runs_the_command(server: Server) {
    let tried = server.coord(&["lock", "jobs", "--try", "--", "echo", "runs"]).end().await;
    assert_eq!(tried, (Some(0), "runs\n".to_owned(), String::new()));
    server.assert_empty().await;
}

async fn try_behind_a_foreign_key_names_the_key(server: Server) {
    server.client.put("jobs/1", "").await.expect(AVAILABLE);
    let tried = server.coord(&["lock", "jobs", "--try", "--", "echo", "runs"]).end().await;
    let blocked = "coord lock: jobs is taken: the foreign key jobs/1, which no contender has \
        created, blocks its queue\n";
    assert_eq!(tried, (Some(123), String::new(), blocked.to_owned()));
}

async fn waiter_times_out_and_deletes_its_key(server: Server) {
    let mut first = holder(&server, "jobs").await;
    let arguments = ["lock", "jobs", "--timeout", "200ms", "--", "echo", "runs"];
    let late = server.coord(&arguments).end().await;
    let key = server.keys("jobs/").await.remove(0);
    let token =
        server.client.get(key.clone()).await.expect(AVAILABLE).expect("it is held").create_revision;
    let expected = format!(
        "coord lock: timed out after 200ms waiting for jobs: {key} holds it with fencing token \
        {token}\n"
    );
    assert_eq!(late, (Some(124), String::new(), expected));
    assert_eq!(server.keys("jobs/").await.len(), 1);
    first.close_input();
    assert_eq!(first.status().await, Some(0));
    server.assert_empty().await;
}

async fn signalled_waiter_deletes_its_key(server: Server) {
    let mut first = holder(&server, "jobs").await;
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let waiter = server.coord(&["lock", "jobs", "--", "echo", "runs"]);
        server.wait_for_queue_length("jobs", 2).await;
        waiter.signal(signal);
        assert_eq!(waiter.end().await, (Some(status), String::new(), String::new()));
        assert_eq!(server.keys("jobs/").await.len(), 1);
    }
    first.close_input();
    assert_eq!(first.status().await, Some(0));
    server.assert_empty().await;
}

async fn lock_without_command_prints_key_and_holds_until_signal(server: Server) {
    let mut plain = server.coord(&["lock", "jobs"]);
    let key = plain.line().await;
    assert_eq!(server.keys("").await, [key.as_str()]);
    plain.signal(Signal::INT);
    assert_eq!(plain.end().await, (Some(0), String::new(), String::new()));
    server.assert_empty().await;

    let mut json = server.coord(&["lock", "jobs", "--json"]);
    let line: Value = serde_json::from_str(&json.line().await).expect("it is JSON");
    let key = line["key"].as_str().expect("a key").to_owned();
    let held = server.client.get(key).await.expect(AVAILABLE).expect("it is held");
    assert_eq!(line["fencing_token"], held.create_revision.0);
    assert_eq!(line["lease"], held.lease.expect("on a lease").to_string());
    assert_eq!(line.as_object().expect("an object").len(), 3);
    json.signal(Signal::TERM);
    assert_eq!(json.status().await, Some(0));
    server.assert_empty().await;
}

/// `nohup coord lock …` keeps running when its terminal is closed.
async fn signals_ignored_at_start_stay_ignored(server: Server) {
    let script = "trap '' HUP; exec \"$0\" lock jobs -- sh -c 'echo runs; read -r end; exit 3'";
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_coord")]);
    command.env("ETCDCTL_ENDPOINTS", server.endpoints().join(","));
    let mut holder = Program::start(command);
    assert_eq!(holder.line().await, "runs");
    holder.signal(Signal::HUP);
    holder.assert_silent().await;
    holder.close_input();
    assert_eq!(holder.status().await, Some(3));
    server.assert_empty().await;
}

async fn lock_of_a_child_name_is_independent(server: Server) {
    let mut inner = holder(&server, "jobs/night").await;
    let outer = server.coord(&["lock", "jobs", "--try", "--", "echo", "runs"]).end().await;
    assert_eq!(outer, (Some(0), "runs\n".to_owned(), String::new()));
    let session = Session::builder(&server.client).open().await.expect(AVAILABLE);
    assert!(Mutex::new(&session, "jobs/night").try_lock().await.expect(AVAILABLE).is_none());
    session.close().await.expect(AVAILABLE);
    inner.close_input();
    assert_eq!(inner.status().await, Some(0));
    server.assert_empty().await;
}

/// Other programs use the variable as a key.
async fn command_receives_the_key_unescaped(server: Server) {
    let script = "printf '%s' \"$COORD_LOCK_KEY\" | tr '\\n' '|'; read -r end; exit 0";
    let mut holder = server.coord(&["lock", "two\nlines", "--", "sh", "-c", script]);
    server.wait_for_queue_length("two\nlines", 1).await;
    holder.close_input();
    let (status, stdout, _) = holder.end().await;
    assert_eq!(status, Some(0));
    assert!(stdout.starts_with("two|lines/"), "{stdout}");
    server.assert_empty().await;
}

/// `timeout 1m coord lock jobs` signals the program and then its process group, and the parent may
/// signal it too.
async fn duplicate_signal_counts_once_and_the_lock_is_released(server: Server) {
    let mut holder = server.coord(&["lock", "jobs"]);
    holder.line().await;
    // The release cannot complete before the second signal is received.
    server[0].pause();
    for _ in 0..3 {
        holder.signal(Signal::TERM);
        sleep(Duration::from_millis(5)).await;
    }
    holder.assert_silent().await;
    server[0].resume();
    assert_eq!(holder.end().await, (Some(0), String::new(), String::new()));
    server.assert_empty().await;
}

async fn second_signal_ends_the_wait_for_an_unresponsive_store(server: Server) {
    let mut holder = server.coord(&["lock", "jobs"]);
    holder.line().await;
    server[0].pause();
    holder.signal(Signal::INT);
    holder.assert_silent().await;
    holder.signal(Signal::INT);
    let expected = "coord lock: release not confirmed: the key stays until the lease expires\n";
    assert_eq!(holder.end().await, (Some(0), String::new(), expected.to_owned()));
    server[0].resume();
}

/// Regression: a stopped process receives no signal, so that the lock was held until it continued.
async fn stopped_command_receives_signals(server: Server) {
    let script = "trap 'echo received; exit 6' TERM; echo $$; kill -s STOP $$; read -r end; exit 0";
    let mut holder = server.coord(&["lock", "jobs", "--", "sh", "-c", script]);
    let id = holder.number().await;
    wait_until("the command is stopped", async || state(id) == Some('T')).await;
    holder.signal(Signal::TERM);
    assert_eq!(holder.line().await, "received");
    assert_eq!(holder.status().await, Some(6));
    server.assert_empty().await;
}
