//! Observers: clients that read and follow the leaders of an election without a session.

use std::fmt;

use bytes::Bytes;

use super::Leaders;
use super::contenders::Contenders;
use crate::client::Client;
use crate::error::Result;
use crate::kv::{FencingToken, Header, IntoBytes, KeyValue, LeaseId, Range, Revision};
use crate::queue::QueueKeys;
use crate::retry_request::retry_request;

/// How many keys are read in one request, keys of child names included.
const PAGE_SIZE: u64 = 500;

/// An observer of an election. It needs no session.
#[derive(Clone)]
pub struct Observer {
    client: Client,
    pub(super) keys: QueueKeys,
}

impl Observer {
    pub(super) fn new(client: &Client, name: impl IntoBytes) -> Self {
        Self { client: client.clone(), keys: QueueKeys::new(name) }
    }

    /// Reads the leader; `None` if there is none.
    ///
    /// It costs one request, and a second one if the oldest of several keys belongs to a child
    /// name.
    ///
    /// # Errors
    /// The error of the backend. Nothing is changed.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn leader(&self) -> Result<Option<Leader>> {
        let (header, leader) = self.keys.read_first(&self.client).await?;
        Ok(leader.map(|kv| Leader { kv, header }))
    }

    /// Returns the stream of leaders, from now on: every leader and every value, in order, and
    /// `None` while there is no leader.
    ///
    /// ```
    /// use coord_core::{Client, Election, Session};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::new(MemBackend::new());
    /// let mut leaders = Election::observer(&client, "scheduler").observe();
    /// assert_eq!(leaders.next().await.unwrap()?, None);
    ///
    /// let session = Session::builder(&client).open().await?;
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

    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    /// Reads all contenders, page by page, at a revision or at the newest one. It retries each
    /// page.
    pub(super) async fn read_contenders(
        &self,
        at: Option<Revision>,
    ) -> Result<(Header, Contenders)> {
        let all = self.keys.range();
        let first = Range::new(&all).limit(PAGE_SIZE).at(at);
        let mut page = retry_request(|| self.client.range(first.clone())).await?;
        let (header, mut contenders) = (page.header, Contenders::default());
        let at = at.unwrap_or(header.revision);
        loop {
            let last = page.kvs.last().map(|kv| kv.key.clone());
            let owned = page.kvs.into_iter().filter(|kv| self.keys.owns(&kv.key));
            owned.for_each(|kv| contenders.insert(kv));
            let Some(last) = last.filter(|_| page.more) else { return Ok((header, contenders)) };
            let rest = Range::new(all.after(&last)).limit(PAGE_SIZE).at(at);
            page = retry_request(|| self.client.range(rest.clone())).await?;
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Observer(\"{}\")", self.keys.name().escape_ascii())
    }
}

/// A leader with its value, at one revision.
///
/// Two leaders are equal if their [`key_value`](Self::key_value) is the same, with any header. They
/// differ if the leader has proclaimed its value again, because its key has another mod revision.
#[derive(Clone, Debug)]
pub struct Leader {
    pub(super) kv: KeyValue,
    pub(super) header: Header,
}

impl Leader {
    /// Returns the leader's key in the queue.
    #[must_use]
    pub const fn key(&self) -> &Bytes {
        &self.kv.key
    }

    /// Returns the value that the leader campaigned with, or has proclaimed since.
    #[must_use]
    pub const fn value(&self) -> &Bytes {
        &self.kv.value
    }

    /// Returns the fencing token. It is the same for all values of one leader. Every later leader
    /// has a larger one.
    #[must_use]
    pub const fn fencing_token(&self) -> FencingToken {
        FencingToken(self.kv.create_revision)
    }

    /// Returns the lease of the leader's key.
    #[must_use]
    pub const fn lease(&self) -> Option<LeaseId> {
        self.kv.lease
    }

    /// Returns the key with its revisions and version, as in the store.
    #[must_use]
    pub const fn key_value(&self) -> &KeyValue {
        &self.kv
    }

    /// Returns the header of the response or batch with the leader. Its revision is the revision of
    /// the change by which this leader began to lead or changed its value, if the observer received
    /// that change as an event, and may be a later one if the observer read the leader.
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
