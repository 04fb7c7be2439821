//! Shard assignment: a list of shards is spread over the members that are present, and each shard
//! has one owner at a time.
//!
//! Three parts, each a known one:
//!
//! - *Which members are present.* A member has the key `NAME/shard-members/LIST/LEASE.N` on the
//!   lease of its session, with its name as the value. `LIST` is a hash of the list of shards.
//! - *Which member should own a shard.* Every member evaluates the same function of the members and
//!   the shards (`assign.rs`). There is no coordinator.
//! - *Which member owns a shard.* Each shard is a wait queue, `NAME/shards/SHARD`. The member that
//!   should own it waits there, and the first contender is the owner. So a shard has one owner and
//!   a fencing token also while two members have different views of the members.
//!
//! ```text
//! a and b are present              c joins, and should own 2            queue of shard 2
//! a owns shard 2                                                        a@9
//! sees c: revokes shard 2          waits for shard 2                    a@9 c@14
//! ends its work, drops the guard   event: owns shard 2                  c@14
//! ```

mod assign;
mod error;
mod member;
mod owners;
mod shard;

use std::fmt;
use std::future;
use std::sync::Arc;

use bytes::Bytes;

use crate::kv::IntoBytes;
use crate::queue::KeyGuard;
use crate::recipes::{PrefixCache, PrefixCacheError, PrefixChanges};
use crate::session::Session;
pub use assign::assign;
pub use error::ShardAssignmentError;
pub use member::ShardMember;
pub use owners::{ShardOwner, ShardOwners};
pub use shard::Shard;

/// Shards that are spread over the members that are present.
///
/// - **One owner**: a shard is owned by one member at a time, with a [fencing
///   token](Shard::fencing_token) that grows with each owner. A member whose session is lost is
///   notified before another one owns its shards.
/// - **Few moves**: when a member joins or leaves, little more than its own share of the shards
///   moves. A member gets five quarters of the mean at most, rounded up.
/// - **Drained**: a shard that moves is [revoked](Shard::revoked). Its owner ends the work, and
///   hands the shard over by dropping the guard.
/// - **Owned again**: the shards of a member that vanishes are assigned to others as soon as the
///   store has ended its lease. A member cannot be resumed: if another session adopts the lease,
///   the shards have no owner until that session ends.
///
/// A `ShardAssignment` is a cheap handle. Clients that route find the owners with [`ShardOwners`].
///
/// ```
/// use coord_core::recipes::ShardAssignment;
/// use coord_core::{Client, Session};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
/// let orders = ShardAssignment::new(&session, "orders", ["0", "1", "2", "3"])?;
///
/// let mut member = orders.join("10.0.0.7:80").await?;
/// for _ in 0..4 {
///     let shard = member.next().await?; // alone, it owns all shards
///     tokio::spawn(async move {
///         // A loss drops the work at once. After a revocation, end it, however long that takes.
///         let work = async { shard.revoked().await };
///         let _ = shard.run_while_held(work).await;
///         // Dropping the guard hands the shard over.
///     });
/// }
/// member.leave().await?;
/// # Ok(())
/// # }
/// ```
///
/// Source: rendezvous hashing with a bound, see [`assign`]; Kafka's rebalance protocol for the
/// revocation.
#[derive(Clone, Debug)]
pub struct ShardAssignment {
    session: Session,
    shards: Arc<Shards>,
}

/// The shards of an assignment, and the names of its keys.
struct Shards {
    /// The name of the assignment.
    name: Bytes,
    /// In order.
    names: Vec<Bytes>,
}

impl Shards {
    /// The prefix of the keys of all shards.
    fn prefix_of_shards(name: &[u8]) -> Bytes {
        [name, b"/shards/"].concat().into()
    }

    /// The name of the queue of a shard.
    fn queue_of(&self, shard: &Bytes) -> Bytes {
        [&Self::prefix_of_shards(&self.name)[..], shard].concat().into()
    }

