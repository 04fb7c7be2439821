//! The differential target [`WatchStreams`]: the messages of watch streams of coord's server and of
//! a real etcd, on random scenarios (`scenario.rs`).
//!
//! Each step of a scenario runs on both servers, until all messages have arrived from etcd and then
//! from coord's server (`server.rs`). The transcripts are compared in every field: ids, headers,
//! rejections, how events are grouped into messages, and where a message is split. Not compared are
//! the order between watches and the order between responses and events, which are random in etcd
//! (`transcript.rs`), and the values of cluster ids, member ids and Raft terms. Periodic progress
//! notifications are not tested, because they take too long.
//!
//! Each step waits until the watches have received their history, so that nothing else depends on
//! timing. Only [`Step::CreateAndChange`] does not wait; there the events are compared, and their
//! grouping is not.
//!
//! Older servers always respond to progress requests, accept negative starts, and lose the deletion
//! at exactly the revision of a compaction. With such a server the first two requests are not sent,
//! and the deletion is not compared.

mod scenario;
mod server;
mod transcript;

use coord_mem::MemBackend;
use coord_server::Server;
use coord_testkit::mirror::{Tally, Tombstones};
use etcd_client::proto::PbWatchRequestUnion;
use proptest::strategy::BoxedStrategy;

use crate::cluster::{Cluster, ClusterBuilder};
use crate::create_watch;
use crate::differential::{Pair, tombstones};
use crate::release::Release;
use crate::test_server::TestServer;
use scenario::{Change, Create, MAX_REQUEST_BYTES, Start, Step, StreamRequest};
use server::{STREAMS, TestedServer};
use transcript::Transcript;

/// A real etcd and coord's server. Dropping it stops both.
pub(crate) struct WatchStreams {
    etcd: TestedServer,
    coord: TestedServer,
    release: Release,
    /// The compact revision of both servers.
    compacted: i64,
    /// The steps so far, for the report of a mismatch.
    log: Vec<String>,
    tally: Tally,
    _servers: (Cluster, TestServer),
}

impl Pair for WatchStreams {
    type Scenario = Vec<Step>;

    fn scenarios() -> BoxedStrategy<Vec<Step>> {
        scenario::scenarios()
    }

    async fn start(release: &Release) -> Self {
        let limit = format!("--max-request-bytes={MAX_REQUEST_BYTES}");
        let cluster = ClusterBuilder::new(release.clone()).argument(&limit).start().await;
        let builder = Server::builder(MemBackend::new()).max_request_bytes(MAX_REQUEST_BYTES);
        let server = TestServer::start(builder).await;
        Self {
            etcd: TestedServer::connect(&cluster.endpoints()[0]).await,
            coord: TestedServer::connect(server.endpoint()).await,
            release: release.clone(),
            compacted: 0,
            log: Vec::new(),
            tally: Tally::default(),
            _servers: (cluster, server),
        }
    }

    async fn run(&mut self, scenario: &Vec<Step>) -> Result<(), String> {
        self.log.clear();
        let result = self.run_steps(scenario).await;
        result.map_err(|what| format!("\n  {}\n{what}", self.log.join("\n  ")))?;
        self.tally.sequences += 1;
        Ok(())
    }

    fn tally(&self) -> Tally {
        self.tally
    }
}

impl WatchStreams {
    async fn run_steps(&mut self, scenario: &[Step]) -> Result<(), String> {
        self.etcd.begin().await?;
        self.coord.begin().await?;
        for step in scenario {
            match step {
                Step::Send(stream, requests) => self.send_all(*stream, requests).await?,
                Step::Change(changes) => {
                    self.change(changes).await?;
                    self.compare(false).await?;
                }
                Step::CreateAndChange(stream, create, changes) => {
                    self.create_and_change(*stream, create, changes).await?;
                }
                Step::Compact(back) => self.compact(self.etcd.now - back).await?,
            }
        }
        // Messages that only coord's server sends may arrive late.
        for _ in 0..3 {
            self.compare(false).await?;
        }
        Ok(())
    }

    /// Sends requests. After the creation of a watch with a history, a cancel or progress request
    /// waits until the history was received.
    async fn send_all(&mut self, stream: usize, requests: &[StreamRequest]) -> Result<(), String> {
        let mut has_history = false;
        let supported = requests.iter().filter(|request| self.is_supported(request));
        let requests: Vec<_> = supported.collect();
        for request in requests {
            if !matches!(request, StreamRequest::Create(_)) && std::mem::take(&mut has_history) {
                self.compare(true).await?;
            }
            has_history |= self.send(stream, request);
        }
        self.compare(has_history).await
    }

    fn is_supported(&self, request: &StreamRequest) -> bool {
        match request {
            StreamRequest::Create(create) => {
                self.resolve(create.start) >= 0 || self.release.has_since(39, 24)
            }
            StreamRequest::Progress => self.release.has_since(25, 8),
            StreamRequest::Cancel(_) => true,
        }
    }

