//! `coord list` and `coord break`.

use std::time::Duration;

use coord_core::{
    Mutex, Session,
    kv::{LeaseGrant, Put, Txn},
};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::lock::{RUN_UNTIL_EOF, holder};
use crate::program::{AVAILABLE, Program, Server, wait_until};
use crate::terminal::start_at_terminal;

crate::tests![
    list_shows_locks_and_elections_with_holders,
    list_json_shows_locks_and_elections,
    prefix_without_matches_has_own_exit_status,
    prefix_limits_names_and_not_keys,
    keys_of_coord_itself_are_not_listed,
    contender_behind_a_foreign_key_is_not_listed_as_holder,
    list_of_many_keys_is_read_in_pages,
    break_gives_the_lock_to_the_next_waiter,
    break_without_a_terminal_needs_yes_and_deletes_nothing,
    break_at_a_terminal_requires_confirmation,
    break_keeps_a_holder_that_came_after_the_prompt,
    break_deletes_no_foreign_key,
    break_counts_no_foreign_key_as_waiter,
    break_of_a_free_lock_has_own_exit_status,
    requested_release_sends_term_to_the_command,
    requested_release_without_command_releases,
    request_to_a_foreign_key_or_a_free_lock_fails,
    lock_of_an_adopter_is_listed_and_broken,
];

/// A lock with a waiter, an election, a foreign key, and a key in the range of no queue.
async fn hold_lock_and_election(server: &Server) -> [Program; 3] {
    server.client.put("jobs/1", "data").await.expect(AVAILABLE);
    server.client.put("zoo", "data").await.expect(AVAILABLE);
    // Contenders of a queue named `jobs` would wait behind the foreign key.
    let night = holder(server, "jobs/night").await;
    let waiter = server.coord(&["lock", "jobs/night", "--", "true"]);
    server.wait_for_queue_length("jobs/night", 2).await;
    let mut leader = server.coord(&["elect", "web", "a.example:80"]);
    leader.line().await;
    [night, waiter, leader]
}

async fn list_shows_locks_and_elections_with_holders(server: Server) {
    let _held = hold_lock_and_election(&server).await;
    let go = server.etcdctl(&["lock", "api"]);
    server.wait_for_queue_length("api", 1).await;
    let (status, stdout, stderr) = server.coord(&["list"]).end().await;
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{stdout}");
    let rows: Vec<Vec<_>> = stdout.lines().map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["name", "waiters", "token", "revisions", "ago", "key", "value"]);
    let names: Vec<_> = rows[1..].iter().map(|row| (row[0], row[1])).collect();
    assert_eq!(names, [("api", "0"), ("jobs/night", "1"), ("web", "0")], "{stdout}");
    let key = server.keys("jobs/night/").await.remove(0);
    let kv = server.client.get(key.clone()).await.expect(AVAILABLE).expect("it is held");
    assert_eq!(rows[2][2], kv.create_revision.to_string());
    assert_eq!(rows[2][4..], [key.as_str()], "a lock has no value");
    assert_eq!(rows[3][5..], ["a.example:80"]);
    drop(go);
}

async fn list_json_shows_locks_and_elections(server: Server) {
    let _held = hold_lock_and_election(&server).await;
    let now = server.client.put("other", "1").await.expect(AVAILABLE).header.revision.0;
    let (status, stdout, stderr) = server.coord(&["list", "--json"]).end().await;
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    let listed: Value = serde_json::from_str(&stdout).expect("it is JSON");
    let mut expected = Vec::new();
    for (name, waiters, value) in [("jobs/night", 1, ""), ("web", 0, "a.example:80")] {
        let key = server.keys(&format!("{name}/")).await.remove(0);
        let kv = server.client.get(key.clone()).await.expect(AVAILABLE).expect("it is held");
        let token = kv.create_revision.0;
        expected.push(json!({
            "name": name,
            "waiters": waiters,
            "holder": {
                "key": key,
                "value": value,
                "fencing_token": token,
                "revisions_ago": now - token,
                "lease": kv.lease.expect("on a lease").to_string(),
            },
        }));
    }
    assert_eq!(listed, json!({ "prefix": "", "revision": now, "queues": expected }));
}

async fn prefix_without_matches_has_own_exit_status(server: Server) {
    let _held = hold_lock_and_election(&server).await;
    let (_, stdout, _) = server.coord(&["list", "we"]).end().await;
    assert!(stdout.lines().count() == 2 && stdout.contains("web "), "{stdout}");
    let none = server.coord(&["list", "zoo"]).end().await;
    let expected = "coord list: no lock or election under zoo is held\n".to_owned();
    assert_eq!(none, (Some(4), String::new(), expected));
    let (status, stdout, stderr) = server.coord(&["list", "zoo", "--json"]).end().await;
    let json: Value = serde_json::from_str(&stdout).expect("it is JSON");
    assert_eq!((status, stderr.as_str(), &json["queues"]), (Some(4), "", &json!([])));
}

