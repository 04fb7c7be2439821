//! The one waiting line under every lock-like primitive.
//!
//! To hold something is to be first in a line. A [`Contender`] stands in a line with a key on its
//! session's lease; its place is the revision that created the key, which is also its fencing
//! token. Everybody waits for the one right before, so a release wakes one, not all.
//!
//! **Join** is one transaction that creates the key and reads the line; `quiet.rs` tells when it
//! need not read. **Wait** is: watch the key before mine *from now on*, then look, unless the
//! store's revision shows that nothing has been written since the last look. Watching from the
//! revision of the look would be as right, but etcd serves a watch that starts in the past from a
//! loop that ticks every 100 ms, which is what makes contended locks slow elsewhere. **Leave**
//! deletes the key, if it is still the one that was created.
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

mod by_lease;
mod claim;
mod keys;
mod place;
mod quiet;
mod standing;
mod successor;
mod ticket;
mod token;
mod turn;

use std::fmt;

use bytes::Bytes;

use crate::kv::{Compare, CompareOp, IntoBytes, Op, OpResponse, Range, Txn, TxnResponse};
use crate::loss::PrimitiveError;
use crate::session::Session;
pub(crate) use claim::Claim;
pub(crate) use keys::Keys;
pub use place::Contender;
use quiet::Quiet;
use standing::{Place, Standing};
use ticket::Ticket;
pub use token::FencingToken;

/// What a contender that was served holds: a lock or a leadership.
pub(crate) trait Held: Send + Sync {
    fn contender(&self) -> &Contender;
    fn into_contender(self) -> Contender;
}

/// How often one who will not wait looks whether there are only lines below, before it stands in
/// line to see.
const LOOKS: usize = 4;

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
    quiet: Quiet,
}

impl WaitingLine {
    /// The line `name`, for contenders of `session`. Names that nest, `p` and `p/q`, are two
    /// lines; a line with others below it costs a wider read now and then.
    pub fn new(session: &Session, name: impl IntoBytes) -> Self {
        Self::of_kind("line", session, name)
    }

    pub(crate) fn of_kind(kind: &'static str, session: &Session, name: impl IntoBytes) -> Self {
        let (session, keys) = (session.clone(), Keys::new(name));
        Self { session, keys, kind, quiet: Quiet::default() }
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

    /// Joins the line: one request; two, if somebody is in it who was not there the last eight
    /// times. `value` is what others read under the contender's key.
    ///
    /// # Errors
    /// `Lost` when the session is; otherwise what the backend answered. In either case no key
    /// stays in the line while the session lives.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the line.
    pub async fn join(&self, value: impl IntoBytes + Send) -> Result<Contender, PrimitiveError> {
        let value = value.into_bytes();
        if self.quiet.is_likely() {
            let nobody = Compare::absent(self.keys.range());
            if let Ok(contender) = self.join_if(nobody, None, &value).await? {
                return Ok(contender);
            }
            self.quiet.note(false);
        }
        loop {
            let mut ticket = self.ticket();
            let join = Txn::new()
                .when([Compare::absent(ticket.key())])
                .and_then([Op::Put(ticket.put(&value)), self.who_is_before()]);
            let joined = ticket.send(join).await?;
            if let (Some(created), Some(told)) = (ticket.created(), joined.responses.last()) {
                // Not a key, of this line or of one below it, but mine.
                self.quiet.note(told.as_range().is_some_and(|read| read.kvs.len() == 1));
                let place = Place::new(ticket.key().clone(), created);
                let standing = Standing::told(&self.keys, &place, told);
                let line = self.clone();
                return Ok(Contender::new(line, ticket, place, joined.header, standing));
            }
            // Another owner of the lease has used this key. Try the next.
            ticket.renounce();
        }
    }

    /// Joins the line if `nobody` holds, which says that nobody is in it. If it does not, nothing
    /// is written, and `look` is read in the same request.
    async fn join_if(
        &self,
        nobody: Compare,
        look: Option<Range>,
        value: &Bytes,
    ) -> Result<Result<Contender, TxnResponse>, PrimitiveError> {
        let mut ticket = self.ticket();
        let join = Txn::new().when([nobody]).and_then([ticket.put(value)]).or_else(look);
        let answer = ticket.send(join).await?;
        let Some(created) = ticket.created() else { return Ok(Err(answer)) };
        let (line, first) = (self.clone(), Standing::First);
        let place = Place::new(ticket.key().clone(), created);
        Ok(Ok(Contender::new(line, ticket, place, answer.header, first)))
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

    /// Joins the line if nobody is in it: one request, and nothing is written if somebody is.
    /// Lines below this one cost a second request. If others join those so often that it cannot be
    /// told who is in this one, it joins, and leaves again if somebody is before it.
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
        for _ in 0..LOOKS {
            let answer = match self.join_if(nobody, Some(look), &value).await? {
                Ok(contender) => return Ok(Some(contender)),
                Err(answer) => answer,
            };
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
        let mut contender = self.join(value).await?;
        if contender.standing == Standing::Unknown {
            self.session.while_held(contender.look()).await?;
        }
        match contender.standing {
            Standing::First => Ok(Some(contender)),
            Standing::Gone => Err(contender.claim.why_gone().await.into()),
            _ => Ok(None),
        }
    }

    fn ticket(&self) -> Ticket {
        let number = self.session.number();
        let key = self.keys.key(self.session.lease_id(), &number);
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
