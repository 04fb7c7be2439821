//! `coord lock` when all is well.

use std::sync::Arc;
use std::time::Duration;

use coord_core::{Client, Mutex, Session, kv::Range};
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::sleep;

use crate::program::{Program, Server, THERE, state, until};

crate::stories![
    command_receives_key_and_token_of_the_held_lock,
    exit_status_is_that_of_the_command,
    command_missing_or_not_executable_has_own_exit_status,
    signals_reach_every_process_of_the_command,
    waiter_prints_nothing_and_runs_after_the_holder_ends,
    try_on_a_taken_lock_fails_without_a_write,
    try_on_a_free_lock_runs_the_command,
    waiter_times_out_and_leaves_the_queue,
    signalled_waiter_leaves_the_queue,
    lock_without_command_prints_key_and_holds_until_signal,
    signals_ignored_at_start_stay_ignored,
    lock_of_a_child_name_is_independent,
    command_receives_the_key_unescaped,
    duplicate_signal_counts_once_and_the_lock_is_released,
    second_signal_ends_the_wait_for_an_unresponsive_store,
    stopped_command_receives_signals,
];

/// Prints what it is told, and runs until its input ends.
const TOLD: &str = "echo $COORD_LOCK_KEY; echo $COORD_FENCING_TOKEN; echo $ETCD_LOCK_KEY; \
    echo $ETCD_LOCK_REV; read -r end; exit 0";

/// Runs until its input ends.
pub(crate) const UNTIL_TOLD: &str = "echo runs; read -r end; exit 0";

/// A `coord lock` whose command runs until its input ends, and runs already.
pub(crate) async fn holder(server: &Server, name: &str) -> Program {
    let mut holder = server.coord(&["lock", name, "--", "sh", "-c", UNTIL_TOLD]);
    assert_eq!(holder.line().await, "runs");
    holder
}

/// Also where it is itself run by a command that was told of another lock.
async fn command_receives_key_and_token_of_the_held_lock(server: Server) {
    let mut holder = server.told(|command| {
        let outer = ["COORD_LOCK_KEY", "COORD_FENCING_TOKEN", "ETCD_LOCK_KEY", "ETCD_LOCK_REV"];
        command.envs(outer.map(|name| (name, "of an outer lock")));
        command.args(["lock", "jobs", "--", "sh", "-c", TOLD])
    });
    let (key, token) = (holder.line().await, holder.line().await);
    assert_eq!(holder.line().await, key);
    assert_eq!(holder.line().await, token, "nothing was written since: it was free");
    assert!(key.starts_with("jobs/"), "{key}");
    let held = server.kv.get(key.clone()).await.expect(THERE).expect("it is held");
    assert_eq!(held.create_revision.to_string(), token);
    assert_eq!(held.value, "", "as etcdctl's");

    holder.hang_up();
    assert_eq!(holder.end().await, (Some(0), String::new(), String::new()));
    server.is_empty().await;
}

async fn exit_status_is_that_of_the_command(server: Server) {
    for (script, status) in [("exit 0", 0), ("exit 7", 7), ("exit 255", 255)] {
        let ended = server.coord(&["lock", "jobs", "--", "sh", "-c", script]).end().await;
        assert_eq!(ended, (Some(status), String::new(), String::new()), "{script}");
        server.is_empty().await;
    }
    for (signal, status) in [("KILL", 137), ("TERM", 143), ("INT", 130)] {
        let script = format!("kill -s {signal} $$");
        let ended = server.coord(&["lock", "jobs", "--", "sh", "-c", &script]).end().await;
        assert_eq!(ended, (Some(status), String::new(), String::new()), "{script}");
        server.is_empty().await;
    }
}

async fn command_missing_or_not_executable_has_own_exit_status(server: Server) {
    for (command, status) in [("/nowhere/at-all", 127), ("/etc/passwd", 126)] {
        let (ended, printed, complaint) =
            server.coord(&["lock", "jobs", "--", command]).end().await;
        assert_eq!((ended, printed.as_str()), (Some(status), ""), "{command}");
        assert!(complaint.starts_with(&format!("coord lock: {command}: ")), "{complaint}");
        server.is_empty().await;
    }
}

