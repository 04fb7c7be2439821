//! Randomized fault test of elections: no phantom leader, increasing tokens, nothing left behind.
//!
//! Candidates campaign, proclaim, write, and resign or drop their leadership, some with a short
//! timeout. Requests are dropped and delayed, and responses are dropped. An administrator deletes
//! keys, revokes leases and compacts the store. An [`Oracle`] computes the leader at each revision.
//! Compared with it are: each `Leadership`, at the revision of its header; each guarded write and
//! each proclamation, at its own revision; and what an observer behind such faults yields.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use coord_core::{
    Client, Election, Result, Session,
    election::Leadership,
    error::Outcome,
    kv::{Compact, KeyValue, Put, Range, Revision, Txn},
};
use coord_mem::MemBackend;
use coord_testkit::Action;
use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::oracle::Oracle;
use crate::support::{
    any_action, cases, clients, intercepted, keys, on_virtual_time, scripted, secs,
};

/// How a candidate behaves, in each round.
#[derive(Clone, Debug)]
struct CandidatePlan {
    campaign_timeout_ms: u64,
    lead_ms: u64,
    /// Whether it resigns, rather than drop its leadership.
    resigns: bool,
}

/// How many rounds a candidate campaigns.
const CANDIDATE_ROUNDS: usize = 3;

fn candidate_plan() -> impl Strategy<Value = CandidatePlan> {
    (1..8_000_u64, 0..3_000_u64, any::<bool>()).prop_map(
        |(campaign_timeout_ms, lead_ms, resigns)| CandidatePlan {
            campaign_timeout_ms,
            lead_ms,
            resigns,
        },
    )
}

/// What an administrator does to the store, without a session.
#[derive(Clone, Copy, Debug)]
enum AdminAction {
    /// Deletes the key with this index, in key order.
    DeleteKey(usize),
    /// Revokes the lease of the key with this index.
    RevokeLease(usize),
    Compact,
}

/// A delay in milliseconds, and the action after it.
type DelayedAdminAction = (u64, AdminAction);

fn delayed_admin_action() -> impl Strategy<Value = DelayedAdminAction> {
    let action = prop_oneof![
        (0..5_usize).prop_map(AdminAction::DeleteKey),
        (0..5_usize).prop_map(AdminAction::RevokeLease),
        Just(AdminAction::Compact),
    ];
    (1..3_000_u64, action)
}

/// What proved that a contender led at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evidence {
    /// It was elected.
    Elected,
    /// Its guarded write was applied.
    Wrote,
    /// Its proclamation was applied.
    Proclaimed,
}

/// A revision at which a contender led, to be compared with the oracle.
#[derive(Debug)]
struct RecordedTerm {
    key: Bytes,
    created: Revision,
    revision: Revision,
    evidence: Evidence,
}

/// The recorded terms of all candidates.
#[derive(Clone, Default)]
struct TermRecorder(Arc<Mutex<Vec<RecordedTerm>>>);

impl TermRecorder {
    fn record(&self, leadership: &Leadership, revision: Revision, evidence: Evidence) {
        let (key, created) = (leadership.key().clone(), leadership.fencing_token().0);
        let term = RecordedTerm { key, created, revision, evidence };
        self.0.lock().expect("the lock is not poisoned").push(term);
    }

    fn take(&self) -> Vec<RecordedTerm> {
        std::mem::take(&mut *self.0.lock().expect("the lock is not poisoned"))
    }
}

/// Writes in a guarded transaction, which the store applies only while the candidate leads.
async fn write_guarded(leadership: &Leadership, terms: &TermRecorder) {
    let put = Put::new("written", leadership.fencing_token().to_string());
    match timeout(secs(5), leadership.txn(Txn::new().and_then([put]))).await {
        Ok(Ok(response)) => terms.record(leadership, response.header.revision, Evidence::Wrote),
        Ok(Err(error)) => assert!(
            error.loss().is_some() || error.outcome() == Outcome::Unknown,
            "a guarded write failed with {error}"
        ),
        Err(_) => {}
    }
}