/// Regression: idempotency keys and release requests were listed as locks.
async fn keys_of_coord_itself_are_not_listed(server: Server) {
    let lease = server.client.lease_grant(LeaseGrant::new(Duration::from_secs(60))).await;
    let lease = lease.expect(AVAILABLE).id;
    for name in ["coord/stm", "coord/release/jobs"] {
        let put = Put::new(format!("{name}/{lease}-0"), "1").lease(lease);
        server.client.put_with(put).await.expect(AVAILABLE);
    }
    let (status, stdout, _) = server.coord(&["list"]).end().await;
    assert_eq!((status, stdout.as_str()), (Some(4), ""));
    let (status, stdout, _) = server.coord(&["list", "coord/stm"]).end().await;
    assert!(status == Some(0) && stdout.contains("coord/stm "), "{stdout}");
}

/// Keys of the queue `jobs` start with `jobs/`, but its name does not.
async fn prefix_limits_names_and_not_keys(server: Server) {
    let mut first = holder(&server, "jobs").await;
    let waiter = server.coord(&["lock", "jobs", "--", "true"]);
    server.wait_for_queue_length("jobs", 2).await;
    let keys = server.keys("jobs/").await;
    for prefix in ["jobs/", &keys[0], &keys[1]] {
        let expected = format!("coord list: no lock or election under {prefix} is held\n");
        let none = server.coord(&["list", prefix]).end().await;
        assert_eq!(none, (Some(4), String::new(), expected));
    }
    let (status, stdout, _) = server.coord(&["list", "jobs"]).end().await;
    assert_eq!(status, Some(0));
    assert!(stdout.contains(&keys[0]) && !stdout.contains(&keys[1]), "{stdout}");
    first.close_input();
    assert_eq!((first.status().await, waiter.status().await), (Some(0), Some(0)));
}

/// Every contender waits behind the foreign key.
async fn contender_behind_a_foreign_key_is_not_listed_as_holder(server: Server) {
    server.client.put("jobs/1", "data").await.expect(AVAILABLE);
    let waiter = server.coord(&["lock", "jobs", "--", "true"]);
    server.wait_for_queue_length("jobs", 2).await;
    // A newer foreign key, or one of a child name, blocks no queue.
    for key in ["jobs/2", "web/night/1"] {
        server.client.put(key, "data").await.expect(AVAILABLE);
    }
    let mut leader = server.coord(&["elect", "web", "here"]);
    leader.line().await;
    let (status, stdout, stderr) = server.coord(&["list"]).end().await;
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    let rows: Vec<Vec<_>> = stdout.lines().map(|row| row.split_whitespace().collect()).collect();
    let blocked = ["jobs", "1", "-", "-", "jobs/1", "(foreign", "key:", "blocks", "the", "queue)"];
    assert_eq!(rows[1], blocked);
    assert_eq!((rows[2][0], rows[2][1], rows[2][5]), ("web", "0", "here"));
    let (_, stdout, _) = server.coord(&["list", "jobs", "--json"]).end().await;
    let listed: Value = serde_json::from_str(&stdout).expect("it is JSON");
    let expected =
        json!([{ "name": "jobs", "waiters": 1, "holder": null, "blocked_by": "jobs/1" }]);
    assert_eq!(listed["queues"], expected);
    server.client.delete("jobs/1").await.expect(AVAILABLE);
    assert_eq!(waiter.status().await, Some(0));
}

/// Two and a half pages of foreign keys, with one lock on each page.
async fn list_of_many_keys_is_read_in_pages(server: Server) {
    for hundred in 0..25 {
        let puts = (0..100).map(|n| Put::new(format!("data/{hundred:02}{n:02}"), "x"));
        server.client.txn(Txn::new().and_then(puts)).await.expect(AVAILABLE);
    }
    let session = Session::builder(&server.client).open().await.expect(AVAILABLE);
    let mut guards = Vec::new();
    for name in ["a", "data/1200", "z"] {
        guards.push(Mutex::new(&session, name).lock().await.expect(AVAILABLE));
    }
    let (status, stdout, _) = server.coord(&["list"]).end().await;
    let names: Vec<_> = stdout.lines().skip(1).map(|row| row.split(' ').next()).collect();
    assert_eq!((status, names), (Some(0), vec![Some("a"), Some("data/1200"), Some("z")]));
    let (_, stdout, _) = server.coord(&["list", "data/"]).end().await;
    assert!(stdout.lines().count() == 2, "{stdout}");
    drop(guards);
    session.close().await.expect(AVAILABLE);
}

