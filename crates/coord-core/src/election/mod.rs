//! One leader at a time, with a value that all may read.
//!
//! An election is a [waiting line](crate::contender) whose members carry a value: whoever is first
//! leads, and its value is what observers are shown. [`Election::campaign`] joins the line and
//! waits; [`Leadership`] is the proof of having been elected, and the means to notice that it is
//! over.
//!
//! ```text
//! A                    B                      an observer
//! campaign a: leads                           Some(a)
//!                      campaign b: waits
//! proclaim a2                                 Some(a2)
//! resign               leads                  Some(b)
//!                      (its session ends)     None
//! ```
//!
//! **No phantom leader.** A campaign that waits sees, in one look after it was woken, its own key
//! in the life that it gave it and nobody before it; if its session is lost or somebody deletes its
//! key meanwhile, it fails at once. What it cannot do is to keep a leader from acting after it has
//! ceased to lead: a process can be suspended. Hence [`Leadership::lost`], which says so early,
//! [`Leadership::lead`], which stops the work, [`Leadership::txn`], which the store refuses when it
//! comes late, and [`Leadership::fencing_token`], by which any other resource can.

mod candidate;
mod contenders;
mod leaders;
mod leadership;
mod observer;

use std::sync::Arc;

use bytes::Bytes;

use crate::contender::WaitingLine;
use crate::error::Result;
use crate::kv::IntoBytes;
use crate::loss::PrimitiveError;
use crate::session::Session;
pub use candidate::{Candidate, Proclaimer};
pub use leaders::{Gap, GapCause, Leaders};
pub use leadership::{Leadership, ResignError};
pub use observer::{Leader, Observer};

/// An election by name, shared with every process that uses the name, those that use Go's package
/// included.
///
/// An `Election` is a handle: make as many as you like. Each campaign is a candidate of its own,
/// also when two share a session; a leader that wants to be seen with another value
/// [proclaims](Leadership::proclaim) it.
///
/// ```
/// use coord_core::{Election, Session};
/// use coord_mem::MemBackend;
/// use std::sync::Arc;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = Session::builder(Arc::new(MemBackend::new())).open().await?;
/// let election = Election::new(&session, "scheduler");
/// assert!(election.leader().await?.is_none());
///
/// let leadership = election.campaign("10.0.0.7:80").await?;
/// let leader = election.leader().await?.expect("we lead");
/// assert_eq!(leader.value(), "10.0.0.7:80");
/// assert_eq!(leader.fencing_token(), leadership.fencing_token());
///
/// let planned = leadership.lead(async { 6 * 7 }).await.expect("nobody took it away");
/// leadership.proclaim(format!("10.0.0.7:80 planned {planned}")).await?;
/// leadership.resign().await?;
/// # Ok(())
/// # }
/// ```
///
/// Source: etcd 3.5 `client/v3/concurrency/election.go`, with its faults mended.
#[derive(Clone, Debug)]
pub struct Election {
    line: WaitingLine,
}

impl Election {
    /// The election `name`, to be won on `session`. Names that nest, `p` and `p/q`, are two
    /// elections.
    ///
    /// # Names
    /// A name owns all keys below `name/`: write no other data there. A data key `jobs/1` beside an
    /// election named `jobs` counts as its leader. Candidates that enter after it wait until the
    /// key is deleted, as in Go, and [`leader`](Self::leader) and [`observe`](Self::observe) return
    /// the key as the leader. A key without a lease never expires, so the wait may never end. While
    /// the key in front has no lease, or is not of a candidate's form, coord logs a warning with
    /// the key, once for each wait. A key with a further slash, such as `jobs/1/state`, belongs to
    /// another name and does not block. A lock with the same name shares the queue: give the two
    /// different names.
    pub fn new(session: &Session, name: impl IntoBytes) -> Self {
        Self { line: WaitingLine::of_kind("election", session, name) }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> Bytes {
        self.line.name()
    }

    /// The session.
    #[must_use]
    pub const fn session(&self) -> &Session {
        self.line.session()
    }

    /// Waits until elected, behind everybody who campaigned before: one request if nobody has.
    ///
    /// To wait no longer than so long, put it into `tokio::time::timeout`. To change the value
    /// while waiting, [`enter`](Self::enter) instead.
    ///
    /// # Errors
    /// `Lost` as soon as the session is lost, or somebody deletes the candidate's key; otherwise
    /// what the backend answered. In either case nobody is left in the line.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the candidate, and leaves no key behind.
    pub async fn campaign(
        &self,
        value: impl IntoBytes + Send,
    ) -> Result<Leadership, PrimitiveError> {
        self.enter(value).await?.elected().await
    }

    /// Enters the election, without waiting for its outcome: one request; two, if this handle has
    /// met nobody the last eight times and now does.
    ///
    /// # Errors
    /// `Lost` when the session is; otherwise what the backend answered. In either case nobody is
    /// left in the line.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the candidate, and leaves no key behind.
    pub async fn enter(&self, value: impl IntoBytes + Send) -> Result<Candidate, PrimitiveError> {
        Ok(Candidate::new(self.line.join(value).await?))
    }

    /// Takes up the candidacy, or the leadership, that a former process left on the lease which
    /// this session has adopted: two requests. `None` if there is none.
    ///
    /// The place in the line, and so the fencing token, stays the same; if the former process led,
    /// [`elected`](Candidate::elected) returns at once. The lease survives a restart if the old
    /// process [orphaned](Session::orphan) its session or just died, and the new one
    /// [adopts](crate::SessionBuilder::lease) it within its time to live. Candidates of Go's
    /// package are found too. Resume once for each process: a second call finds the same candidate.
    ///
    /// ```
    /// use coord_core::{Election, Session};
    /// use coord_mem::MemBackend;
    /// use std::sync::Arc;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let kv = Arc::new(MemBackend::new());
    /// let old = Session::builder(kv.clone()).open().await?;
    /// let before = Election::new(&old, "scheduler").campaign("version 1").await?;
    /// let lease = old.orphan().await?;
    ///
    /// let new = Session::builder(kv).lease(lease).open().await?;
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
    /// `Lost` when the session is; otherwise what the backend answered.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn resume(&self) -> Result<Option<Candidate>, PrimitiveError> {
        Ok(self.line.resume().await?.map(Candidate::new))
    }

    /// Who leads, if anybody does: [`Observer::leader`].
    ///
    /// # Errors
    /// What the backend answered. Nothing is changed.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn leader(&self) -> Result<Option<Leader>> {
        self.observer().leader().await
    }

    /// Who leads, now and from now on: [`Observer::observe`].
    pub fn observe(&self) -> Leaders {
        self.observer().observe()
    }

    /// An observer of this election, which does not need the session.
    #[must_use]
    pub fn observer(&self) -> Observer {
        Observer::new(Arc::clone(self.session().backend()), self.name())
    }
}
