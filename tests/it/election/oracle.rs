//! The oracle: the leader at each revision, computed from the history of the store.
//!
//! Elections and observers are compared with it. It depends on the layout of the keys and on no
//! code of elections: the contenders of the election `e` are the keys under `e/` without another
//! slash, and the contender with the smallest create revision leads. Of contenders that were
//! created in one revision, the first in key order leads.

use std::collections::BTreeMap;

use coord_core::Client;
use coord_core::kv::{EventKind, KeyValue, Revision, Watch, Watcher};
use futures_util::FutureExt as _;

/// The history of the election `e`.
pub(super) struct Oracle {
    watch: Watcher,
    keys: BTreeMap<Vec<u8>, KeyValue>,
    /// The leader from a revision on, for each revision that changed a key.
    leaders: BTreeMap<Revision, Option<KeyValue>>,
}

impl Oracle {
    /// Creates an oracle of a store that has not been compacted.
    pub(super) async fn new(store: &Client) -> coord_core::Result<Self> {
        let watch = store.watch(Watch::prefix("e/").start_at(Revision(1))).await?;
        let leaders = BTreeMap::from([(Revision::ZERO, None)]);
        Ok(Self { watch, keys: BTreeMap::new(), leaders })
    }

    /// Reads the events up to now. Must be called before they are compacted.
    pub(super) fn catch_up(&mut self) {
        while let Some(()) = self.read_batch().now_or_never() {}
    }

    /// Reads events as they happen, and never returns.
    pub(super) async fn follow(&mut self) {
        loop {
            self.read_batch().await;
        }
    }

    async fn read_batch(&mut self) {
        let batch = self.watch.next().await.expect("the watch is open");
        let batch = batch.expect("events are read before they are compacted");
        for event in batch.events {
            match event.kind {
                EventKind::Put => self.keys.insert(event.kv.key.to_vec(), event.kv),
                EventKind::Delete => self.keys.remove(&event.kv.key[..]),
            };
        }
        let contenders = self.keys.values().filter(|kv| !kv.key[2..].contains(&b'/'));
        let leader = contenders.min_by_key(|kv| (kv.create_revision, kv.key.clone()));
        self.leaders.insert(batch.revision, leader.cloned());
    }

    /// The leader at a revision.
    pub(super) fn leader_at(&self, revision: Revision) -> Option<&KeyValue> {
        let (_, leader) = self.leaders.range(..=revision).next_back().expect("an entry at zero");
        leader.as_ref()
    }

    /// The leader at `from`, and every later change of the leader or of its value.
    pub(super) fn changes(&self, from: Revision) -> Vec<Option<KeyValue>> {
        let mut changes = vec![self.leader_at(from).cloned()];
        changes.extend(self.leaders.range(from.next()..).map(|(_, leader)| leader.clone()));
        changes.dedup();
        changes
    }
}
