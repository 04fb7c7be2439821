//! The harness: a running program with its input and output, and the etcd server that it uses.

use std::ops::Deref;
use std::process::Stdio;
use std::time::Duration;

use coord_core::{Client, kv::LeaseTimeToLive};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::{Pool, PooledCluster, Release};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

/// The message of `expect` on calls to the store: none of them fails in these tests.
pub(crate) const AVAILABLE: &str = "the store is available, and no session is lost";

/// The time limit of each wait, longer than any step takes on a slow machine.
pub(crate) const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// An empty etcd server, and a client of it.
pub(crate) struct Server {
    server: PooledCluster,
    pub(crate) release: Release,
    pub(crate) client: Client,
}

impl Server {
    pub(crate) async fn new(pool: &Pool, release: Release) -> Self {
        let server = pool.take_empty().await;
        let etcd = EtcdBackend::connect(server.endpoints()).await.expect("the server is ready");
        Self { server, release, client: Client::new(etcd) }
    }

    /// Starts `coord` with these arguments, on this server.
    pub(crate) fn coord(&self, arguments: &[&str]) -> Program {
        self.coord_with(|command| command.args(arguments))
    }

    /// Starts `coord` on this server. `configure` adds arguments and variables.
    pub(crate) fn coord_with(
        &self,
        configure: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Program {
        let mut command = coord();
        command.env("ETCDCTL_ENDPOINTS", self.endpoints().join(","));
        configure(&mut command);
        Program::start(command)
    }

    /// Starts the `etcdctl` of the same release as the server.
    pub(crate) fn etcdctl(&self, arguments: &[&str]) -> Program {
        let mut command = Command::from(self.release.etcdctl());
        command.args(["--endpoints", self[0].endpoint()]).args(arguments);
        Program::start(command)
    }

    /// The keys under a prefix, in the order of their creation.
    pub(crate) async fn keys(&self, prefix: &str) -> Vec<String> {
        let mut kvs = self.client.get_prefix(prefix.to_owned()).await.expect(AVAILABLE);
        kvs.sort_by_key(|kv| kv.create_revision);
        kvs.iter().map(|kv| kv.key.escape_ascii().to_string()).collect()
    }

    /// Waits until the queue has this many keys. Foreign keys and keys of child names count too.
    pub(crate) async fn wait_for_queue_length(&self, name: &str, length: usize) {
        let prefix = format!("{name}/");
        wait_until("the queue has this length", async || self.keys(&prefix).await.len() == length)
            .await;
    }

    /// Asserts that no key and no lease was left behind.
    pub(crate) async fn assert_empty(&self) {
        assert_eq!(self.keys("").await, [""; 0]);
        for lease in self.client.leases().await.expect(AVAILABLE).leases {
            let left = self.client.lease_time_to_live(LeaseTimeToLive::new(lease)).await;
            let left = left.expect(AVAILABLE).lease;
            assert!(left.is_none(), "lease {lease} was left behind: {left:?}");
        }
    }
}

impl Deref for Server {
    type Target = PooledCluster;

    fn deref(&self) -> &PooledCluster {
        &self.server
    }
}

/// `coord` without arguments, and without the variables of `etcdctl`.
pub(crate) fn coord() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coord"));
    let names = std::env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| name.as_encoded_bytes().starts_with(b"ETCD")) {
        command.env_remove(name);
    }
    command
}

/// A running program. It is killed on drop.
pub(crate) struct Program {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    input: Option<ChildStdin>,
    /// The part of standard error that was read so far.
    stderr_so_far: String,
}