/// The shell and the shell that it runs: what was started by the command is signalled too.
async fn signals_reach_every_process_of_the_command(server: Server) {
    for (signal, name) in
        [(Signal::INT, "INT"), (Signal::TERM, "TERM"), (Signal::HUP, "HUP"), (Signal::QUIT, "QUIT")]
    {
        let inner =
            format!("trap 'echo inner; exit 0' {name}; echo ready; while :; do sleep 0.05; done");
        let outer = format!("trap 'echo outer; exit 40' {name}; sh -c \"$INNER\"; echo went on");
        let mut holder = server.told(|command| {
            command.env("INNER", &inner).args(["lock", "jobs", "--", "sh", "-c", &outer])
        });
        assert_eq!(holder.line().await, "ready");
        holder.signal(signal);
        assert_eq!(holder.line().await, "inner", "{name}");
        let (status, printed, complaint) = holder.end().await;
        assert_eq!((status, printed.as_str()), (Some(40), "outer\n"), "{name}");
        // The shells may say of their `sleep` that it was ended.
        assert!(!complaint.contains("coord"), "{name}: {complaint}");
        server.is_empty().await;
    }
}

async fn waiter_prints_nothing_and_runs_after_the_holder_ends(server: Server) {
    let mut first = holder(&server, "jobs").await;
    let mut second = server.coord(&["lock", "jobs", "--", "sh", "-c", TOLD]);
    server.line_has("jobs", 2).await;
    second.is_silent().await;
    first.hang_up();
    assert_eq!(first.status().await, Some(0));
    let (key, token) = (second.line().await, second.line().await);
    assert_eq!(second.line().await, key);
    // It was had by a look: at whatever revision the store was at then.
    let looked: i64 = second.line().await.parse().expect("a revision");
    assert!(looked > token.parse().expect("a token"), "{looked}, {token}");
    second.hang_up();
    assert_eq!(second.end().await, (Some(0), String::new(), String::new()));
    server.is_empty().await;
}

async fn try_on_a_taken_lock_fails_without_a_write(server: Server) {
    let mut first = holder(&server, "jobs").await;
    let key = server.keys("jobs/").await.remove(0);
    let before =
        server.kv.get(key.clone()).await.expect(THERE).expect("it is held").create_revision;
    let tried = server.coord(&["lock", "jobs", "--try", "--", "echo", "runs"]).end().await;
    let taken = format!("coord lock: jobs is taken: {key} holds it with fencing token {before}\n");
    assert_eq!(tried, (Some(123), String::new(), taken));
    let after = server.kv.range(Range::new(key)).await.expect(THERE).header.revision;
    assert_eq!(after, before, "nothing was written, not even for a moment");
    first.hang_up();
    assert_eq!(first.status().await, Some(0));
    server.is_empty().await;
}

async fn try_on_a_free_lock_runs_the_command(server: Server) {
    let tried = server.coord(&["lock", "jobs", "--try", "--", "echo", "runs"]).end().await;
    assert_eq!(tried, (Some(0), "runs\n".to_owned(), String::new()));
    server.is_empty().await;
}

async fn waiter_times_out_and_leaves_the_queue(server: Server) {
    let mut first = holder(&server, "jobs").await;
    let arguments = ["lock", "jobs", "--timeout", "200ms", "--", "echo", "runs"];
    let late = server.coord(&arguments).end().await;
    let key = server.keys("jobs/").await.remove(0);
    let token = server.kv.get(key.clone()).await.expect(THERE).expect("it is held").create_revision;
    let told = format!(
        "coord lock: timed out after 200ms waiting for jobs: {key} holds it with fencing token \
        {token}\n"
    );
    assert_eq!(late, (Some(124), String::new(), told));
    assert_eq!(server.keys("jobs/").await.len(), 1);
    first.hang_up();
    assert_eq!(first.status().await, Some(0));
    server.is_empty().await;
}

async fn signalled_waiter_leaves_the_queue(server: Server) {
    let mut first = holder(&server, "jobs").await;
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let waiter = server.coord(&["lock", "jobs", "--", "echo", "runs"]);
        server.line_has("jobs", 2).await;
        waiter.signal(signal);
        assert_eq!(waiter.end().await, (Some(status), String::new(), String::new()));
        assert_eq!(server.keys("jobs/").await.len(), 1);
    }
    first.hang_up();
    assert_eq!(first.status().await, Some(0));
    server.is_empty().await;
}

