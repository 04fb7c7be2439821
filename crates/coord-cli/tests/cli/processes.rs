//! Processes of the command: signal mask, orphans, and processes of another user.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use crate::lock::holder;
use crate::program::{AVAILABLE, Program, Server, is_running, wait_until};

crate::tests![
    signals_blocked_by_the_parent_are_received,
    signal_mask_of_the_parent_is_that_of_the_command,
    orphans_of_the_command_are_reaped_as_they_die,
    lock_is_kept_while_a_command_refuses_signals,
    lock_is_kept_for_a_process_that_outlives_the_command,
    command_that_refuses_signals_is_waited_for_after_a_loss,
    second_signal_ends_the_wait_for_a_command_that_refuses_kill,
];

/// A flag of `env` that blocks the signals that coord handles.
const BLOCK_SIGNALS_FLAG: &str = "--block-signal=HUP,INT,QUIT,TERM";

/// `coord` with these arguments, started by a parent that blocks the handled signals.
fn start_blocked(server: &Server, arguments: &[&str]) -> Program {
    let mut command = Command::new("env");
    command.args([BLOCK_SIGNALS_FLAG, env!("CARGO_BIN_EXE_coord")]).args(arguments);
    command.env("ETCDCTL_ENDPOINTS", server.endpoints().join(","));
    Program::start(command)
}

/// Regression: no signal was delivered, KILL followed, and the lock stayed until its lease ended.
async fn signals_blocked_by_the_parent_are_received(server: Server) {
    let signals = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];
    for signal in signals {
        let mut lock = start_blocked(&server, &["lock", "jobs"]);
        lock.line().await;
        let waiter = start_blocked(&server, &["lock", "jobs"]);
        server.wait_for_queue_length("jobs", 2).await;
        waiter.signal(signal);
        assert_eq!(waiter.status().await, Some(128 + signal.as_raw()));
        lock.signal(signal);
        assert_eq!(lock.end().await, (Some(0), String::new(), String::new()));
        let mut elect = start_blocked(&server, &["elect", "jobs", "here"]);
        elect.line().await;
        elect.signal(signal);
        assert_eq!(elect.status().await, Some(0));
        let mut observe = start_blocked(&server, &["observe", "jobs"]);
        assert_eq!(observe.line().await, "-");
        observe.signal(signal);
        assert_eq!(observe.status().await, Some(0));
        let mut serve = start_blocked(&server, &["serve", "--listen", "127.0.0.1:0"]);
        serve.line().await;
        serve.signal(signal);
        assert_eq!(serve.status().await, Some(0));
    }
    server.assert_empty().await;
}

/// Bit n - 1 of the mask is signal n: HUP, INT and QUIT are 1 to 3, TERM is 15.
async fn signal_mask_of_the_parent_is_that_of_the_command(server: Server) {
    let arguments = ["lock", "jobs", "--", "grep", "SigBlk", "/proc/self/status"];
    let (status, mask, _) = start_blocked(&server, &arguments).end().await;
    assert_eq!((status, mask.as_str()), (Some(0), "SigBlk:\t0000000000004007\n"));
    let (status, mask, _) = server.coord(&arguments).end().await;
    assert_eq!((status, mask.as_str()), (Some(0), "SigBlk:\t0000000000000000\n"));
}

/// The number of dead children that a process has not reaped.
fn dead_children(parent: i32) -> usize {
    let processes = std::fs::read_dir("/proc").expect("it lists processes");
    let of_parent = processes.filter(|process| {
        let path = process.as_ref().expect("it can be read").path().join("stat");
        let stat = std::fs::read_to_string(path).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(&format!("Z {parent} ")))
    });
    of_parent.count()
}

/// Regression: a long-running command filled the process table. It still waits for its own
/// children.
async fn orphans_of_the_command_are_reaped_as_they_die(server: Server) {
    let script = "echo $PPID; for n in 1 2 3 4 5 6 7 8 9 10; do (sh -c 'exit 3' &); done; \
        sh -c 'exit 7' & wait $!; echo $?; \
        for n in 1 2 3 4 5; do (sleep 0.1 &); sh -c \"exit $n\"; echo $?; done; \
        read -r end; exit 5";
    let mut holder = server.coord(&["lock", "jobs", "--", "sh", "-c", script]);
    let coord = holder.number().await;
    assert_eq!(holder.number().await, 7, "the command waits for its own child");
    for n in 1..=5 {
        assert_eq!(holder.number().await, n);
    }
    wait_until("the orphans are reaped", async || dead_children(coord) == 0).await;
    holder.close_input();
    assert_eq!(holder.end().await, (Some(5), String::new(), String::new()));
    server.assert_empty().await;
}

/// The user that runs coord, as a flag of `setpriv`.
const COORD_USER_FLAG: &str = "--reuid=65534";
/// A command that changes to a user whose processes refuse the signals of coord.
const RUN_AS_OTHER_USER: &str = "setpriv --reuid=65533";

