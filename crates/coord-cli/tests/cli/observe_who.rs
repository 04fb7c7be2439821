//! `coord observe` and `coord who`.

use coord_core::{Election, Mutex, Session, kv::Compact};
use coord_etcd_tests::proxy::{Limits, Proxy};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::lock::holder;
use crate::program::{AVAILABLE, Server};

crate::tests![
    observer_prints_a_line_per_leader_and_value,
    observer_prints_json_per_leader_and_value,
    observer_reports_changes_that_may_be_missing,
    observe_once_prints_the_current_leader,
    observer_ends_when_its_output_is_closed,
    observer_of_a_quiet_election_ends_when_output_closes,
    who_lists_holder_and_waiters_in_queue_order,
    who_json_lists_holder_and_waiters,
    who_on_an_empty_queue_has_own_exit_status,
    who_shows_a_foreign_key_as_foreign,
];

/// A session on the server.
async fn session(server: &Server) -> Session {
    Session::builder(&server.client).open().await.expect(AVAILABLE)
}

async fn observer_prints_a_line_per_leader_and_value(server: Server) {
    let session = session(&server).await;
    let election = Election::new(&session, "jobs");
    let mut observer = server.coord(&["observe", "jobs"]);
    assert_eq!(observer.line().await, "-");
    let first = election.campaign("first").await.expect(AVAILABLE);
    let token = first.fencing_token();
    first.proclaim("first,\nready").await.expect(AVAILABLE);
    let second = election.enter("").await.expect(AVAILABLE);
    let later = second.fencing_token();
    first.resign().await.expect(AVAILABLE);
    second.elected().await.expect(AVAILABLE).resign().await.expect(AVAILABLE);
    for line in [
        format!("{token} first"),
        format!("{token} first,\\nready"),
        format!("{later} "),
        "-".to_owned(),
    ] {
        assert_eq!(observer.line().await, line);
    }
    observer.signal(Signal::TERM);
    assert_eq!(observer.end().await, (Some(0), String::new(), String::new()));
    session.close().await.expect(AVAILABLE);
    server.assert_empty().await;
}

