//! All open watches of a mirror: registers them, reads them, and settles them with markers.

use coord_core::{
    Error, KvBackend, Result,
    kv::{Revision, Watch, Watcher},
};
use tokio::time::Instant;

use super::calls::{is_hazard, with_timeout};
use super::pair::{Markers, WatchPair};
use super::{Mirror, Tombstones};

impl<L: KvBackend, R: KvBackend> Mirror<L, R> {
    /// Registers a watch on both backends.
    pub(super) async fn watch(&mut self, request: Watch) -> Result<(), String> {
        let current = self.current;
        let left = with_timeout(self.timeout, self.left.watch(request.clone())).await?;
        if is_hazard(&left) {
            return Ok(());
        }
        let right = with_timeout(self.timeout, self.right.watch(request.clone())).await?;
        let header =
            |watch: &Result<Watcher>| watch.as_ref().map(Watcher::header).map_err(Error::clone);
        self.compare(header(&left), header(&right))?;
        if let (Ok(left), Ok(right)) = (left, right) {
            let lost = self.lost_tombstones(request.start_revision);
            self.watches.push(WatchPair::new(request, current, lost, left, right));
        }
        Ok(())
    }

    /// The revision whose deletions a watch from `start` may omit, if there is one.
    fn lost_tombstones(&self, start: Option<Revision>) -> Option<Revision> {
        start.filter(|start| self.tombstones == Tombstones::MayBeLost && *start == self.compacted)
    }

    /// Compares the items that the watches have ready, without waiting for more.
    pub(super) fn read_watches(&mut self) -> Result<(), String> {
        for pair in &mut self.watches {
            pair.read_ready();
            self.tally.events += pair.compare()?;
        }
        Ok(())
    }

    /// Writes markers into the ranges of the selected watches, reads these watches up to their
    /// markers, and compares what they delivered.
    pub(super) async fn settle(
        &mut self,
        selected: impl Fn(&WatchPair) -> bool + Send + Sync,
    ) -> Result<(), String> {
        self.read_watches()?;
        let current = self.current;
        let selected = |pair: &WatchPair| selected(pair) && pair.can_be_marked(current);
        let markers = Markers::new(self.watches.iter().filter(|pair| selected(pair)));
        if markers.keys.is_empty() {
            return Ok(());
        }
        let (mut put_at, mut deleted_at) = (Revision::ZERO, Revision::ZERO);
        let min = markers.min_revision;
        while put_at < min || (markers.with_delete && deleted_at < min) {
            let txn = markers.puts();
            self.call_both(|kv| kv.txn(txn.clone())).await?;
            put_at = self.current;
            if markers.with_delete {
                let txn = markers.deletes();
                self.call_both(|kv| kv.txn(txn.clone())).await?;
                deleted_at = self.current;
            }
        }
        let deadline = Instant::now() + self.timeout;
        for pair in self.watches.iter_mut().filter(|pair| selected(pair)) {
            pair.read_to(put_at, deleted_at, deadline).await?;
            self.tally.events += pair.compare()?;
        }
        Ok(())
    }

    /// Drops the watches from a past revision that cannot deliver a marker.
    ///
    /// Without a marker, the mirror cannot determine whether such a watch has already delivered the
    /// history that a compaction removes. A watch that has ended on one side must first end on
    /// both.
    pub(super) async fn drop_unmarkable_watches(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + self.timeout;
        for pair in self.watches.iter_mut().filter(|pair| pair.may_be_behind() && pair.has_ended())
        {
            pair.read_to_end(deadline).await?;
            self.tally.events += pair.compare()?;
        }
        self.watches.retain(|pair| !pair.may_be_behind());
        Ok(())
    }
}
