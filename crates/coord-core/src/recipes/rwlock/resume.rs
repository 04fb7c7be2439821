//! Resuming a lock on an adopted lease.
//!
//! A former process has left keys of readers and of writers on the lease. A writer's key belongs
//! with a reader's key: with that of its own transaction, or, after an upgrade, with the older key
//! of the reader that it was.
//!
//! ```text
//! keys of the lease, in queue order     resumed as
//! read/0@5 read/1@6                     two readers
//! read/0@5 write/0@5                    a writer
//! read/0@5 write/0@7                    a writer, after an upgrade
//! read/0@5 (its writer's key deleted)   a reader, after a downgrade
//! ```

use super::{ReadGuard, RwLock, Usage, WriteGuard};
use crate::error::PrimitiveError;
use crate::kv::KeyValue;
use crate::queue::admission::Former;

/// What [`RwLock::resume`] has found: the locks of a former process on one lease.
#[derive(Debug)]
#[non_exhaustive]
pub enum ResumedLock {
    /// The guards of its readers, the oldest first; at least one.
    Read(Vec<ReadGuard>),
    /// The guard of its writer.
    Write(Box<WriteGuard>),
}

impl RwLock {
    /// Resumes the lock of a former process on the lease that this session has
    /// [adopted](crate::session::SessionBuilder::lease): as a writer, or as one or more readers.
    /// `None` if the former process did not hold it. No other client writes in between.
    ///
    /// Keys of contenders that waited are deleted, in the background; a reader that waited for an
    /// upgrade is a reader again. The fencing token of a downgraded lock is that of its reader's
    /// key, which is smaller than that of its writer after an upgrade. Call it once in each
    /// process, before the first lock: a second call returns guards of the same keys. It costs 1
    /// request.
    ///
    /// ```
    /// use coord_core::recipes::{RwLock, rwlock::ResumedLock};
    /// use coord_core::{Client, Session};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::new(MemBackend::new());
    /// let old = Session::builder(&client).open().await?;
    /// let written = RwLock::new(&old, "catalog").write().await?;
    /// let lease = old.orphan().await?;
    ///
    /// let new = Session::builder(&client).lease(lease).open().await?;
    /// let Some(ResumedLock::Write(writer)) = RwLock::new(&new, "catalog").resume().await? else {
    ///     panic!("the writer's keys are on the lease");
    /// };
    /// assert_eq!(writer.fencing_token(), written.fencing_token());
    /// writer.unlock().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// - `Lost` if the session is lost.
    /// - The error of the backend, if it is not retryable.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn resume(&self) -> Result<Option<ResumedLock>, PrimitiveError> {
        let former = Former::read(self.readers.session(), &self.all_scope).await?;
        let mut readers = former.newest_first(&self.readers);
        let mut writer = None;
        for kv in former.newest_first(&self.writers) {
            let own = readers.iter().position(|key| key.create_revision == kv.create_revision);
            let own = own.map(|own| readers.remove(own));
            // Only the key of the reader is ahead of an upgraded lock, so which one is tried first
            // makes no difference if there are several: the writer waits.
            let is_older = |key: &&KeyValue| key.create_revision < kv.create_revision;
            let upgraded = readers.iter().copied().find(is_older).filter(|_| own.is_none());
            let rule = self.rule(Usage::Write, upgraded.map(|key| key.key.clone()));
            let mut contender = former.contender(&self.writers, (kv, own), rule);
            if contender.is_admitted() {
                if let Some(upgraded) = upgraded {
                    readers.retain(|key| key.key != upgraded.key);
                    let rule = self.rule(Usage::Read, None);
                    contender.take_as_companion(former.contender(
                        &self.readers,
                        (upgraded, None),
                        rule,
                    ));
                }
                writer = Some(WriteGuard::of(self.clone(), contender));
            }
        }
        let mut held = Vec::new();
        for kv in readers {
            let rule = self.rule(Usage::Read, None);
            let contender = former.contender(&self.readers, (kv, None), rule);
            if contender.is_admitted() {
                held.push(ReadGuard::of(self.clone(), contender, None));
            }
        }
        held.reverse();
        Ok(match writer {
            Some(writer) => Some(ResumedLock::Write(Box::new(writer))),
            None => (!held.is_empty()).then_some(ResumedLock::Read(held)),
        })
    }
}
