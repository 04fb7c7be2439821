//! One who stands in a line, waits, holds, and leaves.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, sleep_until};

use super::claim::Claim;
use super::standing::{Place, Standing};
use super::{Ticket, WaitingLine};
use crate::error::{Error, Outcome};
use crate::kv::{
    Compare, Delete, EventKind, Header, IntoBytes, OpResponse, Range, Revision, Txn, TxnResponse,
    Watch, WatchBatch, WatchRequest,
};
use crate::loss::{LossReason, PrimitiveError};
use crate::retry::{PAUSE, patiently};
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
    claim: Claim,
    /// Of the answer that told where the contender stands.
    header: Header,
    standing: Standing,
    /// Whether an earlier try to leave may have deleted the key.
    perhaps_left: bool,
}

/// How long to wait before our own key is watched as well as the one before it.
///
/// Where a lock changes hands a thousand times a second, a second watch for each turn would be a
/// good part of the work, and the look before success sees our own key anyway. Whoever waits longer
/// than this can afford to be told at once when it is deleted.
const OWN_WATCH_AFTER: Duration = Duration::from_millis(250);

/// What ended a sleep in the line.
enum Woken {
    /// The nearest before us was deleted.
    NearestLeft,
    /// Nothing happened for a while: our own key should be watched too.
    OwnWatchDue,
    /// Something else happened, or nothing did for very long: look.
    Otherwise,
    /// A watch ended: history was compacted, or the store could not go on telling it.
    WatchEnded,
}

impl Contender {
    pub(super) fn new(
        line: WaitingLine,
        ticket: Ticket,
        place: Place,
        header: Header,
        standing: Standing,
    ) -> Self {
        let claim = Claim::new(line.session.clone(), place);
        Self { line, ticket, claim, header, standing, perhaps_left: false }
    }

    /// The contender of a key that is in the line already. Until it has looked where it stands and
    /// is handed out, whoever gives up on that must not remove the key.
    pub(super) async fn found(
        line: WaitingLine,
        place: Place,
        header: Header,
    ) -> Result<Self, PrimitiveError> {
        let ticket = Ticket::found(line.session.clone(), &place);
        let mut contender = Self::new(line, ticket, place, header, Standing::Unknown);
        contender.look().await?;
        contender.ticket.arm();
        Ok(contender)
    }

    /// What is known of the key, to be had without owning it.
    pub(crate) const fn claim(&self) -> &Claim {
        &self.claim
    }

    /// The session.
    #[must_use]
    pub const fn session(&self) -> &Session {
        self.claim.session()
    }

    /// The key in the line.
    #[must_use]
    pub const fn key(&self) -> &Bytes {
        self.claim.key()
    }

    /// The header of the answer that told the place: of joining, or of the last look.
    #[must_use]
    pub const fn header(&self) -> Header {
        self.header
    }

    /// The place in the line as a number that only grows.
    #[must_use]
    pub const fn fencing_token(&self) -> FencingToken {
        self.claim.fencing_token()
    }

    /// Holds in a transaction as long as this key is in the line. Whoever was first once is first
    /// as long as it is.
    #[must_use]
    pub fn is_owner(&self) -> Compare {
        self.claim.is_held()
    }

