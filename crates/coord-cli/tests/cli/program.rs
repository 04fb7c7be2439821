//! The program under test, and the server that it works on.

use std::ops::Deref;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use coord_core::{Client, KvBackend, kv::LeaseTimeToLive};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::{Lent, Pool, Release};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

/// Why what a test does beside the program does not fail.
pub(crate) const THERE: &str = "the store is there, and nothing is lost";

/// Longer than anything here takes.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// An empty server, and a client of it.
pub(crate) struct Server {
    server: Lent,
    pub(crate) release: Release,
    pub(crate) kv: Arc<dyn KvBackend>,
}

impl Server {
    pub(crate) async fn of(pool: &Pool, release: Release) -> Self {
        let server = pool.emptied().await;
        let kv = EtcdBackend::connect(server.endpoints()).await.expect("the server is ready");
        Self { server, release, kv: Arc::new(kv) }
    }

    /// `coord` with these arguments, on this server.
    pub(crate) fn coord(&self, arguments: &[&str]) -> Program {
        self.told(|command| command.args(arguments))
    }

    /// `coord`, told more.
    pub(crate) fn told(&self, tell: impl FnOnce(&mut Command) -> &mut Command) -> Program {
        let mut command = coord();
        command.env("ETCDCTL_ENDPOINTS", self.endpoints().join(","));
        tell(&mut command);
        Program::started(command)
    }

    /// The `etcdctl` that came with the server.
    pub(crate) fn etcdctl(&self, arguments: &[&str]) -> Program {
        let mut command = Command::from(self.release.etcdctl());
        command.args(["--endpoints", self[0].endpoint()]).args(arguments);
        Program::started(command)
    }

    /// The keys under a prefix, first come first.
    pub(crate) async fn keys(&self, prefix: &str) -> Vec<String> {
        let mut kvs = self.kv.get_prefix(prefix.to_owned()).await.expect("the store is there");
        kvs.sort_by_key(|kv| kv.create_revision);
        kvs.iter().map(|kv| kv.key.escape_ascii().to_string()).collect()
    }

    /// Waits until so many stand in the line.
    pub(crate) async fn line_has(&self, name: &str, length: usize) {
        let prefix = format!("{name}/");
        until("the line has this length", async || self.keys(&prefix).await.len() == length).await;
    }

    /// Nobody has left a key, or a lease.
    pub(crate) async fn is_empty(&self) {
        assert_eq!(self.keys("").await, [""; 0]);
        for lease in self.kv.leases().await.expect("the store is there").leases {
            let left = self.kv.lease_time_to_live(LeaseTimeToLive::new(lease)).await;
            let left = left.expect("the store is there").lease;
            assert!(left.is_none(), "lease {lease} was left behind: {left:?}");
        }
    }
}

impl Deref for Server {
    type Target = Lent;

    fn deref(&self) -> &Lent {
        &self.server
    }
}

/// `coord`, told nothing yet, and not by the environment either.
pub(crate) fn coord() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coord"));
    let told = std::env::vars_os().map(|(name, _)| name);
    for name in told.filter(|name| name.as_encoded_bytes().starts_with(b"ETCD")) {
        command.env_remove(name);
    }
    command
}

/// A program that runs. Dropped, it is killed.
pub(crate) struct Program {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    input: Option<ChildStdin>,
    /// What it has written on standard error so far, if a test waited for some of it.
    complaints: String,
}

impl Program {
    pub(crate) fn started(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.kill_on_drop(true).spawn().expect("the program is there");
        let output = process.stdout.take().expect("it was piped");
        let input = process.stdin.take();
        Self { process, lines: BufReader::new(output).lines(), input, complaints: String::new() }
    }