async fn lock_without_command_prints_key_and_holds_until_signal(server: Server) {
    let mut plain = server.coord(&["lock", "jobs"]);
    let key = plain.line().await;
    assert_eq!(server.keys("").await, [key.as_str()]);
    plain.signal(Signal::INT);
    assert_eq!(plain.end().await, (Some(0), String::new(), String::new()));
    server.is_empty().await;

    let mut json = server.coord(&["lock", "jobs", "--json"]);
    let line: Value = serde_json::from_str(&json.line().await).expect("it is JSON");
    let key = line["key"].as_str().expect("a key").to_owned();
    let held = server.kv.get(key).await.expect(THERE).expect("it is held");
    assert_eq!(line["fencing_token"], held.create_revision.0);
    assert_eq!(line["lease"], held.lease.expect("on a lease").to_string());
    assert_eq!(line.as_object().expect("an object").len(), 3);
    json.signal(Signal::TERM);
    assert_eq!(json.status().await, Some(0));
    server.is_empty().await;
}

/// `nohup coord lock …` goes on when its terminal goes.
async fn signals_ignored_at_start_stay_ignored(server: Server) {
    let script = "trap '' HUP; exec \"$0\" lock jobs -- sh -c 'echo runs; read -r end; exit 3'";
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_coord")]);
    command.env("ETCDCTL_ENDPOINTS", server.endpoints().join(","));
    let mut holder = Program::started(command);
    assert_eq!(holder.line().await, "runs");
    holder.signal(Signal::HUP);
    holder.is_silent().await;
    holder.hang_up();
    assert_eq!(holder.status().await, Some(3));
    server.is_empty().await;
}

async fn lock_of_a_child_name_is_independent(server: Server) {
    let mut inner = holder(&server, "jobs/night").await;
    let outer = server.coord(&["lock", "jobs", "--try", "--", "echo", "runs"]).end().await;
    assert_eq!(outer, (Some(0), "runs\n".to_owned(), String::new()));
    let session = Session::builder(&server.kv).open().await.expect(THERE);
    assert!(Mutex::new(&session, "jobs/night").try_lock().await.expect(THERE).is_none());
    session.close().await.expect(THERE);
    inner.hang_up();
    assert_eq!(inner.status().await, Some(0));
    server.is_empty().await;
}

/// Whatever is in the name: other programs are to find the key.
async fn command_receives_the_key_unescaped(server: Server) {
    let script = "printf '%s' \"$COORD_LOCK_KEY\" | tr '\\n' '|'; read -r end; exit 0";
    let mut holder = server.coord(&["lock", "two\nlines", "--", "sh", "-c", script]);
    server.line_has("two\nlines", 1).await;
    holder.hang_up();
    let (status, printed, _) = holder.end().await;
    assert_eq!(status, Some(0));
    assert!(printed.starts_with("two|lines/"), "{printed}");
    server.is_empty().await;
}

/// `timeout 1m coord lock jobs`: it tells the program, and then the group that the program is in;
/// and so may whoever started it.
async fn duplicate_signal_counts_once_and_the_lock_is_released(server: Server) {
    let mut holder = server.coord(&["lock", "jobs"]);
    holder.line().await;
    // That it is being given back cannot be over when the second comes.
    server[0].pause();
    for _ in 0..3 {
        holder.signal(Signal::TERM);
        sleep(Duration::from_millis(5)).await;
    }
    holder.is_silent().await;
    server[0].resume();
    assert_eq!(holder.end().await, (Some(0), String::new(), String::new()));
    server.is_empty().await;
}

async fn second_signal_ends_the_wait_for_an_unresponsive_store(server: Server) {
    let mut holder = server.coord(&["lock", "jobs"]);
    holder.line().await;
    server[0].pause();
    holder.signal(Signal::INT);
    holder.is_silent().await;
    holder.signal(Signal::INT);
    let told = "coord lock: the lease ends by itself: not waited for\n";
    assert_eq!(holder.end().await, (Some(0), String::new(), told.to_owned()));
    server[0].resume();
}

/// Signals wait for who is stopped, and the lock waited with them.
async fn stopped_command_receives_signals(server: Server) {
    let script = "trap 'echo had it; exit 6' TERM; echo $$; kill -s STOP $$; read -r end; exit 0";
    let mut holder = server.coord(&["lock", "jobs", "--", "sh", "-c", script]);
    let id = holder.number().await;
    until("it is stopped", async || state(id) == Some('T')).await;
    holder.signal(Signal::TERM);
    assert_eq!(holder.line().await, "had it");
    assert_eq!(holder.status().await, Some(6));
    server.is_empty().await;
}
