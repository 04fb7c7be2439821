//! Differential test of watch streams: coord's server and a real etcd, message by message, on
//! random scenarios (`scenario.rs`).
//!
//! Each step of a scenario runs on etcd until all messages have arrived (`server.rs`), then on
//! coord's server. The transcripts are compared in every field: ids, headers, refusals, how events
//! are grouped into messages, and where a message is split. Not compared is what etcd leaves to
//! chance (`transcript.rs`): the order between watches, and between responses and events. Cluster
//! and member ids are not compared either, and periodic progress notifications take too long.
//!
//! To leave nothing else to chance, each step waits until the watches have received their history.
//! Only the steps that rush do not wait; for these the events are compared, not their grouping.
//!
//! Older servers always respond to progress requests, accept negative starts, and lose the deletion
//! at exactly the revision of a compaction. With them the first two are not sent, and the deletion
//! is left out of the comparison.

mod scenario;
mod server;
mod transcript;

use coord_mem::MemBackend;
use coord_server::Server;
use coord_testkit::mirror::{Tally, Tombstones};
use etcd_client::proto::PbWatchRequestUnion;
use proptest::strategy::BoxedStrategy;

use crate::cluster::{Cluster, Setup};
use crate::create;
use crate::differential::{Pair, tombstones};
use crate::release::Release;
use crate::serve::TestServer;
use scenario::{Change, Create, MAX_REQUEST_BYTES, Start, Step, StreamRequest};
use server::{STREAMS, TestedServer};
use transcript::Transcript;

/// A real etcd and coord's server, with their guards.
pub(crate) struct Streams {
    etcd: TestedServer,
    ours: TestedServer,
    release: Release,
    /// The revision at which they are compacted.
    compacted: i64,
    /// The steps so far, for the report of a mismatch.
    log: Vec<String>,
    tally: Tally,
    _guards: (Cluster, TestServer),
}

impl Pair for Streams {
    type Scenario = Vec<Step>;

    fn scenarios() -> BoxedStrategy<Vec<Step>> {
        scenario::scenarios()
    }

    async fn fresh(release: &Release) -> Self {
        let limit = format!("--max-request-bytes={MAX_REQUEST_BYTES}");
        let cluster = Setup::new(release.clone()).argument(&limit).start().await;
        let server = Server::builder(MemBackend::new()).max_request_bytes(MAX_REQUEST_BYTES);
        let served = TestServer::start(server).await;
        Self {
            etcd: TestedServer::at(&cluster.endpoints()[0]).await,
            ours: TestedServer::at(served.endpoint()).await,
            release: release.clone(),
            compacted: 0,
            log: Vec::new(),
            tally: Tally::default(),
            _guards: (cluster, served),
        }
    }

    async fn run(&mut self, scenario: &Vec<Step>) -> Result<(), String> {
        self.log.clear();
        let played = self.run_steps(scenario).await;
        played.map_err(|what| format!("\n  {}\n{what}", self.log.join("\n  ")))?;
        self.tally.sequences += 1;
        Ok(())
    }

    fn tally(&self) -> Tally {
        self.tally
    }
}

impl Streams {
    async fn run_steps(&mut self, scenario: &[Step]) -> Result<(), String> {
        self.etcd.begin().await?;
        self.ours.begin().await?;
        for step in scenario {
            match step {
                Step::Send(stream, requests) => self.send_all(*stream, requests).await?,
                Step::Change(changes) => {
                    self.change(changes).await?;
                    self.compare(false).await?;
                }
                Step::Rush(stream, create, changes) => {
                    self.rush(*stream, create, changes).await?;
                }
                Step::Compact(back) => self.compact(self.etcd.now - back).await?,
            }
        }
        // Superfluous messages of coord's server may arrive late.
        for _ in 0..3 {
            self.compare(false).await?;
        }
        Ok(())
    }

    /// Sends the requests. Those after a watch with a history wait until that was received.
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

    /// Sends a request to both. Returns whether it creates a watch with a history.
    fn send(&mut self, stream: usize, request: &StreamRequest) -> bool {
        let [etcd, ours] = [&self.etcd, &self.ours].map(|server| server.stream(stream));
        let (entry, has_history) = match request {
            StreamRequest::Create(create) => {
                let start = self.resolve(create.start);
                let union = create_request(create, start);
                etcd.union(union.clone());
                ours.union(union);
                (format!("{create:?}, from {start}"), (1..=self.etcd.now).contains(&start))
            }
            StreamRequest::Cancel(id) => {
                etcd.cancel(*id);
                ours.cancel(*id);
                (format!("cancel {id}"), false)
            }
            StreamRequest::Progress => {
                etcd.progress();
                ours.progress();
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
            self.same("answer", &etcd, &self.ours.change(change).await)?;
        }
        Ok(())
    }

    /// Creates a watch, and applies changes as soon as it is confirmed, whether it has received its
    /// history or not.
    async fn rush(
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
        for server in [&mut self.etcd, &mut self.ours] {
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
        self.same("answer", &etcd, &self.ours.compact(revision).await.1)?;
        if done {
            self.compacted = revision;
            if tombstones(&self.release) == Tombstones::MayBeLost {
                (self.etcd.lost, self.ours.lost) = (Some(revision), Some(revision));
            }
        }
        self.compare(false).await
    }

    /// Waits until all messages have arrived from both, and compares the transcripts.
    async fn compare(&mut self, has_history: bool) -> Result<(), String> {
        self.etcd.settle(has_history).await.map_err(|why| format!("etcd: {why}"))?;
        self.ours.settle(has_history).await.map_err(|why| format!("ours: {why}"))?;
        self.same("revision", &self.etcd.now, &self.ours.now)?;
        self.ours.catch_up(&self.etcd.transcripts).await.map_err(|why| format!("ours: {why}"))?;
        for stream in 0..STREAMS {
            let etcd = std::mem::take(&mut self.etcd.transcripts[stream]);
            let ours = std::mem::take(&mut self.ours.transcripts[stream]);
            if let Some(what) = etcd.differs_from(&ours) {
                return Err(format!("stream {stream}, {what}"));
            }
            self.count(&etcd);
        }
        Ok(())
    }

    fn count(&mut self, transcript: &Transcript) {
        self.tally.responses += transcript.len() as u64;
        self.tally.events += transcript.events;
        let refusals = transcript.responses.iter().filter(|answer| answer.contains("mvcc: "));
        self.tally.errors += refusals.count() as u64;
    }

    fn same<T: PartialEq + std::fmt::Debug>(
        &self,
        what: &str,
        etcd: &T,
        ours: &T,
    ) -> Result<(), String> {
        if etcd == ours {
            return Ok(());
        }
        Err(format!("{what}\n  etcd: {etcd:?}\n  ours: {ours:?}"))
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
    create!(
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