    /// Waits until nobody is before this contender: at once if it joined an empty line; else a
    /// watch, a look if anything was written before it stood, and a look for each time it wakes. A
    /// look is one request; it is two if those who were known to be before this one have all left
    /// before the watch stood, or if other lines lie below this one.
    ///
    /// After a quarter of a second it watches its own key too, so that from then on it fails at
    /// once if somebody deletes the key. It looks once each time to live of the session even if
    /// nothing wakes it, so that a watch which has fallen silent delays it and no more. While the
    /// store is unavailable it goes on waiting, as long as the session lives.
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
        let own_watch_due = Instant::now() + OWN_WATCH_AFTER;
        let mut own = None;
        let mut theirs: Option<(Place, Watch)> = None;
        loop {
            let nearest = match &self.standing {
                Standing::First => {
                    // Where many contend, the next wait will be for the same neighbour.
                    if let Some((place, watch)) = theirs {
                        self.session().shelve(place.key, watch);
                    }
                    return Ok(());
                }
                Standing::Gone => return Err(self.claim.why_gone().await.into()),
                standing => standing.nearest().cloned(),
            };
            let Some(nearest) = nearest else {
                self.look().await?;
                continue;
            };
            let watch = match theirs.take() {
                Some((place, watch)) if place == nearest => watch,
                _ => match self.session().unshelve(&nearest.key) {
                    Some(watch) => watch,
                    None => self.claim.watch(WatchRequest::new(&nearest.key)).await?,
                },
            };
            // From here on nothing is missed. What was missed since the last look, a look tells.
            let missed = watch.header().revision > self.header.revision;
            let (_, watch) = theirs.insert((nearest.clone(), watch));
            if missed {
                self.look().await?;
                if self.standing.nearest() != Some(&nearest) {
                    continue;
                }
            }
            match self.sleep(own.as_mut(), watch, nearest.created, own_watch_due).await? {
                Woken::NearestLeft => {
                    let standing = std::mem::replace(&mut self.standing, Standing::Unknown);
                    self.standing = standing.without_nearest();
                }
                Woken::OwnWatchDue => {
                    let watch = self.claim.watch(WatchRequest::new(self.key())).await?;
                    let missed = watch.header().revision > self.header.revision;
                    own = Some(watch);
                    if !missed {
                        continue;
                    }
                }
                Woken::Otherwise => {}
                Woken::WatchEnded => {
                    (own, theirs) = (None, None);
                    sleep(PAUSE).await;
                }
            }
            // Whatever woke us, the look decides.
            self.look().await?;
        }
    }

    /// Sleeps until something may have changed.
    async fn sleep(
        &self,
        own: Option<&mut Watch>,
        theirs: &mut Watch,
        created: Revision,
        own_watch_due: Instant,
    ) -> Result<Woken, PrimitiveError> {
        // A key may have had an earlier life, which ends in an event too.
        let left = |batch: &WatchBatch| {
            let deleted = batch.events.iter().any(|event| event.kind == EventKind::Delete);
            deleted && batch.revision > created
        };
        let theirs = async {
            loop {
                match theirs.next().await {
                    Some(Ok(batch)) if !left(&batch) => {}
                    Some(told) => break Some(told.map(|_| Woken::NearestLeft)),
                    None => break None,
                }
            }
        };
        let own_is_watched = own.is_some();
        let own = async {
            match own {
                Some(watch) => watch.next().await,
                None => std::future::pending().await,
            }
        };
        let told = tokio::select! {
            biased;
            told = own => told.map(|told| told.map(|_| Woken::Otherwise)),
            told = theirs => told,
            () = sleep_until(own_watch_due), if !own_is_watched => Some(Ok(Woken::OwnWatchDue)),
            () = sleep(self.session().ttl()) => Some(Ok(Woken::Otherwise)),
        };
        match told {
            Some(Err(error)) if !error.is_retryable() && !is_compacted(&error) => Err(error.into()),
            Some(Err(_)) | None => Ok(Woken::WatchEnded),
            Some(Ok(woken)) => Ok(woken),
        }
    }

    /// Looks where in the line this contender stands: at its own key and those that it knows of,
    /// and if that does not tell, at the line.
    pub(super) async fn look(&mut self) -> Result<(), PrimitiveError> {
        if let Some(known) = self.standing.known() {
            let standing = self.standing.clone();
            let places: Vec<_> =
                std::iter::once(self.claim.place()).chain(known).cloned().collect();
            let (header, there) = self.ask(&places).await?;
            let left = |place: &Place| {
                let asked = places.iter().zip(&there).find(|(asked, _)| *asked == place);
                asked.is_some_and(|(_, there)| !there)
            };
            self.header = header;
            self.standing = if there[0] { standing.without(left) } else { Standing::Gone };
        }
        if self.standing == Standing::Unknown {
            self.read_line().await?;
        }
        Ok(())
    }

    /// Asks whether keys are there, in the lives that are known of them.
    async fn ask(&self, places: &[Place]) -> Result<(Header, Vec<bool>), PrimitiveError> {
        let read = |place: &Place| Range::new(&place.key).keys_only();
        let (header, reads) = if let [place] = places {
            let read = self.claim.read(read(place)).await?;
            (read.header, vec![OpResponse::Range(read)])
        } else {
            let reads = Txn::new().and_then(places.iter().map(read));
            let backend = self.session().backend();
            let answer = patiently(|| backend.txn(reads.clone())).await?;
            (answer.header, answer.responses)
        };
        let mut reads = reads.iter().map(OpResponse::as_range);
        let there = places.iter().map(|place| {
            let kv = reads.next().flatten().and_then(|read| read.kvs.first());
            kv.is_some_and(|kv| kv.create_revision == place.created)
        });
        Ok((header, there.collect()))
    }

    /// Reads the line up to this contender.
    async fn read_line(&mut self) -> Result<(), PrimitiveError> {
        let (keys, mine) = (&self.line.keys, self.claim.place());
        let mut read = self.claim.read(keys.narrow(mine.created)).await?;
        let mut standing = Standing::read(keys, mine, &read);
        if standing == Standing::Unknown {
            read = self.claim.read(keys.wide(mine.created)).await?;
            standing = Standing::read(keys, mine, &read);
        }
        self.header = read.header;
        self.standing = standing;
        Ok(())
    }

    /// Waits until the place is lost, and tells why: because the session is, or because somebody
    /// deleted the key. It looks for the key once each time to live of the session, so that a watch
    /// which has fallen silent delays the news and no more.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn lost(&self) -> LossReason {
        self.claim.lost().await
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
        self.claim.run_while_held(future).await
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
        self.claim.txn(txn).await
    }

    /// Changes the value that others read under the key: one request. The place stays the same.
    ///
    /// # Errors
    /// `Lost` when the place is: nothing was applied. Otherwise what the backend answered.
    ///
    /// # Cancel safety
    /// Dropping the future leaves unknown whether the value was changed.
    pub async fn set_value(&self, value: impl IntoBytes + Send) -> Result<Header, PrimitiveError> {
        self.claim.set_value(value.into_bytes()).await
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
        self.try_leave().await
    }

    /// Leaves the line, or stays as it was if that cannot be confirmed. If an earlier try may have
    /// done it, finding the key gone confirms it.
    pub(crate) async fn try_leave(&mut self) -> Result<(), PrimitiveError> {
        let delete = self.claim.guarded(Delete::new(self.key()));
        match self.session().while_held(delete).await {
            Ok(_) => self.ticket.disarm(),
            Err(PrimitiveError::Lost(LossReason::KeyDeleted)) if self.perhaps_left => {
                self.ticket.disarm();
            }
            Err(PrimitiveError::Backend(error)) => {
                self.perhaps_left |= error.outcome() == Outcome::Unknown;
                return Err(error.into());
            }
            Err(lost) => {
                self.ticket.disarm();
                return Err(lost);
            }
        }
        Ok(())
    }
}

/// Whether a watch ended because what it had to tell is compacted, which a look makes good.
const fn is_compacted(error: &Error) -> bool {
    matches!(error, Error::Compacted { .. })
}

impl fmt::Debug for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contender")
            .field("claim", &self.claim)
            .field("standing", &self.standing)
            .finish_non_exhaustive()
    }
}