async fn observer_prints_json_per_leader_and_value(server: Server) {
    let session = session(&server).await;
    let leader = Election::new(&session, "jobs").campaign("here").await.expect(AVAILABLE);
    let mut observer = server.coord(&["observe", "jobs", "--json"]);
    let shown = |value: Value, revision: i64| {
        json!({ "leader": {
            "key": leader.key().escape_ascii().to_string(),
            "value": value,
            "fencing_token": leader.fencing_token().0.0,
            "lease": session.lease_id().to_string(),
            "revision": revision,
        }})
    };
    let expected = shown("here".into(), leader.fencing_token().0.0).to_string();
    assert_eq!(observer.line().await, expected);
    let proclaimed = leader.proclaim(&b"\xff\x00"[..]).await.expect(AVAILABLE).revision.0;
    assert_eq!(observer.line().await, shown(json!([255, 0]), proclaimed).to_string());
    leader.resign().await.expect(AVAILABLE);
    assert_eq!(observer.line().await, r#"{"leader":null}"#);
    observer.signal(Signal::INT);
    assert_eq!(observer.status().await, Some(0));
}

/// The observers lose their connection, and the store compacts the changes before they reconnect.
async fn observer_reports_changes_that_may_be_missing(server: Server) {
    let session = session(&server).await;
    let election = Election::new(&session, "jobs");
    let first = election.campaign("first").await.expect(AVAILABLE);
    let proxy = Proxy::start(server[0].endpoint(), Limits::default()).await;
    let endpoints = [proxy.endpoint(), server[0].endpoint()].join(",");
    let mut plain = server.coord(&["observe", "jobs", "--endpoints", &endpoints]);
    let mut json = server.coord(&["observe", "jobs", "--endpoints", &endpoints, "--json"]);
    assert_eq!(plain.line().await, format!("{} first", first.fencing_token()));
    json.line().await;
    // The lines prove that the watches are registered.
    let after = first.proclaim("ready").await.expect(AVAILABLE).revision.0;
    assert_eq!(plain.line().await, format!("{} ready", first.fencing_token()));
    json.line().await;
    for observer in [&plain, &json] {
        observer.suspend().await;
    }
    drop(proxy);
    first.resign().await.expect(AVAILABLE);
    let second = election.campaign("second").await.expect(AVAILABLE);
    let newest = server.client.put("other", "1").await.expect(AVAILABLE).header.revision;
    server.client.compact(Compact::new(newest)).await.expect(AVAILABLE);
    for observer in [&plain, &json] {
        observer.signal(Signal::CONT);
    }
    let (token, until) = (second.fencing_token(), newest.0);
    assert_eq!(plain.line().await, format!("{token} second"));
    plain.wait_for_stderr(&format!(
        "coord observe: jobs: changes between revisions {after} and {until} may be missing: compacted"
    ))
    .await;
    let shown: Value = serde_json::from_str(&json.line().await).expect("it is JSON");
    let gap = json!({ "after": after, "until": until, "cause": "compacted" });
    assert_eq!((&shown["gap"], &shown["leader"]["value"]), (&gap, &"second".into()));
    for observer in [&mut plain, &mut json] {
        observer.signal(Signal::TERM);
    }
    assert_eq!(json.end().await, (Some(0), String::new(), String::new()));
    assert_eq!(plain.status().await, Some(0));
}

async fn observe_once_prints_the_current_leader(server: Server) {
    let once = ["observe", "jobs", "--once"];
    assert_eq!(server.coord(&once).end().await, (Some(4), "-\n".to_owned(), String::new()));
    let session = session(&server).await;
    let leader = Election::new(&session, "jobs").campaign("here").await.expect(AVAILABLE);
    let shown = format!("{} here\n", leader.fencing_token());
    assert_eq!(server.coord(&once).end().await, (Some(0), shown, String::new()));
    let json = ["observe", "jobs", "--once", "--json"];
    let (status, stdout, _) = server.coord(&json).end().await;
    let shown: Value = serde_json::from_str(&stdout).expect("it is JSON");
    assert_eq!((status, &shown["leader"]["value"]), (Some(0), &"here".into()));
    leader.resign().await.expect(AVAILABLE);
    let no_leader = (Some(4), "{\"leader\":null}\n".to_owned(), String::new());
    assert_eq!(server.coord(&json).end().await, no_leader);
}

/// `coord observe jobs | head -1`, which closes the pipe.
async fn observer_ends_when_its_output_is_closed(server: Server) {
    let session = session(&server).await;
    let leader = Election::new(&session, "jobs").campaign("one").await.expect(AVAILABLE);
    let script = "\"$0\" observe jobs | { read -r line; echo $line; }; echo over";
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_coord")]);
    command.env("ETCDCTL_ENDPOINTS", server.endpoints().join(","));
    let mut pipe = crate::program::Program::start(command);
    assert_eq!(pipe.line().await, format!("{} one", leader.fencing_token()));
    leader.proclaim("two").await.expect(AVAILABLE);
    assert_eq!(pipe.line().await, "over");
    assert_eq!(pipe.end().await, (Some(0), String::new(), String::new()));
}

/// The closed pipe is detected without another write.
async fn observer_of_a_quiet_election_ends_when_output_closes(server: Server) {
    let script = "\"$0\" observe jobs | { read -r line; echo $line; }; echo over";
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_coord")]);
    command.env("ETCDCTL_ENDPOINTS", server.endpoints().join(","));
    let mut pipe = crate::program::Program::start(command);
    assert_eq!([pipe.line().await, pipe.line().await], ["-", "over"]);
    assert_eq!(pipe.end().await, (Some(0), String::new(), String::new()));
}

/// A contender of each kind: `coord`, `etcdctl` and the library. A child name is another queue.
async fn who_lists_holder_and_waiters_in_queue_order(server: Server) {
    let _holder = holder(&server, "jobs").await;
    let _other = holder(&server, "jobs/night").await;
    let _go = server.etcdctl(&["elect", "jobs", "of etcdctl"]);
    wait_own_length(&server, 2).await;
    let session = session(&server).await;
    let mutex = Mutex::new(&session, "jobs");
    let lock = mutex.lock();
    tokio::pin!(lock);
    tokio::select! {
        biased;
        held = &mut lock => panic!("{held:?} while it is held"),
        () = wait_own_length(&server, 3) => {}
    }
    let (status, stdout, stderr) = server.coord(&["who", "jobs"]).end().await;
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{stdout}");
    let rows: Vec<Vec<_>> = stdout.lines().map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 4, "{stdout}");
    assert_eq!(rows[0][..3], ["position", "token", "revisions"]);
    let positions: Vec<_> = rows[1..].iter().map(|row| row[0]).collect();
    assert_eq!(positions, ["holds", "1", "2"]);
    assert!(rows[2].ends_with(&["of", "etcdctl"]) && rows[2].contains(&"60"), "{stdout}");
    let keys = queue_keys(&server).await;
    for (row, key) in rows[1..].iter().zip(keys) {
        assert!(row.contains(&key.as_str()), "{key} in {stdout}");
    }
}

