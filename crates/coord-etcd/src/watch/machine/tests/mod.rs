//! Tests of the machine against simulated servers, with random orders of events.
//!
//! A [`Simulation`] has a store, its members and the readers. A sequence of [`Step`]s decides the
//! order of events: a write; a member that sends the events of one watch, merged or in fragments,
//! or reports a compaction; a connection that is refused, breaks, or leads to a stale member; a
//! reader that reads or does not. Each item that a reader takes is compared with the history of the
//! store: each revision is delivered once, complete and in order, and progress notifications only
//! follow delivered revisions. At the end the simulation runs until it is idle, and no event may be
//! missing.

mod simulation;

use std::time::Duration;

use coord_core::{
    Error,
    error::Outcome,
    kv::{Header, Revision, WatchFilter},
};
use proptest::prelude::*;

use super::super::wire::{NO_WATCH_ID, Request, ServerMessage};
use super::{Action, StreamRole, probe, progress};
use simulation::Simulation;

/// A step of a simulation.
#[derive(Clone, Debug)]
enum Step {
    /// A write changes these keys in one revision; every other change is a deletion.
    Write(Vec<u8>),
    /// The store is compacted this many revisions before its current one.
    Compact(i64),
    /// A watch is added. `start` is relative to the current revision; 0 is "from now on".
    Watch { keys: (u8, u8), start: i64, filters: Vec<WatchFilter> },
    /// A watch is dropped.
    Drop(usize),
    /// The reader of a watch reads a number of batches.
    Read(usize, usize),
    /// The reader of a watch requests a progress notification.
    Progress(usize),
    /// A member that lacks a number of the last revisions accepts a connection. `None` refuses it.
    Connect(StreamRole, Option<i64>),
    /// A connection breaks.
    Break(StreamRole),
    /// A member handles a request. With `true` a write precedes the confirmation of a watch.
    Handle(StreamRole, bool),
    /// A member sends the events of a watch: the index of the watch, the largest number of
    /// revisions, and the largest number of events per message.
    Send(StreamRole, usize, usize, usize),
    /// The client receives a message of a member.
    Arrive(StreamRole),
    /// A member applies the whole history.
    Apply(StreamRole),
    /// Time passes, in milliseconds.
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let stream = prop_oneof![4 => Just(StreamRole::Shared), 1 => Just(StreamRole::FutureStart)];
    let stream = || stream.clone();
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
        4 => (stream(), prop::option::weighted(0.8, 0i64..4))
            .prop_map(|(stream, n)| Step::Connect(stream, n)),
        1 => stream().prop_map(Step::Break),
        8 => (stream(), prop::bool::weighted(0.2))
            .prop_map(|(stream, late)| Step::Handle(stream, late)),
        8 => (stream(), 0usize..4, 1usize..6, 1usize..4).prop_map(|(stream, w, n, size)| {
            Step::Send(stream, w, n, size)
        }),
        10 => stream().prop_map(Step::Arrive),
        2 => stream().prop_map(Step::Apply),
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
    fn watch_receives_each_revision_once_in_order(
        proves_progress in prop::bool::weighted(0.8),
        steps in prop::collection::vec(step(), 1..160),
    ) {
        let mut sim = Simulation::new(proves_progress);
        for step in steps {
            sim.step(step);
        }
        sim.settle();
    }

    /// In this test, streams do not break, readers read, and events are sent before a compaction.
    #[test]
    fn compaction_does_not_end_a_watch_that_caught_up(
        steps in prop::collection::vec(step(), 1..160),
    ) {
        let mut sim = Simulation::new(true);
        let mut time_left = simulation::REGISTRATION_TIMEOUT;
        for step in steps {
            match step {
                Step::Break(_) | Step::Connect(_, None) => continue,
                Step::Connect(stream, _) => sim.step(Step::Connect(stream, Some(0))),
                Step::Watch { keys, start, filters } => {
                    sim.receive(usize::from(u8::MAX));
                    sim.step(Step::Watch { keys, start: start.max(0), filters });
                    sim.run(StreamRole::Shared);
                }
                Step::Wait(millis) => {
                    let wait = Duration::from_millis(millis.min(400));
                    if let Some(left) = time_left.checked_sub(wait).filter(|left| !left.is_zero()) {
                        time_left = left;
                        sim.step(Step::Wait(millis.min(400)));
                    }
                }
                step => sim.step(step),
            }
            sim.keep_up();
            sim.receive(3);
        }
        sim.receive(usize::from(u8::MAX));
        for ended in sim.settle() {
            prop_assert!(ended.is_none(), "{:?}", ended);
        }
    }
}

