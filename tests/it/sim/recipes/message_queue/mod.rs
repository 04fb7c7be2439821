//! Message queues under every fault: two producers, two takers that crash and start again, and a
//! message that no taker can process.

mod oracle;
mod wrong;

use std::num::NonZeroU32;
use std::time::Duration;

use coord_core::Session;
use coord_core::error::Outcome;
use coord_core::recipes::{Delivery, Message, MessageQueue};
use coord_testkit::sim::{Process, Sim, Sweep, Weaken};
use tokio::time::{Instant, sleep, timeout};

use crate::sim::mutants::{Family, TaskResult, assert_caught, family};
use crate::sim::{SEEDS, print};
use crate::support::secs;
use oracle::Messages;

/// Shorter than the long partition of 100 s, so that sessions end.
const TTL: Duration = secs(10);

const MAX_ATTEMPTS: NonZeroU32 = NonZeroU32::new(4).expect("4 is not zero");

/// How many messages each producer puts.
const PUTS: usize = 5;

/// How long a message with a delay waits, after its put or its release.
const DELAY: Duration = secs(3);

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    ClaimHasNoCondition,
    ClaimHasNoLease,
    AcknowledgesWithoutClaim,
    AttemptsAreNotCounted,
    PutIsRepeated,
    ReleaseHasNoDelay,
}

impl Flaw {
    /// Whether a taker without coord's deliveries has the flaw.
    fn is_of_a_wrong_taker(self) -> bool {
        !matches!(self, Self::PutIsRepeated | Self::ReleaseHasNoDelay)
    }
}

fn family_of_queues() -> Family {
    family("message queue", pass_messages)
        .mutant("a claim has no condition", Flaw::ClaimHasNoCondition)
        .mutant("a claim has no lease", Flaw::ClaimHasNoLease)
        .mutant("a taker acknowledges without its claim", Flaw::AcknowledgesWithoutClaim)
        .mutant("attempts are not counted", Flaw::AttemptsAreNotCounted)
        .mutant("a put with an unknown outcome is repeated", Flaw::PutIsRepeated)
        .mutant("a release has no delay", Flaw::ReleaseHasNoDelay)
        .weakened(Weaken::TxnIgnoresCompare)
        .done()
}

fn queue(session: &Session) -> MessageQueue {
    MessageQueue::new(session, "q").max_attempts(MAX_ATTEMPTS)
}

/// Whether no taker can process a message.
fn is_poison(payload: &str) -> bool {
    payload == "p/1"
}

/// The message with this number.
fn message(payload: &str, number: usize) -> Message {
    match number {
        2 => Message::new(payload).delay(DELAY),
        3 => Message::new(payload).priority(7),
        _ => Message::new(payload),
    }
}

/// Puts messages, one after the other.
async fn produce(process: Process, messages: Messages, flaw: Option<Flaw>) -> TaskResult {
    let session = Session::builder(process.client()).ttl(TTL).open().await?;
    let queue = queue(&session);
    for number in 0..PUTS {
        let payload = format!("{}/{number}", process.name());
        messages.begin_put(&payload);
        if flaw == Some(Flaw::PutIsRepeated) && number != 2 {
            wrong::put(&process, &payload).await;
        } else {
            queue.put(message(&payload, number)).await?;
        }
        messages.confirm_put(&payload);
        sleep(Duration::from_millis(200)).await;
    }
    Ok(session.close().await?)
}

/// Acknowledges a delivery, and once more after an unknown outcome.
async fn acknowledge(messages: &Messages, payload: &str, delivery: Delivery) -> TaskResult {
    messages.may_acknowledge(payload);
    let failed = match delivery.acknowledge().await {
        Ok(()) => {
            messages.acknowledge(payload);
            return Ok(());
        }
        Err(failed) => failed,
    };
    if failed.loss().is_some() || failed.cause.outcome() == Outcome::NotApplied {
        return Err(failed.cause.into());
    }
    failed.held.acknowledge().await.map_err(|error| error.cause)?;
    messages.acknowledge(payload);
    Ok(())
}

/// Releases a delivery with a delay, and once more after an unknown outcome.
async fn release_after(
    messages: &Messages,
    payload: &str,
    delivery: Delivery,
    flaw: Option<Flaw>,
) -> TaskResult {
    let begun = Instant::now();
    let released = match flaw {
        Some(Flaw::ReleaseHasNoDelay) => delivery.release().await,
        _ => delivery.release_after(DELAY).await,
    };
    if let Err(failed) = released {
        if failed.loss().is_some() || failed.cause.outcome() == Outcome::NotApplied {
            return Err(failed.cause.into());
        }
        failed.held.release_after(DELAY).await.map_err(|error| error.cause)?;
    }
    messages.delay(payload, begun);
    Ok(())
}

