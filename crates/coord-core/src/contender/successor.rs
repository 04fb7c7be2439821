//! Who leaves looks for who is next, if that one is in this process.
//!
//! Usually the next in line sleeps until its watch tells that the holder's key is gone, and then
//! looks where it stands: an event and a request between one holder and the next. But where both
//! are in one process, the next can say beforehand what it will want to see, and the transaction
//! that deletes the holder's key reads that too. Its answer is as good as a look, for it is of the
//! very revision at which the turn came.
//!
//! ```text
//! A                             B, in the same process            line
//! holds                         waits for A, will read B          A@5 B@6
//! leave: delete A, and read B   .                                 B@6
//! hands the answer on           B@6 there, nobody before it       B@6
//! ```
//!
//! The holder was first, so nobody is before it. Whoever knows that nobody stands between the two
//! has to see only that its own key is there; who has but guessed has the line read.
//!
//! Nothing depends on it. The watch stands as ever, and if the holder's request fails, or the
//! holder goes in another way, the next one looks for itself.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::standing::Place;
use crate::backend::{KvBackend, address};
use crate::kv::{Header, Op, OpResponse, Range, RangeResponse, TxnResponse};

/// How long who has heard that the holder is gone waits for what the holder's request has seen. The
/// two come within a moment of each other, in either order.
const BRIEFLY: Duration = Duration::from_millis(100);

/// Of each place in the lines of this process, who waits for it.
static WAITING: Mutex<BTreeMap<Seat, Successor>> = Mutex::new(BTreeMap::new());

/// The place that is waited for, in a line of the backend at this address. Whoever waits has the
/// backend, so its address means no other.
type Seat = (usize, Place);

/// What the one who leaves has seen: the header and the read that was wanted.
pub(super) type Seen = (Header, RangeResponse);

/// One who waits for a place, as the one who has it knows it.
pub(super) struct Successor {
    place: Place,
    wants: Range,
    reply: oneshot::Sender<Seen>,
}

impl Successor {
    /// Whoever waits for `place`, to be told what it wants to see. If that is dropped instead, it
    /// looks for itself.
    pub(super) fn of(place: &Place, backend: &Arc<dyn KvBackend>) -> Option<Self> {
        waiting().remove(&(address(backend), place.clone()))
    }

    /// What it wants to see.
    pub(super) fn wants(&self) -> Op {
        Op::Range(self.wants.clone())
    }

    /// Tells it what was read last in a transaction.
    pub(super) fn tell(self, answer: TxnResponse) {
        if let Some(OpResponse::Range(read)) = answer.responses.into_iter().next_back() {
            // If it has gone, somebody behind it looks.
            let _ = self.reply.send((answer.header, read));
        }
    }
}

/// The hope to be told by the one who leaves a place. Dropping it gives it up.
pub(super) struct Hope {
    seat: Seat,
    mine: Place,
    /// `None` if nothing can come any more.
    seen: Option<oneshot::Receiver<Seen>>,
}

impl Hope {
    /// To be told by whoever leaves `before`, as the one at `mine`, what `wants` reads then. Of
    /// several the first in line is told.
    pub(super) fn new(
        backend: &Arc<dyn KvBackend>,
        before: Place,
        mine: Place,
        wants: Range,
    ) -> Self {
        let (reply, seen) = oneshot::channel();
        let seat = (address(backend), before);
        let successor = Successor { place: mine.clone(), wants, reply };
        match waiting().entry(seat.clone()) {
            Entry::Vacant(free) => {
                free.insert(successor);
            }
            Entry::Occupied(mut taken) if mine.created < taken.get().place.created => {
                taken.insert(successor);
            }
            // The reply is dropped, so nothing will be seen.
            Entry::Occupied(_) => {}
        }
        Self { seat, mine, seen: Some(seen) }
    }

    /// What was seen; never, if nothing will be.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub(super) async fn fulfilled(&mut self) -> Seen {
        if let Some(seen) = &mut self.seen {
            if let Ok(seen) = seen.await {
                return seen;
            }
            self.seen = None;
        }
        std::future::pending().await
    }

    /// What was seen, if the one who has left was looking and tells within a moment.
    pub(super) async fn last(mut self) -> Option<Seen> {
        // If nobody was looking, the reply goes with this.
        self.give_up();
        timeout(BRIEFLY, self.seen.take()?).await.ok()?.ok()
    }

    fn give_up(&self) {
        let mut waiting = waiting();
        if waiting.get(&self.seat).is_some_and(|successor| successor.place == self.mine) {
            waiting.remove(&self.seat);
        }
    }
}

impl Drop for Hope {
    fn drop(&mut self) {
        self.give_up();
    }
}

fn waiting() -> MutexGuard<'static, BTreeMap<Seat, Successor>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}
