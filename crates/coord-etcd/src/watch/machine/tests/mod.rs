//! The machine against servers that do all that etcd may do, in any order.
//!
//! A [`sim::Sim`] is a store and its members; a sequence of [`Step`]s says who acts when: a write,
//! a member that sends what it has for one watch (merged, in fragments, or that it is compacted), a
//! connection that is refused, breaks or lags, a reader who reads or does not. Whatever is read is
//! compared with the store's history on the spot: each revision once, whole and in order, and
//! bookmarks that are true. At the end everything is left to run, and nothing may be missing.

mod sim;

use std::time::Duration;

use coord_core::{
    Error,
    error::Outcome,
    kv::{Header, Revision, WatchFilter},
};
use proptest::prelude::*;

use super::super::wire::{NO_ID, Reply, Request};
use super::{Action, LaneName, probe, progress};
use sim::World;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// A revision that changes these keys; every other change is a deletion.
    Write(Vec<u8>),
    Compact(i64),
    Watch {
        keys: (u8, u8),
        start: i64,
        filters: Vec<WatchFilter>,
    },
    Drop(usize),
    /// Reads so many batches.
    Read(usize, usize),
    Progress(usize),
    /// A member accepts a connection, knowing all but so many of the last revisions; or refuses.
    Connect(LaneName, Option<i64>),
    /// A connection breaks.
    Break(LaneName),
    /// A member handles a request, and is written to before it answers.
    Handle(LaneName, bool),
    /// A member sends a watch so many revisions, in messages of at most so many events.
    Send(LaneName, usize, usize, usize),
    /// A member's message arrives.
    Arrive(LaneName),
    /// A member learns all that has happened.
    Learn(LaneName),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let lane = prop_oneof![4 => Just(LaneName::Main), 1 => Just(LaneName::Aside)];
    let lane = || lane.clone();
    let filters = prop_oneof![
        3 => Just(vec![]),
        1 => Just(vec![WatchFilter::NoPut]),
        1 => Just(vec![WatchFilter::NoDelete]),
    ];
    let watch = (0u8..4, 1u8..5, prop_oneof![Just(0), -6i64..4], filters);
    prop_oneof![
        6 => prop::collection::vec(0u8..4, 1..5).prop_map(Step::Write),
        1 => (0i64..4).prop_map(Step::Compact),
        2 => watch.prop_map(|(key, len, start, filters)| {
            Step::Watch { keys: (key, key + len), start, filters }
        }),
        1 => (0usize..4).prop_map(Step::Drop),
        4 => (0usize..4, 1usize..6).prop_map(|(watch, n)| Step::Read(watch, n)),
        3 => (0usize..4).prop_map(Step::Progress),
        4 => (lane(), prop::option::weighted(0.8, 0i64..4)).prop_map(|(l, n)| Step::Connect(l, n)),
        1 => lane().prop_map(Step::Break),
        8 => (lane(), prop::bool::weighted(0.2)).prop_map(|(l, late)| Step::Handle(l, late)),
        8 => (lane(), 0usize..4, 1usize..6, 1usize..4).prop_map(|(l, w, n, size)| {
            Step::Send(l, w, n, size)
        }),
        10 => lane().prop_map(Step::Arrive),
        2 => lane().prop_map(Step::Learn),
        2 => (1u64..2000).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_watch_gets_what_is_its_own(
        sound in prop::bool::weighted(0.8),
        steps in prop::collection::vec(step(), 1..160),
    ) {
        let mut world = World::new(sound);
        for step in steps {
            world.step(step);
        }
        world.settle();
    }

    /// Streams do not break here, readers read, and what is due is sent before it is compacted.
    #[test]
    fn compaction_ends_no_watch_that_has_caught_up(
        steps in prop::collection::vec(step(), 1..160),
    ) {
        let mut world = World::new(true);
        let mut patience = sim::ATTEMPT;
        for step in steps {
            match step {
                Step::Break(_) | Step::Connect(_, None) => continue,
                Step::Connect(lane, _) => world.step(Step::Connect(lane, Some(0))),
                Step::Watch { keys, start, filters } => {
                    world.hear(usize::from(u8::MAX));
                    world.step(Step::Watch { keys, start: start.max(0), filters });
                    world.run(LaneName::Main);
                }
                Step::Wait(millis) => {
                    let wait = Duration::from_millis(millis.min(400));
                    if let Some(left) = patience.checked_sub(wait).filter(|left| !left.is_zero()) {
                        patience = left;
                        world.step(Step::Wait(millis.min(400)));
                    }
                }
                step => world.step(step),
            }
            world.keep_up();
            world.hear(3);
        }
        world.hear(usize::from(u8::MAX));
        for ended in world.settle() {
            prop_assert!(ended.is_none(), "{:?}", ended);
        }
    }
}

