//! `coord elect`: leaders, candidates and repeated campaigns.

use rustix::process::Signal;
use serde_json::Value;

use crate::program::{AVAILABLE, Server};

crate::tests![
    command_of_a_leader_receives_key_and_token,
    next_candidate_leads_after_the_command_ends,
    leader_without_command_prints_key_and_resigns_on_signal,
    candidate_times_out_and_names_the_leader,
    command_of_evicted_leader_is_terminated,
    candidate_campaigns_again_after_a_loss,
    candidate_campaigns_again_when_the_store_is_back,
    signal_ends_repeated_campaigns,
    command_that_exits_with_122_is_not_run_again,
];

/// Prints the variables that it receives, and runs until its input ends.
const PRINT_VARIABLES: &str =
    "echo $COORD_ELECTION_KEY; echo $COORD_FENCING_TOKEN; read -r end; exit 5";

async fn command_of_a_leader_receives_key_and_token(server: Server) {
    let mut leader = server.coord(&["elect", "jobs", "here:80", "--", "sh", "-c", PRINT_VARIABLES]);
    let (key, token) = (leader.line().await, leader.line().await);
    let held = server.client.get(key).await.expect(AVAILABLE).expect("it leads");
    assert_eq!(held.create_revision.to_string(), token);
    assert_eq!(held.value, "here:80");
    let shown = server.coord(&["observe", "jobs", "--once"]).end().await;
    assert_eq!(shown, (Some(0), format!("{token} here:80\n"), String::new()));
    leader.close_input();
    assert_eq!(leader.end().await, (Some(5), String::new(), String::new()));
    server.assert_empty().await;
}

async fn next_candidate_leads_after_the_command_ends(server: Server) {
    let mut first = server.coord(&["elect", "jobs", "first", "--", "sh", "-c", PRINT_VARIABLES]);
    let (_, token) = (first.line().await, first.line().await);
    let mut second = server.coord(&["elect", "jobs", "second", "--", "sh", "-c", PRINT_VARIABLES]);
    server.wait_for_queue_length("jobs", 2).await;
    second.assert_silent().await;
    first.close_input();
    assert_eq!(first.status().await, Some(5));
    let (_, later) = (second.line().await, second.line().await);
    let number = |token: &str| token.parse::<i64>().expect("a token");
    assert!(number(&later) > number(&token), "{later}, {token}");
    second.close_input();
    assert_eq!(second.end().await, (Some(5), String::new(), String::new()));
    server.assert_empty().await;
}

async fn leader_without_command_prints_key_and_resigns_on_signal(server: Server) {
    let mut plain = server.coord(&["elect", "jobs", "here"]);
    let key = plain.line().await;
    assert_eq!(server.keys("").await, [key]);
    plain.signal(Signal::TERM);
    assert_eq!(plain.end().await, (Some(0), String::new(), String::new()));
    server.assert_empty().await;

    let mut json = server.coord(&["elect", "jobs", "here", "--json"]);
    let line: Value = serde_json::from_str(&json.line().await).expect("it is JSON");
    assert_eq!(server.keys("").await, [line["key"].as_str().expect("a key")]);
    json.signal(Signal::INT);
    assert_eq!(json.status().await, Some(0));
    server.assert_empty().await;
}

async fn candidate_times_out_and_names_the_leader(server: Server) {
    let mut leader = server.coord(&["elect", "jobs", "first"]);
    let key = leader.line().await;
    let late = server.coord(&["elect", "jobs", "late", "--timeout", "200ms"]).end().await;
    let token =
        server.client.get(key.clone()).await.expect(AVAILABLE).expect("it leads").create_revision;
    let expected = format!(
        "coord elect: timed out after 200ms waiting for jobs: {key} leads with fencing token \
        {token} and value first\n"
    );
    assert_eq!(late, (Some(124), String::new(), expected));
    assert_eq!(server.keys("jobs/").await.len(), 1);
    leader.signal(Signal::TERM);
    assert_eq!(leader.status().await, Some(0));
    server.assert_empty().await;
}

async fn command_of_evicted_leader_is_terminated(server: Server) {
    let mut leader = server.coord(&["elect", "jobs", "here", "--", "sh", "-c", PRINT_VARIABLES]);
    let key = leader.line().await;
    server.client.delete(key).await.expect(AVAILABLE);
    let (status, _, stderr) = leader.end().await;
    let lost = "coord elect: lost: another client deleted the key\n";
    assert_eq!((status, stderr.as_str()), (Some(122), lost));
    server.assert_empty().await;
}

async fn candidate_campaigns_again_after_a_loss(server: Server) {
    let mut leader =
        server.coord(&["elect", "jobs", "here", "--again", "--", "sh", "-c", PRINT_VARIABLES]);
    let mut tokens = Vec::new();
    for _ in 0..3 {
        let key = leader.line().await;
        tokens.push(leader.line().await.parse::<i64>().expect("a token"));
        if tokens.len() < 3 {
            server.client.delete(key).await.expect(AVAILABLE);
        }
    }
    assert!(tokens.is_sorted_by(|earlier, later| earlier < later), "{tokens:?}");
    leader.wait_for_stderr("lost: campaigning again").await;
    leader.close_input();
    assert_eq!(leader.status().await, Some(5), "the command ended by itself");
    server.assert_empty().await;
}

async fn candidate_campaigns_again_when_the_store_is_back(server: Server) {
    let arguments =
        ["elect", "jobs", "here", "--again", "--ttl", "2s", "--", "sh", "-c", PRINT_VARIABLES];
    let mut leader = server.coord(&arguments);
    let (_, token) = (leader.line().await, leader.line().await);
    server[0].pause();
    leader.wait_for_stderr("campaigning again").await;
    leader.wait_for_stderr("open a session for jobs: ").await;
    server[0].resume();
    let (_, later) = (leader.line().await, leader.line().await);
    let number = |token: &str| token.parse::<i64>().expect("a token");
    assert!(number(&later) > number(&token), "{later}, {token}");
    leader.close_input();
    assert_eq!(leader.status().await, Some(5));
}

async fn signal_ends_repeated_campaigns(server: Server) {
    let mut leader = server.coord(&["elect", "jobs", "here", "--again"]);
    let key = leader.line().await;
    server.client.delete(key).await.expect(AVAILABLE);
    leader.wait_for_stderr("lost: another client deleted the key: campaigning again").await;
    leader.line().await;
    leader.signal(Signal::TERM);
    assert_eq!(leader.status().await, Some(0));
    server.assert_empty().await;
}

/// coord itself exits with 122 on a loss.
async fn command_that_exits_with_122_is_not_run_again(server: Server) {
    let script = "echo runs; exit 122";
    let mut leader = server.coord(&["elect", "jobs", "here", "--again", "--", "sh", "-c", script]);
    assert_eq!(leader.line().await, "runs");
    assert_eq!(leader.end().await, (Some(122), String::new(), String::new()));
    server.assert_empty().await;
}
