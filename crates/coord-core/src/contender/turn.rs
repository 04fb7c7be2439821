//! Waiting for one's turn: whom to watch, when to look, what to believe.
//!
//! The loop is the whole of it. It watches the nearest before it, looks if it may have missed
//! anything, sleeps, and looks again whatever has woken it, unless that was somebody who had looked
//! already; [`standing`](super::standing) says what a look has to ask.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::place::Contender;
use super::standing::{Place, Standing};
use super::successor::{Hope, Seen};
use crate::error::Error;
use crate::kv::{EventKind, Header, OpResponse, Range, Txn, Watch, WatchBatch, WatchRequest};
use crate::loss::PrimitiveError;
use crate::retry::{PAUSE, patiently};
use crate::telemetry::line as events;

/// How long to wait before our own key is watched as well as the one before it.
///
/// Where a lock changes hands a thousand times a second, a second watch for each turn would be a
/// good part of the work, and the look before success sees our own key anyway. Whoever waits longer
/// than this can afford to be told at once when it is deleted.
const OWN_WATCH_AFTER: Duration = Duration::from_millis(250);

/// What ended a sleep in the line.
enum Woken {
    /// The nearest before us has left, was first, and has looked for us.
    Told(Seen),
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
    pub(super) async fn wait(&mut self) -> Result<(), PrimitiveError> {
        let own_watch_due = Instant::now() + OWN_WATCH_AFTER;
        let in_crowd = self.standing.in_crowd();
        let mut own = None;
        let mut theirs: Option<(Place, Watch)> = None;
        let mut warned = false;
        loop {
            let nearest = match &self.standing {
                Standing::First => {
                    // Where many contend, the next wait will be for the same neighbour.
                    if let Some((place, watch)) = theirs {
                        let told = self.header.revision;
                        self.session().shelve(place.key, watch, told, in_crowd);
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
                _ => match self.session().unshelve(&nearest.key, self.header.revision) {
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
            if nearest.is_foreign && !std::mem::replace(&mut warned, true) {
                events::waits_for_foreign_key(&self.line.name(), &nearest.key);
            }
            match self.sleep(own.as_mut(), watch, nearest, own_watch_due).await? {
                Woken::Told(seen) => {
                    self.believe(seen).await?;
                    continue;
                }
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
        nearest: Place,
        own_watch_due: Instant,
    ) -> Result<Woken, PrimitiveError> {
        let mine = self.claim.place();
        let to_see = self.standing.to_see(&self.line.keys, mine);
        let created = nearest.created;
        let mut hope = Hope::new(self.session().backend(), nearest, mine.clone(), to_see);
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
            seen = hope.fulfilled() => Some(Ok(Woken::Told(seen))),
            told = own => told.map(|told| told.map(|_| Woken::Otherwise)),
            told = theirs => told,
            () = sleep_until(own_watch_due), if !own_is_watched => Some(Ok(Woken::OwnWatchDue)),
            () = sleep(self.session().ttl()) => Some(Ok(Woken::Otherwise)),
        };
        match told {
            Some(Err(error)) if !error.is_retryable() && !needs_read(&error) => Err(error.into()),
            Some(Err(_)) | None => Ok(Woken::WatchEnded),
            Some(Ok(Woken::NearestLeft)) => {
                Ok(hope.last().await.map_or(Woken::NearestLeft, Woken::Told))
            }
            Some(Ok(woken)) => Ok(woken),
        }
    }

    /// Takes what the one before this contender has seen when it left for a look of its own.
    async fn believe(&mut self, (header, read): Seen) -> Result<(), PrimitiveError> {
        self.standing = Standing::read(&self.line.keys, self.claim.place(), &read);
        self.header = header;
        if self.standing == Standing::Unknown {
            self.read_whole_line().await?;
        }
        Ok(())
    }

    /// Looks where in the line this contender stands: at its own key and those that it knows of,
    /// and if that does not tell, at the line.
    pub(super) async fn look(&mut self) -> Result<(), PrimitiveError> {
        if let Some(known) = self.standing.known() {
            let mine = self.claim.place();
            let asked: Vec<_> = std::iter::once(mine).chain(known).collect();
            let (header, there) = self.ask(&asked).await?;
            let standing = std::mem::replace(&mut self.standing, Standing::Gone);
            if there.contains(mine) {
                self.standing = standing.without(|place| !there.contains(place));
            }
            self.header = header;
        }
        if self.standing == Standing::Unknown {
            self.read_line().await?;
        }
        Ok(())
    }

    /// What there is now under the keys of these places, which may be other lives of them.
    async fn ask(&self, places: &[&Place]) -> Result<(Header, Vec<Place>), PrimitiveError> {
        let read = |place: &&Place| Range::new(&place.key).keys_only();
        let (header, reads) = if let [place] = places {
            let read = self.claim.read(read(place)).await?;
            (read.header, vec![OpResponse::Range(read)])
        } else {
            let reads = Txn::new().and_then(places.iter().map(read));
            let backend = self.session().backend();
            let answer = patiently(|| backend.txn(reads.clone())).await?;
            (answer.header, answer.responses)
        };
        let kvs = reads.iter().filter_map(OpResponse::as_range).flat_map(|read| &read.kvs);
        Ok((header, kvs.map(Place::of).collect()))
    }

    /// Reads the line up to this contender.
    async fn read_line(&mut self) -> Result<(), PrimitiveError> {
        let (keys, mine) = (&self.line.keys, self.claim.place());
        let read = self.claim.read(keys.narrow(mine.created)).await?;
        let standing = Standing::read(keys, mine, &read);
        if standing == Standing::Unknown {
            return self.read_whole_line().await;
        }
        self.header = read.header;
        self.standing = standing;
        Ok(())
    }

    /// Reads the line up to this contender, and all lines below it.
    async fn read_whole_line(&mut self) -> Result<(), PrimitiveError> {
        let (keys, mine) = (&self.line.keys, self.claim.place());
        let read = self.claim.read(keys.wide(mine.created)).await?;
        self.standing = Standing::read(keys, mine, &read);
        self.header = read.header;
        Ok(())
    }
}

/// Whether a watch ended because its history is compacted or was replaced: the queue is read again.
const fn needs_read(error: &Error) -> bool {
    matches!(error, Error::Compacted { .. } | Error::HistoryReplaced { .. })
}
