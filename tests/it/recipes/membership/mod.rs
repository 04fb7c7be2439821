//! Membership: joining, metadata, the list of members, events, and requests.

mod known_faults;
mod leaving;

use std::time::Duration;

use bytes::Bytes;
use coord_core::error::{LossReason, PrimitiveError};
use coord_core::kv::Value;
use coord_core::recipes::{MemberEvent, MemberEvents, Members, Membership};
use coord_core::{Client, Error, Session};
use coord_mem::MemBackend;
use coord_testkit::Recorder;
use tokio::time::timeout;

use crate::support::{
    intercepted, keys, newest_revision, secs, separate_client, session, session_on, settle,
};

fn group(client: &Client) -> Membership<i64> {
    Membership::new(client, "g")
}

/// The metadata of the members, in the order in which they joined.
fn metadata(members: &Members<i64>) -> Vec<i64> {
    members.list().iter().map(|member| member.metadata().unwrap()).collect()
}

async fn next(events: &mut MemberEvents<i64>) -> MemberEvent<i64> {
    let next = timeout(secs(120), events.next()).await.expect("an event is yielded");
    next.expect("the stream continues").expect("the store is available")
}

/// The kind of an event, and the metadata of its member.
fn summary(event: &MemberEvent<i64>) -> (&'static str, i64) {
    let kind = match event {
        MemberEvent::Joined(_) => "joined",
        MemberEvent::Updated { .. } => "updated",
        MemberEvent::Left(_) => "left",
    };
    (kind, event.member().metadata().unwrap())
}

#[tokio::test(start_paused = true)]
async fn members_are_listed_in_the_order_of_joining() {
    let store = Client::new(MemBackend::new());
    let (one, two) = (session(&store).await, session(&store).await);
    let first = group(&store).join(&two, &7).await.unwrap();
    let members = group(&separate_client(&store)).members().await.unwrap();
    let second = group(&store).join(&one, &3).await.unwrap();
    members.wait_for(second.create_revision()).await.unwrap();

    assert_eq!(metadata(&members), [7, 3]);
    assert!(first.create_revision() < second.create_revision());
    let found = members.get(first.id()).unwrap();
    assert_eq!(
        (found.id(), found.lease(), found.create_revision(), found.metadata().unwrap()),
        (first.id(), Some(two.lease_id()), first.create_revision(), 7)
    );
    assert_eq!(members.get("absent"), None);
    first.update(&8).await.unwrap();
    let read = members.read().await.unwrap();
    let read: Vec<_> = read.iter().map(|member| member.metadata().unwrap()).collect();
    assert_eq!(read, [8, 3], "a consistent read has the update");
    first.leave().await.unwrap();
    members.wait_for(newest_revision(&store).await).await.unwrap();
    assert_eq!(metadata(&members), [3]);
}