/// A machine with one watch, from now on, created on a store at revision 10.
fn created() -> World {
    let mut world = World::new(true);
    for _ in 0..9 {
        world.sim.write(&[0]);
    }
    world.step(Step::Watch { keys: (0, 4), start: 0, filters: vec![] });
    assert_eq!(world.actions, [Action::Open(LaneName::Main)]);
    world.step(Step::Connect(LaneName::Main, Some(0)));
    world.step(Step::Handle(LaneName::Main, false));
    world.step(Step::Handle(LaneName::Main, false));
    world.step(Step::Arrive(LaneName::Main));
    world
}

fn starts(actions: &[Action]) -> Vec<i64> {
    let creates = actions.iter().filter_map(|action| match action {
        Action::Send(_, Request::Create { start, .. }) => Some(start.0),
        _ => None,
    });
    creates.collect()
}

#[test]
fn start_is_pinned_before_anything_has_come() {
    let mut world = created();
    assert_eq!(starts(&world.actions), [0]);
    world.step(Step::Write(vec![1]));
    world.step(Step::Break(LaneName::Main));
    world.step(Step::Connect(LaneName::Main, Some(0)));
    assert_eq!(starts(&world.actions), [10], "revision 10 is there, 11 may not be");
    world.settle();
}

#[test]
fn compaction_of_what_was_delivered_is_no_loss() {
    let mut world = created();
    world.step(Step::Write(vec![1]));
    world.step(Step::Break(LaneName::Main));
    world.step(Step::Compact(0));
    world.step(Step::Connect(LaneName::Main, Some(0)));
    world.settle();
    assert_eq!(starts(&world.actions), [11], "10 is compacted, and 11 is the oldest left");
}

#[test]
fn compaction_of_what_was_not_delivered_ends_the_watch() {
    let mut world = created();
    world.step(Step::Write(vec![1]));
    world.step(Step::Write(vec![1]));
    world.step(Step::Break(LaneName::Main));
    world.step(Step::Compact(0));
    world.step(Step::Connect(LaneName::Main, Some(0)));
    let lost = world.settle().pop().expect("there is one watch");
    let Some(Error::Compacted { requested, compact_revision }) = lost else {
        panic!("it ended with {lost:?}")
    };
    assert_eq!((requested, compact_revision), (Some(Revision(11)), Some(Revision(12))));
}

#[test]
fn member_that_does_not_confirm_is_given_up() {
    let mut world = World::new(true);
    world.step(Step::Watch { keys: (0, 4), start: 0, filters: vec![] });
    world.step(Step::Connect(LaneName::Main, Some(0)));
    world.step(Step::Wait(sim::ATTEMPT.as_millis().try_into().unwrap()));
    assert_eq!(world.actions, [Action::GiveUp(LaneName::Main), Action::Open(LaneName::Main)]);
    world.settle();
}

#[test]
fn registration_is_given_up_in_the_end() {
    let mut world = World::new(true);
    world.step(Step::Watch { keys: (0, 4), start: 0, filters: vec![] });
    world.step(Step::Wait(3 * u64::try_from(sim::ATTEMPT.as_millis()).unwrap()));
    assert!(matches!(world.registration_error(), Some(Error::Timeout { .. })));
}

#[test]
fn registration_fails_at_once_when_nobody_is_there() {
    let mut world = World::new(true);
    world.step(Step::Watch { keys: (0, 4), start: 0, filters: vec![] });
    world.step(Step::Connect(LaneName::Main, None));
    assert!(matches!(world.registration_error(), Some(Error::Unavailable { .. })));
}

#[test]
fn wrong_login_ends_a_watch_that_stands() {
    let mut world = created();
    world.step(Step::Break(LaneName::Main));
    let error = Error::Unauthenticated { reason: "no such user".to_owned() };
    world.machine.lost(LaneName::Main, &error, world.now);
    let lost = world.settle().pop().expect("there is one watch");
    assert!(matches!(lost, Some(Error::Unauthenticated { .. })), "{lost:?}");
}

