//! The command and its processes: the signal mask, orphans, and processes of another user.

use std::path::Path;

use coord_core::Client;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use crate::lock::holder;
use crate::program::{Program, Server, THERE, lives, until};

crate::stories![
    signals_blocked_by_the_parent_are_received,
    signal_mask_of_the_parent_is_that_of_the_command,
    orphans_of_the_command_are_reaped_as_they_die,
    lock_is_kept_while_a_command_refuses_signals,
    lock_is_kept_for_a_process_that_outlives_the_command,
    command_that_refuses_signals_is_waited_for_after_a_loss,
    second_signal_ends_the_wait_for_a_command_that_refuses_kill,
];

/// The four signals that end coord.
const BLOCKED: &str = "--block-signal=HUP,INT,QUIT,TERM";

/// `coord` with these arguments, started by a parent that blocks the four signals.
fn blocked(server: &Server, arguments: &[&str]) -> Program {
    let mut command = Command::new("env");
    command.args([BLOCKED, env!("CARGO_BIN_EXE_coord")]).args(arguments);
    command.env("ETCDCTL_ENDPOINTS", server.endpoints().join(","));
    Program::started(command)
}

/// No signal was delivered, so that KILL followed and the lock outlived its holder.
async fn signals_blocked_by_the_parent_are_received(server: Server) {
    let signals = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];
    for signal in signals {
        let mut lock = blocked(&server, &["lock", "jobs"]);
        lock.line().await;
        let waiter = blocked(&server, &["lock", "jobs"]);
        server.line_has("jobs", 2).await;
        waiter.signal(signal);
        assert_eq!(waiter.status().await, Some(128 + signal.as_raw()));
        lock.signal(signal);
        assert_eq!(lock.end().await, (Some(0), String::new(), String::new()));
        let mut elect = blocked(&server, &["elect", "jobs", "here"]);
        elect.line().await;
        elect.signal(signal);
        assert_eq!(elect.status().await, Some(0));
        let mut observe = blocked(&server, &["observe", "jobs"]);
        assert_eq!(observe.line().await, "-");
        observe.signal(signal);
        assert_eq!(observe.status().await, Some(0));
        let mut serve = blocked(&server, &["serve", "--listen", "127.0.0.1:0"]);
        serve.line().await;
        serve.signal(signal);
        assert_eq!(serve.status().await, Some(0));
    }
    server.is_empty().await;
}

/// Bit n - 1 of the mask stands for signal n: HUP, INT and QUIT are 1 to 3, TERM is 15.
async fn signal_mask_of_the_parent_is_that_of_the_command(server: Server) {
    let arguments = ["lock", "jobs", "--", "grep", "SigBlk", "/proc/self/status"];
    let (status, mask, _) = blocked(&server, &arguments).end().await;
    assert_eq!((status, mask.as_str()), (Some(0), "SigBlk:\t0000000000004007\n"));
    let (status, mask, _) = server.coord(&arguments).end().await;
    assert_eq!((status, mask.as_str()), (Some(0), "SigBlk:\t0000000000000000\n"));
}

/// How many dead children a process has that it has not reaped.
fn dead_children(parent: i32) -> usize {
    let processes = std::fs::read_dir("/proc").expect("it lists processes");
    let of_parent = processes.filter(|process| {
        let path = process.as_ref().expect("it can be read").path().join("stat");
        let stat = std::fs::read_to_string(path).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(&format!("Z {parent} ")))
    });
    of_parent.count()
}

/// A command that ran for long filled the process table. What it waits for itself stays its own.
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
    until("the orphans are reaped", async || dead_children(coord) == 0).await;
    holder.hang_up();
    assert_eq!(holder.end().await, (Some(5), String::new(), String::new()));
    server.is_empty().await;
}

/// The user of coord, and the user of commands that refuse coord's signals.
const COORD_USER: &str = "--reuid=65534";
const OTHER_USER: &str = "setpriv --reuid=65533";

