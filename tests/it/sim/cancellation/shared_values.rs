//! Cancellation cases of shared values and counters.

use coord_core::recipes::{Counter, SharedValue, StripedCounter, Values};
use coord_core::{Client, Error, Session};
use tokio::time::sleep;

use super::client::{change, read};
use super::trial::{Trial, close};
use super::{Case, drop_all};
use crate::support::secs;

#[test]
fn dropped_changes_of_values_apply_at_most_once() {
    drop_all(&cases());
}

fn value(client: &Client) -> SharedValue<i64> {
    SharedValue::new(client, "data/k")
}

/// A counter with one stripe, `data/k/0`.
fn striped(client: &Client) -> StripedCounter {
    StripedCounter::new(client, "data/k", 1).unwrap()
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        read(&["SharedValue::get"], |client| async move { value(&client).get().await.map(drop) }),
        read(&["Counter::get"], |client| async move {
            Counter::new(&client, "data/k").get().await.map(drop)
        }),
        read(&["StripedCounter::get"], |client| async move {
            striped(&client).get().await.unwrap();
            Ok(())
        }),
        change(
            &["SharedValue::set"],
            |client| async move { value(&client).set(&1).await.map(drop) },
        ),
        change(&["SharedValue::clear"], |client| async move { value(&client).clear().await }),
        change(&["SharedValue::compare_and_swap"], |client| async move {
            value(&client).compare_and_swap(Some(&0), Some(&1)).await.map(drop)
        }),
        change(&["SharedValue::update"], |client| async move {
            let add = |n: Option<i64>| Ok::<_, Error>(Some(n.unwrap_or_default() + 1));
            value(&client).update(add).await.unwrap();
            Ok(())
        }),
        change(&["Counter::add"], |client| async move {
            Counter::new(&client, "data/k").add(1).await.unwrap();
            Ok(())
        }),
        change(&["StripedCounter::add"], |client| async move {
            striped(&client).add(1).await.unwrap();
            Ok(())
        }),
        Case::new(&["Counter::add"], "exactly once", add_exactly_once),
        Case::new(&["Values::next"], "the value is set after half a second", values_next),
    ]
}

/// One addition is dropped. The session still resolves later ones, and is closed without a key.
async fn add_exactly_once(t: Trial) {
    let session: Session = t.session().await;
    let counter = Counter::new(t.client(), "data/n").exactly_once(&session);
    let added = t.drop_at_await(counter.add(1)).await.transpose().unwrap();
    t.proceeds(Counter::new(t.other.client(), "data/n").add(1)).await.unwrap();
    t.proceeds(counter.add(1)).await.unwrap();
    t.messages_arrive().await;
    let n = counter.get().await.unwrap();
    assert!(n == 3 || (n == 2 && added.is_none()), "counted {n}");
    close(&session).await;
}

/// No value is lost, and none is yielded twice.
async fn values_next(t: Trial) {
    let mut values: Values<i64> = value(t.client()).watch();
    assert_eq!(values.next().await.unwrap().unwrap(), None);
    let other = value(t.other.client());
    let sets = t.other.spawn(async move {
        sleep(secs(1) / 2).await;
        other.set(&1).await.unwrap();
        other.set(&2).await.unwrap();
    });
    let mut found = Vec::new();
    if let Some(value) = t.drop_at_await(values.next()).await {
        found.push(value.unwrap().unwrap());
    }
    sets.await;
    t.messages_arrive().await;
    while found.len() < 2 {
        found.push(t.proceeds(values.next()).await.unwrap().unwrap());
    }
    assert_eq!((found, values.gap()), (vec![Some(1), Some(2)], None));
}