async fn who_json_lists_holder_and_waiters(server: Server) {
    let _holder = holder(&server, "jobs").await;
    let _waiter = server.coord(&["elect", "jobs", "here", "--ttl", "30"]);
    server.wait_for_queue_length("jobs", 2).await;
    let written = server.client.put("other", "1").await.expect(AVAILABLE).header.revision.0;
    let (status, stdout, stderr) = server.coord(&["who", "jobs", "--json"]).end().await;
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    let shown: Value = serde_json::from_str(&stdout).expect("it is JSON");
    assert_eq!((&shown["name"], &shown["revision"]), (&"jobs".into(), &written.into()));
    let contenders = shown["contenders"].as_array().expect("a list");
    let expected = queue_keys(&server).await.into_iter().zip([("", 10), ("here", 30)]);
    for (position, (key, (value, ttl))) in expected.enumerate() {
        let contender = &contenders[position];
        let kv = server.client.get(key.clone()).await.expect(AVAILABLE).expect("it is queued");
        let created = kv.create_revision.0;
        let shown = (&contender["position"], &contender["key"]);
        assert_eq!(shown, (&position.into(), &key.into()));
        assert_eq!(contender["value"], value);
        assert_eq!(contender["fencing_token"], created);
        assert_eq!(contender["revisions_ago"], written - created);
        let lease = &contender["lease"];
        assert_eq!(lease["id"], kv.lease.expect("on a lease").to_string());
        assert_eq!(lease["ttl_s"], ttl);
        let seconds = |field: &str| lease[field].as_u64().expect("a number");
        assert_eq!(seconds("remaining_s") + seconds("refreshed_s_ago_max"), ttl);
        assert!(seconds("remaining_s") >= ttl / 3, "it is kept alive: {contender}");
    }
    assert_eq!(contenders.len(), 2);
}

async fn who_on_an_empty_queue_has_own_exit_status(server: Server) {
    let (status, stdout, stderr) = server.coord(&["who", "jobs"]).end().await;
    assert_eq!((status, stdout.as_str()), (Some(4), ""));
    assert_eq!(stderr, "coord who: jobs is not held, and no contender waits\n");
    let (status, stdout, stderr) = server.coord(&["who", "jobs", "--json"]).end().await;
    assert_eq!((status, stderr.as_str()), (Some(4), ""));
    let json: Value = serde_json::from_str(&stdout).expect("it is JSON");
    assert_eq!((&json["contenders"], &json["foreign_keys"]), (&json!([]), &json!([])));
}

/// A foreign key without a lease, as `etcdctl put` creates it, stays until it is deleted, and the
/// contender behind it waits. Regression: the foreign key was printed as the holder.
async fn who_shows_a_foreign_key_as_foreign(server: Server) {
    server.client.put("jobs/by-hand", "1").await.expect(AVAILABLE);
    let _waiter = server.coord(&["lock", "jobs"]);
    server.wait_for_queue_length("jobs", 2).await;
    let (status, stdout, _) = server.coord(&["who", "jobs"]).end().await;
    let rows: Vec<Vec<_>> = stdout.lines().map(|row| row.split_whitespace().collect()).collect();
    assert_eq!((status, rows.len()), (Some(0), 3), "{stdout}");
    assert_eq!(rows[1][..2], ["foreign", "-"], "{stdout}");
    assert_eq!(rows[1][3..], ["none", "jobs/by-hand", "1"], "{stdout}");
    assert_eq!(rows[2][0], "1", "no contender holds: {stdout}");
    let (_, stdout, _) = server.coord(&["who", "jobs", "--json"]).end().await;
    let json: Value = serde_json::from_str(&stdout).expect("it is JSON");
    let (contenders, foreign) = (&json["contenders"], &json["foreign_keys"]);
    assert_eq!((&contenders[0]["position"], &contenders[1]), (&1.into(), &Value::Null));
    assert_eq!((&foreign[0]["position"], &foreign[1]), (&0.into(), &Value::Null));
    assert_eq!((&foreign[0]["key"], &foreign[0]["lease"]), (&"jobs/by-hand".into(), &Value::Null));
    assert_eq!(foreign[0]["fencing_token"], Value::Null);
}

/// The keys of the queue `jobs`, without the keys of child names.
async fn queue_keys(server: &Server) -> Vec<String> {
    let mut keys = server.keys("jobs/").await;
    keys.retain(|key| !key.contains("night"));
    keys
}

/// Waits until the queue `jobs` has this many contenders, without contenders of child names.
async fn wait_own_length(server: &Server, length: usize) {
    crate::program::wait_until("the queue has this length", async || {
        queue_keys(server).await.len() == length
    })
    .await;
}
