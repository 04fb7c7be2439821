//! The keys that a former process has left on the lease that its adopter has, and their contenders.
//!
//! A former holder is still admitted, because no key comes ahead of its key. So the adopter takes
//! the key over, with its create revision. The key of a former waiter is deleted: its call has
//! failed, or its process has ended, and the key would block later contenders as long as the
//! adopter lives. A semaphore with the limit 3:
//!
//! ```text
//! former process on lease a1               adopter of a1    keys in queue order
//! holds 2 permits, waits for 2                              a1-0@5 (2)  a1-1@7 (2)
//! orphan: the wait fails                                    a1-0@5 (2)  a1-1@7 (2)
//!                                          resume: reads    a1-0@5 (2)  a1-1@7 (2)
//!                                          holds 2 permits  a1-0@5 (2)
//! ```

use std::cmp::Reverse;
use std::sync::Arc;

use super::{Admission, AdmissionRule, Ahead, Scope};
use crate::error::PrimitiveError;
use crate::kv::{Header, KeyValue, OpResponse, RangeResponse, Txn};
use crate::queue::key_guard::KeyGuard;
use crate::queue::{Contender, WaitQueue};
use crate::retry_request::retry_request;
use crate::session::Session;

/// The keys of a scope as of one read, for the adopter of a lease.
#[derive(Debug)]
pub(crate) struct Former {
    session: Session,
    scope: Scope,
    header: Header,
    kvs: Vec<KeyValue>,
}

impl Former {
    /// Reads the scope.
    pub(crate) async fn read(session: &Session, scope: &Scope) -> Result<Self, PrimitiveError> {
        let read = Txn::new().and_then(scope.reads(None));
        let sent = async { Ok(retry_request(|| session.backend().txn(read.clone())).await?) };
        let response = session.while_held(sent).await?;
        session.check_deadline().await?;
        let reads = response.responses.into_iter().filter_map(OpResponse::into_range);
        let kvs = reads.flat_map(|read| read.kvs).collect();
        let (session, scope) = (session.clone(), scope.clone());
        Ok(Self { session, scope, header: response.header, kvs })
    }

    /// All keys of the scope.
    pub(crate) fn all(&self) -> Ahead {
        Ahead::all(&self.scope, self.header.revision, [self.response()])
    }

    /// The keys of `queue` that the former process has left, newest first.
    pub(crate) fn newest_first(&self, queue: &WaitQueue) -> Vec<&KeyValue> {
        let is_former = |kv: &&KeyValue| queue.owns(&kv.key) && self.session.has_adopted(kv);
        let mut former: Vec<_> = self.kvs.iter().filter(is_former).collect();
        former.sort_by_key(|kv| Reverse(kv.create_revision));
        former
    }

    /// The contender of a key, with its companion if it has one. Dropping it deletes both.
    pub(crate) fn contender(
        &self,
        queue: &WaitQueue,
        (kv, companion): (&KeyValue, Option<&KeyValue>),
        rule: Arc<dyn AdmissionRule>,
    ) -> Contender {
        let guard = |kv: &KeyValue| {
            let mut guard = KeyGuard::existing(&self.session, kv.key.clone(), kv.create_revision);
            guard.set_armed(true);
            guard
        };
        let (created, revision) = (kv.create_revision, self.header.revision);
        let ahead = Ahead::read(rule.scope(), created, revision, [self.response()]);
        let guards = (guard(kv), companion.map(guard));
        Contender::with_admission(queue.clone(), guards, self.header, Admission::new(rule, ahead))
    }

    fn response(&self) -> RangeResponse {
        RangeResponse { kvs: self.kvs.clone(), ..RangeResponse::default() }
    }
}
