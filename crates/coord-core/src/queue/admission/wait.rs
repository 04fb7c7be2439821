//! The wait of a contender for its admission.

use std::iter;
use std::sync::Arc;

use tokio::time::{sleep, timeout};

use super::{Admission, Ahead, Verdict};
use crate::error::PrimitiveError;
use crate::key_watch::next_batch;
use crate::kv::{OpResponse, Range, Txn, Watch, Watcher};
use crate::queue::Contender;
use crate::retry_read::{RETRY_PAUSE_MIN, retry_read};
use crate::telemetry::queue as events;

impl Contender {
    /// Waits until a response has shown that the rule admits this contender, or that it cannot be
    /// admitted any more.
    pub(in crate::queue) async fn wait_admitted(&mut self) -> Result<(), PrimitiveError> {
        let mut watched: Option<Watcher> = None;
        let (mut is_warned, mut is_checked) = (false, false);
        loop {
            let Some(admission) = &self.admission else { return Ok(()) };
            match (admission.verdict(), admission.is_confirmed) {
                (Verdict::Waits, _) => {}
                (Verdict::Admitted | Verdict::Impossible, true) => return Ok(()),
                (Verdict::Admitted | Verdict::Impossible, false) => {
                    self.refresh_admission().await?;
                    is_checked = false;
                    continue;
                }
            }
            let Some(watcher) = &mut watched else {
                let (watch, known) =
                    (Watch::new(admission.rule.scope().interval()), admission.ahead.revision());
                let backend = self.session().backend();
                let watcher = retry_read(|| backend.watch(watch.clone())).await?;
                let may_have_missed = watcher.header().revision > known;
                watched = Some(watcher);
                if may_have_missed {
                    self.refresh_admission().await?;
                    is_checked = false;
                }
                continue;
            };
            // An event adds no key ahead, so the keys are checked after a read only.
            if !is_checked
                && !is_warned
                && let Some(foreign) = admission.foreign_key()
            {
                is_warned = true;
                events::waits_for_foreign_key(&self.name(), foreign);
            }
            is_checked = true;
            // A watch that delivers nothing for a TTL may have fallen silent.
            match timeout(self.session().ttl(), next_batch(watcher)).await {
                Ok(batch) => match (batch?, &mut self.admission) {
                    (Some(batch), Some(admission)) => {
                        admission.is_confirmed &= !admission.ahead.apply(batch);
                    }
                    _ => {
                        watched = None;
                        sleep(RETRY_PAUSE_MIN).await;
                        self.refresh_admission().await?;
                        is_checked = false;
                    }
                },
                Err(_elapsed) => {
                    self.refresh_admission().await?;
                    is_checked = false;
                }
            }
        }
    }

    /// Reads the own key and the keys ahead.
    ///
    /// # Errors
    /// `Lost` if this contender was evicted; otherwise the error of the backend.
    async fn refresh_admission(&mut self) -> Result<(), PrimitiveError> {
        let Some(admission) = &self.admission else { return Ok(()) };
        let own = self.ownership().entry();
        let scope = admission.rule.scope();
        let own_read = Range::new(&own.key).keys_only();
        let read = Txn::new().and_then(iter::once(own_read).chain(scope.reads(Some(own.created))));
        let backend = self.session().backend();
        let response = retry_read(|| backend.txn(read.clone())).await?;
        let mut reads = response.responses.into_iter().filter_map(OpResponse::into_range);
        let found = reads.next().and_then(|read| read.kvs.into_iter().next());
        if found.is_none_or(|kv| kv.create_revision != own.created) {
            return Err(self.ownership().why_evicted().await.into());
        }
        let ahead = Ahead::read(scope, own.created, response.header.revision, reads);
        let admission = Admission::new(Arc::clone(&admission.rule), ahead);
        self.note_admission(response.header, admission);
        Ok(())
    }
}

impl Admission {
    /// A key ahead that no contender can have created.
    fn foreign_key(&self) -> Option<&bytes::Bytes> {
        self.ahead.keys().find(|kv| self.rule.is_foreign(kv)).map(|kv| &kv.key)
    }
}
