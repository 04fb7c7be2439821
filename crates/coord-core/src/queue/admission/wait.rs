//! The wait of a contender for its admission.

use std::iter;
use std::sync::Arc;

use tokio::time::{sleep, timeout};

use super::{Admission, Ahead, Verdict};
use crate::error::{PrimitiveError, Result};
use crate::key_watch::next_batch;
use crate::kv::{OpResponse, Range, Revision, Txn, Watch, WatchBatch, Watcher};
use crate::queue::Contender;
use crate::retry_request::{RETRY_PAUSE_MIN, retry_request};
use crate::telemetry::queue as events;

/// The watches of a scope: one of its queues, and one of its setting if it has one.
struct Watches {
    queues: Watcher,
    setting: Option<Watcher>,
}

/// Events of one revision, or the end of a watch.
enum Events {
    OfQueues(WatchBatch),
    OfSetting(WatchBatch),
    Ended,
}

/// What has been logged during a wait.
#[derive(Default)]
struct Warned {
    /// Whether a foreign key was logged.
    foreign: bool,
    /// Whether the keys ahead were checked since the last read: an event adds no key ahead.
    is_checked: bool,
    /// The mod revision of the setting that was logged as unreadable.
    setting: Revision,
}

impl Contender {
    /// Waits until a response has shown that the rule admits this contender, or that it cannot be
    /// admitted any more.
    pub(in crate::queue) async fn wait_admitted(&mut self) -> Result<(), PrimitiveError> {
        let mut watches: Option<Watches> = None;
        let mut warned = Warned::default();
        loop {
            let Some(admission) = &self.admission else { return Ok(()) };
            match (admission.verdict(), admission.is_confirmed) {
                (Verdict::Waits, _) => {}
                (Verdict::Admitted | Verdict::Impossible, true) => return Ok(()),
                (Verdict::Admitted | Verdict::Impossible, false) => {
                    self.refresh_admission(&mut warned).await?;
                    continue;
                }
            }
            let Some(open) = &mut watches else {
                let (opened, registered) = self.watch_scope(admission).await?;
                let may_have_missed = registered > admission.ahead.revision();
                watches = Some(opened);
                if may_have_missed {
                    self.refresh_admission(&mut warned).await?;
                }
                continue;
            };
            self.warn(admission, &mut warned);
            // A watch that delivers nothing for a TTL may have fallen silent.
            let events = timeout(self.session().ttl(), open.next()).await;
            match (events.ok().transpose()?, &mut self.admission) {
                (Some(Events::OfQueues(batch)), Some(admission)) => {
                    admission.is_confirmed &= !admission.ahead.apply(batch);
                }
                (Some(Events::OfSetting(batch)), Some(admission)) => {
                    admission.is_confirmed &= !admission.ahead.apply_to_setting(batch);
                }
                (Some(_), _) => {
                    watches = None;
                    sleep(RETRY_PAUSE_MIN).await;
                    self.refresh_admission(&mut warned).await?;
                }
                (None, _) => self.refresh_admission(&mut warned).await?,
            }
        }
    }

    /// Registers the watches of the scope, from now on. Returns the revision as of which the last
    /// one is registered.
    async fn watch_scope(&self, admission: &Admission) -> Result<(Watches, Revision)> {
        let (scope, backend) = (admission.rule.scope(), self.session().backend());
        let watch = Watch::new(scope.interval());
        let queues = retry_request(|| backend.watch(watch.clone())).await?;
        let mut registered = queues.header().revision;
        let mut setting = None;
        if let Some(key) = scope.setting() {
            let watch = Watch::new(key);
            let watcher = retry_request(|| backend.watch(watch.clone())).await?;
            registered = registered.max(watcher.header().revision);
            setting = Some(watcher);
        }
        Ok((Watches { queues, setting }, registered))
    }

    /// Logs what only an operator can change: a foreign key ahead, and an unreadable setting.
    fn warn(&self, admission: &Admission, warned: &mut Warned) {
        if !warned.is_checked
            && !warned.foreign
            && let Some(foreign) = admission.foreign_key()
        {
            warned.foreign = true;
            events::waits_for_foreign_key(&self.name(), foreign);
        }
        warned.is_checked = true;
        if let Some(setting) = admission.rule.unreadable_setting(&admission.ahead)
            && warned.setting != setting.mod_revision
        {
            warned.setting = setting.mod_revision;
            events::waits_for_setting(&self.name(), setting);
        }
    }

    /// Reads the own key and the keys ahead.
    ///
    /// # Errors
    /// `Lost` if this contender was evicted; otherwise the error of the backend.
    async fn refresh_admission(&mut self, warned: &mut Warned) -> Result<(), PrimitiveError> {
        let Some(admission) = &self.admission else { return Ok(()) };
        let own = self.ownership().entry();
        let scope = admission.rule.scope();
        let own_read = Range::new(&own.key).keys_only();
        let read = Txn::new().and_then(iter::once(own_read).chain(scope.reads(Some(own.created))));
        let backend = self.session().backend();
        let response = retry_request(|| backend.txn(read.clone())).await?;
        let mut reads = response.responses.into_iter().filter_map(OpResponse::into_range);
        let found = reads.next().and_then(|read| read.kvs.into_iter().next());
        if found.is_none_or(|kv| kv.create_revision != own.created) {
            return Err(self.ownership().why_evicted().await.into());
        }
        let ahead = Ahead::read(scope, own.created, response.header.revision, reads);
        let admission = Admission::new(Arc::clone(&admission.rule), ahead);
        self.note_admission(response.header, admission);
        warned.is_checked = false;
        Ok(())
    }
}

impl Watches {
    /// Waits for the next events.
    ///
    /// Cancel safe.
    async fn next(&mut self) -> Result<Events> {
        let setting = async {
            match &mut self.setting {
                Some(setting) => next_batch(setting).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            batch = next_batch(&mut self.queues) => {
                Ok(batch?.map_or(Events::Ended, Events::OfQueues))
            }
            batch = setting => Ok(batch?.map_or(Events::Ended, Events::OfSetting)),
        }
    }
}

impl Admission {
    /// A key ahead that no contender can have created.
    fn foreign_key(&self) -> Option<&bytes::Bytes> {
        self.ahead.keys().find(|kv| self.rule.is_foreign(kv)).map(|kv| &kv.key)
    }
}
