//! The guards of the three primitives, as one type: each excludes all other holders.

use coord_core::kv::{Op, OpResponse, Put, Range, Txn};
use coord_core::mutex::MutexGuard;
use coord_core::queue::{Held, Ownership};
use coord_core::recipes::semaphore::SemaphorePermits;
use coord_core::recipes::{ResumedLock, RwLock, Semaphore, WriteGuard};
use coord_core::{Mutex, Session};

use super::shared::Shared;
use crate::sim::mutants::TaskResult;

/// All permits of the semaphore, which a holder acquires together.
const PERMITS: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Mutex,
    Semaphore,
    RwLock,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Mutex, Self::Semaphore, Self::RwLock];

    /// The name of the primitive.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Mutex => "mutex",
            Self::Semaphore => "semaphore",
            Self::RwLock => "rwlock",
        }
    }
}

#[derive(Debug)]
pub(super) enum Guard {
    Mutex(MutexGuard),
    Permits(SemaphorePermits),
    Writer(Box<WriteGuard>),
}

impl Guard {
    pub(super) async fn acquire(session: &Session, kind: Kind) -> TaskResult<Self> {
        Ok(match kind {
            Kind::Mutex => Self::Mutex(Mutex::new(session, kind.name()).lock().await?),
            Kind::Semaphore => {
                let semaphore = Semaphore::new(session, kind.name(), PERMITS);
                Self::Permits(semaphore.acquire(PERMITS).await?)
            }
            Kind::RwLock => {
                Self::Writer(Box::new(RwLock::new(session, kind.name()).write().await?))
            }
        })
    }

    /// What a former process has left on the adopted lease of the session.
    pub(super) async fn resume(session: &Session, kind: Kind) -> TaskResult<Option<Self>> {
        Ok(match kind {
            Kind::Mutex => Mutex::new(session, kind.name()).resume().await?.map(Self::Mutex),
            Kind::Semaphore => {
                let resumed = Semaphore::new(session, kind.name(), PERMITS).resume().await?;
                resumed.into_iter().next().map(Self::Permits)
            }
            Kind::RwLock => match RwLock::new(session, kind.name()).resume().await? {
                Some(ResumedLock::Write(writer)) => Some(Self::Writer(writer)),
                Some(other) => return Err(format!("no process reads, but found {other:?}").into()),
                None => None,
            },
        })
    }

    pub(super) const fn kind(&self) -> Kind {
        match self {
            Self::Mutex(_) => Kind::Mutex,
            Self::Permits(_) => Kind::Semaphore,
            Self::Writer(_) => Kind::RwLock,
        }
    }

    pub(super) fn ownership(&self) -> &Ownership {
        match self {
            Self::Mutex(guard) => guard.contender(),
            Self::Permits(guard) => guard.contender(),
            Self::Writer(guard) => guard.contender(),
        }
    }

    /// Writes the fencing token, if this is still held, and checks the token that it replaces.
    pub(super) async fn write(&self, shared: &Shared) -> TaskResult {
        let (key, token) =
            (format!("last/{}", self.kind().name()), self.ownership().fencing_token());
        let write = Txn::new().and_then([
            Op::Range(Range::new(&key)),
            Op::Put(Put::new(&key, token.0.0.to_string())),
        ]);
        let written = self.ownership().txn(write).await?;
        let replaced = written.responses.first().and_then(OpResponse::as_range);
        let replaced = replaced.and_then(|read| read.kvs.first());
        if let Some(kv) = replaced {
            let replaced: i64 = str::from_utf8(&kv.value)?.parse()?;
            if replaced > token.0.0 {
                let text = format!("{key}: token {token} replaced token {replaced}");
                shared.sim.fail("fencing", text);
            }
        }
        Ok(())
    }

    pub(super) async fn release(self) -> TaskResult {
        match self {
            Self::Mutex(guard) => guard.unlock().await?,
            Self::Permits(guard) => guard.release().await?,
            Self::Writer(guard) => guard.unlock().await?,
        }
        Ok(())
    }
}
