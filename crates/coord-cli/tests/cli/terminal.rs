//! `coord lock` and `coord elect` at a terminal, which `script` creates.

use rustix::process::{Pid, Signal, kill_process};

use crate::lock::holder;
use crate::program::{Program, Server, state, wait_until};

crate::tests![
    waiter_at_a_terminal_shows_the_contenders_ahead,
    candidate_at_a_terminal_shows_the_contenders_ahead,
    command_reads_the_terminal_and_then_the_shell_does,
    interrupt_from_the_terminal_reaches_the_command,
    interrupt_from_the_terminal_reaches_the_command_of_a_leader,
    leader_without_command_resigns_on_terminal_interrupt,
    interrupt_of_the_command_at_a_terminal_ends_the_minimum_hold,
    minimum_hold_at_a_terminal_is_reported_and_interrupted,
    command_stopped_from_the_terminal_continues,
    command_with_redirected_input_can_read_the_terminal,
    pager_after_the_command_can_read_the_terminal,
    background_command_waiting_for_terminal_receives_signals,
];

/// A script that waits until its process group is in the foreground. Field 5 of `/proc/N/stat` is
/// the group, and field 8 the foreground group of the terminal.
const WAIT_FOREGROUND: &str = "while read -r _ _ _ _ group _ _ foreground _ < /proc/$$/stat; \
    [ $group != $foreground ]; do sleep 0.02; done";

/// A shell at a new terminal. Its variable `$COORD` is the program.
pub(crate) fn start_at_terminal(server: &Server, line: &str) -> Program {
    let mut command = tokio::process::Command::new("script");
    command.args(["-q", "-e", "-f", "-c", line, "/dev/null"]);
    command.env("COORD", env!("CARGO_BIN_EXE_coord")).env("SHELL", "/bin/sh");
    command.env("TERM", "xterm").env("ETCDCTL_ENDPOINTS", server.endpoints().join(","));
    Program::start(command)
}

async fn waiter_at_a_terminal_shows_the_contenders_ahead(server: Server) {
    let mut first = holder(&server, "jobs").await;
    let mut second = server.etcdctl(&["lock", "jobs"]);
    server.wait_for_queue_length("jobs", 2).await;
    let mut waiter = start_at_terminal(&server, "\"$COORD\" lock jobs -- echo runs");
    waiter.wait_for_text("waiting; contenders ahead: 2").await;
    first.close_input();
    assert_eq!(first.status().await, Some(0));
    second.line().await;
    waiter.wait_for_text("waiting; contenders ahead: 1").await;
    second.signal(Signal::INT);
    assert_eq!(second.status().await, Some(0));
    waiter.wait_for_text("runs").await;
    assert_eq!(waiter.status().await, Some(0));
}

/// The progress line is erased before the command prints.
async fn candidate_at_a_terminal_shows_the_contenders_ahead(server: Server) {
    let mut first = server.coord(&["elect", "jobs", "first"]);
    first.line().await;
    let mut second = server.etcdctl(&["elect", "jobs", "second"]);
    server.wait_for_queue_length("jobs", 2).await;
    let mut third = start_at_terminal(&server, "\"$COORD\" elect jobs third -- echo leads");
    third.wait_for_text("waiting; contenders ahead: 2").await;
    first.signal(Signal::TERM);
    assert_eq!(first.status().await, Some(0));
    second.line().await;
    third.wait_for_text("waiting; contenders ahead: 1").await;
    second.signal(Signal::INT);
    assert_eq!(second.status().await, Some(0));
    third.wait_for_text("\r\u{1b}[2Kleads").await;
    assert_eq!(third.status().await, Some(0));
}

async fn command_reads_the_terminal_and_then_the_shell_does(server: Server) {
    let command = "\"$COORD\" lock jobs -- sh -c 'echo ready; read -r a; echo command had $a'; \
        read -r b; echo shell had $b";
    let mut shell = start_at_terminal(&server, command);
    shell.wait_for_text("ready").await;
    shell.write_line("one").await;
    shell.wait_for_text("command had one").await;
    shell.write_line("two").await;
    shell.wait_for_text("shell had two").await;
    assert_eq!(shell.status().await, Some(0));
    server.assert_empty().await;
}

async fn interrupt_from_the_terminal_reaches_the_command(server: Server) {
    check_interrupt_reaches_command_of(server, "lock jobs").await;
}

async fn interrupt_from_the_terminal_reaches_the_command_of_a_leader(server: Server) {
    check_interrupt_reaches_command_of(server, "elect jobs here").await;
}

async fn check_interrupt_reaches_command_of(server: Server, holder: &str) {
    let command = format!(
        "\"$COORD\" {holder} -- sh -c 'trap \"echo received; exit 6\" INT; {WAIT_FOREGROUND}; echo ready; \
        while :; do sleep 0.05; done'"
    );
    let mut shell = start_at_terminal(&server, &command);
    shell.wait_for_text("ready").await;
    shell.write_line("\u{3}").await;
    shell.wait_for_text("received").await;
    assert_eq!(shell.status().await, Some(6));
    server.assert_empty().await;
}