/// Takes messages, and acknowledges most of them.
async fn consume(process: Process, messages: Messages, flaw: Option<Flaw>) -> TaskResult {
    let session = Session::builder(process.client()).ttl(TTL).open().await?;
    if let Some(flaw) = flaw.filter(|flaw| flaw.is_of_a_wrong_taker()) {
        return wrong::consume(&process, &session, &messages, flaw).await;
    }
    let queue = queue(&session);
    for round in 0..6 {
        let Ok(taken) = timeout(secs(4), queue.take()).await else { continue };
        let delivery = taken?;
        let payload = String::from_utf8_lossy(delivery.payload()).into_owned();
        let taker = (process.name(), delivery.attempts());
        let held = messages.deliver(taker, &payload, delivery.put_revision(), &session);
        sleep(Duration::from_millis(300)).await;
        process.client().put("work", payload.clone()).await?;
        drop(held);
        if is_poison(&payload) {
            delivery.release().await.map_err(|error| error.cause)?;
        } else if round % 4 == 3 {
            release_after(&messages, &payload, delivery, flaw).await?;
        } else {
            acknowledge(&messages, &payload, delivery).await?;
        }
    }
    Ok(session.close().await?)
}

/// Takes what is left after all faults, and checks that no message is missing.
async fn drain(sim: &Sim, messages: &Messages) {
    // A request may still arrive, and the lease of a process that crashed must expire.
    sleep(secs(60)).await;
    let session = Session::builder(sim.client()).ttl(TTL).open().await.unwrap();
    let queue = queue(&session);
    while let Some(delivery) = queue.try_take().await.unwrap() {
        let payload = String::from_utf8_lossy(delivery.payload()).into_owned();
        let taker = ("drain", delivery.attempts());
        drop(messages.deliver(taker, &payload, delivery.put_revision(), &session));
        if is_poison(&payload) {
            delivery.release().await.unwrap();
        } else {
            delivery.acknowledge().await.unwrap();
            messages.acknowledge(&payload);
        }
    }
    let counts = queue.counts().await.unwrap();
    if counts.ready + counts.claimed > 0 {
        sim.fail("queue", format!("messages are left: {counts:?}"));
    }
    messages.check_end(&queue.dead_letters(0).await.unwrap());
    session.close().await.unwrap();
}

async fn pass_messages(sim: Sim, flaw: Option<Flaw>) {
    let messages = Messages::new(&sim);
    for name in ["p", "r"] {
        let messages = messages.clone();
        sim.spawn(name, |process| produce(process, messages, flaw));
    }
    for name in ["a", "b"] {
        let messages = messages.clone();
        sim.service(name, move |process| consume(process, messages.clone(), flaw));
    }
    sim.join().await;
    drain(&sim, &messages).await;
    sim.sometimes("every message is put", messages.confirmed() == 2 * PUTS);
    sim.sometimes("a message is delivered again", messages.has_repeated());
}

#[test]
fn message_queue_loses_no_message_under_every_fault() {
    let name = "message_queue_loses_no_message_under_every_fault";
    let sweep = Sweep::new(name).seeds(SEEDS).check_store();
    print(name, &sweep.run(|sim| pass_messages(sim, None)));
}

#[test]
fn message_queue_mutants_are_caught() {
    assert_caught(&family_of_queues());
}

/// Takes messages at most once.
async fn consume_at_most_once(process: Process, messages: Messages) -> TaskResult {
    let session = Session::builder(process.client()).ttl(TTL).open().await?;
    let queue = queue(&session);
    for _ in 0..6 {
        // A taker that is dropped out of its wait, or fails, may lose a message.
        let Ok(taken) = timeout(secs(4), queue.take_at_most_once()).await else { continue };
        let taken = taken?;
        let payload = String::from_utf8_lossy(&taken.payload).into_owned();
        drop(messages.deliver((process.name(), 1), &payload, taken.put_revision, &session));
        messages.acknowledge(&payload);
    }
    Ok(session.close().await?)
}

async fn pass_messages_at_most_once(sim: Sim) {
    let messages = Messages::new(&sim);
    for name in ["p", "r"] {
        let messages = messages.clone();
        sim.spawn(name, |process| produce(process, messages, None));
    }
    for name in ["a", "b"] {
        let messages = messages.clone();
        sim.service(name, move |process| consume_at_most_once(process, messages.clone()));
    }
    sim.join().await;
    sim.sometimes("every message is put", messages.confirmed() == 2 * PUTS);
}

#[test]
fn message_is_taken_at_most_once_under_every_fault() {
    let name = "message_is_taken_at_most_once_under_every_fault";
    let sweep = Sweep::new(name).seeds(SEEDS).check_store();
    print(name, &sweep.run(pass_messages_at_most_once));
}
