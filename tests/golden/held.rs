//! The locks and leaderships that a client holds, by name.

use std::sync::{Arc, Mutex, MutexGuard as StdGuard};

use coord_core::{
    election::Leadership,
    error::{LossReason, PrimitiveError},
    kv::{FencingToken, Txn, TxnResponse},
    mutex::MutexGuard,
    queue::ReleaseRequest,
    sync,
};
use tokio::task::yield_now;

/// A held lock or leadership. Both can be lost, and both guard transactions.
pub(crate) enum Hold {
    Lock(MutexGuard),
    Lead(Leadership),
}

/// All locks and leaderships of a client, oldest first. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Held {
    holds: Arc<Mutex<NamedHolds>>,
}

type NamedHolds = Vec<(String, Arc<Hold>)>;

impl Hold {
    pub(crate) fn token(&self) -> FencingToken {
        match self {
            Self::Lock(guard) => guard.fencing_token(),
            Self::Lead(leadership) => leadership.fencing_token(),
        }
    }

    pub(crate) async fn lost(&self) -> LossReason {
        match self {
            Self::Lock(guard) => guard.lost().await,
            Self::Lead(leadership) => leadership.lost().await,
        }
    }

    pub(crate) async fn release_requested(&self) -> Result<ReleaseRequest, PrimitiveError> {
        match self {
            Self::Lock(guard) => guard.release_requested().await,
            Self::Lead(leadership) => leadership.release_requested().await,
        }
    }

    pub(crate) async fn txn(&self, txn: Txn) -> Result<TxnResponse, PrimitiveError> {
        match self {
            Self::Lock(guard) => guard.txn(txn).await,
            Self::Lead(leadership) => leadership.txn(txn).await,
        }
    }

    pub(crate) async fn release(self) -> Result<(), PrimitiveError> {
        match self {
            Self::Lock(guard) => Ok(guard.unlock().await?),
            Self::Lead(leadership) => Ok(leadership.resign().await?),
        }
    }
}

impl Held {
    pub(crate) fn add(&self, name: &str, hold: Hold) {
        self.holds().push((name.to_owned(), Arc::new(hold)));
    }

    /// The oldest hold of this name.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<Hold>, String> {
        let holds = self.holds();
        let hold = holds.iter().find(|(held, _)| held == name).map(|(_, hold)| Arc::clone(hold));
        hold.ok_or_else(|| format!("holds no {name}"))
    }

    /// Removes the oldest hold of this name, and returns it once no other command uses it.
    pub(crate) async fn take(&self, name: &str) -> Result<Hold, String> {
        let mut hold = self.get(name)?;
        self.holds().retain(|(_, other)| !Arc::ptr_eq(&hold, other));
        loop {
            match Arc::try_unwrap(hold) {
                Ok(hold) => return Ok(hold),
                Err(shared) => hold = shared,
            }
            yield_now().await;
        }
    }

    fn holds(&self) -> StdGuard<'_, NamedHolds> {
        sync::lock(&self.holds)
    }
}