async fn break_gives_the_lock_to_the_next_waiter(server: Server) {
    let first = holder(&server, "jobs").await;
    let mut second = server.coord(&["lock", "jobs", "--", "sh", "-c", RUN_UNTIL_EOF]);
    server.wait_for_queue_length("jobs", 2).await;
    let keys = server.keys("jobs/").await;
    let held = server.client.get(keys[0].clone()).await.expect(AVAILABLE).expect("it is held");
    let (status, stdout, stderr) = server.coord(&["break", "jobs", "--yes"]).end().await;
    let expected = format!("deleted {}, fencing token {}\n", keys[0], held.create_revision);
    assert_eq!((status, stdout, stderr), (Some(0), expected, String::new()));
    assert_eq!(second.line().await, "runs");
    assert_eq!(first.status().await, Some(122));

    let (status, stdout, stderr) = server.coord(&["break", "jobs", "--yes", "--json"]).end().await;
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    let json: Value = serde_json::from_str(&stdout).expect("it is JSON");
    assert_eq!((&json["name"], &json["next"]), (&"jobs".into(), &Value::Null));
    let deleted = json["deleted"].as_object().expect("an object");
    assert_eq!((&deleted["key"], &deleted["value"]), (&keys[1].as_str().into(), &"".into()));
    assert_eq!(deleted.len(), 4);
    assert_eq!(second.status().await, Some(122));
    server.assert_empty().await;
}