/// A simulation with one watch from now on, confirmed by a store at revision 10.
fn with_confirmed_watch() -> Simulation {
    let mut sim = Simulation::new(true);
    for _ in 0..9 {
        sim.store.write(&[0]);
    }
    sim.step(Step::Watch { keys: (0, 4), start: 0, filters: vec![] });
    assert_eq!(sim.actions, [Action::Open(StreamRole::Shared)]);
    sim.step(Step::Connect(StreamRole::Shared, Some(0)));
    sim.step(Step::Handle(StreamRole::Shared, false));
    sim.step(Step::Handle(StreamRole::Shared, false));
    sim.step(Step::Arrive(StreamRole::Shared));
    sim
}

/// The start revisions of the create requests.
fn starts(actions: &[Action]) -> Vec<i64> {
    let creates = actions.iter().filter_map(|action| match action {
        Action::Send(_, Request::Create { start, .. }) => Some(start.0),
        _ => None,
    });
    creates.collect()
}

#[test]
fn confirmation_fixes_the_start_revision() {
    let mut sim = with_confirmed_watch();
    assert_eq!(starts(&sim.actions), [0]);
    sim.step(Step::Write(vec![1]));
    sim.step(Step::Break(StreamRole::Shared));
    sim.step(Step::Connect(StreamRole::Shared, Some(0)));
    assert_eq!(starts(&sim.actions), [10], "revision 10 exists, 11 may not");
    sim.settle();
}

#[test]
fn compaction_of_delivered_revisions_keeps_the_watch() {
    let mut sim = with_confirmed_watch();
    sim.step(Step::Write(vec![1]));
    sim.step(Step::Break(StreamRole::Shared));
    sim.step(Step::Compact(0));
    sim.step(Step::Connect(StreamRole::Shared, Some(0)));
    sim.settle();
    assert_eq!(starts(&sim.actions), [11], "10 is compacted, and 11 is the oldest left");
}

#[test]
fn compaction_of_undelivered_revisions_ends_the_watch() {
    let mut sim = with_confirmed_watch();
    sim.step(Step::Write(vec![1]));
    sim.step(Step::Write(vec![1]));
    sim.step(Step::Break(StreamRole::Shared));
    sim.step(Step::Compact(0));
    sim.step(Step::Connect(StreamRole::Shared, Some(0)));
    let end = sim.settle().pop().expect("there is one watch");
    let Some(Error::Compacted { requested, compact_revision }) = end else {
        panic!("the watch ended with {end:?}")
    };
    assert_eq!((requested, compact_revision), (Some(Revision(11)), Some(Revision(12))));
}

#[test]
fn missing_confirmation_causes_failover() {
    let mut sim = Simulation::new(true);
    sim.step(Step::Watch { keys: (0, 4), start: 0, filters: vec![] });
    sim.step(Step::Connect(StreamRole::Shared, Some(0)));
    sim.step(Step::Wait(simulation::REGISTRATION_TIMEOUT.as_millis().try_into().unwrap()));
    assert_eq!(
        sim.actions,
        [Action::FailOver(StreamRole::Shared), Action::Open(StreamRole::Shared)]
    );
    sim.settle();
}

#[test]
fn registration_times_out_without_a_stream() {
    let mut sim = Simulation::new(true);
    sim.step(Step::Watch { keys: (0, 4), start: 0, filters: vec![] });
    sim.step(Step::Wait(3 * u64::try_from(simulation::REGISTRATION_TIMEOUT.as_millis()).unwrap()));
    assert!(matches!(sim.registration_error(), Some(Error::Timeout { .. })));
}

#[test]
fn registration_fails_at_once_when_no_member_is_reachable() {
    let mut sim = Simulation::new(true);
    sim.step(Step::Watch { keys: (0, 4), start: 0, filters: vec![] });
    sim.step(Step::Connect(StreamRole::Shared, None));
    assert!(matches!(sim.registration_error(), Some(Error::Unavailable { .. })));
}

#[test]
fn wrong_login_ends_a_registered_watch() {
    let mut sim = with_confirmed_watch();
    sim.step(Step::Break(StreamRole::Shared));
    let error = Error::Unauthenticated { reason: "no such user".to_owned() };
    sim.machine.on_lost(StreamRole::Shared, &error, sim.now);
    let end = sim.settle().pop().expect("there is one watch");
    assert!(matches!(end, Some(Error::Unauthenticated { .. })), "{end:?}");
}

#[test]
fn refused_registration_returns_the_reason() {
    let mut sim = Simulation::new(true);
    sim.step(Step::Watch { keys: (0, 4), start: 0, filters: vec![] });
    sim.step(Step::Connect(StreamRole::Shared, Some(0)));
    let reason = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    let (id, reason) = (NO_WATCH_ID, reason.to_owned());
    let header = Header::at(Revision(1));
    let refused = ServerMessage {
        id,
        header,
        created: true,
        canceled: true,
        reason,
        ..ServerMessage::default()
    };
    sim.machine.on_message(StreamRole::Shared, refused, sim.now);
    let error = sim.registration_error().expect("the registration is refused");
    assert_eq!(error.outcome(), Outcome::NotApplied);
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
}

