//! At a terminal: `script` makes one, and runs a shell in it.

use rustix::process::{Pid, Signal, kill_process};

use crate::lock::holder;
use crate::program::{Program, Server, state, until};

crate::stories![
    waiter_at_a_terminal_sees_how_many_are_ahead,
    candidate_at_a_terminal_sees_how_many_are_ahead,
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

/// Waits, within a command, until the terminal is its own: field 8 of the line is whose it is.
const FOREGROUND: &str = "while read -r _ _ _ _ group _ _ whose _ < /proc/$$/stat; \
    [ $group != $whose ]; do sleep 0.02; done";

/// A shell at a terminal of its own, with `$COORD` for the program.
pub(crate) fn at_a_terminal(server: &Server, line: &str) -> Program {
    let mut command = tokio::process::Command::new("script");
    command.args(["-q", "-e", "-f", "-c", line, "/dev/null"]);
    command.env("COORD", env!("CARGO_BIN_EXE_coord")).env("SHELL", "/bin/sh");
    command.env("TERM", "xterm").env("ETCDCTL_ENDPOINTS", server.endpoints().join(","));
    Program::started(command)
}

async fn waiter_at_a_terminal_sees_how_many_are_ahead(server: Server) {
    let mut first = holder(&server, "jobs").await;
    let mut second = server.etcdctl(&["lock", "jobs"]);
    server.line_has("jobs", 2).await;
    let mut waiter = at_a_terminal(&server, "\"$COORD\" lock jobs -- echo runs");
    waiter.shows("waiting: 2 before you").await;
    first.hang_up();
    assert_eq!(first.status().await, Some(0));
    second.line().await;
    waiter.shows("waiting: 1 before you").await;
    second.signal(Signal::INT);
    assert_eq!(second.status().await, Some(0));
    waiter.shows("runs").await;
    assert_eq!(waiter.status().await, Some(0));
}

/// The word is written over when it leads, and what it prints then stands alone.
async fn candidate_at_a_terminal_sees_how_many_are_ahead(server: Server) {
    let mut first = server.coord(&["elect", "jobs", "first"]);
    first.line().await;
    let mut second = server.etcdctl(&["elect", "jobs", "second"]);
    server.line_has("jobs", 2).await;
    let mut third = at_a_terminal(&server, "\"$COORD\" elect jobs third -- echo leads");
    third.shows("waiting: 2 before you").await;
    first.signal(Signal::TERM);
    assert_eq!(first.status().await, Some(0));
    second.line().await;
    third.shows("waiting: 1 before you").await;
    second.signal(Signal::INT);
    assert_eq!(second.status().await, Some(0));
    third.shows("\r\u{1b}[2Kleads").await;
    assert_eq!(third.status().await, Some(0));
}

async fn command_reads_the_terminal_and_then_the_shell_does(server: Server) {
    let command = "\"$COORD\" lock jobs -- sh -c 'echo ready; read -r a; echo command had $a'; \
        read -r b; echo shell had $b";
    let mut shell = at_a_terminal(&server, command);
    shell.shows("ready").await;
    shell.say("one").await;
    shell.shows("command had one").await;
    shell.say("two").await;
    shell.shows("shell had two").await;
    assert_eq!(shell.status().await, Some(0));
    server.is_empty().await;
}

async fn interrupt_from_the_terminal_reaches_the_command(server: Server) {
    interrupt_reaches_the_command_of(server, "lock jobs").await;
}

async fn interrupt_from_the_terminal_reaches_the_command_of_a_leader(server: Server) {
    interrupt_reaches_the_command_of(server, "elect jobs here").await;
}

async fn interrupt_reaches_the_command_of(server: Server, holder: &str) {
    let command = format!(
        "\"$COORD\" {holder} -- sh -c 'trap \"echo had it; exit 6\" INT; {FOREGROUND}; echo ready; \
        while :; do sleep 0.05; done'"
    );
    let mut shell = at_a_terminal(&server, &command);
    shell.shows("ready").await;
    shell.say("\u{3}").await;
    shell.shows("had it").await;
    assert_eq!(shell.status().await, Some(6));
    server.is_empty().await;
}

/// The terminal sends INT to the command's group only, and the prompt was dead for an hour.
async fn interrupt_of_the_command_at_a_terminal_ends_the_minimum_hold(server: Server) {
    for (key, status) in [("\u{3}", 130), ("\u{1c}", 131)] {
        let command = format!(
            "trap : INT QUIT; \"$COORD\" lock jobs --hold-at-least 1h -- \
            sh -c '{FOREGROUND}; echo ready; exec sleep 100'; echo ended with $?"
        );
        let mut shell = at_a_terminal(&server, &command);
        shell.shows("ready").await;
        shell.say(key).await;
        shell.shows(&format!("ended with {status}")).await;
        assert_eq!(shell.status().await, Some(0));
        server.is_empty().await;
    }
}

async fn minimum_hold_at_a_terminal_is_reported_and_interrupted(server: Server) {
    let command = "trap : INT; \"$COORD\" lock jobs --hold-at-least 1h -- true; \
        echo ended with $?";
    let mut shell = at_a_terminal(&server, command);
    shell.shows("coord lock: jobs is kept for another ").await;
    shell.shows("(--hold-at-least); ctrl-C releases it").await;
    shell.say("\u{3}").await;
    shell.shows("ended with 0").await;
    assert_eq!(shell.status().await, Some(0));
    server.is_empty().await;
}

async fn leader_without_command_resigns_on_terminal_interrupt(server: Server) {
    let command = "trap : INT; \"$COORD\" elect jobs here; echo ended with $?";
    let mut shell = at_a_terminal(&server, command);
    shell.shows("jobs/").await;
    shell.say("\u{3}").await;
    shell.shows("ended with 0").await;
    assert_eq!(shell.status().await, Some(0));
    server.is_empty().await;
}

/// It starts nothing while it is stopped: a shell that is just about to cannot be.
async fn command_stopped_from_the_terminal_continues(server: Server) {
    let command = format!(
        "\"$COORD\" lock jobs -- sh -c 'trap \"echo went on\" CONT; {FOREGROUND}; echo ready; \
        while read -r a; [ \"$a\" != one ]; do :; done; exit 5'"
    );
    let mut shell = at_a_terminal(&server, &command);
    shell.shows("ready").await;
    shell.say("\u{1a}").await;
    shell.shows("went on").await;
    shell.say("one").await;
    assert_eq!(shell.status().await, Some(5));
    server.is_empty().await;
}

/// `tar c . | coord lock jobs -- ssh backup 'tar x'`, which asks for a password: nobody could be
/// asked, and the lock was held until KILL.
async fn command_with_redirected_input_can_read_the_terminal(server: Server) {
    let command = "echo input | \"$COORD\" lock jobs -- \
        sh -c 'read -r a; echo ready; read -r b < /dev/tty; echo had $a, $b'";
    let mut shell = at_a_terminal(&server, command);
    shell.shows("ready").await;
    shell.say("word").await;
    shell.shows("had input, word").await;
    assert_eq!(shell.status().await, Some(0));
    server.is_empty().await;
}

/// `coord lock jobs -- make | less`: the command does not read, and what shows its output does.
async fn pager_after_the_command_can_read_the_terminal(server: Server) {
    let command = "trap : INT; \"$COORD\" lock jobs -- sh -c 'echo text; exec sleep 100' | \
        { read -r a; echo ready; read -r b < /dev/tty; echo had $a, $b; }";
    let mut shell = at_a_terminal(&server, command);
    shell.shows("ready").await;
    shell.say("key").await;
    shell.shows("had text, key").await;
    shell.say("\u{3}").await;
    shell.status().await;
    server.is_empty().await;
}

/// It is stopped, since another shell has the terminal, and signals wait for who is stopped.
async fn background_command_waiting_for_terminal_receives_signals(server: Server) {
    let holder = "\"$COORD\" lock jobs -- sh -c 'trap \"echo had it; exit 6\" TERM; \
        { echo $$ $PPID; read -r a < /dev/tty; }'";
    let command = format!("set -m; {holder} & wait $!; echo ended with $?");
    let mut shell = at_a_terminal(&server, &command);
    let ids = shell.line().await;
    let ids: Vec<i32> = ids.split_whitespace().map(|id| id.parse().expect("a number")).collect();
    until("it is stopped", async || state(ids[0]) == Some('T')).await;
    let coord = Pid::from_raw(ids[1]).expect("no process has the number 0");
    kill_process(coord, Signal::TERM).expect("it runs");
    shell.shows("had it").await;
    shell.shows("ended with 6").await;
    assert_eq!(shell.status().await, Some(0));
    server.is_empty().await;
}
