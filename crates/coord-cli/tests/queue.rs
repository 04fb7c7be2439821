//! `coord queue`, tested with the binary on a store that `coord serve` keeps in memory.

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::{coord, program, text};
use tokio::time::Instant;

/// A server, which ends with the test.
struct Server {
    child: Child,
    endpoint: String,
}

impl Server {
    fn start() -> Self {
        let mut command = program();
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program is built");
        let stdout = child.stdout.as_mut().expect("it is a pipe");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("it prints its address");
        let endpoint = line.trim().rsplit(' ').next().expect("it ends with the address").to_owned();
        Self { child, endpoint }
    }

    /// Runs `coord queue` with these arguments and this input. Returns the exit status and the
    /// output.
    fn run(&self, arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
        let mut command = program();
        command.arg("queue").args(&arguments[..2]).args(["--endpoints", &self.endpoint]);
        command.args(&arguments[2..]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program is built");
        let mut stdin = child.stdin.take().expect("it is a pipe");
        // A run that does not read its input may have closed it.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// The standard output of a successful run.
    fn stdout(&self, arguments: &[&str]) -> String {
        let (status, stdout, stderr) = self.run(arguments, "");
        assert_eq!((status, stderr.as_str()), (Some(0), ""), "{arguments:?}");
        stdout
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn messages_are_put_taken_and_counted() {
    let server = Server::start();
    assert!(server.stdout(&["put", "q", "first"]).starts_with("put at revision "));
    let (status, ..) = server.run(&["put", "q"], "second\n");
    assert_eq!(status, Some(0));
    server.stdout(&["put", "q", "urgent", "--priority", "1"]);
    let put = server.stdout(&["put", "q", "late", "--delay", "1h", "--json"]);
    let put: serde_json::Value = serde_json::from_str(&put).expect("it is JSON");
    assert_eq!(put["name"], "q");
    assert!(put["revision"].is_i64());
    assert_eq!(server.stdout(&["list", "q"]), "3 ready, 1 in delivery or delayed, 0 dead\n");

    let taken = server.stdout(&["take", "q", "--json"]);
    let taken: serde_json::Value = serde_json::from_str(&taken).expect("it is JSON");
    assert_eq!((&taken["payload"], &taken["attempts"]), (&"urgent".into(), &1.into()));
    let taken = server.stdout(&["take", "q", "--count", "2", "--", "cat"]);
    assert_eq!(taken, "firstsecond\n");
    let counts = server.stdout(&["list", "q", "--json"]);
    assert_eq!(counts, "{\"claimed\":1,\"dead\":0,\"name\":\"q\",\"ready\":0}\n");
}

#[test]
fn take_without_a_message_has_its_own_status() {
    let server = Server::start();
    for timeout in ["0s", "300ms"] {
        let (status, stdout, stderr) = server.run(&["take", "q", "--timeout", timeout], "");
        assert_eq!((status, stdout.as_str()), (Some(4), ""));
        assert_eq!(stderr, "coord queue: take from q: no message\n");
    }
}

#[test]
fn failed_command_releases_the_message_until_it_is_dead() {
    let server = Server::start();
    server.stdout(&["put", "q", "poison"]);
    let script = "echo attempt $COORD_MESSAGE_ATTEMPTS; exit 7";
    for attempt in 1..=2 {
        let take = ["take", "q", "--max-attempts", "2", "--", "sh", "-c", script];
        let (status, stdout, stderr) = server.run(&take, "");
        assert_eq!((status, stdout), (Some(5), format!("attempt {attempt}\n")));
        assert!(stderr.contains("exit status: 7: the message was released"), "{stderr}");
    }
    assert_eq!(server.stdout(&["list", "q", "--dead"]), "2 100 poison\n");
    assert_eq!(server.stdout(&["list", "q", "--dead", "--put-back"]), "2 100 poison\n");
    assert_eq!(server.stdout(&["list", "q"]), "1 ready, 0 in delivery or delayed, 0 dead\n");
    let (status, _, stderr) = server.run(&["take", "q", "--", "/nowhere/x"], "");
    assert_eq!(status, Some(1));
    assert!(stderr.contains("run /nowhere/x"), "{stderr}");
    assert_eq!(server.stdout(&["take", "q", "--timeout", "0s"]), "poison\n", "released");
}

/// Regression: in the variable, control characters and invisible characters were escaped.
#[test]
fn command_receives_the_key_of_the_message_unescaped() {
    let server = Server::start();
    let queue = "a\u{200b}b";
    server.stdout(&["put", queue, "a"]);
    let key = server.stdout(&["take", queue, "--", "sh", "-c", "echo $COORD_MESSAGE_KEY"]);
    assert!(key.starts_with(&format!("{queue}/messages/00100/")), "{key}");
}

#[test]
fn failed_command_delays_the_message_until_the_next_attempt() {
    let server = Server::start();
    server.stdout(&["put", "q", "a"]);
    let take =
        ["take", "q", "--retry-after", "1s", "--", "sh", "-c", "exit $COORD_MESSAGE_ATTEMPTS"];
    let started = Instant::now();
    for attempt in 1..=2 {
        let (status, _, stderr) = server.run(&take, "");
        assert_eq!(status, Some(5), "{stderr}");
        assert!(stderr.contains(&format!("exit status: {attempt}: the message was released")));
    }
    assert!(started.elapsed() >= Duration::from_secs(1), "the second take waited");
    let (status, ..) = server.run(&["take", "q", "--retry-after", "1h", "--", "false"], "");
    assert_eq!(status, Some(5));
    assert_eq!(server.stdout(&["list", "q"]), "0 ready, 1 in delivery or delayed, 0 dead\n");
}

#[test]
fn timeout_beyond_the_range_of_the_clock_is_no_limit() {
    let server = Server::start();
    server.stdout(&["put", "q", "a"]);
    assert_eq!(server.stdout(&["take", "q", "--timeout", "18446744073709551615s"]), "a\n");
}

/// A process that the command has left keeps the input open, which has more than a pipe holds.
#[test]
fn take_ends_when_its_command_has_ended() {
    let server = Server::start();
    let (status, ..) = server.run(&["put", "q"], &"x".repeat(300_000));
    assert_eq!(status, Some(0));
    let started = Instant::now();
    let script = "exec 3<&0; sleep 30 > /dev/null 2>&1 & exit 0";
    server.stdout(&["take", "q", "--", "sh", "-c", script]);
    assert!(started.elapsed() < Duration::from_secs(20), "it did not wait for the other process");
    assert_eq!(server.stdout(&["list", "q"]), "0 ready, 0 in delivery or delayed, 0 dead\n");
}

/// Sends TERM to a program and waits for its end.
fn terminate(program: &mut Child) -> Option<i32> {
    let killed = Command::new("kill").arg(program.id().to_string()).status();
    assert!(killed.expect("kill runs").success());
    program.wait().expect("it ends").code()
}

#[test]
fn signal_kills_the_process_group_of_the_command() {
    let server = Server::start();
    server.stdout(&["put", "q", "a"]);
    let mut take = program();
    take.args(["queue", "take", "q", "--endpoints", &server.endpoint, "--", "sh", "-c"]);
    take.arg("sleep 60 & echo started; wait").stdout(Stdio::piped());
    let mut take = take.spawn().expect("the program is built");
    let mut stdout = BufReader::new(take.stdout.take().expect("it is a pipe"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("it prints a line");
    let started = Instant::now();
    assert_eq!(terminate(&mut take), Some(128 + 15));
    // The output ends when no process has it open any more.
    stdout.read_line(&mut line).expect("it ends");
    assert_eq!(line, "started\n");
    assert!(started.elapsed() < Duration::from_secs(20), "a process of the command still ran");
    assert_eq!(server.stdout(&["list", "q"]), "1 ready, 0 in delivery or delayed, 0 dead\n");
}

#[test]
fn command_of_take_gets_the_inherited_signal_mask() {
    let server = Server::start();
    server.stdout(&["put", "q", "a"]);
    let mut take = Command::new("env");
    take.arg("--block-signal=TERM").arg(program().get_program());
    take.args(["queue", "take", "q", "--endpoints", &server.endpoint]);
    let output = take.args(["--", "grep", "SigBlk", "/proc/self/status"]).output();
    let output = text(output.expect("env runs").stdout);
    assert_eq!(output, "SigBlk:\t0000000000004000\n", "TERM is signal 15");
}

#[test]
fn signal_ends_a_take_that_connects() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let endpoint = silent.local_addr().expect("it is bound").to_string();
    let mut take = program();
    take.args(["queue", "take", "q", "--connect-timeout", "60s", "--endpoints", &endpoint]);
    let mut take = take.spawn().expect("the program is built");
    let connection = silent.accept().expect("it connects");
    let started = Instant::now();
    assert_eq!(terminate(&mut take), Some(128 + 15));
    assert!(started.elapsed() < Duration::from_secs(20));
    drop(connection);
}

#[test]
fn dead_letter_is_printed_by_the_command_that_put_it_back() {
    let server = Server::start();
    server.stdout(&["put", "q", "a"]);
    let (status, ..) = server.run(&["take", "q", "--max-attempts", "1", "--", "false"], "");
    assert_eq!(status, Some(5));
    let letter = server.stdout(&["list", "q", "--dead", "--json"]);
    let letter: serde_json::Value = serde_json::from_str(&letter).expect("it is JSON");
    assert!(letter["key"].as_str().is_some_and(|key| key.starts_with("q/dead/")), "{letter}");
    // Of two commands that put it back at once, only one prints it.
    let both = std::thread::scope(|scope| {
        let list = || server.stdout(&["list", "q", "--dead", "--put-back"]);
        let (one, other) = (scope.spawn(list), scope.spawn(list));
        [one, other].map(|listed| listed.join().expect("it ends")).concat()
    });
    assert_eq!(both, "1 100 a\n");
}

#[test]
fn invalid_arguments_of_queue_are_usage_errors() {
    let server = Server::start();
    for line in [
        &["put", "", "a"][..],
        &["put", "q", "a", "--delay", "1500ms"],
        &["put", "q", "a", "--priority", "65536"],
        &["take", "q", "--max-attempts", "0"],
        &["take", "q", "--json", "--", "cat"],
        &["take", "q", "--retry-after", "3s"],
        &["take", "q", "--retry-after", "0s", "--", "cat"],
        &["take", "q", "--retry-after", "9000000001s", "--", "cat"],
        &["list", "q", "--put-back"],
    ] {
        let (status, stdout, stderr) = server.run(line, "");
        assert_eq!((status, stdout.as_str()), (Some(2), ""), "{line:?}: {stderr}");
    }
    assert_eq!(coord(&["queue"]).status.code(), Some(2));
    for line in [
        &["put", "q", "a", "--delay", "1500ms"][..],
        &["take", "q", "--retry-after", "1500ms", "--", "cat"],
    ] {
        let (_, _, stderr) = server.run(line, "");
        let expected =
            "invalid delay 1.5s: must be a whole number of seconds, from 1 to 9000000000";
        assert!(stderr.contains(expected), "{stderr}");
    }
}