#[test]
fn refused_registration_is_the_error_of_its_watch() {
    let mut world = World::new(true);
    world.step(Step::Watch { keys: (0, 4), start: 0, filters: vec![] });
    world.step(Step::Connect(LaneName::Main, Some(0)));
    let reason = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    let (id, reason) = (NO_ID, reason.to_owned());
    let header = Header::at(Revision(1));
    let refused = Reply { id, header, created: true, canceled: true, reason, ..Reply::default() };
    world.machine.reply(LaneName::Main, refused, world.now);
    let error = world.registration_error().expect("it is refused");
    assert_eq!(error.outcome(), Outcome::NotApplied);
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
}

#[test]
fn watch_of_the_future_makes_way_for_a_bookmark() {
    let mut world = created();
    world.step(Step::Watch { keys: (0, 4), start: 5, filters: vec![] });
    world.step(Step::Handle(LaneName::Main, false));
    world.step(Step::Arrive(LaneName::Main));
    world.step(Step::Progress(0));
    for _ in 0..4 {
        world.step(Step::Wait(100));
    }
    assert!(world.opened_aside, "the watch of revision 15 goes aside");
    world.settle();
}

#[test]
fn compaction_ends_no_watch_that_makes_way() {
    for wait in [0, 300] {
        let mut world = created();
        world.step(Step::Drop(0));
        world.step(Step::Watch { keys: (0, 1), start: 1, filters: vec![] });
        world.run(LaneName::Main);
        world.step(Step::Watch { keys: (1, 2), start: 0, filters: vec![] });
        world.step(Step::Watch { keys: (1, 2), start: 1000, filters: vec![] });
        world.run(LaneName::Main);
        for _ in 0..3 {
            world.step(Step::Wait(wait));
            world.step(Step::Write(vec![3]));
            world.step(Step::Compact(0));
            world.keep_up();
            world.step(Step::Progress(0));
            world.step(Step::Progress(1));
        }
        world.settle();
        world.step(Step::Write(vec![0]));
        let ended = world.settle();
        assert!(ended.iter().all(Option::is_none), "after {wait} ms each: {ended:?}");
    }
}

#[test]
fn silence_towards_those_who_are_gone_is_no_reason_to_move() {
    let mut world = created();
    world.step(Step::Watch { keys: (0, 1), start: 1000, filters: vec![] });
    world.run(LaneName::Main);
    world.step(Step::Progress(1));
    world.run(LaneName::Main);
    world.step(Step::Drop(1));
    world.step(Step::Wait(10_000));
    world.run(LaneName::Main);
    world.step(Step::Watch { keys: (0, 1), start: 1, filters: vec![] });
    world.run(LaneName::Main);
    world.step(Step::Progress(1));
    world.step(Step::Wait(1));
    assert_eq!(world.actions, [Action::Send(LaneName::Main, Request::Progress)]);
    assert!(!world.opened_aside, "it has not waited long enough");
    world.settle();
}

#[test]
fn watch_that_asks_for_a_bookmark_before_its_start_is_given_one() {
    let mut world = created();
    world.step(Step::Drop(0));
    world.step(Step::Watch { keys: (0, 1), start: 1, filters: vec![] });
    world.run(LaneName::Main);
    for _ in 0..3 {
        world.settle();
    }
}

#[test]
fn quiet_watch_keeps_up_without_being_asked() {
    let mut world = created();
    world.run(LaneName::Main);
    world.step(Step::Watch { keys: (0, 1), start: 0, filters: vec![] });
    world.run(LaneName::Main);
    world.step(Step::Write(vec![3]));
    world.step(Step::Write(vec![3]));
    world.run(LaneName::Main);
    world.step(Step::Wait(Duration::from_secs(31).as_millis().try_into().unwrap()));
    world.run(LaneName::Main);
    world.step(Step::Break(LaneName::Main));
    world.step(Step::Connect(LaneName::Main, Some(0)));
    assert_eq!(starts(&world.actions), [12, 12], "and not 10");
    world.settle();
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().expect("it is short")
}

fn given_up() -> [Action; 2] {
    [Action::GiveUp(LaneName::Main), Action::Open(LaneName::Main)]
}

/// A proxy that answers pings hides that the member behind it is frozen.
#[test]
fn quiet_stream_without_an_answer_is_given_up() {
    let mut world = created();
    world.run(LaneName::Main);
    world.step(Step::Wait(millis(probe::PROBE_AFTER)));
    let probes = [Action::Send(LaneName::Main, Request::Probe { id: 2 })];
    assert_eq!(world.actions, probes);
    world.step(Step::Wait(millis(sim::ATTEMPT) - 1));
    assert_eq!(world.actions, probes, "there is time left for an answer");
    world.step(Step::Wait(1));
    assert_eq!(world.actions, given_up());
    world.step(Step::Write(vec![1]));
    world.settle();
}

