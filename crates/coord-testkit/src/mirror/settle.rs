//! Watches: registering them, reading them, bringing them up to date.

use coord_core::{
    Error, KvBackend, Result,
    kv::{Revision, Watch, Watcher},
};
use tokio::time::Instant;

use super::calls::{in_time, is_hazard};
use super::pair::{self, Pair};
use super::{Mirror, Tombstones};

impl<L: KvBackend, R: KvBackend> Mirror<L, R> {
    /// Registers a watch on both.
    pub(super) async fn watch(&mut self, request: Watch) -> Result<(), String> {
        let current = self.current;
        let left = in_time(self.patience, self.left.watch(request.clone())).await?;
        if is_hazard(&left) {
            return Ok(());
        }
        let right = in_time(self.patience, self.right.watch(request.clone())).await?;
        let header =
            |answer: &Result<Watcher>| answer.as_ref().map(Watch::header).map_err(Error::clone);
        self.compare(header(&left), header(&right))?;
        if let (Ok(left), Ok(right)) = (left, right) {
            let lost = self.lost_tombstones(request.start_revision);
            self.watches.push(Pair::new(request, current, lost, left, right));
        }
        Ok(())
    }

    /// The revision whose deletions a watch from `start` may not deliver.
    fn lost_tombstones(&self, start: Revision) -> Option<Revision> {
        (self.tombstones == Tombstones::MayBeLost && start == self.compacted).then_some(start)
    }

    /// Compares what watches have delivered so far, without waiting for more.
    pub(super) fn read_watches(&mut self) -> Result<(), String> {
        for pair in &mut self.watches {
            pair.read_ready();
            self.tally.events += pair.compare()?;
        }
        Ok(())
    }

    /// Brings some of the watches up to date: writes markers into their ranges, and reads up to
    /// them.
    pub(super) async fn settle(
        &mut self,
        whom: impl Fn(&Pair) -> bool + Send + Sync,
    ) -> Result<(), String> {
        self.read_watches()?;
        let horizon = self.current;
        let whom = |pair: &Pair| whom(pair) && pair.can_be_marked(horizon);
        let (keys, least, with_delete) = pair::marks(self.watches.iter().filter(|pair| whom(pair)));
        if keys.is_empty() {
            return Ok(());
        }
        let (mut put_at, mut deleted_at) = (Revision::ZERO, Revision::ZERO);
        while put_at < least || (with_delete && deleted_at < least) {
            let txn = pair::marker_puts(&keys);
            self.both(|kv| kv.txn(txn.clone())).await?;
            put_at = self.current;
            if with_delete {
                let txn = pair::marker_deletes(&keys);
                self.both(|kv| kv.txn(txn.clone())).await?;
                deleted_at = self.current;
            }
        }
        let deadline = Instant::now() + self.patience;
        for pair in self.watches.iter_mut().filter(|pair| whom(pair)) {
            pair.read_to(put_at, deleted_at, deadline).await?;
            self.tally.events += pair.compare()?;
        }
        Ok(())
    }

    /// Gives up watches of the past that no marker reaches: nobody can tell whether they have come
    /// so far that compaction does not concern them. Those that have ended on one side must do so
    /// on both.
    pub(super) async fn let_go_of_the_deaf(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + self.patience;
        for pair in self.watches.iter_mut().filter(|pair| pair.may_lag() && pair.has_ended()) {
            pair.read_to_end(deadline).await?;
            self.tally.events += pair.compare()?;
        }
        self.watches.retain(|pair| !pair.may_lag());
        Ok(())
    }
}
