//! One who stands in a line, waits, holds, and leaves.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use super::{Standing, Ticket, WaitingLine};
use crate::error::Result;
use crate::kv::{
    Compare, CompareOp, Delete, Header, OpResponse, Range, RangeResponse, Revision, Txn,
    TxnResponse, Watch, WatchFilter, WatchRequest,
};
use crate::loss::{LossReason, PrimitiveError};
use crate::session::Session;

/// A number that grows with every holder of a line, for a resource to refuse late writers by.
///
/// It is the create revision of the holder's key: unique in the store, and larger for whoever
/// holds later. A resource that remembers the largest token it has seen, and refuses smaller ones,
/// is safe from a holder that was suspended, lost its lease without noticing, and woke up. Do not
/// compare tokens for equality, and do not use the lease for this: neither tells who came later.
///
/// ```
/// use coord_core::{FencingToken, Revision};
///
/// let (earlier, later) = (FencingToken(Revision(7)), FencingToken(Revision(9)));
/// assert!(later > earlier);
/// assert_eq!(later.to_string(), "9");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(pub Revision);

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in a [`WaitingLine`]. Dropping it leaves the line, in the background.
#[must_use = "dropping a contender leaves the line"]
pub struct Contender {
    line: WaitingLine,
    ticket: Ticket,
    created: Revision,
    header: Header,
    standing: Standing,
}

impl Contender {
    pub(super) const fn new(
        line: WaitingLine,
        ticket: Ticket,
        created: Revision,
        header: Header,
        standing: Standing,
    ) -> Self {
        Self { line, ticket, created, header, standing }
    }

    /// The session.
    #[must_use]
    pub const fn session(&self) -> &Session {
        self.ticket.session()
    }

    /// The key in the line.
    #[must_use]
    pub const fn key(&self) -> &Bytes {
        self.ticket.key()
    }

    /// The header of the answer that told the place: of joining, or of the last look.
    #[must_use]
    pub const fn header(&self) -> Header {
        self.header
    }

    /// The place in the line as a number that only grows.
    #[must_use]
    pub const fn fencing_token(&self) -> FencingToken {
        FencingToken(self.created)
    }

    /// Holds in a transaction as long as this key is in the line. Whoever was first once is first
    /// as long as it is.
    #[must_use]
    pub fn is_owner(&self) -> Compare {
        Compare::create_revision(self.key(), CompareOp::Equal, self.created)
    }

    /// Waits until nobody is before this contender: at once if it joined an empty line; else two
    /// watches, a look when they stand, and a look for each time they wake.
    ///
    /// While the store is unavailable it goes on waiting, as long as the session lives.
    ///
    /// # Errors
    /// `Lost` as soon as the session is, or the key was deleted by somebody else; what the backend
    /// answered, if trying again cannot help. The contender is then best dropped.
    ///
    /// # Cancel safety
    /// Dropping the future keeps the place in the line: wait again, or drop the contender too.
    pub async fn wait_turn(&mut self) -> Result<(), PrimitiveError> {
        let session = self.session().clone();
        session.while_held(self.wait()).await
    }

    async fn wait(&mut self) -> Result<(), PrimitiveError> {
        let mut mine = None;
        loop {
            let before = match &self.standing {
                Standing::First => return Ok(()),
                Standing::Gone => return Err(self.key_gone().await.into()),
                Standing::Behind(before) => before.clone(),
                Standing::Unclear => {
                    self.look().await?;
                    continue;
                }
            };
            let mut theirs = self.watch_deletion(&before).await?;
            let own = match mine.take() {
                Some(watch) => watch,
                None => self.watch_deletion(self.key()).await?,
            };
            let own = mine.insert(own);
            // From here on nothing is missed; now see what was, before.
            self.look().await?;
            if self.standing != Standing::Behind(before) {
                continue;
            }
            let woken = tokio::select! {
                biased;
                woken = own.next() => woken,
                woken = theirs.next() => woken,
            };
            if !matches!(woken, Some(Ok(_))) {
                // A watch ended: history was compacted, or worse. Start both anew.
                mine = None;
                sleep(PAUSE).await;
            }
            // Whatever woke us, the look decides.
            self.look().await?;
        }
    }

    /// Looks where in the line this contender stands.
    async fn look(&mut self) -> Result<(), PrimitiveError> {
        let keys = &self.line.keys;
        let mut read = self.read(keys.narrow(self.created)).await?;
        let mine = (self.ticket.key(), self.created);
        let mut standing = keys.standing(mine, &read);
        if standing == Standing::Unclear {
            read = self.read(keys.wide(self.created)).await?;
            standing = keys.standing(mine, &read);
        }
        self.header = read.header;
        self.standing = standing;
        Ok(())
    }