#[test]
fn unanswered_progress_request_moves_the_watch() {
    let mut world = created();
    world.run(LaneName::Main);
    world.step(Step::Progress(0));
    world.step(Step::Wait(millis(probe::PROBE_WHEN_DUE_AFTER)));
    assert!(matches!(world.actions[..], [.., Action::Send(_, Request::Probe { .. })]));
    world.step(Step::Wait(millis(sim::ATTEMPT)));
    assert!(world.actions.ends_with(&given_up()), "{:?}", world.actions);
    world.settle();
}

/// Progress requests are not answered while a watch waits for a future revision; probes are.
#[test]
fn quiet_stream_that_answers_probes_is_kept() {
    for start in [0, 1000] {
        let mut world = created();
        world.step(Step::Drop(0));
        world.step(Step::Watch { keys: (0, 4), start, filters: vec![] });
        world.run(LaneName::Main);
        let (mut probes, mut given_up) = (0, 0);
        for _ in 0..600 {
            world.actions.clear();
            world.step(Step::Wait(1_000));
            for action in &world.actions {
                probes += u32::from(matches!(action, Action::Send(_, Request::Probe { .. })));
                given_up += u32::from(matches!(action, Action::GiveUp(_)));
            }
            world.run(LaneName::Main);
        }
        assert!((20..=40).contains(&probes), "{probes} in ten minutes");
        assert_eq!(given_up, 0);
    }
}

/// `etcd grpc-proxy` numbers watches from 0 and confirms them in any order; the one of 3.4 crashes
/// on a progress request.
#[test]
fn proxied_stream_translates_ids_and_sends_no_progress() {
    let mut world = World::new(true);
    world.step(Step::Watch { keys: (0, 4), start: 5, filters: vec![] });
    world.step(Step::Watch { keys: (0, 2), start: 7, filters: vec![] });
    world.step(Step::Watch { keys: (0, 4), start: 0, filters: vec![] });
    let machine = &mut world.machine;
    machine.opened(LaneName::Main, Header::at(Revision(9)), true, world.now);
    let created = |actions: &[Action]| -> Vec<i64> {
        assert!(!actions.contains(&Action::Send(LaneName::Main, Request::Progress)));
        starts(actions)
    };
    assert_eq!(created(&machine.take_actions()), [6], "one at a time");
    let reply = |id, created, canceled| Reply { id, created, canceled, ..Reply::default() };
    machine.reply(LaneName::Main, reply(0, true, false), world.now);
    assert_eq!(created(&machine.take_actions()), [8]);
    machine.reply(LaneName::Main, reply(1, true, false), world.now);
    machine.request_progress(0, world.now);
    machine.tick(world.now + progress::REFRESH);
    assert_eq!(created(&machine.take_actions()), [0; 0]);

    machine.remove(1);
    let cancel = Action::Send(LaneName::Main, Request::Cancel { id: 1 });
    assert_eq!(machine.take_actions(), [cancel], "by the id of the proxy");
    machine.reply(LaneName::Main, reply(1, false, true), world.now);
    assert_eq!(machine.take_actions(), [], "it is gone");
}

/// Such a message counted as an answer to a progress request, and two of them produced a progress
/// notification for a revision whose events had not arrived.
#[test]
fn message_for_a_dropped_proxied_watch_is_no_progress() {
    let mut world = World::new(true);
    world.step(Step::Watch { keys: (0, 4), start: 5, filters: vec![] });
    world.step(Step::Watch { keys: (0, 2), start: 7, filters: vec![] });
    let (machine, now) = (&mut world.machine, world.now);
    machine.opened(LaneName::Main, Header::at(Revision(9)), true, now);
    for id in 0..2 {
        let created = Reply { id, created: true, ..Reply::default() };
        machine.reply(LaneName::Main, created, now);
    }
    machine.request_progress(0, now);
    machine.remove(1);
    // The confirmation of the cancel, and a message that was sent before it.
    for (canceled, later) in [(true, 0), (false, 5)] {
        let header = Header::at(Revision(50));
        let late = Reply { id: 1, header, canceled, ..Reply::default() };
        machine.reply(LaneName::Main, late, now + Duration::from_secs(later));
    }
    assert!(machine.is_asked(LaneName::Main), "a progress notification was delivered");
}