async fn run_candidate(client: Client, plan: CandidatePlan, terms: TermRecorder) {
    let Ok(session) = Session::builder(&client).ttl(secs(6)).open().await else { return };
    let election = Election::new(&session, "e");
    for round in 0..CANDIDATE_ROUNDS {
        let campaign = election.campaign(format!("round {round}"));
        let campaign_timeout = Duration::from_millis(plan.campaign_timeout_ms);
        let Ok(Ok(leadership)) = timeout(campaign_timeout, campaign).await else { continue };
        terms.record(&leadership, leadership.header().revision, Evidence::Elected);
        write_guarded(&leadership, &terms).await;
        let proclaimed = timeout(secs(5), leadership.proclaim("proclaimed")).await;
        if let Ok(Ok(header)) = proclaimed {
            terms.record(&leadership, header.revision, Evidence::Proclaimed);
        }
        let _ = leadership.run_while_held(sleep(Duration::from_millis(plan.lead_ms))).await;
        write_guarded(&leadership, &terms).await;
        if plan.resigns
            && let Ok(Err(error)) = timeout(secs(5), leadership.resign()).await
            && error.cause.is_retryable()
        {
            let _ = timeout(secs(5), error.held.resign()).await;
        }
    }
    let _ = session.close().await;
}

async fn run_administrator(store: Client, actions: Vec<DelayedAdminAction>) -> Result<()> {
    for (delay_ms, action) in actions {
        sleep(Duration::from_millis(delay_ms)).await;
        let queue = store.range(Range::prefix("e/")).await?;
        let nth = |n: usize| queue.kvs.get(n % queue.kvs.len().max(1));
        match action {
            AdminAction::DeleteKey(n) => {
                if let Some(kv) = nth(n) {
                    store.delete(&kv.key).await?;
                }
            }
            AdminAction::RevokeLease(n) => {
                if let Some(lease) = nth(n).and_then(|kv| kv.lease) {
                    store.lease_revoke(lease).await?;
                }
            }
            AdminAction::Compact => {
                // Fails if nothing was written since the last compaction.
                let _ = store.compact(Compact::new(queue.header.revision)).await;
            }
        }
    }
    Ok(())
}

type YieldedLeaders = Arc<Mutex<Vec<Option<KeyValue>>>>;

async fn run_observer(client: Client, yielded: YieldedLeaders) {
    let mut leaders = Election::observer(&client, "e").observe();
    while let Some(item) = leaders.next().await {
        let leader = item.expect("no error is permanent");
        let leader = leader.map(|leader| leader.key_value().clone());
        yielded.lock().expect("the lock is not poisoned").push(leader);
    }
}

/// The candidates of a run, and the faults.
struct FaultPlan {
    /// Each candidate, and the actions for its requests.
    candidates: Vec<(CandidatePlan, Vec<Action>)>,
    in_one_client: bool,
    admin_actions: Vec<DelayedAdminAction>,
    observer_actions: Vec<Action>,
}

