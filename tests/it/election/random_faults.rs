//! Random schedules and faults: whatever happens, no phantom leader.
//!
//! Candidates campaign, proclaim, write and resign or just drop, some of them in a hurry. Requests
//! are lost, late and doubted; somebody deletes keys, revokes leases and compacts the store. An
//! [`Oracle`] listens, and tells afterwards who was first at each revision. Held against it are:
//! each `Leadership`, at the revision of the answer that it came from; each guarded write, at its
//! own revision; and what observers behind the same faults were shown.

use coord_mem::MemBackend;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use coord_core::{
    Client, Election, Session,
    election::Leadership,
    error::Outcome,
    kv::{Compact, KeyValue, Put, Range, Revision, Txn},
};
use coord_testkit::Action;
use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::oracle::Oracle;
use crate::support::{any_fate, behind, cases, clients, keys, on_virtual_time, scripted, secs};

/// How one candidate behaves, round after round.
#[derive(Clone, Debug)]
struct Habit {
    patience_ms: u64,
    lead_ms: u64,
    resigns: bool,
}

fn habit() -> impl Strategy<Value = Habit> {
    (1..8_000_u64, 0..3_000_u64, any::<bool>()).prop_map(|(patience_ms, lead_ms, resigns)| Habit {
        patience_ms,
        lead_ms,
        resigns,
    })
}

/// What somebody does to the store who has no business there.
#[derive(Clone, Copy, Debug)]
enum Mischief {
    DeleteKey(usize),
    RevokeLease(usize),
    Compact,
}

fn mischief() -> impl Strategy<Value = (u64, Mischief)> {
    let what = prop_oneof![
        (0..5_usize).prop_map(Mischief::DeleteKey),
        (0..5_usize).prop_map(Mischief::RevokeLease),
        Just(Mischief::Compact),
    ];
    (1..3_000_u64, what)
}

/// That somebody led, and of what that is known.
#[derive(Debug)]
struct Claim {
    key: Bytes,
    created: Revision,
    /// When the store said so.
    revision: Revision,
    what: &'static str,
}

#[derive(Clone, Default)]
struct Claims(Arc<Mutex<Vec<Claim>>>);

impl Claims {
    fn note(&self, leadership: &Leadership, revision: Revision, what: &'static str) {
        let (key, created) = (leadership.key().clone(), leadership.fencing_token().0);
        let claim = Claim { key, created, revision, what };
        self.0.lock().expect("nobody panics").push(claim);
    }
}

/// Writes as the leader, which the store lets it do only while it leads.
async fn write(leadership: &Leadership, claims: &Claims) {
    let put = Put::new("written", leadership.fencing_token().to_string());
    match timeout(secs(5), leadership.txn(Txn::new().and_then([put]))).await {
        Ok(Ok(answer)) => claims.note(leadership, answer.header.revision, "wrote"),
        Ok(Err(error)) => assert!(
            error.loss().is_some() || error.outcome() == Outcome::Unknown,
            "a guarded write failed with {error}"
        ),
        Err(_) => {}
    }
}

async fn stand(kv: Client, habit: Habit, claims: Claims) {
    let Ok(session) = Session::builder(&kv).ttl(secs(6)).open().await else { return };
    let election = Election::new(&session, "e");
    for round in 0..3 {
        let campaign = election.campaign(format!("round {round}"));
        let patience = Duration::from_millis(habit.patience_ms);
        let Ok(Ok(leadership)) = timeout(patience, campaign).await else { continue };
        claims.note(&leadership, leadership.header().revision, "was elected");
        write(&leadership, &claims).await;
        let proclaimed = timeout(secs(5), leadership.proclaim("proclaimed")).await;
        if let Ok(Ok(header)) = proclaimed {
            claims.note(&leadership, header.revision, "proclaimed");
        }
        let _ = leadership.run_while_held(sleep(Duration::from_millis(habit.lead_ms))).await;
        write(&leadership, &claims).await;
        if habit.resigns
            && let Ok(Err(error)) = timeout(secs(5), leadership.resign()).await
            && error.cause.is_retryable()
        {
            let _ = timeout(secs(5), error.held.resign()).await;
        }
    }
    let _ = session.close().await;
}

async fn do_mischief(store: Client, mischiefs: Vec<(u64, Mischief)>) {
    for (after, mischief) in mischiefs {
        sleep(Duration::from_millis(after)).await;
        let line = store.range(Range::prefix("e/")).await.expect("the store is there");
        let nth = |n: usize| line.kvs.get(n % line.kvs.len().max(1));
        match mischief {
            Mischief::DeleteKey(n) => {
                if let Some(kv) = nth(n) {
                    store.delete(&kv.key).await.expect("the store is there");
                }
            }
            Mischief::RevokeLease(n) => {
                if let Some(lease) = nth(n).and_then(|kv| kv.lease) {
                    store.lease_revoke(lease).await.expect("its key is there");
                }
            }
            Mischief::Compact => {
                // Nothing may have happened since the last time.
                let _ = store.compact(Compact::new(line.header.revision)).await;
            }
        }
    }
}