    /// The prefix of the keys of the members that have this list of shards.
    fn prefix_of_members(&self) -> Bytes {
        let list = assign::hash(self.names.iter().map(|name| &name[..]));
        [&self.name[..], b"/shard-members/", format!("{list:016x}/").as_bytes()].concat().into()
    }
}

impl fmt::Debug for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of \"{}\"", self.names.len(), self.name.escape_ascii())
    }
}

impl ShardAssignment {
    /// The assignment `name` of these shards, for members on `session`. The order of the shards
    /// does not matter. It sends nothing.
    ///
    /// # Names
    /// An assignment owns all keys under `name/shard-members/` and `name/shards/`: create no other
    /// keys there.
    ///
    /// # Another list
    /// Members with another list of shards, during a deployment that adds shards for example, are
    /// spread over their own list, and wait for the shards that are in both lists. So each shard
    /// has one owner all the time. It moves to a member with the new list at the next release of
    /// any kind: when its owner leaves, hands it over to another member with the old list, or
    /// releases it.
    ///
    /// # Errors
    /// `NoShards`, `InvalidShard` and `DuplicateShard`.
    pub fn new<S: IntoBytes>(
        session: &Session,
        name: impl IntoBytes,
        shards: impl IntoIterator<Item = S>,
    ) -> Result<Self, ShardAssignmentError> {
        let mut names: Vec<_> = shards.into_iter().map(IntoBytes::into_bytes).collect();
        names.sort_unstable();
        if names.is_empty() {
            return Err(ShardAssignmentError::NoShards);
        }
        if let Some(name) = names.iter().find(|name| name.is_empty() || name.contains(&b'/')) {
            return Err(ShardAssignmentError::InvalidShard { name: name.clone() });
        }
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ShardAssignmentError::DuplicateShard { name: twice[0].clone() });
        }
        let shards = Arc::new(Shards { name: name.into_bytes(), names });
        Ok(Self { session: session.clone(), shards })
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> Bytes {
        self.shards.name.clone()
    }

    /// Returns the names of the shards, in order.
    #[must_use]
    pub fn shards(&self) -> &[Bytes] {
        &self.shards.names
    }

    /// Joins as the member `member`, and returns when its key exists. It acquires the shards that
    /// are assigned to it in the background: [`ShardMember::next`] returns them.
    ///
    /// The name is what clients that route find, such as an address. Give each member a name of its
    /// own, and the same one after a restart: then its shards come back to it, and no others move,
    /// also if the lease of its former session has not ended yet. Of two members with one name, the
    /// later one counts.
    ///
    /// # Cost
    /// Joining costs 2 requests and a watch, and afterwards 1 read in each TTL of the session and 1
    /// read each 55 s. A shard that is free costs 1 request; a shard that another member hands over
    /// 2 or 3, and a watch, and that member 1. A change of the members costs no request.
    ///
    /// # Errors
    /// - `NoMember`: nothing was sent.
    /// - `Lost` if the session is lost.
    /// - The error of the backend.
    ///
    /// In each case no key stays in the store while the session lives.
    ///
    /// # Cancel safety
    /// Dropping the future leaves no key behind.
    pub async fn join(
        &self,
        member: impl IntoBytes + Send,
    ) -> Result<ShardMember, ShardAssignmentError> {
        let member = member.into_bytes();
        if member.is_empty() {
            return Err(ShardAssignmentError::NoMember);
        }
        let (session, prefix) = (&self.session, self.shards.prefix_of_members());
        let (key, _) = KeyGuard::create_unique(session, &prefix, &member).await?;
        let open = PrefixCache::open(session.client(), prefix);
        let members = session.while_held(async { Ok(open.await?) }).await?;
        Ok(ShardMember::start(key, member, members, &self.shards))
    }
}

/// Waits until the snapshot of the stream has changed. After the stream has ended, it returns the
/// error of the cache again.
async fn changed(cache: &PrefixCache, changes: &mut PrefixChanges) -> Result<(), PrefixCacheError> {
    match changes.next().await {
        Some(update) => update.map(drop),
        None => match cache.error() {
            Some(error) => Err(error),
            // The stream of a cache that has a handle ends with an error only.
            None => future::pending().await,
        },
    }
}