async fn break_without_a_terminal_needs_yes_and_deletes_nothing(server: Server) {
    let mut holder = holder(&server, "jobs").await;
    let key = server.keys("jobs/").await.remove(0);
    let (status, stdout, stderr) = server.coord(&["break", "jobs"]).end().await;
    assert_eq!((status, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains(&key) && stderr.contains("--yes"), "{stderr}");
    assert_eq!(server.keys("jobs/").await, [key]);
    holder.close_input();
    assert_eq!(holder.status().await, Some(0));
}

async fn break_at_a_terminal_requires_confirmation(server: Server) {
    let mut leader = server.coord(&["elect", "jobs", "a.example:80"]);
    let key = leader.line().await;
    for (answer, status) in [("no", 6), ("", 6), ("y", 0)] {
        let mut prompt = start_at_terminal(&server, "\"$COORD\" break jobs");
        prompt.wait_for_text(&format!("{key} holds jobs with fencing token")).await;
        prompt.wait_for_text("value a.example:80; no contender waits.").await;
        prompt.wait_for_text(&format!("Delete {key}? [y/N] ")).await;
        assert_eq!(server.keys("jobs/").await, [key.as_str()]);
        prompt.write_line(answer).await;
        prompt.wait_for_text(if status == 0 { "deleted" } else { "nothing was deleted" }).await;
        assert_eq!(prompt.status().await, Some(status));
    }
    assert_eq!(leader.status().await, Some(122));
    server.assert_empty().await;
}

/// The holder changes while coord waits for the confirmation.
async fn break_keeps_a_holder_that_came_after_the_prompt(server: Server) {
    let mut first = holder(&server, "jobs").await;
    let mut prompt = start_at_terminal(&server, "\"$COORD\" break jobs");
    prompt.wait_for_text("? [y/N] ").await;
    first.close_input();
    assert_eq!(first.status().await, Some(0));
    let mut second = holder(&server, "jobs").await;
    prompt.write_line("y").await;
    prompt.wait_for_text("does not hold jobs any more: nothing was deleted").await;
    assert_eq!(prompt.status().await, Some(5));
    assert_eq!(server.keys("jobs/").await.len(), 1);
    second.close_input();
    assert_eq!(second.status().await, Some(0));
}

/// The foreign key blocks the queue, but it may be the only copy of its value.
async fn break_deletes_no_foreign_key(server: Server) {
    server.client.put("jobs/1", "data").await.expect(AVAILABLE);
    let waiter = server.coord(&["lock", "jobs"]);
    server.wait_for_queue_length("jobs", 2).await;
    let (status, _, stderr) = server.coord(&["break", "jobs", "--yes"]).end().await;
    let expected = "coord break: jobs/1, the first under jobs, is a foreign key";
    assert!(status == Some(1) && stderr.starts_with(expected), "{stderr}");
    assert_eq!(
        server.client.get("jobs/1").await.expect(AVAILABLE).expect("it was not deleted").value,
        "data"
    );
    waiter.signal(Signal::TERM);
    assert_eq!(waiter.status().await, Some(143));
}

/// Regression: the foreign key behind the holder's key was reported as the next contender.
async fn break_counts_no_foreign_key_as_waiter(server: Server) {
    let mut held = holder(&server, "jobs").await;
    server.client.put("jobs/config", "data").await.expect(AVAILABLE);
    let (status, stdout, _) = server.coord(&["break", "jobs", "--yes", "--json"]).end().await;
    let broken: Value = serde_json::from_str(&stdout).expect("it is JSON");
    assert_eq!((status, &broken["next"]), (Some(0), &Value::Null), "{stdout}");
    held.close_input();
    held.status().await;
}

async fn break_of_a_free_lock_has_own_exit_status(server: Server) {
    let mut child = holder(&server, "jobs/night").await;
    let free = server.coord(&["break", "jobs", "--yes"]).end().await;
    let expected = "coord break: jobs is not held: nothing was deleted\n".to_owned();
    assert_eq!(free, (Some(4), String::new(), expected));
    wait_until("the lock of the child name is held", async || {
        server.keys("jobs/").await.len() == 1
    })
    .await;
    child.close_input();
    assert_eq!(child.status().await, Some(0));
}

/// The key of an adopter has a tag between the lease and the number.
async fn lock_of_an_adopter_is_listed_and_broken(server: Server) {
    let lease = server
        .client
        .lease_grant(LeaseGrant::new(std::time::Duration::from_secs(60)))
        .await
        .expect(AVAILABLE)
        .id;
    let session = Session::builder(&server.client).lease(lease).open().await.expect(AVAILABLE);
    let guard = Mutex::new(&session, "jobs").lock().await.expect(AVAILABLE);
    let key = String::from_utf8(guard.key().to_vec()).expect("it is ASCII");
    let (status, stdout, _) = server.coord(&["list"]).end().await;
    assert_eq!(status, Some(0));
    let row = stdout.lines().last().expect("a row");
    assert!(row.starts_with("jobs ") && row.ends_with(&key), "{stdout}");
    let (status, stdout, stderr) = server.coord(&["break", "jobs", "--yes"]).end().await;
    let expected = format!("deleted {key}, fencing token {}\n", guard.fencing_token());
    assert_eq!((status, stdout, stderr), (Some(0), expected, String::new()));
    assert!(guard.unlock().await.is_err(), "the lock was broken");
}

/// The command decides when it ends, and gets no KILL.
async fn requested_release_sends_term_to_the_command(server: Server) {
    let script = "trap 'echo term; read -r end; exit 7' TERM; echo runs; \
        while :; do sleep 0.05; done";
    let mut holder = server.coord(&["lock", "jobs", "--", "sh", "-c", script]);
    assert_eq!(holder.line().await, "runs");
    let requested = server.coord(&["break", "jobs", "--request", "--reason", "move"]).end().await;
    let key = server.keys("jobs/").await.remove(0);
    assert_eq!((requested.0, requested.2.as_str()), (Some(0), ""));
    assert!(
        requested.1.starts_with(&format!("requested the release of {key}, ")),
        "{}",
        requested.1
    );
    assert_eq!(holder.line().await, "term");
    assert_eq!(server.keys("jobs/").await, [key], "still held");
    holder.close_input();
    let (status, _, stderr) = holder.end().await;
    assert_eq!(status, Some(7));
    // The shell may report the process that TERM ended.
    let report = "coord lock: another client requests the release of jobs: move\n";
    assert!(stderr.starts_with(report), "{stderr}");
    server.assert_empty().await;
}

async fn requested_release_without_command_releases(server: Server) {
    for holder in [&["lock", "jobs"][..], &["elect", "jobs", "me"]] {
        let subcommand = holder[0];
        let mut holder = server.coord(holder);
        let key = holder.line().await;
        let requested = server.coord(&["break", "jobs", "--request", "--json"]).end().await;
        assert!(
            requested.1.contains("\"requested\"") && requested.1.contains(&key),
            "{}",
            requested.1
        );
        let (status, _, stderr) = holder.end().await;
        let report = format!("coord {subcommand}: another client requests the release of jobs\n");
        assert_eq!((status, stderr), (Some(0), report));
        server.assert_empty().await;
    }
}

async fn request_to_a_foreign_key_or_a_free_lock_fails(server: Server) {
    let free = server.coord(&["break", "jobs", "--request"]).end().await;
    assert_eq!(free.0, Some(4), "{}", free.2);
    server.client.put("jobs/1", "").await.expect(AVAILABLE);
    let foreign = server.coord(&["break", "jobs", "--request"]).end().await;
    assert_eq!(foreign.0, Some(1), "{}", foreign.2);
    assert!(server.keys("coord/").await.is_empty());
}
