//! Who leads, from outside.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::Leaders;
use super::contenders::Contenders;
use crate::backend::KvBackend;
use crate::contender::{FencingToken, Keys};
use crate::error::{Error, Result};
use crate::kv::{Header, IntoBytes, KeyValue, LeaseId, Range, Revision, Watch, WatchRequest};
use crate::retry::patiently;

/// How many contenders are read in one request.
const PAGE: i64 = 500;

/// Looks at an election, and needs no session for that.
#[derive(Clone)]
pub struct Observer {
    backend: Arc<dyn KvBackend>,
    pub(super) keys: Keys,
}

impl Observer {
    /// An observer of the election `name`.
    pub fn new(backend: Arc<dyn KvBackend>, name: impl IntoBytes) -> Self {
        Self { backend, keys: Keys::new(name) }
    }

    /// Who leads, if anybody does: one request, two if other elections lie below this one.
    ///
    /// # Errors
    /// What the backend answered. Nothing is changed.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn leader(&self) -> Result<Option<Leader>> {
        let oldest = self.keys.first();
        let mut read = self.backend.range(oldest.clone().limit(1)).await?;
        if read.more && read.kvs.iter().any(|kv| !self.keys.owns(&kv.key)) {
            // The oldest key belongs to another election.
            read = self.backend.range(oldest).await?;
        }
        let header = read.header;
        let leader = read.kvs.into_iter().find(|kv| self.keys.owns(&kv.key));
        Ok(leader.map(|kv| Leader { kv, header }))
    }

    /// Who leads, now and from now on, and when nobody does: every leader and every value, in
    /// order.
    ///
    /// ```
    /// use coord_core::{Election, Session, election::Observer};
    /// use coord_mem::MemBackend;
    /// use std::sync::Arc;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let kv = Arc::new(MemBackend::new());
    /// let mut leaders = Observer::new(kv.clone(), "scheduler").observe();
    /// assert_eq!(leaders.next().await.unwrap()?, None);
    ///
    /// let session = Session::builder(kv).open().await?;
    /// let leadership = Election::new(&session, "scheduler").campaign("me").await?;
    /// leadership.proclaim("still me").await?;
    /// leadership.resign().await?;
    ///
    /// assert_eq!(leaders.next().await.unwrap()?.unwrap().value(), "me");
    /// assert_eq!(leaders.next().await.unwrap()?.unwrap().value(), "still me");
    /// assert_eq!(leaders.next().await.unwrap()?, None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn observe(&self) -> Leaders {
        Leaders::of(self.clone())
    }

    /// All contenders as of one revision, the newest, in as many requests as there are pages. While
    /// the store is unavailable the requests are repeated.
    pub(super) async fn contenders(&self) -> Result<(Header, Contenders)> {
        loop {
            match patiently(|| self.read_contenders(None)).await {
                // The first page was read just before, and the others are no longer available.
                Err(Error::Compacted { .. }) => {}
                read => return read,
            }
        }
    }

    /// The contenders as of a revision that the store has reached before; `None` if it has not, and
    /// so is another store.
    pub(super) async fn contenders_at(&self, revision: Revision) -> Result<Option<Contenders>> {
        let read = async || match self.read_contenders(Some(revision)).await {
            Ok((_, contenders)) => Ok(Some(contenders)),
            Err(Error::FutureRevision { .. }) => Ok(None),
            Err(error) => Err(error),
        };
        patiently(read).await
    }

    async fn read_contenders(&self, at: Option<Revision>) -> Result<(Header, Contenders)> {
        let all = self.keys.range();
        let first = Range::new(&all).limit(PAGE).at(at.unwrap_or(Revision::ZERO));
        let mut page = self.backend.range(first).await?;
        let (header, mut contenders) = (page.header, Contenders::default());
        let at = at.unwrap_or(header.revision);
        loop {
            let last = page.kvs.last().map(|kv| kv.key.clone());
            let owned = page.kvs.into_iter().filter(|kv| self.keys.owns(&kv.key));
            owned.for_each(|kv| contenders.insert(kv));
            let Some(last) = last.filter(|_| page.more) else { return Ok((header, contenders)) };
            let rest = Range::new(all.after(&last)).limit(PAGE).at(at);
            page = self.backend.range(rest).await?;
        }
    }

    /// Watches the contenders, from a revision on.
    pub(super) async fn watch(&self, from: Revision) -> Result<Watch> {
        let request = WatchRequest::new(self.keys.range()).start_at(from);
        patiently(|| self.backend.watch(request.clone())).await
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").field("name", &self.keys.name()).finish_non_exhaustive()
    }
}

/// Who led, when, and what its value was.
///
/// Two are equal that are the same leader with the same value, whenever they were seen.
#[derive(Clone, Debug)]
pub struct Leader {
    pub(super) kv: KeyValue,
    pub(super) header: Header,
}

impl Leader {
    /// The key that stands for the leader.
    #[must_use]
    pub const fn key(&self) -> &Bytes {
        &self.kv.key
    }

    /// What the leader campaigned with, or proclaimed since.
    #[must_use]
    pub const fn value(&self) -> &Bytes {
        &self.kv.value
    }

    /// A number that is larger for every later leader, and the same for each value of one.
    #[must_use]
    pub const fn fencing_token(&self) -> FencingToken {
        FencingToken(self.kv.create_revision)
    }

    /// The lease that the leader's key hangs on.
    #[must_use]
    pub const fn lease(&self) -> Option<LeaseId> {
        self.kv.lease
    }

    /// The key as it was in the store: with the revision of the value, and how many there were.
    #[must_use]
    pub const fn key_value(&self) -> &KeyValue {
        &self.kv
    }

    /// Of the answer that told of the leader. Its revision is that of the store when this was so:
    /// of the value if the observer saw it come, a later one if it was there already.
    #[must_use]
    pub const fn header(&self) -> Header {
        self.header
    }
}

impl PartialEq for Leader {
    fn eq(&self, other: &Self) -> bool {
        self.kv == other.kv
    }
}

impl Eq for Leader {}