/// `coord` as a user that may become another and may not signal that other's processes. Its
/// binary and folders may be closed to that user, hence the second capability.
fn as_a_user(server: &Server, arguments: &[&str]) -> Program {
    const CAPABILITIES: &str = "+setuid,+dac_read_search";
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("setpriv")
    } else {
        // Only root can become another user.
        let mut sudo = Command::new("sudo");
        sudo.args(["--non-interactive", "--preserve-env=ETCDCTL_ENDPOINTS", "setpriv"]);
        sudo
    };
    command.args([COORD_USER, "--clear-groups"]);
    command.args(["--inh-caps", CAPABILITIES, "--ambient-caps", CAPABILITIES]);
    command.arg(env!("CARGO_BIN_EXE_coord")).args(arguments);
    command.env("ETCDCTL_ENDPOINTS", server.endpoints().join(",")).current_dir(Path::new("/"));
    Program::started(command)
}

/// Prints its number and that of coord, which is `$COORD`, and runs until its input ends, as the
/// other user.
fn of_another_user() -> String {
    format!("exec {OTHER_USER} sh -c 'echo $$; echo $COORD; read -r end; exit 6'")
}

/// The same, as the command of coord.
fn command_of_another_user() -> String {
    format!("export COORD=$PPID; {}", of_another_user())
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
    assert!(kill.status().expect("sudo is there").success());
}

/// `coord lock jobs -- sudo ./backup.sh`: the signal was lost, and nothing was reported.
async fn lock_is_kept_while_a_command_refuses_signals(server: Server) {
    let script = command_of_another_user();
    let mut holder = as_a_user(&server, &["lock", "jobs", "--", "sh", "-c", &script]);
    let (id, coord) = (holder.number().await, holder.number().await);
    terminate(coord);
    holder.complains(&format!("process {id} of the command refuses TERM")).await;
    assert!(lives(id) && server.keys("jobs/").await.len() == 1);
    holder.hang_up();
    assert_eq!(holder.status().await, Some(6));
    server.is_empty().await;
}

/// The shell ends on TERM and what it runs does not: the group was taken to be gone.
async fn lock_is_kept_for_a_process_that_outlives_the_command(server: Server) {
    let script = "export COORD=$PPID; exec 3<&0; sh -c \"$0\" <&3 & wait";
    let arguments = ["lock", "jobs", "--", "sh", "-c", script, &of_another_user()];
    let mut holder = as_a_user(&server, &arguments);
    let (id, coord) = (holder.number().await, holder.number().await);
    terminate(coord);
    holder.complains(&format!("process {id} of the command refuses TERM")).await;
    holder.is_silent().await;
    assert!(lives(id) && server.keys("jobs/").await.len() == 1);
    holder.hang_up();
    assert_eq!(holder.status().await, Some(143));
    assert!(!lives(id));
    server.is_empty().await;
}

async fn command_that_refuses_signals_is_waited_for_after_a_loss(server: Server) {
    let script = command_of_another_user();
    let arguments = ["lock", "jobs", "--grace", "100ms", "--", "sh", "-c", &script];
    let mut lost = as_a_user(&server, &arguments);
    let (id, _) = (lost.number().await, lost.number().await);
    let key = server.keys("jobs/").await.remove(0);
    server.kv.delete(key).await.expect(THERE);
    lost.complains("lost: the key was deleted by somebody else").await;
    for signal in ["TERM", "KILL"] {
        lost.complains(&format!("process {id} of the command refuses {signal}")).await;
    }
    lost.is_silent().await;
    assert!(lives(id));
    // The lock itself is another client's to take by then.
    let mut next = holder(&server, "jobs").await;
    lost.hang_up();
    assert_eq!(lost.status().await, Some(122));
    assert!(!lives(id));
    next.hang_up();
    assert_eq!(next.status().await, Some(0));
    server.is_empty().await;
}

/// Only KILL ended such a coord.
async fn second_signal_ends_the_wait_for_a_command_that_refuses_kill(server: Server) {
    let script = command_of_another_user();
    let arguments = ["lock", "jobs", "--grace", "100ms", "--", "sh", "-c", &script];
    let mut lost = as_a_user(&server, &arguments);
    let (id, coord) = (lost.number().await, lost.number().await);
    let key = server.keys("jobs/").await.remove(0);
    server.kv.delete(key).await.expect(THERE);
    lost.complains(&format!("process {id} of the command refuses KILL")).await;
    send(coord, Signal::TERM);
    lost.complains(&format!("TERM: process {id} of the command still runs")).await;
    assert!(lives(coord) && lives(id));
    send(coord, Signal::INT);
    until("coord ends", async || !lives(coord)).await;
    assert!(lives(id), "coord cannot end it");
    lost.hang_up();
    assert_eq!(lost.status().await, Some(122));
}
