//! What an election promises: one leader, in order, with a value.

mod again;
mod cancel;
mod cost;
mod loss;
mod observe;
mod oracle;
mod replaced;
mod resign;
mod resume;
mod silence;
mod storm;

use crate::support::another;
use coord_mem::MemBackend;
use std::error::Error as _;

use coord_core::election::Leaders;
use coord_core::{
    Client, Election,
    error::{ErrorKind, LossReason, PrimitiveError},
    kv::{Compact, Compare, CompareOp, Put, Txn},
};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::{join_as_go, keys, secs, session, settle};

/// The election that most tests are about, for a session of its own.
async fn election(store: &Client) -> Election {
    Election::new(&session(store).await, "e")
}

/// The value of whoever leads.
async fn leader(store: &Client) -> Option<String> {
    let leader =
        Election::observer(&another(store), "e").leader().await.expect("the store is there");
    leader.map(|leader| leader.value().escape_ascii().to_string())
}

/// The values that a stream shows until it has nothing more to show.
async fn shown(leaders: &mut Leaders) -> Vec<Option<String>> {
    let mut shown = Vec::new();
    while let Ok(Some(item)) = timeout(secs(1), leaders.next()).await {
        let leader = item.expect("nothing fails here");
        shown.push(leader.map(|leader| leader.value().escape_ascii().to_string()));
    }
    shown
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
    let mut led = Vec::new();
    while let Some(done) = tasks.join_next().await {
        led.push(done.unwrap());
    }
    assert_eq!(led.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert!(led.is_sorted_by(|a, b| a.1 < b.1), "fencing tokens grow: {led:?}");
    assert!(first_token < led[0].1);
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
    assert_eq!(leader.fencing_token(), leadership.fencing_token(), "the same for each value");
    assert_eq!(leader.lease(), Some(leadership.session().lease_id()));
    let kv = leader.key_value();
    assert_eq!((kv.version, kv.mod_revision), (2, proclaimed.revision));
}

/// `Header()` of Go's package is that of joining, not of winning.
#[tokio::test(start_paused = true)]
async fn leadership_header_is_of_the_winning_response() {
    let store = Client::new(MemBackend::new());
    let first = election(&store).await.campaign("a").await.unwrap();
    assert_eq!(first.header().revision, first.fencing_token().0);
    let second = election(&store).await.enter("b").await.unwrap();
    let (second, left) = tokio::join!(second.elected(), async {
        settle().await;
        first.resign().await.unwrap();
        store.get("e").await.unwrap();
        store.put("other", "").await.unwrap().header.revision
    });
    let second = second.unwrap();
    assert!(second.header().revision > second.fencing_token().0);
    assert!(second.header().revision <= left);
}

#[tokio::test(start_paused = true)]
async fn candidate_value_is_visible_only_once_it_leads() {
    let store = Client::new(MemBackend::new());
    let first = election(&store).await.campaign("first").await.unwrap();
    let mut leaders = first_observer(&store);
    let second = election(&store).await.enter("starting").await.unwrap();
    assert_eq!(shown(&mut leaders).await, [some("first")]);
    second.proclaim("ready").await.unwrap();
    assert_eq!(leader(&store).await, some("first"));
    assert_eq!(shown(&mut leaders).await, []);
    let token = second.fencing_token();
    first.resign().await.unwrap();
    let second = second.elected().await.unwrap();
    assert_eq!(second.fencing_token(), token, "known before");
    assert_eq!(shown(&mut leaders).await, [some("ready")], "and never the value that it had");
}

fn first_observer(store: &Client) -> Leaders {
    Election::observer(&another(store), "e").observe()
}

#[tokio::test(start_paused = true)]
async fn proclaimer_works_from_candidacy_to_resignation() {
    let store = Client::new(MemBackend::new());
    let first = election(&store).await.campaign("first").await.unwrap();
    let candidate = election(&store).await.enter("waiting").await.unwrap();
    let proclaimer = candidate.proclaimer();
    proclaimer.proclaim("still waiting").await.unwrap();
    first.resign().await.unwrap();
    let leadership = candidate.elected().await.unwrap();
    assert_eq!(leader(&store).await, some("still waiting"));
    proclaimer.clone().proclaim("leading").await.unwrap();
    assert_eq!(leader(&store).await, some("leading"));
    leadership.proclaimer().proclaim("leading on").await.unwrap();
    assert_eq!(leader(&store).await, some("leading on"));
    leadership.resign().await.unwrap();
    let late = proclaimer.proclaim("late").await.unwrap_err();
    assert_eq!(late.loss(), Some(LossReason::KeyDeleted));
    assert_eq!(keys(&store, "e/").await, [""; 0], "and nothing was changed");
}

/// A session uses a key again when it is surely gone. Whoever knew its former life knows nothing of
/// the next.
#[tokio::test(start_paused = true)]
async fn proclaimer_of_former_term_is_lost_when_key_is_reused() {
    let store = Client::new(MemBackend::new());
    let election = election(&store).await;
    let before = election.campaign("before").await.unwrap();
    let (proclaimer, key) = (before.proclaimer(), before.key().clone());
    before.resign().await.unwrap();
    let leadership = election.campaign("now").await.unwrap();
    assert_eq!(leadership.key(), &key);
    assert!(proclaimer.proclaim("late").await.unwrap_err().loss().is_some());
    assert_eq!(leader(&store).await, some("now"));
}

#[tokio::test(start_paused = true)]
async fn proclaimer_does_not_keep_its_leadership() {
    let store = Client::new(MemBackend::new());
    let leadership = election(&store).await.campaign("a").await.unwrap();
    let proclaimer = leadership.proclaimer();
    drop(leadership);
    settle().await;
    assert_eq!(keys(&store, "e/").await, [""; 0]);
    assert!(proclaimer.proclaim("b").await.unwrap_err().loss().is_some());
}

/// In Go's package a session has one key in an election, and its second campaign proclaims.
#[tokio::test(start_paused = true)]
async fn two_campaigns_of_one_session_are_two_candidates() {
    let store = Client::new(MemBackend::new());
    let election = election(&store).await;
    let first = election.campaign("first").await.unwrap();
    assert!(timeout(secs(60), election.campaign("impatient")).await.is_err());
    let second = election.enter("second").await.unwrap();
    assert_eq!(leader(&store).await, some("first"));
    first.resign().await.unwrap();
    let second = second.elected().await.unwrap();
    assert_eq!(leader(&store).await, some("second"));
    second.resign().await.unwrap();
    assert_eq!(keys(&store, "e/").await, [""; 0]);
}

/// etcd issue 6278: leaders of `e/below` and of `extra` are no leaders of `e`, whoever came first.
#[tokio::test(start_paused = true)]
async fn child_name_is_a_separate_election() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let (outer, inner) = (Election::new(&session, "e"), Election::new(&session, "e/below"));
    let mut leaders = outer.observe();
    let below = inner.campaign("below").await.unwrap();
    let extra = Election::new(&session, "extra").campaign("extra").await.unwrap();
    assert_eq!(outer.leader().await.unwrap(), None);
    assert_eq!(shown(&mut leaders).await, [None]);

    let above = timeout(secs(1), outer.campaign("above")).await.expect("nobody leads e").unwrap();
    assert_eq!(leader(&store).await, some("above"));
    assert_eq!(inner.leader().await.unwrap().unwrap().value(), "below");
    below.proclaim("still below").await.unwrap();
    let next = outer.enter("next").await.unwrap();
    let below_next = inner.enter("below next").await.unwrap();
    assert_eq!(shown(&mut leaders).await, [some("above")]);
    above.resign().await.unwrap();
    let next = next.elected().await.unwrap();
    next.resign().await.unwrap();
    assert_eq!(shown(&mut leaders).await, [some("next"), None]);
    below.resign().await.unwrap();
    drop((below_next.elected().await.unwrap(), extra));
    settle().await;
    assert_eq!(shown(&mut leaders).await, []);
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
    // All of them together: none is in the way of another.
    for (election, leadership) in held {
        let leader = election.leader().await.unwrap().unwrap();
        assert_eq!(leader.key(), leadership.key());
        let next = election.enter("").await.unwrap();
        leadership.resign().await.unwrap();
        next.elected().await.unwrap().resign().await.unwrap();
        assert_eq!(election.leader().await.unwrap(), None);
    }
}