impl Program {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.kill_on_drop(true).spawn().expect("the program exists");
        let output = process.stdout.take().expect("it was piped");
        let input = process.stdin.take();
        Self { process, lines: BufReader::new(output).lines(), input, stderr_so_far: String::new() }
    }

    /// The next line of standard output; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<String> {
        let line = timeout(STEP_TIMEOUT, self.lines.next_line()).await.expect("it prints or ends");
        line.expect("it prints text")
    }

    /// The next line of standard output. Panics if the program has ended.
    pub(crate) async fn line(&mut self) -> String {
        match self.next().await {
            Some(line) => line,
            None => panic!("it ended: {}", self.read_stderr().await),
        }
    }

    /// The next line of standard output, as a number.
    pub(crate) async fn number(&mut self) -> i32 {
        self.line().await.parse().expect("a number")
    }

    /// Waits until standard output contains a text. Reads no further, so that the rest of the line
    /// stays available. For terminals, where output is not made of lines.
    pub(crate) async fn wait_for_text(&mut self, text: &str) {
        let shown = async {
            let mut seen = String::new();
            while !seen.contains(text) {
                let more = self.lines.get_mut().fill_buf().await.expect("it prints");
                assert!(!more.is_empty(), "it ended, and showed {seen:?}");
                seen += &String::from_utf8_lossy(more);
                // The next read starts behind the text.
                let (all, over) =
                    (more.len(), seen.find(text).map(|at| seen.len() - at - text.len()));
                let taken = all - over.unwrap_or_default().min(all);
                self.lines.get_mut().consume(taken);
            }
        };
        timeout(STEP_TIMEOUT, shown).await.unwrap_or_else(|_| panic!("it does not show {text:?}"));
    }

    /// Whether a line of standard output follows within a short time.
    pub(crate) async fn has_output(&mut self) -> bool {
        timeout(Duration::from_millis(100), self.lines.next_line()).await.is_ok()
    }

    /// Asserts that no line of standard output follows within a short time.
    pub(crate) async fn assert_silent(&mut self) {
        let line = timeout(Duration::from_millis(300), self.lines.next_line()).await;
        assert!(line.is_err(), "it prints a line, or ends, where no output is expected: {line:?}");
    }

    /// Writes a line to standard input.
    pub(crate) async fn write_line(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it is still open");
        input.write_all(format!("{line}\n").as_bytes()).await.expect("it reads");
    }

    /// Closes standard input.
    pub(crate) fn close_input(&mut self) {
        self.input = None;
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.process.id().expect("it runs").cast_signed();
        let id = Pid::from_raw(id).expect("no process has the number 0");
        kill_process(id, signal).expect("it runs");
    }

    /// Stops the program, and waits until it has stopped.
    pub(crate) async fn suspend(&self) {
        self.signal(Signal::STOP);
        let id = self.process.id().expect("it runs").cast_signed();
        wait_until("the program is stopped", async || state(id) == Some('T')).await;
    }

    /// Waits until standard error contains a text.
    pub(crate) async fn wait_for_stderr(&mut self, text: &str) {
        let errors = self.process.stderr.as_mut().expect("it is read here only");
        let written = async {
            while !self.stderr_so_far.contains(text) {
                let mut more = [0; 1024];
                let length = errors.read(&mut more).await.expect("it can be read");
                assert_ne!(length, 0, "it ended, and wrote {:?}", self.stderr_so_far);
                self.stderr_so_far += &String::from_utf8_lossy(&more[..length]);
            }
        };
        let written = timeout(STEP_TIMEOUT, written).await;
        written.unwrap_or_else(|_| panic!("no {text:?} in {:?}", self.stderr_so_far));
    }

    /// Waits for the end. Returns the exit status, the rest of standard output, and standard error.
    pub(crate) async fn end(mut self) -> (Option<i32>, String, String) {
        let mut stdout = String::new();
        while let Some(line) = self.next().await {
            stdout += &line;
            stdout.push('\n');
        }
        let stderr = self.read_stderr().await;
        let ended = timeout(STEP_TIMEOUT, self.process.wait()).await.expect("it ends");
        (ended.expect("it ends").code(), stdout, stderr)
    }

    /// Closes standard input and waits for the end. Standard output need not be UTF-8.
    pub(crate) async fn end_without_input(mut self) -> (Option<i32>, String) {
        self.input = None;
        let mut stdout = Vec::new();
        self.lines.get_mut().read_to_end(&mut stdout).await.expect("it can be read");
        let ended = self.process.wait().await.expect("it ends");
        (ended.code(), String::from_utf8_lossy(&stdout).into_owned())
    }

    /// Waits for the end. Returns the exit status.
    pub(crate) async fn status(self) -> Option<i32> {
        self.end().await.0
    }

    /// Reads standard error to its end.
    async fn read_stderr(&mut self) -> String {
        let mut stderr = std::mem::take(&mut self.stderr_so_far);
        if let Some(mut errors) = self.process.stderr.take() {
            let read = timeout(STEP_TIMEOUT, errors.read_to_string(&mut stderr)).await;
            read.expect("it ends").expect("it is text");
        }
        stderr
    }
}

/// Whether a process with this id runs. A dead process that is not reaped yet does not.
pub(crate) fn is_running(id: i32) -> bool {
    let dead = state(id).is_none_or(|state| state == 'Z');
    // A process of another user refuses the signal with EPERM, and runs.
    let missing = Err(rustix::io::Errno::SRCH);
    let exists = Pid::from_raw(id).is_some_and(|id| test_kill_process(id) != missing);
    exists && !dead
}

/// The state of a process as a letter of `/proc/N/stat`: `T` is stopped, `Z` is dead.
pub(crate) fn state(id: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Polls a condition until it holds. Panics at the time limit.
pub(crate) async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + STEP_TIMEOUT;
    while !holds().await {
        assert!(Instant::now() < deadline, "timed out: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