    async fn read(&self, range: Range) -> Result<RangeResponse> {
        patiently(|| self.session().backend().range(range.clone())).await
    }

    async fn watch_deletion(&self, key: &Bytes) -> Result<Watch> {
        self.watch(WatchRequest::new(key)).await
    }

    async fn watch(&self, request: WatchRequest) -> Result<Watch> {
        let request = request.filter(WatchFilter::NoPut);
        patiently(|| self.session().backend().watch(request.clone())).await
    }

    /// Why the key is not in the line any more.
    async fn key_gone(&self) -> LossReason {
        self.session().why_lost().await.unwrap_or(LossReason::KeyDeleted)
    }

    /// Waits until the place is lost, and tells why: because the session is, or because somebody
    /// deleted the key.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn lost(&self) -> LossReason {
        let session = self.session();
        tokio::select! {
            biased;
            reason = session.lost() => reason,
            () = self.deleted() => self.key_gone().await,
        }
    }

    /// Waits until the key is surely deleted.
    async fn deleted(&self) {
        let mut from = self.created;
        loop {
            let request = WatchRequest::new(self.key()).start_at(from.next());
            if let Ok(mut watch) = self.watch(request).await
                && let Some(Ok(_)) = watch.next().await
            {
                return;
            }
            // The watch could not be had, or ended: look what happened meanwhile, and go on there.
            sleep(PAUSE).await;
            if let Ok(read) = self.read(Range::new(self.key()).keys_only()).await {
                if read.kvs.first().is_none_or(|kv| kv.create_revision != self.created) {
                    return;
                }
                from = read.header.revision;
            }
        }
    }

    /// Runs `future` as long as the place is held; when it is lost, `future` is dropped.
    ///
    /// # Errors
    /// Why it was lost. What `future` had done by then stays done.
    ///
    /// # Cancel safety
    /// Dropping it drops `future`.
    pub async fn run_while_held<F: Future + Send>(
        &self,
        future: F,
    ) -> Result<F::Output, LossReason> {
        tokio::select! {
            biased;
            reason = self.lost() => Err(reason),
            output = future => Ok(output),
        }
    }

    /// Applies `txn` if the place is still held, judged by the store in the same step.
    ///
    /// Sent as a transaction within one that has [`is_owner`](Self::is_owner) as its condition, so
    /// its own conditions keep their meaning; it has one operation less than the limit.
    ///
    /// # Errors
    /// `Lost` when the place is: nothing was applied. Otherwise what the backend answered.
    ///
    /// # Cancel safety
    /// Dropping the future leaves unknown whether the transaction was applied.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, PrimitiveError> {
        let guarded = Txn::new().when([self.is_owner()]).and_then([txn]);
        let TxnResponse { header, mut responses, .. } =
            self.session().backend().txn(guarded).await?;
        match responses.pop() {
            Some(OpResponse::Txn(response)) => Ok(TxnResponse { header, ..response }),
            _ => Err(self.key_gone().await.into()),
        }
    }

    /// Leaves the line: one request.
    ///
    /// # Errors
    /// `Lost` when the place was lost before, or was while the request was on its way; it is not
    /// held any more. What the backend answered otherwise: the session's keeper then goes on
    /// trying.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the line all the same, in the background.
    pub async fn leave(mut self) -> Result<(), PrimitiveError> {
        let session = self.session().clone();
        let delete = Txn::new().when([self.is_owner()]).and_then([Delete::new(self.key())]);
        let left = session.while_held(async { Ok(session.backend().txn(delete).await?) }).await?;
        self.ticket.disarm();
        if left.succeeded { Ok(()) } else { Err(self.key_gone().await.into()) }
    }
}

impl fmt::Debug for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contender")
            .field("key", &self.key())
            .field("created", &self.created)
            .field("standing", &self.standing)
            .finish_non_exhaustive()
    }
}

/// How long to leave a store alone that has just failed.
const PAUSE: Duration = Duration::from_millis(50);

/// Repeats a read while that may help. The caller bounds it by the life of its session.
async fn patiently<T, F>(mut call: impl FnMut() -> F + Send) -> Result<T>
where
    F: Future<Output = Result<T>> + Send,
{
    let mut wait = PAUSE;
    loop {
        match call().await {
            Err(error) if error.is_retryable() => {
                tracing::debug!(%error, "trying again");
                sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(1));
            }
            answer => return answer,
        }
    }
}
