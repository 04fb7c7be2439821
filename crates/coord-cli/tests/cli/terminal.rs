//! At a terminal: `script` makes one, and runs a shell in it.

use crate::lock::holder;
use crate::program::{Program, Server};

crate::stories![
    who_waits_at_a_terminal_is_told_how_many_are_before,
    command_can_read_from_the_terminal_and_the_shell_after_it,
    interrupt_from_the_terminal_reaches_the_command,
    command_that_is_stopped_from_the_terminal_goes_on,
];

/// Waits, within a command, until the terminal is its own: field 8 of the line is whose it is.
const FOREGROUND: &str = "while read -r _ _ _ _ group _ _ whose _ < /proc/$$/stat; \
    [ $group != $whose ]; do sleep 0.02; done";

/// A shell at a terminal of its own, with `$COORD` for the program.
fn at_a_terminal(server: &Server, line: &str) -> Program {
    let mut command = tokio::process::Command::new("script");
    command.args(["-q", "-e", "-f", "-c", line, "/dev/null"]);
    command.env("COORD", env!("CARGO_BIN_EXE_coord")).env("SHELL", "/bin/sh");
    command.env("TERM", "xterm").env("ETCDCTL_ENDPOINTS", server.endpoints().join(","));
    Program::started(command)
}

async fn who_waits_at_a_terminal_is_told_how_many_are_before(server: Server) {
    let mut first = holder(&server, "jobs").await;
    let mut second = server.etcdctl(&["lock", "jobs"]);
    server.line_has("jobs", 2).await;
    let mut waiter = at_a_terminal(&server, "\"$COORD\" lock jobs -- echo runs");
    waiter.shows("waiting: 2 before you").await;
    first.hang_up();
    assert_eq!(first.status().await, Some(0));
    second.line().await;
    waiter.shows("waiting: 1 before you").await;
    second.signal(rustix::process::Signal::INT);
    assert_eq!(second.status().await, Some(0));
    waiter.shows("runs").await;
    assert_eq!(waiter.status().await, Some(0));
}

async fn command_can_read_from_the_terminal_and_the_shell_after_it(server: Server) {
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
    let command = format!(
        "\"$COORD\" lock jobs -- sh -c 'trap \"echo had it; exit 6\" INT; {FOREGROUND}; echo ready; \
        while :; do sleep 0.05; done'"
    );
    let mut shell = at_a_terminal(&server, &command);
    shell.shows("ready").await;
    shell.say("\u{3}").await;
    shell.shows("had it").await;
    assert_eq!(shell.status().await, Some(6));
    server.is_empty().await;
}

/// It starts nothing while it is stopped: a shell that is just about to cannot be.
async fn command_that_is_stopped_from_the_terminal_goes_on(server: Server) {
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
