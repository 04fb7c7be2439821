//! Who led, worked out from the store's own history, to hold elections and observers against.
//!
//! It knows the rule of the layout and nothing of how `coord_core` goes about it: the keys of the
//! election `e` are those under `e/` without another slash, and the one that was created first
//! leads, of those created together the first in key order.

use coord_core::Client;
use std::collections::BTreeMap;

use coord_core::kv::{EventKind, KeyValue, Revision, Watch, Watcher};
use futures_util::FutureExt as _;

/// Listens to all that happens under `e/`, from the beginning.
pub(super) struct Oracle {
    watch: Watcher,
    keys: BTreeMap<Vec<u8>, KeyValue>,
    /// Who led from a revision on, at each revision that changed anything.
    led: BTreeMap<Revision, Option<KeyValue>>,
}

impl Oracle {
    /// An oracle of a store that has not been compacted yet.
    pub(super) async fn of(store: &Client) -> Self {
        let request = Watch::prefix("e/").start_at(Revision(1));
        let watch = store.watch(request).await.expect("the store is there");
        let led = BTreeMap::from([(Revision::ZERO, None)]);
        Self { watch, keys: BTreeMap::new(), led }
    }

    /// Takes note of what has happened up to now. Called often, so that compaction comes too late.
    pub(super) fn listen(&mut self) {
        while let Some(()) = self.hear().now_or_never() {}
    }

    /// Takes note of what happens, for ever.
    pub(super) async fn listen_on(&mut self) {
        loop {
            self.hear().await;
        }
    }

    async fn hear(&mut self) {
        let batch = self.watch.next().await;
        let batch = batch.expect("the store lives").expect("nothing is compacted unheard");
        for event in batch.events {
            match event.kind {
                EventKind::Put => self.keys.insert(event.kv.key.to_vec(), event.kv),
                EventKind::Delete => self.keys.remove(&event.kv.key[..]),
            };
        }
        let owned = self.keys.values().filter(|kv| !kv.key[2..].contains(&b'/'));
        let first = owned.min_by_key(|kv| (kv.create_revision, kv.key.clone()));
        self.led.insert(batch.revision, first.cloned());
    }

    /// Who led at a revision.
    pub(super) fn at(&self, revision: Revision) -> Option<&KeyValue> {
        let (_, led) = self.led.range(..=revision).next_back().expect("from zero on");
        led.as_ref()
    }

    /// Every change of who led and with what value, from a revision on.
    pub(super) fn changes(&self, from: Revision) -> Vec<Option<KeyValue>> {
        let mut changes = vec![self.at(from).cloned()];
        changes.extend(self.led.range(from.next()..).map(|(_, led)| led.clone()));
        changes.dedup();
        changes
    }
}
