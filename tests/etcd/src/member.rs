//! A cluster member: an etcd process with its folder, ports and log.
//!
//! A member is ready when its log contains a certain line, which etcd writes when it has a leader
//! and serves. So no request is sent to it, and TLS and authentication make no difference.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::time::{Instant, sleep};

use crate::release::{Release, without_etcd_variables};

/// Part of the line that every etcd release logs when it has a leader and serves requests.
const READY_LINE: &str = "ready to serve client requests";
/// Part of the line that etcd logs when another process uses one of its ports.
const PORT_IN_USE: &str = "address already in use";
/// An etcd is ready in a second; a loaded machine takes longer.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the log is read while a member starts.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Why a member did not become ready.
#[derive(Debug)]
pub(crate) enum StartError {
    /// Another process has taken one of its ports.
    PortTaken,
    /// It ended, or was not ready in time; with the end of its log.
    NotReady(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortTaken => f.write_str("found its port taken"),
            Self::NotReady(log) => write!(f, "did not become ready:\n{log}"),
        }
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("there are free ports");
    listener.local_addr().expect("a listener has an address").port()
}

/// A member of a [`Cluster`](crate::Cluster), running or not.
#[derive(Debug)]
pub struct Member {
    release: Release,
    arguments: Vec<String>,
    /// The URL for clients.
    endpoint: String,
    log: PathBuf,
    /// The size of the log when the process was started.
    log_offset: u64,
    process: Option<Child>,
}

impl Member {
    pub(crate) const fn new(
        release: Release,
        arguments: Vec<String>,
        endpoint: String,
        log: PathBuf,
    ) -> Self {
        Self { release, arguments, endpoint, log, log_offset: 0, process: None }
    }

    /// The URL at which clients reach it.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Freezes it (SIGSTOP): connections stay open, without responses.
    ///
    /// # Panics
    /// If it does not run.
    pub fn pause(&self) {
        let process = self.signal(Signal::STOP);
        // A thread on another processor may run for a moment and respond, so wait until the process
        // has stopped. NOWAIT leaves its state to later calls.
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(process), stopped).expect("a child can be waited for");
    }

    /// Resumes it (SIGCONT).
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

    /// Starts it, and returns at once: a member of three is not ready before another one.
    ///
    /// # Panics
    /// If it runs, or the program cannot be started.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs", self.endpoint);
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.expect("the folder of the member is there");
        self.log_offset = log.metadata().expect("a file has a length").len();
        let errors = log.try_clone().expect("a file handle can be cloned");
        let mut command = without_etcd_variables(&self.release.etcd);
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
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            match self.wait_ready().await {
                Ok(()) => return,
                // While it was down, a short connection of another process used its port.
                Err(StartError::PortTaken) if Instant::now() < deadline => {
                    self.kill();
                    sleep(POLL_INTERVAL).await;
                    self.start();
                }
                Err(error) => panic!("{} at {} {error}", self.release, self.endpoint),
            }
        }
    }

    pub(crate) async fn wait_ready(&mut self) -> Result<(), StartError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            // Before the log is read, so that the log of a process that has ended is complete.
            let ended = self.process.as_mut().is_none_or(|process| {
                process.try_wait().expect("a child can be waited for").is_some()
            });
            let log = self.log_since_start();
            if log.contains(READY_LINE) {
                return Ok(());
            }
            if ended && log.contains(PORT_IN_USE) {
                return Err(StartError::PortTaken);
            }
            if ended || Instant::now() > deadline {
                return Err(StartError::NotReady(tail(&log)));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Whether it reports itself as leader.
    pub(crate) async fn leads(&self) -> Result<bool, etcd_client::Error> {
        let (id, leader) = self.status().await?;
        Ok(id == leader)
    }

    /// Whether the ids of its requests are encoded in nine bytes.
    pub(crate) async fn has_usual_id(&self) -> bool {
        let (id, _) = self.status().await.expect("it is ready");
        let [.., first, _] = id.to_be_bytes();
        (1..0x80).contains(&first)
    }

    /// The ids of the member and of its leader.
    async fn status(&self) -> Result<(u64, u64), etcd_client::Error> {
        let mut client = etcd_client::Client::connect([&self.endpoint], None).await?;
        let status = client.status().await?;
        let header = status.header().expect("every response has a header");
        Ok((header.member_id(), status.leader()))
    }

    /// Its log.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// What it has logged since it was started.
    fn log_since_start(&self) -> String {
        use std::io::{Read as _, Seek as _, SeekFrom};

        let mut text = Vec::new();
        if let Ok(mut log) = File::open(&self.log) {
            log.seek(SeekFrom::Start(self.log_offset)).expect("a file can be positioned");
            log.read_to_end(&mut text).expect("a file can be read");
        }
        String::from_utf8_lossy(&text).into_owned()
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

/// The last lines of a log.
fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// The folder for data: in memory if there is room, because etcd syncs every write to disk, and 3.4
/// has no option against it.
pub(crate) fn data_folder() -> PathBuf {
    let memory = Path::new("/dev/shm");
    // A member allocates 128 MB when it starts.
    let room = |stat: rustix::fs::StatVfs| stat.f_bavail.saturating_mul(stat.f_frsize) >= 2 << 30;
    let writable = fs::metadata(memory).is_ok_and(|memory| !memory.permissions().readonly());
    if writable && rustix::fs::statvfs(memory).is_ok_and(room) {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    }
}