/// Regression: the terminal sends INT to the command's group only, so that the prompt did not
/// return for an hour.
async fn interrupt_of_the_command_at_a_terminal_ends_the_minimum_hold(server: Server) {
    for (key, status) in [("\u{3}", 130), ("\u{1c}", 131)] {
        let command = format!(
            "trap : INT QUIT; \"$COORD\" lock jobs --hold-at-least 1h -- \
            sh -c '{WAIT_FOREGROUND}; echo ready; exec sleep 100'; echo ended with $?"
        );
        let mut shell = start_at_terminal(&server, &command);
        shell.wait_for_text("ready").await;
        shell.write_line(key).await;
        shell.wait_for_text(&format!("ended with {status}")).await;
        assert_eq!(shell.status().await, Some(0));
        server.assert_empty().await;
    }
}

async fn minimum_hold_at_a_terminal_is_reported_and_interrupted(server: Server) {
    let command = "trap : INT; \"$COORD\" lock jobs --hold-at-least 1h -- true; \
        echo ended with $?";
    let mut shell = start_at_terminal(&server, command);
    shell.wait_for_text("coord lock: jobs is kept for another ").await;
    shell.wait_for_text("(--hold-at-least); ctrl-C releases it").await;
    shell.write_line("\u{3}").await;
    shell.wait_for_text("ended with 0").await;
    assert_eq!(shell.status().await, Some(0));
    server.assert_empty().await;
}

async fn leader_without_command_resigns_on_terminal_interrupt(server: Server) {
    let command = "trap : INT; \"$COORD\" elect jobs here; echo ended with $?";
    let mut shell = start_at_terminal(&server, command);
    shell.wait_for_text("jobs/").await;
    shell.write_line("\u{3}").await;
    shell.wait_for_text("ended with 0").await;
    assert_eq!(shell.status().await, Some(0));
    server.assert_empty().await;
}

/// The shell uses builtins only: a shell that is about to start a process cannot be stopped.
async fn command_stopped_from_the_terminal_continues(server: Server) {
    let command = format!(
        "\"$COORD\" lock jobs -- sh -c 'trap \"echo continued\" CONT; {WAIT_FOREGROUND}; echo ready; \
        while read -r a; [ \"$a\" != one ]; do :; done; exit 5'"
    );
    let mut shell = start_at_terminal(&server, &command);
    shell.wait_for_text("ready").await;
    shell.write_line("\u{1a}").await;
    shell.wait_for_text("continued").await;
    shell.write_line("one").await;
    assert_eq!(shell.status().await, Some(5));
    server.assert_empty().await;
}

/// Regression: `tar c . | coord lock jobs -- ssh backup 'tar x'` could not read a password, and
/// held the lock until KILL.
async fn command_with_redirected_input_can_read_the_terminal(server: Server) {
    let command = "echo input | \"$COORD\" lock jobs -- \
        sh -c 'read -r a; echo ready; read -r b < /dev/tty; echo had $a, $b'";
    let mut shell = start_at_terminal(&server, command);
    shell.wait_for_text("ready").await;
    shell.write_line("word").await;
    shell.wait_for_text("had input, word").await;
    assert_eq!(shell.status().await, Some(0));
    server.assert_empty().await;
}

/// `coord lock jobs -- make | less`: the pager reads from the terminal, and the command does not.
async fn pager_after_the_command_can_read_the_terminal(server: Server) {
    let command = "trap : INT; \"$COORD\" lock jobs -- sh -c 'echo text; exec sleep 100' | \
        { read -r a; echo ready; read -r b < /dev/tty; echo had $a, $b; }";
    let mut shell = start_at_terminal(&server, command);
    shell.wait_for_text("ready").await;
    shell.write_line("key").await;
    shell.wait_for_text("had text, key").await;
    shell.write_line("\u{3}").await;
    shell.status().await;
    server.assert_empty().await;
}

/// The command is stopped because a shell is in the foreground. A stopped process receives no
/// signal.
async fn background_command_waiting_for_terminal_receives_signals(server: Server) {
    let holder = "\"$COORD\" lock jobs -- sh -c 'trap \"echo received; exit 6\" TERM; \
        { echo $$ $PPID; read -r a < /dev/tty; }'";
    let command = format!("set -m; {holder} & wait $!; echo ended with $?");
    let mut shell = start_at_terminal(&server, &command);
    let ids = shell.line().await;
    let ids: Vec<i32> = ids.split_whitespace().map(|id| id.parse().expect("a number")).collect();
    wait_until("the command is stopped", async || state(ids[0]) == Some('T')).await;
    let coord = Pid::from_raw(ids[1]).expect("no process has the number 0");
    kill_process(coord, Signal::TERM).expect("it runs");
    shell.wait_for_text("received").await;
    shell.wait_for_text("ended with 6").await;
    assert_eq!(shell.status().await, Some(0));
    server.assert_empty().await;
}