/// Go's clients use the key `name/<lease>` and the order of create revisions: one election.
#[tokio::test(start_paused = true)]
async fn go_candidate_shares_the_election_queue() {
    let store = Client::new(MemBackend::new());
    let mut leaders = first_observer(&store);
    assert_eq!(shown(&mut leaders).await, [None]);
    let (go_lease, go) = join_as_go(&store, "e", "go").await;
    let ours = election(&store).await.enter("ours").await.unwrap();
    assert_eq!(leader(&store).await, some("go"));
    let (ours, ()) = tokio::join!(ours.elected(), async {
        settle().await;
        // It proclaims, as Go does.
        store.put_with(Put::new(&go, "go on").lease(go_lease)).await.unwrap();
        settle().await;
        store.delete(&go).await.unwrap();
    });
    let ours = ours.unwrap();
    assert_eq!(ours.key(), &format!("e/{}-0", ours.session().lease_id()));

    // Now behind ours, under the same key as before.
    store.put_with(Put::new(&go, "go again").lease(go_lease)).await.unwrap();
    assert_eq!(leader(&store).await, some("ours"));
    let last = election(&store).await.enter("last").await.unwrap();
    ours.resign().await.unwrap();
    assert_eq!(leader(&store).await, some("go again"));
    let (last, _) = tokio::join!(last.elected(), async {
        settle().await;
        store.lease_revoke(go_lease).await.unwrap();
    });
    last.unwrap().resign().await.unwrap();
    let all = ["go", "go on", "ours", "go again", "last"];
    let expected: Vec<_> = all.iter().map(|value| some(value)).chain([None]).collect();
    assert_eq!(shown(&mut leaders).await, expected);
}