    /// Sends a request to both servers. Returns whether it creates a watch with a history.
    fn send(&mut self, stream: usize, request: &StreamRequest) -> bool {
        let [etcd, coord] = [&self.etcd, &self.coord].map(|server| server.stream(stream));
        let (entry, has_history) = match request {
            StreamRequest::Create(create) => {
                let start = self.resolve(create.start);
                let union = create_request(create, start);
                etcd.send_request(union.clone());
                coord.send_request(union);
                (format!("{create:?}, from {start}"), (1..=self.etcd.now).contains(&start))
            }
            StreamRequest::Cancel(id) => {
                etcd.cancel(*id);
                coord.cancel(*id);
                (format!("cancel {id}"), false)
            }
            StreamRequest::Progress => {
                etcd.request_progress();
                coord.request_progress();
                ("progress".to_owned(), false)
            }
        };
        self.log.push(format!("on {stream}: {entry}"));
        has_history
    }

    async fn change(&mut self, changes: &[Change]) -> Result<(), String> {
        for change in changes {
            self.log.push(format!("{change:?}"));
            let etcd = self.etcd.change(change).await;
            self.check_equal("response", &etcd, &self.coord.change(change).await)?;
        }
        Ok(())
    }

    /// Creates a watch, and applies changes as soon as it is confirmed, without waiting for its
    /// history.
    async fn create_and_change(
        &mut self,
        stream: usize,
        create: &Create,
        changes: &[Change],
    ) -> Result<(), String> {
        let create = StreamRequest::Create(create.clone());
        if !self.is_supported(&create) {
            return Ok(());
        }
        let has_history = self.send(stream, &create);
        for server in [&mut self.etcd, &mut self.coord] {
            server.transcripts[stream].ignore_grouping();
            server.receive_confirmation(stream).await?;
        }
        self.log.push("without waiting:".to_owned());
        self.change(changes).await?;
        self.compare(has_history).await
    }

    async fn compact(&mut self, revision: i64) -> Result<(), String> {
        self.log.push(format!("compact at {revision}"));
        let (done, etcd) = self.etcd.compact(revision).await;
        self.check_equal("response", &etcd, &self.coord.compact(revision).await.1)?;
        if done {
            self.compacted = revision;
            if tombstones(&self.release) == Tombstones::MayBeLost {
                (self.etcd.lost_deletions_at, self.coord.lost_deletions_at) =
                    (Some(revision), Some(revision));
            }
        }
        self.compare(false).await
    }

    /// Waits until all messages have arrived from both servers, and compares the transcripts.
    async fn compare(&mut self, has_history: bool) -> Result<(), String> {
        self.etcd.settle(has_history).await.map_err(|why| format!("etcd: {why}"))?;
        self.coord.settle(has_history).await.map_err(|why| format!("coord: {why}"))?;
        self.check_equal("revision", &self.etcd.now, &self.coord.now)?;
        self.coord.catch_up(&self.etcd.transcripts).await.map_err(|why| format!("coord: {why}"))?;
        for stream in 0..STREAMS {
            let etcd = std::mem::take(&mut self.etcd.transcripts[stream]);
            let coord = std::mem::take(&mut self.coord.transcripts[stream]);
            if let Some(what) = etcd.mismatch(&coord) {
                return Err(format!("stream {stream}, {what}"));
            }
            self.count(&etcd);
        }
        Ok(())
    }

    fn count(&mut self, transcript: &Transcript) {
        self.tally.responses += transcript.len() as u64;
        self.tally.events += transcript.events;
        let errors = transcript.responses.iter().filter(|response| response.contains("mvcc: "));
        self.tally.errors += errors.count() as u64;
    }

    fn check_equal<T: PartialEq + std::fmt::Debug>(
        &self,
        what: &str,
        etcd: &T,
        coord: &T,
    ) -> Result<(), String> {
        if etcd == coord {
            return Ok(());
        }
        Err(format!("{what}\n  etcd: {etcd:?}\n  coord: {coord:?}"))
    }

    fn resolve(&self, start: Start) -> i64 {
        match start {
            Start::Now => 0,
            Start::Back(revisions) => (self.etcd.now - revisions).max(1),
            Start::Compacted(revisions) => (self.compacted - revisions).max(1),
            Start::Negative(start) => start,
        }
    }
}

fn create_request(create: &Create, start_revision: i64) -> PbWatchRequestUnion {
    create_watch!(
        create.keys.0,
        range_end: create.keys.1.into(),
        watch_id: create.id,
        start_revision: start_revision,
        filters: create.filters.clone(),
        prev_kv: create.prev_kv,
        progress_notify: create.progress_notify,
        fragment: create.fragment,
    )
}
