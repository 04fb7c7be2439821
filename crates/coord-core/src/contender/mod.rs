//! The one waiting line under every lock-like primitive.
//!
//! To hold something is to be first in a line. A [`Contender`] stands in a line with a key on its
//! session's lease; its place is the revision that created the key, which is also its fencing
//! token. Everybody waits for the one right before, so a release wakes one, not all.
//!
//! **Join** is one transaction that creates the key and reads the line. **Wait** is: watch the key
//! before mine *from now on*, then look, unless the store's revision shows that nothing has been
//! written since the last look. Watching from the revision of the look would be as right, but etcd
//! serves a watch that starts in the past from a loop that ticks every 100 ms, which is what makes
//! contended locks slow elsewhere. **Leave** deletes the key, if it is still the one that was
//! created.
//!
//! ```text
//! A                         B                                  line
//! join: first                                                  A@5
//!                           join: behind A                     A@5 B@6
//!                           watch A from now on, at 7
//!                           look, for 7 > 6: A and B there     A@5 B@6
//! leave                     . A deleted at 8                   B@6
//!                           look: B@6 there, nobody before it  B@6
//! ```
//!
//! The look after the watch began is what makes it safe: if A had left in between, the look says
//! so; if not, the watch will. The look after waking up is what makes it honest: whoever reports
//! success has just seen its own key, with its own create revision, and nobody before it. What a
//! look has to read is told in `standing.rs`. Within a process A makes it for B: see
//! `successor.rs`.
//!
//! **Nothing stays behind.** The cleanup is armed before the join is sent. A future dropped, an
//! error, an unknown outcome: each leaves it to the session's keeper to remove the key.

mod claim;
mod keys;
mod place;
mod standing;
mod successor;
mod ticket;
mod token;
mod turn;

use std::fmt;

use bytes::Bytes;

use crate::kv::{Compare, CompareOp, IntoBytes, KeyValue, Op, OpResponse, Put, Range, Txn};
use crate::loss::PrimitiveError;
use crate::retry::patiently;
use crate::session::Session;
pub(crate) use claim::Claim;
pub(crate) use keys::Keys;
pub use place::Contender;
use standing::{Place, Standing};
use ticket::Ticket;
pub use token::FencingToken;

/// A line of contenders, first come, first served.
///
/// This is the building block of [`Mutex`](crate::Mutex), for primitives of your own.
///
/// ```
/// use coord_core::{Session, contender::WaitingLine};
/// use coord_mem::MemBackend;
/// use std::sync::Arc;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = Session::builder(Arc::new(MemBackend::new())).open().await?;
/// let printer = WaitingLine::new(&session, "printer");
///
/// let mut report = printer.join("report.pdf").await?;
/// let mut photo = printer.join("photo.png").await?;
/// report.wait_turn().await?;
/// assert!(report.fencing_token() < photo.fencing_token());
///
/// report.leave().await?;
/// photo.wait_turn().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct WaitingLine {
    session: Session,
    keys: Keys,
    /// What stands on it, for the metrics.
    kind: &'static str,
}

impl WaitingLine {
    /// The line `name`, for contenders of `session`. Names that nest, `p` and `p/q`, are two
    /// lines; a line with others below it costs a wider read now and then.
    pub fn new(session: &Session, name: impl IntoBytes) -> Self {
        Self::of_kind("line", session, name)
    }

    pub(crate) fn of_kind(kind: &'static str, session: &Session, name: impl IntoBytes) -> Self {
        Self { session: session.clone(), keys: Keys::new(name), kind }
    }

    /// The session.
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> Bytes {
        self.keys.name()
    }

    /// Joins the line: one request. `value` is what others read under the contender's key.
    ///
    /// # Errors
    /// `Lost` when the session is; otherwise what the backend answered. In either case no key
    /// stays in the line while the session lives.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the line.
    pub async fn join(&self, value: impl IntoBytes + Send) -> Result<Contender, PrimitiveError> {
        let value = value.into_bytes();
        loop {
            let mut ticket = self.ticket();
            let join = Txn::new()
                .when([Compare::absent(ticket.key())])
                .and_then([Op::Put(ticket.put(&value)), self.who_is_before()]);
            let joined = ticket.send(join).await?;
            if let (Some(created), Some(told)) = (ticket.created(), joined.responses.last()) {
                let place = Place { key: ticket.key().clone(), created };
                let standing = Standing::told(&self.keys, &place, told);
                let line = self.clone();
                return Ok(Contender::new(line, ticket, place, joined.header, standing));
            }
            // A former owner of an adopted lease has used this key. Try the next.
            ticket.renounce();
        }
    }

    /// What tells who is before a key that has just joined: the end of the line. Where many contend
    /// it is spared, if the neighbour of last time is in the line again.
    fn who_is_before(&self) -> Op {
        let last_time = self.session.last_in_crowd(&self.keys.range());
        match last_time.filter(|key| self.keys.owns(key)) {
            None => Op::Range(self.keys.last()),
            Some(key) => Op::Txn(
                Txn::new()
                    .when([Compare::exists(&key)])
                    .and_then([Range::new(&key).keys_only()])
                    .or_else([self.keys.last()]),
            ),
        }
    }