#[test]
fn future_watch_that_blocks_progress_moves() {
    let mut sim = with_confirmed_watch();
    sim.step(Step::Watch { keys: (0, 4), start: 5, filters: vec![] });
    sim.step(Step::Handle(StreamRole::Shared, false));
    sim.step(Step::Arrive(StreamRole::Shared));
    sim.step(Step::Progress(0));
    for _ in 0..4 {
        sim.step(Step::Wait(100));
    }
    assert!(sim.opened_future_start, "the watch from revision 15 moves");
    sim.settle();
}

#[test]
fn compaction_does_not_end_a_watch_that_moves() {
    for wait in [0, 300] {
        let mut sim = with_confirmed_watch();
        sim.step(Step::Drop(0));
        sim.step(Step::Watch { keys: (0, 1), start: 1, filters: vec![] });
        sim.run(StreamRole::Shared);
        sim.step(Step::Watch { keys: (1, 2), start: 0, filters: vec![] });
        sim.step(Step::Watch { keys: (1, 2), start: 1000, filters: vec![] });
        sim.run(StreamRole::Shared);
        for _ in 0..3 {
            sim.step(Step::Wait(wait));
            sim.step(Step::Write(vec![3]));
            sim.step(Step::Compact(0));
            sim.keep_up();
            sim.step(Step::Progress(0));
            sim.step(Step::Progress(1));
        }
        sim.settle();
        sim.step(Step::Write(vec![0]));
        let ended = sim.settle();
        assert!(ended.iter().all(Option::is_none), "after {wait} ms each: {ended:?}");
    }
}

#[test]
fn progress_wait_of_a_dropped_watch_does_not_affect_the_next() {
    let mut sim = with_confirmed_watch();
    sim.step(Step::Watch { keys: (0, 1), start: 1000, filters: vec![] });
    sim.run(StreamRole::Shared);
    sim.step(Step::Progress(1));
    sim.run(StreamRole::Shared);
    sim.step(Step::Drop(1));
    sim.step(Step::Wait(10_000));
    sim.run(StreamRole::Shared);
    sim.step(Step::Watch { keys: (0, 1), start: 1, filters: vec![] });
    sim.run(StreamRole::Shared);
    sim.step(Step::Progress(1));
    sim.step(Step::Wait(1));
    assert_eq!(sim.actions, [Action::Send(StreamRole::Shared, Request::Progress)]);
    assert!(!sim.opened_future_start, "the new request has waited for 1 ms only");
    sim.settle();
}

#[test]
fn future_watch_receives_a_requested_notification() {
    let mut sim = with_confirmed_watch();
    sim.step(Step::Drop(0));
    sim.step(Step::Watch { keys: (0, 1), start: 1, filters: vec![] });
    sim.run(StreamRole::Shared);
    for _ in 0..3 {
        sim.settle();
    }
}

#[test]
fn quiet_watch_advances_without_a_request() {
    let mut sim = with_confirmed_watch();
    sim.run(StreamRole::Shared);
    sim.step(Step::Watch { keys: (0, 1), start: 0, filters: vec![] });
    sim.run(StreamRole::Shared);
    sim.step(Step::Write(vec![3]));
    sim.step(Step::Write(vec![3]));
    sim.run(StreamRole::Shared);
    sim.step(Step::Wait(Duration::from_secs(31).as_millis().try_into().unwrap()));
    sim.run(StreamRole::Shared);
    sim.step(Step::Break(StreamRole::Shared));
    sim.step(Step::Connect(StreamRole::Shared, Some(0)));
    assert_eq!(starts(&sim.actions), [12, 12], "and not 10");
    sim.settle();
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().expect("the duration fits into 64 bits")
}

fn failover() -> [Action; 2] {
    [Action::FailOver(StreamRole::Shared), Action::Open(StreamRole::Shared)]
}

/// A proxy that acknowledges pings hides a frozen member.
#[test]
fn probe_without_a_response_causes_failover() {
    let mut sim = with_confirmed_watch();
    sim.run(StreamRole::Shared);
    sim.step(Step::Wait(millis(probe::PROBE_AFTER)));
    let probes = [Action::Send(StreamRole::Shared, Request::Probe { id: 2 })];
    assert_eq!(sim.actions, probes);
    sim.step(Step::Wait(millis(simulation::REGISTRATION_TIMEOUT) - 1));
    assert_eq!(sim.actions, probes, "there is time left for a response");
    sim.step(Step::Wait(1));
    assert_eq!(sim.actions, failover());
    sim.step(Step::Write(vec![1]));
    sim.settle();
}

