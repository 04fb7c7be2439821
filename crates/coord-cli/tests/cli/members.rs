//! `coord members`.

use coord_core::Session;
use coord_core::recipes::Membership;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::program::{AVAILABLE, Server};

crate::tests![
    members_lists_ids_and_metadata_in_order,
    members_json_lists_every_field,
    members_of_an_empty_group_has_own_exit_status,
    members_watch_prints_a_line_per_event,
    members_watch_prints_json_per_event,
];

async fn session(server: &Server) -> Session {
    Session::builder(&server.client).open().await.expect(AVAILABLE)
}

fn group(server: &Server) -> Membership<String> {
    Membership::new(&server.client, "nodes")
}

async fn members_lists_ids_and_metadata_in_order(server: Server) {
    let session = session(&server).await;
    let first = group(&server).join(&session, &"b:80".to_owned()).await.expect(AVAILABLE);
    let second = group(&server).join(&session, &"a\n:80".to_owned()).await.expect(AVAILABLE);
    let (status, stdout, stderr) = server.coord(&["members", "nodes"]).end().await;
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    let rows: Vec<Vec<_>> =
        stdout.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows, [[first.id(), "1", "b:80"], [second.id(), "0", "a\\n:80"]]);
    // A group is no lock.
    let (status, stdout, _) = server.coord(&["list"]).end().await;
    assert_eq!((status, stdout.as_str()), (Some(4), ""));
    session.close().await.expect(AVAILABLE);
}

async fn members_json_lists_every_field(server: Server) {
    let session = session(&server).await;
    let member = group(&server).join(&session, &"one".to_owned()).await.expect(AVAILABLE);
    let updated = member.update(&"two".to_owned()).await.expect(AVAILABLE).revision.0;
    let (status, stdout, _) = server.coord(&["members", "nodes", "--json"]).end().await;
    let shown: Value = serde_json::from_str(&stdout).expect("it is JSON");
    let expected = json!({ "name": "nodes", "revision": updated, "members": [{
        "id": member.id(),
        "key": member.key().escape_ascii().to_string(),
        "metadata": "two",
        "create_revision": member.create_revision().0,
        "mod_revision": updated,
        "lease": session.lease_id().to_string(),
    }]});
    assert_eq!((status, shown), (Some(0), expected));
    session.close().await.expect(AVAILABLE);
}

async fn members_of_an_empty_group_has_own_exit_status(server: Server) {
    let none = (Some(4), String::new(), "coord members: nodes has no member\n".to_owned());
    assert_eq!(server.coord(&["members", "nodes"]).end().await, none);
    let (status, stdout, stderr) = server.coord(&["members", "nodes", "--json"]).end().await;
    let shown: Value = serde_json::from_str(&stdout).expect("it is JSON");
    assert_eq!((status, &shown["members"], stderr.as_str()), (Some(4), &json!([]), ""));
}

async fn members_watch_prints_a_line_per_event(server: Server) {
    let session = session(&server).await;
    let first = group(&server).join(&session, &"one".to_owned()).await.expect(AVAILABLE);
    let mut watching = server.coord(&["members", "nodes", "--watch"]);
    assert_eq!(watching.line().await, format!("joined {} one", first.id()));
    let second = group(&server).join(&session, &"two".to_owned()).await.expect(AVAILABLE);
    assert_eq!(watching.line().await, format!("joined {} two", second.id()));
    second.update(&"three".to_owned()).await.expect(AVAILABLE);
    assert_eq!(watching.line().await, format!("updated {} three", second.id()));
    let id = first.id().to_owned();
    first.leave().await.expect(AVAILABLE);
    assert_eq!(watching.line().await, format!("left {id} one"));
    watching.signal(Signal::TERM);
    assert_eq!(watching.end().await, (Some(0), String::new(), String::new()));
    session.close().await.expect(AVAILABLE);
}

async fn members_watch_prints_json_per_event(server: Server) {
    let session = session(&server).await;
    let member = group(&server).join(&session, &"one".to_owned()).await.expect(AVAILABLE);
    let mut watching = server.coord(&["members", "nodes", "--watch", "--json"]);
    let shown: Value = serde_json::from_str(&watching.line().await).expect("it is JSON");
    assert_eq!((&shown["event"], &shown["member"]["id"]), (&json!("joined"), &json!(member.id())));
    assert_eq!(shown.get("gap"), None);
    session.close().await.expect(AVAILABLE);
    let shown: Value = serde_json::from_str(&watching.line().await).expect("it is JSON");
    let newest = shown["revision"].as_i64().expect("a number");
    assert_eq!(shown["event"], "left");
    assert!(newest > member.create_revision().0, "{shown}");
    watching.signal(Signal::INT);
    assert_eq!(watching.status().await, Some(0));
}
