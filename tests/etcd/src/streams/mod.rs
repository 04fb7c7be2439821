//! Watch streams of our server against those of a real etcd, message by message, on scripts drawn
//! at random (`script.rs`).
//!
//! Each step of a script is played to etcd until all is said (`side.rs`), then to ours, and what
//! the streams said is compared to the last field: ids, headers, refusals, how events are put
//! together into messages, where a message was split. Left open is only what etcd leaves to chance
//! (`heard.rs`): the order between watches, and that between answers and events. A server's own
//! numbers are not compared, and bookmarks that come by themselves take too long.
//!
//! So that nothing else is left to chance, etcd is not hurried: what a watch has to be told of the
//! past is awaited before anything else happens. But for the steps that rush on purpose: there
//! the events are compared, and not how they are put together.
//!
//! Older servers answer requests for bookmarks always, take negative starts, and lose the deletion
//! at exactly the revision of a compaction: there the former two are not said, and the latter is
//! left out.

mod heard;
mod script;
mod side;

use coord_mem::MemBackend;
use coord_server::Server;
use coord_testkit::mirror::{Tally, Tombstones};
use etcd_client::proto::PbWatchRequestUnion;
use proptest::strategy::BoxedStrategy;

use crate::cluster::{Cluster, Setup};
use crate::create;
use crate::hunt::{Pair, tombstones};
use crate::release::Release;
use crate::serve::Served;
use heard::Heard;
use script::{Change, Create, MAX_REQUEST_BYTES, Start, Step, Word};
use side::{STREAMS, Side};

/// An etcd and ours, which live as long as their guards.
pub(crate) struct Streams {
    etcd: Side,
    ours: Side,
    release: Release,
    /// At which revision they are compacted.
    compacted: i64,
    /// What was done so far.
    story: Vec<String>,
    tally: Tally,
    _guards: (Cluster, Served),
}

impl Pair for Streams {
    type Script = Vec<Step>;

    fn scripts() -> BoxedStrategy<Vec<Step>> {
        script::scripts()
    }

    async fn fresh(release: &Release) -> Self {
        let limit = format!("--max-request-bytes={MAX_REQUEST_BYTES}");
        let cluster = Setup::new(release.clone()).argument(&limit).start().await;
        let server = Server::builder(MemBackend::new()).max_request_bytes(MAX_REQUEST_BYTES);
        let served = Served::start(server).await;
        Self {
            etcd: Side::at(&cluster.endpoints()[0]).await,
            ours: Side::at(served.endpoint()).await,
            release: release.clone(),
            compacted: 0,
            story: Vec::new(),
            tally: Tally::default(),
            _guards: (cluster, served),
        }
    }

    async fn play(&mut self, script: &Vec<Step>) -> Result<(), String> {
        self.story.clear();
        let played = self.try_play(script).await;
        played.map_err(|what| format!("\n  {}\n{what}", self.story.join("\n  ")))?;
        self.tally.sequences += 1;
        Ok(())
    }

    fn tally(&self) -> Tally {
        self.tally
    }
}

impl Streams {
    async fn try_play(&mut self, script: &[Step]) -> Result<(), String> {
        self.etcd.begin().await?;
        self.ours.begin().await?;
        for step in script {
            match step {
                Step::Say(stream, words) => self.say(*stream, words).await?,
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
        // Of too much that ours says, some may come late.
        for _ in 0..3 {
            self.compare(false).await?;
        }
        Ok(())
    }

    /// What comes after the past of a watch has to wait for it.
    async fn say(&mut self, stream: usize, words: &[Word]) -> Result<(), String> {
        let mut past = false;
        let words: Vec<_> = words.iter().filter(|word| self.can_be_said(word)).collect();
        for word in words {
            if !matches!(word, Word::Create(_)) && std::mem::take(&mut past) {
                self.compare(true).await?;
            }
            past |= self.utter(stream, word);
        }
        self.compare(past).await
    }

    fn can_be_said(&self, word: &Word) -> bool {
        match word {
            Word::Create(create) => {
                self.resolve(create.start) >= 0 || self.release.has_since(39, 24)
            }
            Word::Progress => self.release.has_since(25, 8),
            Word::Cancel(_) => true,
        }
    }

    /// Says one thing to both, and tells whether it makes a watch that has a past.
    fn utter(&mut self, stream: usize, word: &Word) -> bool {
        let [etcd, ours] = [&self.etcd, &self.ours].map(|side| side.talk(stream));
        let (said, past) = match word {
            Word::Create(create) => {
                let start = self.resolve(create.start);
                let union = request(create, start);
                etcd.union(union.clone());
                ours.union(union);
                (format!("{create:?}, from {start}"), (1..=self.etcd.now).contains(&start))
            }
            Word::Cancel(id) => {
                etcd.cancel(*id);
                ours.cancel(*id);
                (format!("cancel {id}"), false)
            }
            Word::Progress => {
                etcd.progress();
                ours.progress();
                ("progress".to_owned(), false)
            }
        };
        self.story.push(format!("on {stream}: {said}"));
        past
    }

    async fn change(&mut self, changes: &[Change]) -> Result<(), String> {
        for change in changes {
            self.story.push(format!("{change:?}"));
            let etcd = self.etcd.change(change).await;
            self.same("answer", &etcd, &self.ours.change(change).await)?;
        }
        Ok(())
    }

    /// A watch, and changes as soon as it is there, whether it has been told of the past or not.
    async fn rush(
        &mut self,
        stream: usize,
        create: &Create,
        changes: &[Change],
    ) -> Result<(), String> {
        let create = Word::Create(create.clone());
        if !self.can_be_said(&create) {
            return Ok(());
        }
        let past = self.utter(stream, &create);
        for side in [&mut self.etcd, &mut self.ours] {
            side.heard[stream].rush();
            side.hear_answer(stream).await?;
        }
        self.story.push("in a rush:".to_owned());
        self.change(changes).await?;
        self.compare(past).await
    }

    async fn compact(&mut self, revision: i64) -> Result<(), String> {
        self.story.push(format!("compact at {revision}"));
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

    /// Waits until all is said on both sides, and compares it.
    async fn compare(&mut self, past: bool) -> Result<(), String> {
        self.etcd.settle(past).await.map_err(|why| format!("etcd: {why}"))?;
        self.ours.settle(past).await.map_err(|why| format!("ours: {why}"))?;
        self.same("revision", &self.etcd.now, &self.ours.now)?;
        self.ours.catch_up(&self.etcd.heard).await.map_err(|why| format!("ours: {why}"))?;
        for stream in 0..STREAMS {
            let etcd = std::mem::take(&mut self.etcd.heard[stream]);
            let ours = std::mem::take(&mut self.ours.heard[stream]);
            if let Some(what) = etcd.differs_from(&ours) {
                return Err(format!("stream {stream}, {what}"));
            }
            self.count(&etcd);
        }
        Ok(())
    }

    fn count(&mut self, heard: &Heard) {
        self.tally.answers += heard.len() as u64;
        self.tally.events += heard.events;
        let refusals = heard.answers.iter().filter(|answer| answer.contains("mvcc: "));
        self.tally.refusals += refusals.count() as u64;
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

fn request(create: &Create, start_revision: i64) -> PbWatchRequestUnion {
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
