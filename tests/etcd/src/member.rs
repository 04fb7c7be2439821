//! A cluster member: an etcd process with its folder, ports and log.
//!
//! A member is ready when its log contains [`READY_LINE`]. Reading the log needs no request, so it
//! works in the same way with TLS and authentication.

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
/// A member is usually ready in about a second; a loaded machine takes longer.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the log is read while a member starts.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Why a member did not become ready.
#[derive(Debug)]
pub(crate) enum StartError {
    /// Another process uses one of its ports.
    PortTaken,
    /// It exited, or was not ready in time. Contains the end of its log.
    NotReady(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortTaken => f.write_str("failed to bind its port, which another process uses"),
            Self::NotReady(log) => write!(f, "did not become ready:\n{log}"),
        }
    }
}

/// A port that was free a moment ago. Another process may bind it before the caller does.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("the machine has free ports");
    listener.local_addr().expect("the listener is bound").port()
}

/// A member of a [`Cluster`](crate::Cluster), running or not.
#[derive(Debug)]
pub struct Member {
    release: Release,
    arguments: Vec<String>,
    /// The URL at which clients reach it.
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

    /// Pauses the process (SIGSTOP): connections stay open, and no responses are sent.
    ///
    /// # Panics
    /// If the member is not running.
    pub fn pause(&self) {
        let process = self.signal(Signal::STOP);
        // A thread on another processor may run for a moment and respond, so wait until the process
        // has stopped. NOWAIT keeps its state readable for later calls.
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(process), stopped).expect("the state of a child process can be read");
    }

    /// Resumes the process (SIGCONT).
    ///
    /// # Panics
    /// If the member is not running.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills the process (SIGKILL). The data of the member are kept.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Neither fails for a child process that was not waited for.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts the process. Returns before the member is ready, because a member of three needs a
    /// second member for that.
    ///
    /// # Panics
    /// If the member is running, or the program cannot be started.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "the member at {} is running", self.endpoint);
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.expect("the folder of the member exists");
        self.log_offset = log.metadata().expect("the log is readable").len();
        let errors = log.try_clone().expect("a file handle can be duplicated");
        let mut command = without_etcd_variables(&self.release.etcd);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(log).stderr(errors);
        let process = command.spawn();
        self.process = Some(process.unwrap_or_else(|error| {
            panic!("{} cannot be started: {error}", self.release.etcd.display())
        }));
    }

    /// Waits until the member has a leader and serves.
    ///
    /// # Panics
    /// If it is not ready within a minute. The message has the end of its log.
    pub async fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            match self.try_wait_until_ready().await {
                Ok(()) => return,
                // While it was down, a connection of another process used its port.
                Err(StartError::PortTaken) if Instant::now() < deadline => {
                    self.kill();
                    sleep(POLL_INTERVAL).await;
                    self.start();
                }
                Err(error) => panic!("{} at {} {error}", self.release, self.endpoint),
            }
        }
    }

    pub(crate) async fn try_wait_until_ready(&mut self) -> Result<(), StartError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            // Checked before the log is read, so that the log of an exited process is complete.
            let exited = self.process.as_mut().is_none_or(|process| {
                process.try_wait().expect("the state of a child process can be read").is_some()
            });
            let log = self.log_since_start();
            if log.contains(READY_LINE) {
                return Ok(());
            }
            if exited && log.contains(PORT_IN_USE) {
                return Err(StartError::PortTaken);
            }
            if exited || Instant::now() > deadline {
                return Err(StartError::NotReady(tail(&log)));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Whether the member reports itself as leader.
    pub(crate) async fn is_leader(&self) -> Result<bool, etcd_client::Error> {
        let (id, leader) = self.status().await?;
        Ok(id == leader)
    }

    /// Whether the ids of the member's requests are encoded in nine bytes.
    pub(crate) async fn has_nine_byte_request_id(&self) -> bool {
        let (id, _) = self.status().await.expect("the member is ready");
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

    /// The path of its log.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// The log since the process was started.
    fn log_since_start(&self) -> String {
        use std::io::{Read as _, Seek as _, SeekFrom};

        let mut text = Vec::new();
        if let Ok(mut log) = File::open(&self.log) {
            log.seek(SeekFrom::Start(self.log_offset)).expect("the log is readable");
            log.read_to_end(&mut text).expect("the log is readable");
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    fn signal(&self, signal: Signal) -> Pid {
        let process = self.process.as_ref().expect("the member is running");
        let process = Pid::from_child(process);
        kill_process(process, signal).expect("a child process can be signalled");
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
/// cannot be configured not to.
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
