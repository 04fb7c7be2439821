//! Leader election: one leader at a time, with a value that all clients can read.
//!
//! An election is a [wait queue](crate::queue) whose contenders carry a value. The first contender
//! leads, and observers receive its value. [`Election::campaign`] enqueues a candidate and waits
//! until it is elected. [`Leadership`] is the guard of the elected leader.
//!
//! ```text
//! A                    B                      observer
//! campaign a: leads                           Some(a)
//!                      campaign b: waits
//! proclaim a2                                 Some(a2)
//! resign               leads                  Some(b)
//!                      (its session ends)     None
//! ```
//!
//! **No phantom leader.** A campaign succeeds only after one read shows the candidate's own key,
//! with its own create revision, and no predecessor. If its session is lost or another client
//! deletes its key meanwhile, it fails at once.
//!
//! **A leader that lost its leadership may still act**, because its process can be suspended
//! between a check and an action. A leadership has four means against that:
//!
//! | means | method |
//! |---|---|
//! | report the loss early | [`Leadership::lost`] |
//! | stop the work | [`Leadership::run_while_held`] |
//! | the store rejects late writes | [`Leadership::txn`] |
//! | any other resource rejects late writes | [`Leadership::fencing_token`] |

mod candidate;
mod contenders;
mod leaders;
mod leadership;
mod observer;

use bytes::Bytes;

use crate::client::Client;
use crate::error::{PrimitiveError, Result};
pub use crate::follow::{Gap, GapCause};
use crate::kv::{FencingToken, IntoBytes};
use crate::queue::WaitQueue;
use crate::session::Session;
pub use candidate::{Candidate, Proclaimer};
pub use leaders::Leaders;
pub use leadership::Leadership;
pub use observer::{Leader, Observer};

/// An election by name. All processes that use the name take part, also with Go's package
/// `concurrency`.
///
/// An `Election` is a cheap handle. Each campaign has a candidate of its own, also if two campaigns
/// share a session. To change its value, a leader [proclaims](Leadership::proclaim) another one.
///
/// ```
/// use coord_core::{Client, Election, Session};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
/// let election = Election::new(&session, "scheduler");
/// assert!(election.leader().await?.is_none());
///
/// let leadership = election.campaign("10.0.0.7:80").await?;
/// let leader = election.leader().await?.expect("elected above");
/// assert_eq!(leader.value(), "10.0.0.7:80");
/// assert_eq!(leader.fencing_token(), leadership.fencing_token());
///
/// let planned = leadership.run_while_held(async { 6 * 7 }).await?;
/// leadership.proclaim(format!("10.0.0.7:80 planned {planned}")).await?;
/// leadership.resign().await?;
/// # Ok(())
/// # }
/// ```
///
/// Source: etcd 3.5 `client/v3/concurrency/election.go`, with its faults fixed.
#[derive(Clone, Debug)]
pub struct Election {
    queue: WaitQueue,
}