/// The key of Go's candidate is the same in each of its lives, and only the one that stands before
/// ours counts.
#[tokio::test(start_paused = true)]
async fn returning_go_candidate_enqueues_last() {
    let store = Client::new(MemBackend::new());
    let leading = election(&store).await.campaign("leading").await.unwrap();
    let (lease, go) = join_as_go(&store, "e", "go").await;
    let ours = election(&store).await.enter("ours").await.unwrap();
    let (ours, ()) = tokio::join!(timeout(secs(5), ours.elected()), async {
        settle().await;
        store.delete(&go).await.unwrap();
        store.put_with(Put::new(&go, "back").lease(lease)).await.unwrap();
        settle().await;
        leading.resign().await.unwrap();
    });
    let ours = ours.expect("only the former life of go's key was before ours").unwrap();
    assert_eq!(leader(&store).await, some("ours"));
    drop(ours);
}

#[tokio::test(start_paused = true)]
async fn campaign_ignores_compaction_while_waiting() {
    let store = Client::new(MemBackend::new());
    let first = election(&store).await.campaign("first").await.unwrap();
    let second = election(&store).await.enter("second").await.unwrap();
    let (second, ()) = tokio::join!(second.elected(), async {
        settle().await;
        let revision = store.put("other", "1").await.unwrap().header.revision;
        store.compact(Compact::new(revision)).await.unwrap();
        settle().await;
        first.resign().await.unwrap();
    });
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
    let all = Txn::new().when([leadership.held_condition()]).and_then(puts(128).success);
    assert!(store.txn(all).await.unwrap().succeeded);
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
    assert_eq!(leader(&store).await, some("short"), "a proclamation that fails changes nothing");
    assert_eq!(keys(&store, "e/").await.len(), 1);
}

/// The compiler checks that everything can be moved into tasks.
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
        let done = leadership.run_while_held(async { 1 }).await;
        assert!(timeout(secs(1), leadership.lost()).await.is_err());
        leadership.resign().await.unwrap();
        let leadership = election.campaign("e").await.unwrap();
        assert_eq!(election.leader().await.unwrap().unwrap().value(), "e");
        leadership.session().close().await.unwrap();
        let error = leadership.resign().await.unwrap_err();
        assert!(error.source().is_some());
        done.unwrap()
    });
    assert_eq!(tasks.join_all().await, [1]);
}

#[tokio::test(start_paused = true)]
async fn debug_output_names_the_election_or_key() {
    let store = Client::new(MemBackend::new());
    let election = election(&store).await;
    let candidate = election.enter("value").await.unwrap();
    let key = candidate.key().escape_ascii().to_string();
    let about = |text: String, what: &str| {
        assert!(text.contains(what), "{text} does not tell {what}");
        assert!(text.len() < 600, "{text} tells too much");
    };
    about(format!("{election:?}"), "\"e\"");
    about(format!("{:?}", Election::observer(&store, "e")), "Observer(\"e\")");
    about(format!("{:?}", election.observe()), "Leaders { name: b\"e\"");
    about(format!("{candidate:?}"), &key);
    about(format!("{:?}", candidate.proclaimer()), &key);
    let leadership = candidate.elected().await.unwrap();
    about(format!("{leadership:?}"), &key);
    about(format!("{:?}", election.leader().await.unwrap()), &key);
    election.session().close().await.unwrap();
    let error = leadership.resign().await.unwrap_err();
    about(format!("{error:?}"), &key);
    assert_eq!(error.to_string(), "the release was not confirmed: lost: the session was closed");
}
