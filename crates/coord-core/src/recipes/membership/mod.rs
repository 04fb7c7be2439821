//! Membership: processes that join a group with metadata, and the live list of its members.
//!
//! A member has a key on the lease of its session, so it leaves the group when its session ends,
//! however that happens. Other processes follow the keys with a [`PrefixCache`].
//!
//! ```text
//! group `cache-nodes`      keys                                         events
//! A joins: 10.0.0.1        members/a1.0 = 10.0.0.1                      Joined A
//! B joins: 10.0.0.2        members/a1.0 = …1, members/b7.0 = …2         Joined B
//! B updates: 10.0.0.3      members/a1.0 = …1, members/b7.0 = …3         Updated B
//! A's session ends         members/b7.0 = …3                            Left A
//! ```

mod guard;
mod members;

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;

use super::{PrefixCache, PrefixCacheError};
use crate::client::Client;
use crate::error::PrimitiveError;
use crate::kv::{IntoBytes, Value};
use crate::queue::KeyGuard;
use crate::session::Session;
use crate::stm::invalid;
pub use guard::MemberGuard;
pub use members::{Member, MemberEvent, MemberEvents, Members};

/// A group of processes by name, whose members have metadata of the type `M`: an address, or with
/// the feature `json` any `Json<T>`.
///
/// ```
/// use coord_core::recipes::{MemberEvent, Membership};
/// use coord_core::{Client, Session};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(MemBackend::new());
/// let group = Membership::<String>::new(&client, "cache-nodes");
/// let mut events = group.members().await?.events();
///
/// let session = Session::builder(&client).open().await?;
/// let member = group.join(&session, &"10.0.0.1".to_owned()).await?;
/// let Some(Ok(MemberEvent::Joined(joined))) = events.next().await else { panic!() };
/// assert_eq!((joined.id(), joined.metadata()?.as_str()), (member.id(), "10.0.0.1"));
///
/// member.leave().await?; // or drop it, or end the session
/// assert!(matches!(events.next().await, Some(Ok(MemberEvent::Left(_)))));
/// # Ok(())
/// # }
/// ```
///
/// Source: Apache Curator's recipe `GroupMember`, with typed metadata and events.
pub struct Membership<M> {
    client: Client,
    /// Ends with a slash.
    prefix: Bytes,
    /// A membership holds no `M`, so it is `Send` and `Sync` for each `M`.
    metadata: PhantomData<fn() -> M>,
}

impl<M: Value> Membership<M> {
    /// The group `name`. Its keys are `name/members/LEASE.N`.
    pub fn new(client: &Client, name: impl IntoBytes) -> Self {
        let prefix = [&name.into_bytes()[..], MEMBERS].concat().into();
        Self { client: client.clone(), prefix, metadata: PhantomData }
    }

    /// Joins the group, until the guard is dropped or [leaves](MemberGuard::leave), or the session
    /// ends. Each call makes another member, with an id of its own, also with the same session. The
    /// client of the session must have the same store and namespace as that of the group.
    ///
    /// Cost: 1 request.
    ///
    /// # Errors
    /// - `Lost` if the session is lost.
    /// - `InvalidValue` if the metadata cannot be encoded: nothing was sent.
    /// - The error of the backend. If its outcome is unknown, the session task deletes the key that
    ///   may have been created.
    ///
    /// # Cancel safety
    /// Dropping the future leaves no key behind, as long as the session lives.
    pub async fn join(
        &self,
        session: &Session,
        metadata: &M,
    ) -> Result<MemberGuard<M>, PrimitiveError>
    where
        M: Sync,
    {
        let value = metadata.encode().map_err(|error| invalid(&self.prefix, error))?;
        // The id of a member is never used again, so an event is of one member.
        let (guard, id) = KeyGuard::create_unique(session, &self.prefix, &value).await?;
        Ok(MemberGuard::new(guard, id))
    }

    /// Opens the live list of the members. Returns when it is loaded. Clone it rather than open it
    /// twice: the clones share one watch.
    ///
    /// Cost: 1 request for each 1,000 members, and a watch.
    ///
    /// # Errors
    /// As [`PrefixCache::open`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the list.
    pub async fn members(&self) -> Result<Members<M>, PrefixCacheError> {
        let cache = PrefixCache::open(&self.client, &self.prefix).await?;
        Ok(Members::new(cache))
    }
}

/// What the prefix of the members' keys has after the name of the group.
const MEMBERS: &[u8] = b"/members/";

impl<M> Membership<M> {
    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> Bytes {
        self.prefix.slice(..self.prefix.len() - MEMBERS.len())
    }
}

impl<M> Clone for Membership<M> {
    fn clone(&self) -> Self {
        let Self { client, prefix, metadata } = self;
        Self { client: client.clone(), prefix: prefix.clone(), metadata: *metadata }
    }
}

impl<M> fmt::Debug for Membership<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Membership(\"{}\")", self.name().escape_ascii())
    }
}