/// `coord` as a user that can change to another user, but cannot signal processes of that user. The
/// second capability lets it read its binary, whatever the permissions of the build directory.
fn start_as_user(server: &Server, arguments: &[&str]) -> Program {
    const CAPABILITIES: &str = "+setuid,+dac_read_search";
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("setpriv")
    } else {
        // Only root can change to another user.
        let mut sudo = Command::new("sudo");
        sudo.args(["--non-interactive", "--preserve-env=ETCDCTL_ENDPOINTS", "setpriv"]);
        sudo
    };
    command.args([COORD_USER_FLAG, "--clear-groups"]);
    command.args(["--inh-caps", CAPABILITIES, "--ambient-caps", CAPABILITIES]);
    command.arg(env!("CARGO_BIN_EXE_coord")).args(arguments);
    command.env("ETCDCTL_ENDPOINTS", server.endpoints().join(",")).current_dir(Path::new("/"));
    Program::start(command)
}

/// A script of the other user: prints its process id and that of coord, `$COORD`, and runs until
/// its input ends.
fn script_of_other_user() -> String {
    format!("exec {RUN_AS_OTHER_USER} sh -c 'echo $$; echo $COORD; read -r end; exit 6'")
}

/// The same script as the command of coord.
fn command_of_other_user() -> String {
    format!("export COORD=$PPID; {}", script_of_other_user())
}

/// Sends TERM to a coord that runs as another user than the tests do.
fn terminate(coord: i32) {
    send(coord, Signal::TERM);
}

/// Sends a signal to a coord that runs as another user than the tests do.
fn send(coord: i32, signal: Signal) {
    if rustix::process::geteuid().is_root() {
        let coord = Pid::from_raw(coord).expect("no process has the number 0");
        kill_process(coord, signal).expect("it runs");
        return;
    }
    let mut kill = std::process::Command::new("sudo");
    kill.args([
        "--non-interactive",
        "kill",
        "-s",
        &signal.as_raw().to_string(),
        &coord.to_string(),
    ]);
    assert!(kill.status().expect("sudo is installed").success());
}

/// Regression: the signal of `coord lock jobs -- sudo ./backup.sh` was lost without a report.
async fn lock_is_kept_while_a_command_refuses_signals(server: Server) {
    let script = command_of_other_user();
    let mut holder = start_as_user(&server, &["lock", "jobs", "--", "sh", "-c", &script]);
    let (id, coord) = (holder.number().await, holder.number().await);
    terminate(coord);
    holder.wait_for_stderr(&format!("process {id} of the command refuses TERM")).await;
    assert!(is_running(id) && server.keys("jobs/").await.len() == 1);
    holder.close_input();
    assert_eq!(holder.status().await, Some(6));
    server.assert_empty().await;
}

/// Regression: a shell ended on TERM and its child did not, but the group counted as ended.
async fn lock_is_kept_for_a_process_that_outlives_the_command(server: Server) {
    let script = "export COORD=$PPID; exec 3<&0; sh -c \"$0\" <&3 & wait";
    let arguments = ["lock", "jobs", "--", "sh", "-c", script, &script_of_other_user()];
    let mut holder = start_as_user(&server, &arguments);
    let (id, coord) = (holder.number().await, holder.number().await);
    terminate(coord);
    holder.wait_for_stderr(&format!("process {id} of the command refuses TERM")).await;
    holder.assert_silent().await;
    assert!(is_running(id) && server.keys("jobs/").await.len() == 1);
    holder.close_input();
    assert_eq!(holder.status().await, Some(143));
    assert!(!is_running(id));
    server.assert_empty().await;
}

async fn command_that_refuses_signals_is_waited_for_after_a_loss(server: Server) {
    let script = command_of_other_user();
    let arguments = ["lock", "jobs", "--grace", "100ms", "--", "sh", "-c", &script];
    let mut lost = start_as_user(&server, &arguments);
    let (id, _) = (lost.number().await, lost.number().await);
    let key = server.keys("jobs/").await.remove(0);
    server.client.delete(key).await.expect(AVAILABLE);
    lost.wait_for_stderr("lost: another client deleted the key").await;
    for signal in ["TERM", "KILL"] {
        lost.wait_for_stderr(&format!("process {id} of the command refuses {signal}")).await;
    }
    lost.assert_silent().await;
    assert!(is_running(id));
    // Another client can acquire the lock meanwhile.
    let mut next = holder(&server, "jobs").await;
    lost.close_input();
    assert_eq!(lost.status().await, Some(122));
    assert!(!is_running(id));
    next.close_input();
    assert_eq!(next.status().await, Some(0));
    server.assert_empty().await;
}

/// Regression: only KILL could end coord in this state.
async fn second_signal_ends_the_wait_for_a_command_that_refuses_kill(server: Server) {
    let script = command_of_other_user();
    let arguments = ["lock", "jobs", "--grace", "100ms", "--", "sh", "-c", &script];
    let mut lost = start_as_user(&server, &arguments);
    let (id, coord) = (lost.number().await, lost.number().await);
    let key = server.keys("jobs/").await.remove(0);
    server.client.delete(key).await.expect(AVAILABLE);
    lost.wait_for_stderr(&format!("process {id} of the command refuses KILL")).await;
    send(coord, Signal::TERM);
    lost.wait_for_stderr(&format!("TERM: process {id} of the command still runs")).await;
    assert!(is_running(coord) && is_running(id));
    send(coord, Signal::INT);
    wait_until("coord ends", async || !is_running(coord)).await;
    assert!(is_running(id), "coord cannot end it");
    lost.close_input();
    assert_eq!(lost.status().await, Some(122));
}
