//! The owners of shards, as a live map for clients that route.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use super::{Shards, changed};
use crate::client::Client;
use crate::kv::{FencingToken, IntoBytes, KeyValue, Revision};
use crate::queue::is_foreign;
use crate::recipes::{PrefixCache, PrefixCacheError, PrefixChanges};

/// The owners of the shards of a [`ShardAssignment`](super::ShardAssignment), in memory, for
/// clients that send each request to the owner of its shard. It needs no session.
///
/// The map is as of one revision: [`changed`](Self::changed) waits for the next change. A client
/// may find that a shard has moved since: the member must check that it owns the shard, and the
/// client then waits for a change and tries again.
///
/// ```
/// use coord_core::recipes::{ShardAssignment, ShardOwners};
/// use coord_core::{Client, Session};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(MemBackend::new());
/// let mut owners = ShardOwners::open(&client, "orders").await?;
/// assert!(owners.owner("3").is_none());
///
/// let session = Session::builder(&client).open().await?;
/// let shards = ShardAssignment::new(&session, "orders", (0..8).map(|n| n.to_string()))?;
/// let _member = shards.join("10.0.0.7:80").await?;
/// while owners.owner("3").is_none() {
///     owners.changed().await?;
/// }
/// assert_eq!(owners.owner("3").expect("owned").member, "10.0.0.7:80");
/// # Ok(())
/// # }
/// ```
pub struct ShardOwners {
    /// The contenders of all shards.
    cache: PrefixCache,
    changes: PrefixChanges,
}

/// The owner of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardOwner {
    /// The name of the member.
    pub member: Bytes,
    /// The fencing token of the owner.
    pub fencing_token: FencingToken,
    /// The key of the owner.
    pub key: Bytes,
}

impl ShardOwners {
    /// Reads the owners of the shards of the assignment `name`.
    ///
    /// Cost: that of a [`PrefixCache`] of the owners, and of the members that wait for a shard: 1
    /// read for each 1,000 of them, a watch, and a read each 55 s. A change costs no request.
    ///
    /// # Errors
    /// As [`PrefixCache::open`].
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn open(
        client: &Client,
        name: impl IntoBytes + Send,
    ) -> Result<Self, PrefixCacheError> {
        let prefix = Shards::prefix_of_shards(&name.into_bytes());
        let cache = PrefixCache::open(client, prefix).await?;
        let changes = cache.changes();
        Ok(Self { cache, changes })
    }

    /// Returns the owner of a shard; `None` if it has none at this revision. It sends no request.
    #[must_use]
    pub fn owner(&self, shard: impl AsRef<[u8]>) -> Option<ShardOwner> {
        let prefix = [&self.cache.prefix()[..], shard.as_ref(), b"/"].concat();
        let of_shard = self.changes.snapshot().with_prefix(prefix.clone());
        first(of_shard.filter(|kv| !kv.key[prefix.len()..].contains(&b'/')))
    }

    /// Returns all shards that have an owner, in the order of their names. It sends no request.
    #[must_use]
    pub fn all(&self) -> Vec<(Bytes, ShardOwner)> {
        let mut shards: BTreeMap<Bytes, Vec<&KeyValue>> = BTreeMap::new();
        for kv in self.changes.snapshot().iter() {
            let name = kv.key.slice(self.cache.prefix().len()..);
            let slash = name.iter().position(|byte| *byte == b'/');
            // A further slash: the key of a child name.
            if let Some(slash) = slash.filter(|slash| !name[slash + 1..].contains(&b'/')) {
                shards.entry(name.slice(..slash)).or_default().push(kv);
            }
        }
        let owned = shards.into_iter().filter_map(|(shard, kvs)| Some((shard, first(kvs)?)));
        owned.collect()
    }

    /// Returns the revision of the map.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.changes.snapshot().revision()
    }

    /// Waits until the map has changed: an owner, or a member that waits for a shard.
    ///
    /// While the store is unavailable, it keeps waiting.
    ///
    /// # Errors
    /// The error with which the cache of the owners has stopped. It is final: later calls return it
    /// again.
    ///
    /// # Cancel safety
    /// Safe: call it again. No change is missed.
    pub async fn changed(&mut self) -> Result<(), PrefixCacheError> {
        changed(&self.cache, &mut self.changes).await
    }
}

/// The owner of a shard: the contender that is first in its queue. `None` if the queue is empty, or
/// if its contenders wait for a foreign key.
fn first<'a>(kvs: impl IntoIterator<Item = &'a KeyValue>) -> Option<ShardOwner> {
    let first = kvs.into_iter().min_by_key(|kv| kv.create_revision)?;
    if is_foreign(&first.key, first.lease) {
        return None;
    }
    let (member, key) = (first.value.clone(), first.key.clone());
    Some(ShardOwner { member, fencing_token: FencingToken(first.create_revision), key })
}

impl fmt::Debug for ShardOwners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardOwners")
            .field("prefix", &format_args!("\"{}\"", self.cache.prefix().escape_ascii()))
            .field("revision", &self.revision())
            .finish_non_exhaustive()
    }
}