impl Election {
    /// The election `name`, for candidates of `session`. A child name, such as `p/q` for `p`, is
    /// another election.
    ///
    /// # Names
    /// An election owns all keys under `name/`: create no other keys there. A *foreign key*, which
    /// no contender has created, for example `jobs/1` with an election `jobs`, counts as its
    /// leader: candidates that enter later wait until the key is deleted, as in Go, and
    /// [`leader`](Self::leader) and [`observe`](Self::observe) return the key as the leader. A key
    /// without a lease never expires, so the wait may never end. If a candidate waits for a foreign
    /// key, coord logs a warning with the key, once for each wait. A key with a further slash, such
    /// as `jobs/1/state`, belongs to a child name and does not block. A lock with the same name
    /// shares the queue: give the two different names.
    pub fn new(session: &Session, name: impl IntoBytes) -> Self {
        Self { queue: WaitQueue::of_kind("election", session, name) }
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> Bytes {
        self.queue.name()
    }

    /// Returns the session.
    #[must_use]
    pub const fn session(&self) -> &Session {
        self.queue.session()
    }

    /// Returns an observer of the election `name`. An observer needs no session.
    pub fn observer(client: &Client, name: impl IntoBytes) -> Observer {
        Observer::new(client, name)
    }

    /// Enters the election and waits until elected, behind all candidates that entered before.
    ///
    /// To bound the wait, wrap it in `tokio::time::timeout`. To change the value while waiting, use
    /// [`enter`](Self::enter). The [cost](crate::queue) does not grow with the number of
    /// candidates.
    ///
    /// # Errors
    /// `Lost` as soon as the session is lost, or another client deletes the candidate's key;
    /// otherwise the error of the backend. In either case no key stays in the queue while the
    /// session lives.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the candidate, and leaves no key behind.
    pub async fn campaign(
        &self,
        value: impl IntoBytes + Send,
    ) -> Result<Leadership, PrimitiveError> {
        self.queue.acquire(value).await.map(Leadership::new)
    }

    /// Enters the election, without waiting to be elected.
    ///
    /// # Errors
    /// `Lost` if the session is lost; otherwise the error of the backend. In either case no key
    /// stays in the queue while the session lives.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the candidate, and leaves no key behind.
    pub async fn enter(&self, value: impl IntoBytes + Send) -> Result<Candidate, PrimitiveError> {
        Ok(Candidate::new(self.queue.enqueue(value).await?))
    }

    /// Resumes the candidate or leader of a former process on the lease that this session has
    /// adopted; `None` if there is none.
    ///
    /// The position in the queue and the fencing token stay the same. If the former process led,
    /// [`elected`](Candidate::elected) returns at once. The lease survives a restart if the former
    /// process [orphaned](Session::orphan) its session or ended without closing it, and the new
    /// process [adopts](crate::session::SessionBuilder::lease) the lease within its TTL. Candidates
    /// of Go's package are found too. Call it once in each process: a second call finds the same
    /// candidate.
    ///
    /// ```
    /// use coord_core::{Client, Election, Session};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::new(MemBackend::new());
    /// let old = Session::builder(&client).open().await?;
    /// let before = Election::new(&old, "scheduler").campaign("version 1").await?;
    /// let lease = old.orphan().await?;
    ///
    /// let new = Session::builder(&client).lease(lease).open().await?;
    /// let election = Election::new(&new, "scheduler");
    /// let candidate = election.resume().await?.expect("left by version 1");
    /// let leadership = candidate.elected().await?;
    /// assert_eq!(leadership.fencing_token(), before.fencing_token());
    /// leadership.proclaim("version 2").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Lost` if the session is lost; otherwise the error of the backend.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn resume(&self) -> Result<Option<Candidate>, PrimitiveError> {
        Ok(self.queue.resume().await?.map(Candidate::new))
    }

    /// Requests from the leader that it resigns. Returns the fencing token of the leader that the
    /// request is for; `None` if there is no leader, or if a foreign key counts as the leader.
    ///
    /// The request is advisory: the leader receives it in [`Leadership::release_requested`], and
    /// decides. [`Mutex::request_release`](crate::Mutex::request_release) has an example.
    ///
    /// # Errors
    /// The error of the backend, with its own outcome.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the request was stored.
    pub async fn request_release(&self, reason: &str) -> Result<Option<FencingToken>> {
        self.queue.request_release(reason).await
    }

    /// Reads the leader; `None` if there is none. As [`Observer::leader`].
    ///
    /// # Errors
    /// The error of the backend. Nothing is changed.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn leader(&self) -> Result<Option<Leader>> {
        Self::observer(self.session().client(), self.name()).leader().await
    }

    /// Returns the stream of leaders, from now on. As [`Observer::observe`].
    pub fn observe(&self) -> Leaders {
        Self::observer(self.session().client(), self.name()).observe()
    }
}
