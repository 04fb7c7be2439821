//! One etcd process: its folder, its ports, its log, and what can be done to it.
//!
//! A member is ready when its log says so: etcd writes that line once it has a leader and serves.
//! So nothing is asked of it over the network, and TLS and passwords make no difference.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::time::{Instant, sleep};

use crate::release::{Release, bare};

/// What every version of etcd logs when it has a leader and takes requests.
const READY: &str = "ready to serve client requests";
const TAKEN: &str = "address already in use";
/// An etcd is ready in a second; a loaded machine may take its time.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// Why a member did not become ready.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Somebody else took one of its ports in the meantime.
    PortTaken,
    /// It ended, or took too long: the end of its log.
    Silent(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortTaken => f.write_str("found its port taken"),
            Self::Silent(log) => write!(f, "did not become ready:\n{log}"),
        }
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("there are free ports");
    listener.local_addr().expect("a listener has an address").port()
}

/// One etcd process of a [`Cluster`](crate::Cluster), or the place where it was.
#[derive(Debug)]
pub struct Member {
    release: Release,
    arguments: Vec<String>,
    /// Where clients find it.
    endpoint: String,
    log: PathBuf,
    /// Where in the log the present life begins.
    born_at: u64,
    process: Option<Child>,
}

impl Member {
    pub(crate) const fn new(
        release: Release,
        arguments: Vec<String>,
        endpoint: String,
        log: PathBuf,
    ) -> Self {
        Self { release, arguments, endpoint, log, born_at: 0, process: None }
    }

    /// The URL at which clients reach it.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Freezes it (SIGSTOP): connections stay open, and nothing is answered from now on.
    ///
    /// # Panics
    /// If it does not run.
    pub fn pause(&self) {
        let process = self.signal(Signal::STOP);
        // A thread on another processor may go on for a moment, and answer. That it has stopped is
        // only looked at: who waits for its end still finds it.
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(process), stopped).expect("a child can be waited for");
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Panics
    /// If it does not run.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it (SIGKILL). Its data stay.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Neither fails for a child that was not waited for.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts it, and returns at once: a member of three is not ready before another one is.
    ///
    /// # Panics
    /// If it runs, or the program cannot be started.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs", self.endpoint);
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.expect("the folder of the member is there");
        self.born_at = log.metadata().expect("a file has a length").len();
        let errors = log.try_clone().expect("a file can be had twice");
        let mut command = bare(&self.release.etcd);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(log).stderr(errors);
        let process = command.spawn();
        self.process = Some(process.unwrap_or_else(|error| {
            panic!("{} cannot be started: {error}", self.release.etcd.display())
        }));
    }

    /// Waits until it has a leader and serves.
    ///
    /// # Panics
    /// If it does not within a minute: with the end of its log.
    pub async fn ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.wait_ready().await {
                Ok(()) => return,
                // While it was down its port went to some short connection, which ends.
                Err(Trouble::PortTaken) if Instant::now() < deadline => {
                    self.kill();
                    sleep(POLL).await;
                    self.start();
                }
                Err(trouble) => panic!("{} at {} {trouble}", self.release, self.endpoint),
            }
        }
    }

    pub(crate) async fn wait_ready(&mut self) -> Result<(), Trouble> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Asked first, so that a process that has ended has also written all it had to say.
            let ended = self.process.as_mut().is_none_or(|process| {
                process.try_wait().expect("a child can be waited for").is_some()
            });
            let said = self.said();
            if said.contains(READY) {
                return Ok(());
            }
            if ended && said.contains(TAKEN) {
                return Err(Trouble::PortTaken);
            }
            if ended || Instant::now() > deadline {
                return Err(Trouble::Silent(tail(&said)));
            }
            sleep(POLL).await;
        }
    }

    /// Whether it is the leader, by its own account.
    pub(crate) async fn leads(&self) -> Result<bool, etcd_client::Error> {
        let (id, leader) = self.status().await?;
        Ok(id == leader)
    }

    /// Whether its requests have ids that are encoded in nine bytes.
    pub(crate) async fn has_usual_id(&self) -> bool {
        let (id, _) = self.status().await.expect("it is ready");
        let [.., first, _] = id.to_be_bytes();
        (1..0x80).contains(&first)
    }

    /// The ids of the member and of its leader.
    async fn status(&self) -> Result<(u64, u64), etcd_client::Error> {
        let mut client = etcd_client::Client::connect([&self.endpoint], None).await?;
        let status = client.status().await?;
        let header = status.header().expect("every answer has a header");
        Ok((header.member_id(), status.leader()))
    }

    /// Its log.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// What it has logged in its present life.
    fn said(&self) -> String {
        use std::io::{Read as _, Seek as _, SeekFrom};

        let mut said = Vec::new();
        if let Ok(mut log) = File::open(&self.log) {
            log.seek(SeekFrom::Start(self.born_at)).expect("a file can be sought in");
            log.read_to_end(&mut said).expect("a file can be read");
        }
        String::from_utf8_lossy(&said).into_owned()
    }

    fn signal(&self, signal: Signal) -> Pid {
        let process = self.process.as_ref().expect("a member that is signalled runs");
        let process = Pid::from_child(process);
        kill_process(process, signal).expect("a child can be signalled");
        process
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines, enough to see why.
fn tail(said: &str) -> String {
    let lines: Vec<_> = said.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// The folder for data: in memory where there is room, for etcd waits for the disk at every write,
/// and 3.4 cannot be told not to.
pub(crate) fn spacious_folder() -> PathBuf {
    let memory = Path::new("/dev/shm");
    // A member lays out 128 MB when it starts.
    let room = |stat: rustix::fs::StatVfs| stat.f_bavail.saturating_mul(stat.f_frsize) >= 2 << 30;
    let writable = fs::metadata(memory).is_ok_and(|memory| !memory.permissions().readonly());
    if writable && rustix::fs::statvfs(memory).is_ok_and(room) {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    }
}