    /// The next line that it prints; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<String> {
        let line = timeout(SOON, self.lines.next_line()).await.expect("it prints or ends");
        line.expect("it prints text")
    }

    /// The next line, which there has to be.
    pub(crate) async fn line(&mut self) -> String {
        match self.next().await {
            Some(line) => line,
            None => panic!("it ended: {}", self.complaint().await),
        }
    }

    /// The number that it prints next.
    pub(crate) async fn number(&mut self) -> i32 {
        self.line().await.parse().expect("a number")
    }

    /// Waits until it shows this, at a terminal, where lines are written over.
    pub(crate) async fn shows(&mut self, text: &str) {
        let shown = async {
            let mut seen = String::new();
            while !seen.contains(text) {
                let more = self.lines.get_mut().fill_buf().await.expect("it prints");
                assert!(!more.is_empty(), "it ended, and showed {seen:?}");
                seen += &String::from_utf8_lossy(more);
                // What comes after is for whoever asks next.
                let (all, over) =
                    (more.len(), seen.find(text).map(|at| seen.len() - at - text.len()));
                let taken = all - over.unwrap_or_default().min(all);
                self.lines.get_mut().consume(taken);
            }
        };
        timeout(SOON, shown).await.unwrap_or_else(|_| panic!("it does not show {text:?}"));
    }

    /// Whether it prints anything within a moment.
    pub(crate) async fn said_something(&mut self) -> bool {
        timeout(Duration::from_millis(100), self.lines.next_line()).await.is_ok()
    }

    /// That it prints nothing, for as long as nobody would want to wait.
    pub(crate) async fn is_silent(&mut self) {
        let said = timeout(Duration::from_millis(300), self.lines.next_line()).await;
        assert!(said.is_err(), "it has what others have: {said:?}");
    }

    /// Gives it a line to read.
    pub(crate) async fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it is still open");
        input.write_all(format!("{line}\n").as_bytes()).await.expect("it reads");
    }

    /// Ends its input.
    pub(crate) fn hang_up(&mut self) {
        self.input = None;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.process.id().expect("it runs").cast_signed();
        let id = Pid::from_raw(id).expect("no process has the number 0");
        kill_process(id, signal).expect("it runs");
    }

    /// Suspends it, and waits until it is.
    pub(crate) async fn suspend(&self) {
        self.signal(Signal::STOP);
        let id = self.process.id().expect("it runs").cast_signed();
        until("it is suspended", async || state(id) == Some('T')).await;
    }

    /// Waits until it writes this on standard error.
    pub(crate) async fn complains(&mut self, text: &str) {
        let errors = self.process.stderr.as_mut().expect("it is read here only");
        let complained = async {
            while !self.complaints.contains(text) {
                let mut more = [0; 1024];
                let length = errors.read(&mut more).await.expect("it can be read");
                assert_ne!(length, 0, "it ended, and wrote {:?}", self.complaints);
                self.complaints += &String::from_utf8_lossy(&more[..length]);
            }
        };
        let complained = timeout(SOON, complained).await;
        complained.unwrap_or_else(|_| panic!("no {text:?} in {:?}", self.complaints));
    }

    /// Waits for its end: the exit status, what it printed meanwhile, and what it complained of.
    pub(crate) async fn end(mut self) -> (Option<i32>, String, String) {
        let mut printed = String::new();
        while let Some(line) = self.next().await {
            printed += &line;
            printed.push('\n');
        }
        let complaint = self.complaint().await;
        let ended = timeout(SOON, self.process.wait()).await.expect("it ends");
        (ended.expect("it ends").code(), printed, complaint)
    }

    /// Waits for its end with nothing to read, and takes what it prints as it is.
    pub(crate) async fn end_without_input(mut self) -> (Option<i32>, String) {
        self.input = None;
        let mut printed = Vec::new();
        self.lines.get_mut().read_to_end(&mut printed).await.expect("it can be read");
        let ended = self.process.wait().await.expect("it ends");
        (ended.code(), String::from_utf8_lossy(&printed).into_owned())
    }

    /// Waits for its end, of which only the exit status matters.
    pub(crate) async fn status(self) -> Option<i32> {
        self.end().await.0
    }

    async fn complaint(&mut self) -> String {
        let mut complaint = std::mem::take(&mut self.complaints);
        if let Some(mut errors) = self.process.stderr.take() {
            let read = timeout(SOON, errors.read_to_string(&mut complaint)).await;
            read.expect("it ends").expect("it is text");
        }
        complaint
    }
}

/// Whether there is a process with this number, be it one that nobody has buried.
pub(crate) fn lives(id: i32) -> bool {
    let buried_or_dead = state(id).is_none_or(|state| state == 'Z');
    // One of another user refuses the signal, and is there.
    let gone = Err(rustix::io::Errno::SRCH);
    let there = Pid::from_raw(id).is_some_and(|id| test_kill_process(id) != gone);
    there && !buried_or_dead
}

/// What the process is at, in the letters of the system: `T` is stopped, `Z` dead.
pub(crate) fn state(id: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Waits for something that can only be asked for; panics if it does not come.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds().await {
        assert!(Instant::now() < deadline, "this did not come: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