#[test]
fn progress_request_without_a_response_causes_a_probe() {
    let mut sim = with_confirmed_watch();
    sim.run(StreamRole::Shared);
    sim.step(Step::Progress(0));
    sim.step(Step::Wait(millis(probe::PROBE_FOR_PROGRESS_AFTER)));
    assert!(matches!(sim.actions[..], [.., Action::Send(_, Request::Probe { .. })]));
    sim.step(Step::Wait(millis(simulation::REGISTRATION_TIMEOUT)));
    assert!(sim.actions.ends_with(&failover()), "{:?}", sim.actions);
    sim.settle();
}

/// While a watch waits for a future revision, a server responds to probes, and not to progress
/// requests.
#[test]
fn quiet_stream_that_responds_to_probes_stays_open() {
    for start in [0, 1000] {
        let mut sim = with_confirmed_watch();
        sim.step(Step::Drop(0));
        sim.step(Step::Watch { keys: (0, 4), start, filters: vec![] });
        sim.run(StreamRole::Shared);
        let (mut probes, mut failovers) = (0, 0);
        for _ in 0..600 {
            sim.actions.clear();
            sim.step(Step::Wait(1_000));
            for action in &sim.actions {
                probes += u32::from(matches!(action, Action::Send(_, Request::Probe { .. })));
                failovers += u32::from(matches!(action, Action::FailOver(_)));
            }
            sim.run(StreamRole::Shared);
        }
        assert!((20..=40).contains(&probes), "{probes} in ten minutes");
        assert_eq!(failovers, 0);
    }
}

/// `etcd grpc-proxy` numbers watches from 0 and confirms them in any order. Version 3.4 crashes on
/// a progress request.
#[test]
fn proxied_stream_translates_ids_and_sends_no_progress() {
    let mut sim = Simulation::new(true);
    sim.step(Step::Watch { keys: (0, 4), start: 5, filters: vec![] });
    sim.step(Step::Watch { keys: (0, 2), start: 7, filters: vec![] });
    sim.step(Step::Watch { keys: (0, 4), start: 0, filters: vec![] });
    let machine = &mut sim.machine;
    machine.on_opened(StreamRole::Shared, Header::at(Revision(9)), true, sim.now);
    let start_revisions = |actions: &[Action]| -> Vec<i64> {
        assert!(!actions.contains(&Action::Send(StreamRole::Shared, Request::Progress)));
        starts(actions)
    };
    assert_eq!(start_revisions(&machine.take_actions()), [6], "one at a time");
    let message =
        |id, created, canceled| ServerMessage { id, created, canceled, ..ServerMessage::default() };
    machine.on_message(StreamRole::Shared, message(0, true, false), sim.now);
    assert_eq!(start_revisions(&machine.take_actions()), [8]);
    machine.on_message(StreamRole::Shared, message(1, true, false), sim.now);
    machine.request_progress(0, sim.now);
    machine.tick(sim.now + progress::PERIODIC_PROGRESS_INTERVAL);
    assert_eq!(start_revisions(&machine.take_actions()), [0; 0]);

    machine.remove(1);
    let cancel = Action::Send(StreamRole::Shared, Request::Cancel { id: 1 });
    assert_eq!(machine.take_actions(), [cancel], "by the id of the proxy");
    machine.on_message(StreamRole::Shared, message(1, false, true), sim.now);
    assert_eq!(machine.take_actions(), [], "the watch was cancelled");
}

/// Regression: such a message counted as the response to a progress request, and two of them caused
/// a progress notification for a revision whose events had not arrived.
#[test]
fn message_for_a_dropped_proxied_watch_is_no_progress() {
    let mut sim = Simulation::new(true);
    sim.step(Step::Watch { keys: (0, 4), start: 5, filters: vec![] });
    sim.step(Step::Watch { keys: (0, 2), start: 7, filters: vec![] });
    let (machine, now) = (&mut sim.machine, sim.now);
    machine.on_opened(StreamRole::Shared, Header::at(Revision(9)), true, now);
    for id in 0..2 {
        let created = ServerMessage { id, created: true, ..ServerMessage::default() };
        machine.on_message(StreamRole::Shared, created, now);
    }
    machine.request_progress(0, now);
    machine.remove(1);
    // The confirmation of the cancel, and a message that was sent before it.
    for (canceled, later) in [(true, 0), (false, 5)] {
        let header = Header::at(Revision(50));
        let late = ServerMessage { id: 1, header, canceled, ..ServerMessage::default() };
        machine.on_message(StreamRole::Shared, late, now + Duration::from_secs(later));
    }
    assert!(
        machine.is_progress_requested(StreamRole::Shared),
        "a progress notification was delivered"
    );
}