#[tokio::test(start_paused = true)]
async fn members_of_one_session_have_ids_of_their_own() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let mut ids = Vec::new();
    for n in 0..3 {
        let stays = group(&store).join(&session, &n).await.unwrap();
        let leaves = group(&store).join(&session, &n).await.unwrap();
        ids.extend([stays.id().to_owned(), leaves.id().to_owned()]);
        leaves.leave().await.unwrap();
        settle().await;
        std::mem::forget(stays);
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "an id is not used again: {ids:?}");
    assert_eq!(keys(&store, "g/members/").await.len(), 3);
    session.close().await.unwrap();
    assert_eq!(keys(&store, "g").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn events_are_typed_and_in_order() {
    let store = Client::new(MemBackend::new());
    let members = group(&separate_client(&store)).members().await.unwrap();
    let mut events = members.events();
    let (one, two) = (session(&store).await, session(&store).await);
    let a = group(&store).join(&one, &1).await.unwrap();
    let b = group(&store).join(&two, &2).await.unwrap();
    a.update(&3).await.unwrap();
    a.update(&3).await.unwrap();
    drop(b);
    one.close().await.unwrap();

    let mut found = Vec::new();
    for _ in 0..6 {
        let event = next(&mut events).await;
        assert_eq!(events.gap(), None);
        found.push(summary(&event));
    }
    assert_eq!(found[..4], [("joined", 1), ("joined", 2), ("updated", 3), ("updated", 3)]);
    found[4..].sort_unstable();
    assert_eq!(found[4..], [("left", 2), ("left", 3)]);
    assert!(events.members().is_empty());
    assert_eq!(events.revision(), newest_revision(&store).await);
}

/// A session that ends with several members: they leave in one revision.
#[tokio::test(start_paused = true)]
async fn end_of_a_session_is_an_event_for_each_member() {
    let store = Client::new(MemBackend::new());
    let members = group(&store).members().await.unwrap();
    let mut events = members.events();
    let session = session_on(separate_client(&store)).await;
    let mut guards = Vec::new();
    for n in 0..3 {
        guards.push(group(&store).join(&session, &n).await.unwrap());
        next(&mut events).await;
    }
    session.close().await.unwrap();
    let mut left = Vec::new();
    for _ in 0..3 {
        left.push(summary(&next(&mut events).await));
    }
    assert_eq!(left, [("left", 0), ("left", 1), ("left", 2)]);
    for guard in guards {
        assert_eq!(guard.lost().await, LossReason::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn join_update_and_leave_cost_one_request_each() {
    let store = Client::new(MemBackend::new());
    let recorder = Recorder::new();
    let client = intercepted(&store, recorder.clone());
    let session = Session::builder(&client).open().await.unwrap();
    recorder.take();
    let member = group(&client).join(&session, &1).await.unwrap();
    assert_eq!(recorder.take().names(), "txn");
    member.update(&2).await.unwrap();
    assert_eq!(recorder.take().names(), "txn");
    member.leave().await.unwrap();
    assert_eq!(recorder.take().names(), "txn");

    let members = group(&client).members().await.unwrap();
    settle().await;
    assert_eq!(recorder.take().names(), "range watch");
    let clones: Vec<_> = (0..100).map(|_| (members.clone(), members.events())).collect();
    let other = session_on(&store).await;
    let member = group(&store).join(&other, &1).await.unwrap();
    settle().await;
    assert!(clones.iter().all(|(members, _)| members.list().len() == 1));
    assert_eq!(recorder.take().names(), "", "lists, clones and events cost none");
    members.read().await.unwrap();
    assert_eq!(recorder.take().names(), "range");
    drop(member);
}

/// Metadata that another program has written, in another format.
#[tokio::test(start_paused = true)]
async fn undecodable_metadata_is_an_error_of_that_member_only() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let members = group(&store).members().await.unwrap();
    let mut events = members.events();
    let good = group(&store).join(&session, &1).await.unwrap();
    store.put("g/members/\u{e9}", "many").await.unwrap();
    store.put(&b"g/members/\xff"[..], "1").await.unwrap();
    for _ in 0..3 {
        next(&mut events).await;
    }
    let list = members.list();
    assert_eq!(list.len(), 3);
    assert_eq!((list[0].id(), list[0].metadata().unwrap()), (good.id(), 1));
    let error = list[1].metadata().unwrap_err();
    assert!(matches!(&error, Error::InvalidValue { .. }), "{error}");
    assert_eq!((list[2].id(), list[2].lease()), ("", None));
    assert!(format!("{:?}", list[2]).contains("xff"), "{:?}", list[2]);
}

/// A type whose encoding can fail.
#[derive(Debug)]
struct Small(u8);

impl Value for Small {
    type Error = std::io::Error;

    fn encode(&self) -> Result<Bytes, Self::Error> {
        match self.0 {
            0..100 => Ok(Bytes::copy_from_slice(&[self.0])),
            _ => Err(std::io::Error::other("at most 99")),
        }
    }

    fn decode(bytes: Bytes) -> Result<Self, Self::Error> {
        Ok(Self(bytes.first().copied().unwrap_or_default()))
    }
}

#[tokio::test(start_paused = true)]
async fn metadata_that_cannot_be_encoded_is_refused_unsent() {
    let store = Client::new(MemBackend::new());
    let recorder = Recorder::new();
    let session = session(&store).await;
    let group = Membership::<Small>::new(&intercepted(&store, recorder.clone()), "g");
    let is_invalid = |error: PrimitiveError| {
        matches!(error, PrimitiveError::Backend(Error::InvalidValue { .. }))
    };
    assert!(is_invalid(group.join(&session, &Small(100)).await.unwrap_err()));
    let member = group.join(&session, &Small(1)).await.unwrap();
    assert!(is_invalid(member.update(&Small(200)).await.unwrap_err()));
    assert_eq!(recorder.take().names(), "", "the session has a client of its own");
    assert_eq!(keys(&store, "g").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn groups_with_similar_names_are_separate() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let members = group(&store).members().await.unwrap();
    let mut events = members.events();
    let mut others = Vec::new();
    for name in ["g2", "g/members", "g/other", "", "h"] {
        let other = Membership::<i64>::new(&store, name);
        assert_eq!(other.name(), name);
        others.push(other.join(&session, &0).await.unwrap());
    }
    let child = Membership::<i64>::new(&store, "g/members").members().await.unwrap();
    let id = format!("members/{}", child.list()[0].id());
    assert_eq!(members.read().await.unwrap(), [], "a group `g/members` is not `g`");
    assert_eq!(members.get(&id), None);
    assert!(members.cache().get(format!("g/members/{id}")).is_some());
    let member = group(&store).join(&session, &1).await.unwrap();
    assert_eq!(next(&mut events).await.member().id(), member.id(), "the first event");
    assert_eq!((members.list().len(), events.members().len()), (1, 1));
    drop((others, member));
}

#[tokio::test(start_paused = true)]
async fn membership_types_print_their_keys() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let member = group(&store).join(&session, &1).await.unwrap();
    let members = group(&store).members().await.unwrap();
    let (key, events) = (format!("{:?}", member), members.events());
    assert!(key.starts_with("MemberGuard(\"g/members/") && key.contains("created at"), "{key}");
    assert_eq!(format!("{:?}", group(&store)), "Membership(\"g\")");
    let text = format!("{members:?} {events:?} {:?}", members.list());
    for part in ["Members(", "MemberEvents", "Member(\"g/members/", "joined at"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(members.staleness() < Duration::from_secs(1));
    assert_eq!(members.cache().prefix(), "g/members/");
}
