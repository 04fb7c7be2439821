//! The leases of delays: each is granted once, and revoked if its message is not put.
//!
//! A message with a delay has a claim on a lease without keep-alives: it is ready when the lease
//! has expired. The producer chooses the id of the lease. So it can repeat a grant whose response
//! was lost, and revoke a lease whose grant it has not confirmed.
//!
//! ```text
//! grant d1, 60 s: applied, response lost      d1
//! grant d1, 60 s: it exists                   d1
//! put m1 and its claim on d1: refused         d1      the put fails
//! revoke d1, in the background
//! ```
//!
//! While a put may be applied, its leases stay: without them, the message would be ready at once. A
//! lease that is left, because its put or its grant arrives after the future was dropped, expires
//! when the delay has passed.
//!
//! A delivery that is released with a delay has such a lease too (`delivery.rs`). It stays only if
//! the release was confirmed, because a delivery that is dropped makes the message ready at once.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::error::{Error, PrimitiveError};
use crate::kv::{LeaseGrant, LeaseId};
use crate::retry_request::retry_request;
use crate::session::Session;

/// How long a task tries to revoke a lease. Later the lease expires by itself.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The leases of one put or one delivery, by their delay. Dropping it revokes them, unless they are
/// used.
#[derive(Debug)]
pub(super) struct DelayLeases {
    session: Session,
    leases: BTreeMap<Duration, LeaseId>,
    is_used: bool,
}

impl DelayLeases {
    pub(super) fn new(session: &Session) -> Self {
        Self { session: session.clone(), leases: BTreeMap::new(), is_used: false }
    }

    /// The lease that ends when `delay` has passed.
    pub(super) fn get(&self, delay: Duration) -> Option<LeaseId> {
        self.leases.get(&delay).copied()
    }

    /// Grants a lease for `delay`. Returns its id, a hash of `seed`, which no other lease has.
    pub(super) async fn grant(
        &mut self,
        delay: Duration,
        seed: (&str, u64),
    ) -> Result<LeaseId, PrimitiveError> {
        let id = id(seed);
        // Before the request is sent: a lease whose grant was not confirmed is revoked too.
        self.leases.insert(delay, id);
        let backend = self.session.backend();
        let attempt = || async {
            match backend.lease_grant(LeaseGrant::new(delay).id(id)).await {
                // An earlier attempt was applied.
                Err(Error::LeaseExists { .. }) => Ok(()),
                granted => granted.map(drop),
            }
        };
        self.session.while_held(async { Ok(retry_request(attempt).await?) }).await?;
        Ok(id)
    }

    /// Forgets the lease for `delay`, because it has ended.
    pub(super) fn forget(&mut self, delay: Duration) {
        self.leases.remove(&delay);
    }

    /// Sets whether the leases are used: a put with them may be applied, or a release was.
    pub(super) const fn set_used(&mut self, is_used: bool) {
        self.is_used = is_used;
    }
}

/// A positive lease id from a hash of 62 bits.
fn id(seed: (&str, u64)) -> LeaseId {
    let mut hasher = DefaultHasher::new();
    seed.hash(&mut hasher);
    match LeaseId::new(((hasher.finish() >> 1) | 1).cast_signed()) {
        Some(id) => id,
        None => unreachable!("an odd number is not zero"),
    }
}

impl Drop for DelayLeases {
    fn drop(&mut self) {
        if self.is_used {
            return;
        }
        for id in self.leases.values().copied() {
            let backend = Arc::clone(self.session.backend());
            self.session.spawn(async move {
                let revoke = retry_request(|| backend.lease_revoke(id));
                // Without a response, the lease expires by itself.
                let _ = timeout(REVOKE_TIMEOUT, revoke).await;
            });
        }
    }
}