    /// Joins the line under `name/<lease>`, the one key that Go's package has for a lease: one
    /// request, or two if the key is there already, which is then given back as it was found.
    ///
    /// This is for whoever serves clients that expect Go's keys; [`join`](Self::join) has a key for
    /// each contender. Here those of one lease share their key and their place, and whoever leaves,
    /// or is dropped, removes the key for all of them. While the store is unavailable the request
    /// is repeated: sent again, it finds what it has done.
    ///
    /// ```
    /// use coord_core::{Session, contender::WaitingLine};
    /// use coord_mem::MemBackend;
    /// use std::sync::Arc;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let session = Session::builder(Arc::new(MemBackend::new())).open().await?;
    /// let printer = WaitingLine::new(&session, "printer");
    ///
    /// let (report, found) = printer.join_by_lease("report.pdf").await?;
    /// assert_eq!(report.key(), &format!("printer/{}", session.lease_id()));
    /// assert!(found.is_none());
    /// let (again, found) = printer.join_by_lease("photo.png").await?;
    /// assert_eq!(again.fencing_token(), report.fencing_token());
    /// assert_eq!(found.expect("it is the report's").value, "report.pdf");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Lost` when the session is; otherwise what the backend answered. If nobody knows what became
    /// of the request, the key may be in the line, for the next one on the lease to find.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the key in the line, as long as the lease lives: nobody can
    /// tell it from one that is used.
    ///
    /// Source: etcd 3.5 `client/v3/concurrency/mutex.go`, `tryAcquire`.
    pub async fn join_by_lease(
        &self,
        value: impl IntoBytes + Send,
    ) -> Result<(Contender, Option<KeyValue>), PrimitiveError> {
        let lease = self.session.lease_id();
        let key = self.keys.key_of_go(lease);
        let put = Put::new(&key, value.into_bytes()).lease(lease);
        let join = Txn::new()
            .when([Compare::absent(&key)])
            .and_then([Op::Put(put), Op::Range(self.keys.last())])
            .or_else([Range::new(&key)]);
        let backend = self.session.backend();
        let sent = async { Ok(patiently(|| backend.txn(join.clone())).await?) };
        let joined = self.session.while_held(sent).await?;
        let (header, created) = (joined.header, joined.header.revision);
        let Some(OpResponse::Range(mut read)) = joined.responses.into_iter().next_back() else {
            unreachable!("a range comes last in either branch");
        };
        if joined.succeeded {
            let place = Place { key, created };
            let standing = Standing::read(&self.keys, &place, &read);
            let mut ticket = Ticket::found(self.session.clone(), &place);
            ticket.arm();
            return Ok((Contender::new(self.clone(), ticket, place, header, standing), None));
        }
        let Some(found) = read.kvs.pop() else {
            unreachable!("what is not absent can be read in the same step");
        };
        let looking = Contender::found(self.clone(), Place::of(&found), header);
        Ok((self.session.while_held(looking).await?, Some(found)))
    }

    /// Joins the line if nobody is in it: one request, and nothing is written if somebody is.
    /// Lines below this one cost a second request.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    ///
    /// # Cancel safety
    /// Dropping the future leaves the line.
    pub async fn try_join(
        &self,
        value: impl IntoBytes + Send,
    ) -> Result<Option<Contender>, PrimitiveError> {
        let value = value.into_bytes();
        let mut nobody = Compare::absent(self.keys.range());
        let mut look = self.keys.any();
        loop {
            let mut ticket = self.ticket();
            let join = Txn::new().when([nobody]).and_then([ticket.put(&value)]).or_else([look]);
            let answer = ticket.send(join).await?;
            if let Some(created) = ticket.created() {
                let (line, first) = (self.clone(), Standing::First);
                let place = Place { key: ticket.key().clone(), created };
                return Ok(Some(Contender::new(line, ticket, place, answer.header, first)));
            }
            let mut seen = answer.responses.iter().filter_map(OpResponse::as_range);
            if seen.any(|read| read.kvs.iter().any(|kv| self.keys.owns(&kv.key))) {
                return Ok(None);
            }
            // What was seen belongs to lines below this one. Look at everything, and join if no
            // key has been created since: then there is still nobody.
            look = self.keys.all();
            nobody = Compare::create_revision(
                self.keys.range(),
                CompareOp::Less,
                answer.header.revision.next(),
            );
        }
    }

    /// Finds the contender that a former process left in the line on the lease which this session
    /// has adopted: two requests. `None` if there is none. If there are several, the one that came
    /// first. Call it once: a second call finds the same contender again.
    ///
    /// # Errors
    /// `Lost` when the session is; otherwise what the backend answered.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn resume(&self) -> Result<Option<Contender>, PrimitiveError> {
        self.session.while_held(self.find()).await
    }

    async fn find(&self) -> Result<Option<Contender>, PrimitiveError> {
        let lease = self.session.lease_id();
        let request = self.keys.of_lease(lease);
        let read = patiently(|| self.session.backend().range(request.clone())).await?;
        let mine = read.kvs.iter().find(|kv| self.keys.owns(&kv.key) && kv.lease == Some(lease));
        let Some(kv) = mine else { return Ok(None) };
        Ok(Some(Contender::found(self.clone(), Place::of(kv), read.header).await?))
    }

    fn ticket(&self) -> Ticket {
        let number = self.session.number();
        let key = self.keys.key(self.session.lease_id(), number.value());
        Ticket::new(self.session.clone(), key, number)
    }
}

impl fmt::Debug for WaitingLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitingLine")
            .field("name", &self.name())
            .field("session", &self.session)
            .finish()
    }
}
