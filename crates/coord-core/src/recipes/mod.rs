//! Recipes: smaller primitives, each built on the wait queue, on transactions or on the client.
//!
//! | to | use | guarantee | requests |
//! |---|---|---|---|
//! | let clients wait | [`Barrier`] | no waiter passes while held | hold 1, release 1, wait 1 |
//! | start and end rounds together | [`DoubleBarrier`] | no party is early | enter 1, leave 1 |
//! | wait until several are done | [`Latch`] | each counts once | count down 1, wait 1 |
//! | hold several locks at once | [`MultiLock`] | all or none; no deadlock | lock 1, unlock 1 |
//! | count exactly, with the new value | [`Counter`] | each addition counts | read 1, add 2 |
//! | count under contention | [`StripedCounter`] | as `Counter` | read 1, add 2 |
//! | keep a prefix in memory | [`PrefixCache`] | as of one revision | get 0, consistent read 1 |
//! | list running processes | [`Membership`] | gone with its session | join, update, leave 1 |
//! | share a changing value | [`SharedValue`] | no change is lost | read 1, set 1, update 2 |
//! | let many read, or one write | [`RwLock`] | a writer is alone | lock 1, unlock 1 |
//! | spread shards over members | [`ShardAssignment`] | a shard has one owner | shard 1 to 3 |
//! | limit how many work at once | [`Semaphore`] | at most the limit | acquire 1, release 1 |
//! | limit how much is done per second | [`RateLimiter`] | at most the budget | slice 1, unit 0 |
//! | pass work to other processes | [`MessageQueue`] | put once, in order | put 1, take 1 or 2 |
//!
//! `docs/guide/recipes.md` has the hazards of each, and links to the layout of its keys.

pub mod barrier;
pub mod counter;
pub mod double_barrier;
pub mod latch;
pub mod membership;
pub mod message_queue;
pub mod multi_lock;
pub mod prefix_cache;
pub mod rate_limiter;
pub mod rwlock;
pub mod semaphore;
pub mod shard_assignment;
pub mod shared_value;

pub use crate::follow::{Gap, GapCause};
pub use barrier::{Barrier, BarrierGuard};
pub use counter::{Counter, CounterError, StripedCounter};
pub use double_barrier::{
    DoubleBarrier, DoubleBarrierError, DoubleBarrierGuard, OnParticipantLoss,
};
pub use latch::{Latch, LatchError};
pub use membership::{Member, MemberEvent, MemberEvents, MemberGuard, Members, Membership};
pub use message_queue::{
    DeadLetter, Delivery, Message, MessageCounts, MessageQueue, MessageQueueError, TakenMessage,
};
pub use multi_lock::{MultiLock, MultiLockError, MultiLockGuard};
pub use prefix_cache::{
    KeyChange, PrefixCache, PrefixCacheError, PrefixChanges, PrefixSnapshot, PrefixUpdate,
};
pub use rate_limiter::{RateLimiter, RateLimiterError, RateSlice};
pub use rwlock::{ReadGuard, ResumedLock, RwLock, UpgradeError, UpgradeFailure, WriteGuard};
pub use semaphore::{Semaphore, SemaphoreError, SemaphorePermits};
pub use shard_assignment::{
    Shard, ShardAssignment, ShardAssignmentError, ShardMember, ShardOwner, ShardOwners,
};
pub use shared_value::{SharedValue, ValueSwap, Values};
