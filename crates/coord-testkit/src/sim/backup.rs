//! Backups of the store of a run, and its restoration: actions of a scenario, and not random
//! faults, because a restoration loses locks by design.

use coord_mem::Backup;

use super::Sim;
use super::world::Owner;
use crate::history::EventKind;

impl Sim {
    /// Makes a backup of the store, for [`restore`](Self::restore). No process is affected.
    #[must_use]
    pub fn backup(&self) -> Backup {
        let backup = self.world.mem.backup();
        let note = || EventKind::Note(format!("backup at revision {}", backup.revision()));
        self.world.lock().record(Owner::Harness, note);
        backup
    }

    /// Restores the store from a backup at once: what was written since is lost, the revision goes
    /// *back*, and every watch ends. [`MemBackend::restore`](coord_mem::MemBackend::restore) has
    /// the details. The history of the run has the event
    /// [`Restored`](crate::history::EventKind::Restored).
    ///
    /// Messages in flight stay in flight: a request that the store has not processed yet is applied
    /// to the restored store, and a response that was sent before still arrives. The error that
    /// ends a watch is a message too, with the faults of one.
    ///
    /// A lock that was acquired after the backup is lost, and its holder may not have noticed yet.
    /// Fencing tokens may go back. So [`exclusive`](Self::exclusive) holds only among locks of
    /// sessions that were opened after the restoration: create another oracle for these sessions,
    /// as the guide shows, `docs/guide/simulation.md`.
    ///
    /// With [`Sweep::wrap_store`](super::Sweep::wrap_store), this is the store that was wrapped.
    ///
    /// ```
    /// use coord_core::Error;
    /// use coord_testkit::sim::Sweep;
    ///
    /// Sweep::new("config_survives").seeds(0).run(|sim| async move {
    ///     let client = sim.client();
    ///     client.put("config", "old").await?;
    ///     let backup = sim.backup();
    ///     client.put("config", "new").await?;
    ///     sim.restore(&backup);
    ///     let config = client.get("config").await?.expect("the key is in the backup");
    ///     assert_eq!(config.value, "old");
    ///     Ok::<_, Error>(())
    /// });
    /// ```
    pub fn restore(&self, backup: &Backup) {
        let (newest, found) = (self.world.mem.restore(backup), backup.revision());
        if let Some(check) = &self.world.check {
            check.note_restored();
        }
        self.world.lock().record(Owner::Harness, || EventKind::Restored { newest, found });
    }
}
