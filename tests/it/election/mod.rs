//! Elections: one leader at a time, in the order of the candidates, with a value.

mod cancellation;
mod cost;
mod go_candidates;
mod loss;
mod observe;
mod observe_random;
mod oracle;
mod proclaim;
mod random_faults;
mod reelection;
mod replaced_history;
mod resign;
mod resume;
mod silent_watch;
mod waiting_faults;

use std::error::Error as _;

use coord_core::{
    Client, Election,
    election::{Leader, Leaders},
    error::{ErrorKind, PrimitiveError},
    kv::{Compact, Compare, CompareOp, Put, Txn},
};
use coord_mem::MemBackend;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::{keys, secs, separate_client, session, settle};
use crate::while_waiting::while_waiting;

/// The election `e`, on a session of its own.
async fn election(store: &Client) -> Election {
    Election::new(&session(store).await, "e")
}

/// The leaders of the election `e`, through a client of its own.
fn observe(store: &Client) -> Leaders {
    Election::observer(&separate_client(store), "e").observe()
}

/// The value of the leader of `e`.
async fn leader(store: &Client) -> Option<String> {
    let leader = Election::observer(&separate_client(store), "e").leader().await;
    leader.expect("the store is available").map(value_of)
}

fn value_of(leader: Leader) -> String {
    leader.value().escape_ascii().to_string()
}

/// The values that a stream yields until it yields nothing for a second.
async fn take_yielded(leaders: &mut Leaders) -> Vec<Option<String>> {
    let mut values = Vec::new();
    while let Ok(Some(item)) = timeout(secs(1), leaders.next()).await {
        values.push(item.expect("the stream has no error").map(value_of));
    }
    values
}

fn some(value: &str) -> Option<String> {
    Some(value.to_owned())
}

