//! Backups: the contents of a store at one revision, from which a store can be restored.
//!
//! A restored store continues at the revision of the backup. It then assigns revisions to new
//! changes that it had assigned to other changes before: its history was replaced.
//!
//! ```text
//! revision   before           after the restoration at revision 4
//!        2   put a = x        put a = x
//!        3   put b = y        put b = y         the backup
//!        4   put a = z        put c = w         z is lost
//! ```

use std::fmt;
use std::sync::Arc;

use coord_core::kv::Revision;

use crate::MemBackend;
use crate::store::Store;

/// The contents of a [`MemBackend`] at one revision: keys with their history, the compact revision,
/// and leases. Created by [`MemBackend::backup`]; clones share the contents.
#[derive(Clone)]
pub struct Backup {
    store: Arc<Store>,
}

impl Backup {
    /// The revision of the store when the backup was made.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.store.revision()
    }
}

impl fmt::Debug for Backup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backup").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

impl MemBackend {
    /// Makes a backup of the store, from which [`restore`](Self::restore) can restore it.
    ///
    /// The store is not changed, and its watches and leases are not affected. Changes wait until
    /// the backup is made: that takes time proportional to the number of keys, versions and leases,
    /// as does a restoration. The backup shares keys and values with the store.
    ///
    /// Source: `etcdctl snapshot save`.
    #[must_use]
    pub fn backup(&self) -> Backup {
        Backup { store: Arc::new(self.shared.read().clone()) }
    }

    /// Restores the store from a backup, for all clones of this backend, as if a cluster had been
    /// restored from a snapshot under the same endpoints. Returns the revision of the store before
    /// the restoration.
    ///
    /// - The store has the keys of the backup with their history, its revision and its compact
    ///   revision. What was written since is lost, and the next change has a revision that another
    ///   change may have had before.
    /// - Every open watch ends: its stream yields the batches that the watch has queued, then the
    ///   error [`HistoryReplaced`](coord_core::Error::HistoryReplaced) with the revisions before
    ///   and after the restoration.
    /// - The leases of the backup exist again, each with its whole TTL from now on and with the
    ///   keys that it had. That includes leases that were revoked since. Leases that were granted
    ///   since do not exist any more. Their ids are not chosen again, so that a client cannot
    ///   mistake the lease of another client for its own.
    /// - The settings of this backend, and the ids of its cluster and member, stay the same.
    ///
    /// Calls fail with no error of their own: a call that is applied after the restoration is
    /// applied to the restored store. The backup may also be of another backend, and may be
    /// restored more than once.
    ///
    /// ```
    /// use coord_core::{Client, error::ErrorKind};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> coord_core::Result<()> {
    /// let store = MemBackend::new();
    /// let client = Client::new(store.clone());
    /// let written = client.put("config", "old").await?.header.revision;
    /// let backup = store.backup();
    ///
    /// let mut watch = client.watch("config").await?;
    /// client.put("config", "new").await?;
    /// store.restore(&backup);
    ///
    /// let config = client.get("config").await?.expect("the key is in the backup");
    /// assert_eq!((config.value, config.mod_revision), ("old".into(), written));
    /// assert_eq!(watch.next().await.unwrap()?.events[0].kv.value, "new"); // queued before
    /// let end = watch.next().await.unwrap().unwrap_err();
    /// assert_eq!(end.kind(), ErrorKind::HistoryReplaced);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Source: etcd 3.5.30: `etcdutl/snapshot/v3_snapshot.go`, `Restore`; for leases
    /// `server/lease/lessor.go`, `initAndRecover` and `Promote`. etcd adds its election timeout to
    /// the TTL, and shortens it only by a lease checkpoint, which is off by default.
    pub fn restore(&self, backup: &Backup) -> Revision {
        self.shared.restore(&backup.store)
    }
}