/// Runs candidates, an administrator and an observer. Returns the recorded terms and the oracle.
///
/// Checks what the observer yielded, and that nothing is left behind.
async fn run_with_faults(plan: FaultPlan) -> (Vec<RecordedTerm>, Oracle) {
    let FaultPlan { candidates, in_one_client, admin_actions, observer_actions } = plan;
    let store = Client::new(MemBackend::builder().lease_clock_rate(1.05).build());
    let mut oracle = Oracle::new(&store).await.expect("the store is available");
    let (terms, yielded) = (TermRecorder::default(), YieldedLeaders::default());
    let mut tasks = JoinSet::new();
    let mut observers = JoinSet::new();
    // A read that hangs would only delay the observer, which retries it after 10 s.
    let observer_actions =
        observer_actions.into_iter().filter(|action| !matches!(action, Action::Hang));
    let observer_client = intercepted(&store, scripted(observer_actions.collect()));
    observers.spawn(run_observer(observer_client, Arc::clone(&yielded)));
    for (client, candidate) in clients(&store, candidates, in_one_client) {
        tasks.spawn(run_candidate(client, candidate, terms.clone()));
    }
    let administrator = run_administrator(store.clone(), admin_actions);
    tasks.spawn(async { administrator.await.expect("the store is available") });
    let run = async {
        while let Some(task) = tasks.join_next().await {
            task.expect("no task panics");
        }
        // Long enough that all delayed requests are applied. The observer sends its requests one
        // after the other. A lease whose grant got no response has no owner, and expires.
        sleep(secs(2_000)).await;
    };
    tokio::select! {
        biased;
        () = run => {}
        () = oracle.follow() => {}
    }
    oracle.catch_up();
    assert_eq!(keys(&store, "e/").await, [""; 0], "keys were left behind");
    let leases = store.leases().await.expect("the store is available").leases;
    assert!(leases.is_empty(), "leases were left behind: {leases:?}");

    let yielded = std::mem::take(&mut *yielded.lock().expect("the lock is not poisoned"));
    let changes = oracle.changes(Revision::ZERO);
    let mut rest = changes.iter();
    let in_order = yielded.iter().all(|item| rest.any(|change| change == item));
    assert!(in_order, "{yielded:#?}\nis not part of\n{changes:#?}");
    assert_eq!(yielded.last(), Some(&None), "the observer yields that there is no leader at last");
    (terms.take(), oracle)
}

/// Checks that each recorded term is of the oracle's leader, and that fencing tokens increase.
fn check_terms(terms: &[RecordedTerm], oracle: &Oracle) {
    for term in terms {
        let leader = oracle.leader_at(term.revision).map(|kv| (&kv.key, kv.create_revision));
        assert_eq!(leader, Some((&term.key, term.created)), "phantom leader: {term:?}");
    }
    let mut elected: Vec<_> =
        terms.iter().filter(|term| term.evidence == Evidence::Elected).collect();
    elected.sort_by_key(|term| term.revision);
    assert!(elected.is_sorted_by(|a, b| a.created < b.created), "tokens increase: {elected:?}");
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
            (candidate_plan(), prop::collection::vec(any_action(), 0..40)), 2..5
        ),
        in_one_client in any::<bool>(),
        admin_actions in prop::collection::vec(delayed_admin_action(), 0..20),
        observer_actions in prop::collection::vec(any_action(), 0..20),
    ) {
        let plan = FaultPlan { candidates, in_one_client, admin_actions, observer_actions };
        let (terms, oracle) = on_virtual_time(run_with_faults(plan));
        check_terms(&terms, &oracle);
    }
}

/// Without this, the randomized test could pass although no candidate ever leads.
#[tokio::test(start_paused = true)]
async fn every_candidate_leads_without_faults() {
    let candidate = CandidatePlan { campaign_timeout_ms: 8_000, lead_ms: 10, resigns: true };
    for in_one_client in [false, true] {
        let candidates = vec![(candidate.clone(), Vec::new()); 4];
        let (admin_actions, observer_actions) = (Vec::new(), Vec::new());
        let plan = FaultPlan { candidates, in_one_client, admin_actions, observer_actions };
        let (terms, oracle) = run_with_faults(plan).await;
        check_terms(&terms, &oracle);
        let count = |evidence| terms.iter().filter(|term| term.evidence == evidence).count();
        let counts =
            (count(Evidence::Elected), count(Evidence::Wrote), count(Evidence::Proclaimed));
        assert_eq!(counts, (12, 24, 12));
        // Four candidates, three rounds, two values.
        let changes = oracle.changes(Revision::ZERO);
        assert_eq!(changes.iter().flatten().count(), 24);
    }
}