#[tokio::test(start_paused = true)]
async fn candidates_lead_in_enqueue_order() {
    let store = Client::new(MemBackend::new());
    let first = election(&store).await.campaign("first").await.unwrap();
    let mut tasks = JoinSet::new();
    for n in 0..20 {
        let (election, store) = (election(&store).await, store.clone());
        tasks.spawn(async move {
            let leadership = election.campaign(n.to_string()).await.unwrap();
            assert_eq!(leader(&store).await, Some(n.to_string()));
            sleep(secs(1)).await;
            let token = leadership.fencing_token();
            leadership.resign().await.unwrap();
            (n, token)
        });
        settle().await;
    }
    assert_eq!(leader(&store).await, some("first"));
    let first_token = first.fencing_token();
    first.resign().await.unwrap();
    let mut terms = Vec::new();
    while let Some(term) = tasks.join_next().await {
        terms.push(term.unwrap());
    }
    assert_eq!(terms.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert!(terms.is_sorted_by(|a, b| a.1 < b.1), "fencing tokens increase: {terms:?}");
    assert!(first_token < terms[0].1);
    assert_eq!(leader(&store).await, None);
}

#[tokio::test(start_paused = true)]
async fn leader_has_key_value_token_lease_and_version() {
    let store = Client::new(MemBackend::new());
    let election = election(&store).await;
    assert_eq!(election.leader().await.unwrap(), None);
    let leadership = election.campaign("a").await.unwrap();
    let proclaimed = leadership.proclaim("b").await.unwrap();
    let leader = election.leader().await.unwrap().unwrap();
    assert_eq!((leader.key(), &leader.value()[..]), (leadership.key(), &b"b"[..]));
    assert_eq!(
        leader.fencing_token(),
        leadership.fencing_token(),
        "a value does not change the token"
    );
    assert_eq!(leader.lease(), Some(leadership.session().lease_id()));
    let kv = leader.key_value();
    assert_eq!((kv.version, kv.mod_revision), (2, proclaimed.revision));
}

/// In Go's package, `Header()` is that of the enqueue.
#[tokio::test(start_paused = true)]
async fn leadership_header_is_of_the_winning_response() {
    let store = Client::new(MemBackend::new());
    let first = election(&store).await.campaign("a").await.unwrap();
    assert_eq!(first.header().revision, first.fencing_token().0);
    let second = election(&store).await.enter("b").await.unwrap();
    let (second, after_resign) = while_waiting(second.elected(), async {
        first.resign().await.unwrap();
        store.get("e").await.unwrap();
        store.put("other", "").await.unwrap().header.revision
    })
    .await;
    let second = second.unwrap();
    assert!(second.header().revision > second.fencing_token().0);
    assert!(second.header().revision <= after_resign);
}

/// In Go's package a session has one key in an election, and its second campaign changes the value
/// of the first.
#[tokio::test(start_paused = true)]
async fn two_campaigns_of_one_session_are_two_candidates() {
    let store = Client::new(MemBackend::new());
    let election = election(&store).await;
    let first = election.campaign("first").await.unwrap();
    assert!(timeout(secs(60), election.campaign("cancelled")).await.is_err());
    let second = election.enter("second").await.unwrap();
    assert_eq!(leader(&store).await, some("first"));
    first.resign().await.unwrap();
    let second = second.elected().await.unwrap();
    assert_eq!(leader(&store).await, some("second"));
    second.resign().await.unwrap();
    assert_eq!(keys(&store, "e/").await, [""; 0]);
}

/// etcd issue 6278: the leaders of `e/below` and of `extra` do not lead `e`, even if their keys are
/// older.
#[tokio::test(start_paused = true)]
async fn child_name_is_a_separate_election() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let (parent, child) = (Election::new(&session, "e"), Election::new(&session, "e/below"));
    let mut leaders = parent.observe();
    let child_leader = child.campaign("child").await.unwrap();
    let extra = Election::new(&session, "extra").campaign("extra").await.unwrap();
    assert_eq!(parent.leader().await.unwrap(), None);
    assert_eq!(take_yielded(&mut leaders).await, [None]);

    let parent_leader = timeout(secs(1), parent.campaign("parent")).await;
    let parent_leader = parent_leader.expect("e has no leader").unwrap();
    assert_eq!(leader(&store).await, some("parent"));
    assert_eq!(child.leader().await.unwrap().unwrap().value(), "child");
    child_leader.proclaim("still child").await.unwrap();
    let next = parent.enter("next").await.unwrap();
    let child_next = child.enter("next child").await.unwrap();
    assert_eq!(take_yielded(&mut leaders).await, [some("parent")]);
    parent_leader.resign().await.unwrap();
    let next = next.elected().await.unwrap();
    next.resign().await.unwrap();
    assert_eq!(take_yielded(&mut leaders).await, [some("next"), None]);
    child_leader.resign().await.unwrap();
    drop((child_next.elected().await.unwrap(), extra));
    settle().await;
    assert_eq!(take_yielded(&mut leaders).await, []);
    assert_eq!(keys(&store, "e").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn names_and_values_may_be_any_bytes() {
    let every_byte: Vec<u8> = (0..=255).collect();
    let names: [&[u8]; 8] = [b"", b"/", b"a/", b"\0", b"\xff", b"\xff\xff", b"a\0b", &every_byte];
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let mut held = Vec::new();
    for name in names {
        let election = Election::new(&session, name);
        assert_eq!(election.name(), name);
        assert_eq!(election.leader().await.unwrap(), None, "{}", name.escape_ascii());
        let mut leaders = election.observe();
        assert_eq!(leaders.next().await.unwrap().unwrap(), None);
        let leadership = timeout(secs(1), election.campaign("")).await.unwrap().unwrap();
        assert_eq!(leaders.next().await.unwrap().unwrap().unwrap().value(), "");
        leadership.proclaim(&every_byte[..]).await.unwrap();
        assert_eq!(leaders.next().await.unwrap().unwrap().unwrap().value(), &every_byte);
        held.push((election, leadership));
    }
    // All of these elections have a leader, and each continues by itself.
    for (election, leadership) in held {
        let leader = election.leader().await.unwrap().unwrap();
        assert_eq!(leader.key(), leadership.key());
        let next = election.enter("").await.unwrap();
        leadership.resign().await.unwrap();
        next.elected().await.unwrap().resign().await.unwrap();
        assert_eq!(election.leader().await.unwrap(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn campaign_ignores_compaction_while_waiting() {
    let store = Client::new(MemBackend::new());
    let first = election(&store).await.campaign("first").await.unwrap();
    let second = election(&store).await.enter("second").await.unwrap();
    let (second, ()) = while_waiting(second.elected(), async {
        let revision = store.put("other", "1").await.unwrap().header.revision;
        store.compact(Compact::new(revision)).await.unwrap();
        settle().await;
        first.resign().await.unwrap();
    })
    .await;
    second.unwrap().resign().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn leadership_condition_counts_as_one_operation() {
    let store = Client::new(MemBackend::new());
    let leadership = election(&store).await.campaign("a").await.unwrap();
    let token = leadership.fencing_token();
    let expected = Compare::create_revision(leadership.key(), CompareOp::Equal, token.0);
    assert_eq!(leadership.held_condition(), expected);
    let puts = |n: usize| Txn::new().and_then((0..n).map(|i| Put::new(format!("k{i}"), "")));
    leadership.txn(puts(127)).await.unwrap();
    let error = leadership.txn(puts(128)).await.unwrap_err();
    assert!(error.to_string().contains("128 operations"), "{error}");
    let plain = Txn::new().when([leadership.held_condition()]).and_then(puts(128).success);
    assert!(store.txn(plain).await.unwrap().succeeded);
}

#[tokio::test(start_paused = true)]
async fn campaign_returns_backend_error_and_leaves_no_key() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let election = Election::new(&session, "e");
    let error = election.campaign("v".repeat(2 << 20)).await.unwrap_err();
    let PrimitiveError::Backend(error) = error else { panic!("{error}") };
    assert_eq!(error.kind(), ErrorKind::RequestTooLarge);
    let leadership = election.campaign("short").await.unwrap();
    assert!(leadership.proclaim("v".repeat(2 << 20)).await.is_err());
    assert_eq!(leader(&store).await, some("short"), "a failed proclamation changes nothing");
    assert_eq!(keys(&store, "e/").await.len(), 1);
}

/// The compiler checks that all types and futures can be moved into tasks.
#[tokio::test(start_paused = true)]
async fn election_types_and_futures_are_send() {
    let election = election(&Client::new(MemBackend::new())).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut leaders = election.observe();
        assert_eq!(leaders.next().await.unwrap().unwrap(), None);
        assert!(election.resume().await.unwrap().is_none());
        election.enter("a").await.unwrap().withdraw().await.unwrap();
        let candidate = election.enter("b").await.unwrap();
        candidate.proclaim("c").await.unwrap();
        let leadership = candidate.elected().await.unwrap();
        leadership.proclaimer().proclaim("d").await.unwrap();
        leadership.txn(Txn::new()).await.unwrap();
        let output = leadership.run_while_held(async { 1 }).await;
        assert!(timeout(secs(1), leadership.lost()).await.is_err());
        leadership.resign().await.unwrap();
        let leadership = election.campaign("e").await.unwrap();
        assert_eq!(election.leader().await.unwrap().unwrap().value(), "e");
        leadership.session().close().await.unwrap();
        let error = leadership.resign().await.unwrap_err();
        assert!(error.source().is_some());
        output.unwrap()
    });
    assert_eq!(tasks.join_all().await, [1]);
}

#[tokio::test(start_paused = true)]
async fn debug_output_names_the_election_or_key() {
    let store = Client::new(MemBackend::new());
    let election = election(&store).await;
    let candidate = election.enter("value").await.unwrap();
    let key = candidate.key().escape_ascii().to_string();
    let check = |text: String, name: &str| {
        assert!(text.contains(name), "{text} does not contain {name}");
        assert!(text.len() < 600, "{text} is too long");
    };
    check(format!("{election:?}"), "\"e\"");
    check(format!("{:?}", Election::observer(&store, "e")), "Observer(\"e\")");
    check(format!("{:?}", election.observe()), "Leaders { name: b\"e\"");
    check(format!("{candidate:?}"), &key);
    check(format!("{:?}", candidate.proclaimer()), &key);
    let leadership = candidate.elected().await.unwrap();
    check(format!("{leadership:?}"), &key);
    check(format!("{:?}", election.leader().await.unwrap()), &key);
    election.session().close().await.unwrap();
    let error = leadership.resign().await.unwrap_err();
    check(format!("{error:?}"), &key);
    assert_eq!(error.to_string(), "the request was not confirmed: lost: the session was closed");
}