type Shown = Arc<Mutex<Vec<Option<KeyValue>>>>;

async fn observe(kv: Client, shown: Shown) {
    let mut leaders = Election::observer(&kv, "e").observe();
    while let Some(item) = leaders.next().await {
        let leader = item.expect("nothing fails that trying again cannot help");
        let leader = leader.map(|leader| leader.key_value().clone());
        shown.lock().expect("nobody panics").push(leader);
    }
}

/// What a storm is made of.
struct Weather {
    candidates: Vec<(Habit, Vec<Action>)>,
    in_one_process: bool,
    mischiefs: Vec<(u64, Mischief)>,
    seen_through: Vec<Action>,
}

/// Lets it rage, and gives what was claimed, with the oracle.
async fn storm(weather: Weather) -> (Vec<Claim>, Oracle) {
    let Weather { candidates, in_one_process, mischiefs, seen_through } = weather;
    let store = Client::new(MemBackend::builder().lease_clock_rate(1.05).build());
    let mut oracle = Oracle::of(&store).await;
    let (claims, shown) = (Claims::default(), Shown::default());
    let mut tasks = JoinSet::new();
    let mut observers = JoinSet::new();
    // A read that hangs would keep an observer from seeing anything: nobody else bounds it.
    let seen_through = seen_through.into_iter().filter(|fate| !matches!(fate, Action::Hang));
    let seen_through = behind(&store, scripted(seen_through.collect()));
    observers.spawn(observe(seen_through, Arc::clone(&shown)));
    for (kv, habit) in clients(&store, candidates, in_one_process) {
        tasks.spawn(stand(kv, habit, claims.clone()));
    }
    tasks.spawn(do_mischief(store.clone(), mischiefs));
    let all = async {
        while let Some(task) = tasks.join_next().await {
            task.expect("no task panics");
        }
        // All requests arrive, those of the observer one after the other, and a lease that was
        // granted to nobody, because the answer was lost, ends by itself.
        sleep(secs(2_000)).await;
    };
    tokio::select! {
        biased;
        () = all => {}
        () = oracle.listen_on() => {}
    }
    oracle.listen();
    assert_eq!(keys(&store, "e/").await, [""; 0], "left behind");
    assert!(store.leases().await.expect("the store is there").leases.is_empty());

    let shown = std::mem::take(&mut *shown.lock().expect("nobody panics"));
    let changes = oracle.changes(Revision::ZERO);
    let mut rest = changes.iter();
    let in_order = shown.iter().all(|item| rest.any(|change| change == item));
    assert!(in_order, "{shown:#?}\nis not part of\n{changes:#?}");
    assert_eq!(shown.last(), Some(&None), "nobody leads in the end, and that was shown");
    let claims = std::mem::take(&mut *claims.0.lock().expect("nobody panics"));
    (claims, oracle)
}

/// Whoever claims to have led was first in the line, in that life of its key, at that revision.
fn check(claims: &[Claim], oracle: &Oracle) {
    for claim in claims {
        let first = oracle.at(claim.revision).map(|kv| (&kv.key, kv.create_revision));
        assert_eq!(first, Some((&claim.key, claim.created)), "phantom leader: {claim:?}");
    }
    let mut elected: Vec<_> = claims.iter().filter(|claim| claim.what == "was elected").collect();
    elected.sort_by_key(|claim| claim.revision);
    assert!(elected.is_sorted_by(|a, b| a.created < b.created), "tokens grow: {elected:?}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(300),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_faults_never_create_a_phantom_leader(
        candidates in prop::collection::vec(
            (habit(), prop::collection::vec(any_fate(), 0..40)), 2..5
        ),
        in_one_process in any::<bool>(),
        mischiefs in prop::collection::vec(mischief(), 0..20),
        seen_through in prop::collection::vec(any_fate(), 0..20),
    ) {
        let weather = Weather { candidates, in_one_process, mischiefs, seen_through };
        let (claims, oracle) = on_virtual_time(storm(weather));
        check(&claims, &oracle);
    }
}

/// The storm proves something only if its candidates often lead.
#[tokio::test(start_paused = true)]
async fn every_candidate_leads_without_faults() {
    let calm = Habit { patience_ms: 8_000, lead_ms: 10, resigns: true };
    for in_one_process in [false, true] {
        let candidates = vec![(calm.clone(), Vec::new()); 4];
        let (mischiefs, seen_through) = (Vec::new(), Vec::new());
        let weather = Weather { candidates, in_one_process, mischiefs, seen_through };
        let (claims, oracle) = storm(weather).await;
        check(&claims, &oracle);
        let count = |what| claims.iter().filter(|claim| claim.what == what).count();
        assert_eq!((count("was elected"), count("wrote"), count("proclaimed")), (12, 24, 12));
        // Four candidates, three rounds, and each time two values, and sometimes nobody in between.
        let changes = oracle.changes(Revision::ZERO);
        assert_eq!(changes.iter().flatten().count(), 24);
    }
}
