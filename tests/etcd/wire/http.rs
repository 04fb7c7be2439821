//! What is asked without gRPC.

use coord_etcd_tests::create;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, sleep, timeout};

use crate::kv::put;
use crate::play::Play;

/// Asks for a page, and gives its status, its type, and its text.
async fn page(play: &Play, method: &str, path: &str) -> (String, String, String) {
    let address = play.endpoint().trim_start_matches("http://").to_owned();
    let mut socket = TcpStream::connect(&address).await.expect("the server is there");
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n");
    let request = head + "Connection: close\r\n\r\n";
    socket.write_all(request.as_bytes()).await.expect("it is read");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.expect("it is answered");
    let answer = String::from_utf8(answer).expect("a text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let mut head = head.lines();
    let status = head.next().expect("a status").to_owned();
    let named = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        ["content-type", "allow"].contains(&&*name.to_lowercase()).then(|| value.to_owned())
    };
    let mut kinds: Vec<_> = head.filter_map(named).collect();
    kinds.sort();
    (status, kinds.join(", "), body.to_owned())
}

/// Writes down what is at this path.
pub(crate) async fn note(play: &mut Play, path: &str) {
    let answer = page(play, "GET", path).await;
    play.note(path, answer);
}

pub(crate) async fn pages(play: &mut Play) {
    for method in ["GET", "POST", "HEAD", "PUT"] {
        for path in ["/health", "/version", "/nowhere"] {
            let (status, kind, mut text) = page(play, method, path).await;
            if path == "/version" && method == "GET" {
                // Which patch it is may differ.
                text = text
                    .split(r#""etcdcluster""#)
                    .next()
                    .unwrap_or_default()
                    .replace(|c: char| c.is_ascii_digit(), "n");
            }
            play.note(&format!("{method} {path}"), (status, kind, text));
        }
    }
    for path in ["/", "/v2/keys", "/health/", "/health?serializable=true"] {
        let answer = page(play, "GET", path).await;
        play.note(path, answer);
    }
    let (status, kind, text) = page(play, "GET", "/metrics").await;
    play.note("/metrics", (status, kind.split("; escaping").next()));
    for metric in [
        "etcd_server_has_leader 1",
        "etcd_server_is_leader 1",
        "etcd_server_is_learner 0",
        "etcd_server_version{server_version=\"3.",
        "etcd_cluster_version{cluster_version=\"3.",
        "etcd_debugging_mvcc_current_revision 1",
    ] {
        play.note(metric, text.lines().any(|line| line.starts_with(metric)));
    }
}

/// Waits until the server counts so many, and writes down that it does: clients that leave are not
/// waited for by anybody else.
async fn counted(play: &mut Play, what: &str, streams: usize, watches: usize) {
    let lines = [
        format!("etcd_debugging_mvcc_watch_stream_total {streams}"),
        format!("etcd_debugging_mvcc_watcher_total {watches}"),
    ];
    let counted = async {
        loop {
            let (_, _, text) = page(play, "GET", "/metrics").await;
            if lines.iter().all(|line| text.lines().any(|told| told == line)) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let counted = timeout(Duration::from_secs(5), counted).await.is_ok();
    play.note(what, (lines, counted));
}

pub(crate) async fn watchers(play: &mut Play) {
    counted(play, "nobody", 0, 0).await;
    for _ in 0..3 {
        play.put("put", put("a", "1")).await;
    }
    play.compact("compact", 3, true).await;
    let (mut one, mut other) = (play.watch().await, play.watch().await);
    for talk in [&mut one, &mut other] {
        talk.union(create!("a"));
        play.next("create", talk).await;
        talk.union(create!("a", range_end: b"c".to_vec()));
        play.next("create", talk).await;
    }
    counted(play, "two on each stream", 2, 4).await;
    one.union(create!("c", range_end: b"a".to_vec()));
    play.next("refused", &mut one).await;
    counted(play, "who is refused does not count", 2, 4).await;
    one.union(create!("a", start_revision: 1));
    play.next("create", &mut one).await;
    play.next("compacted", &mut one).await;
    counted(play, "a compacted one does", 2, 5).await;
    one.cancel(2);
    play.next("cancel it", &mut one).await;
    one.cancel(0);
    play.next("cancel", &mut one).await;
    counted(play, "two went", 2, 3).await;
    drop(other);
    counted(play, "a stream went", 1, 1).await;
    drop(one);
    counted(play, "nobody", 0, 0).await;
}

pub(crate) async fn probes(play: &mut Play) {
    for method in ["GET", "POST", "HEAD"] {
        for path in ["/livez", "/readyz", "/livez?verbose", "/livez/serializable_read?verbose"] {
            let answer = page(play, method, path).await;
            play.note(&format!("{method} {path}"), answer);
        }
    }
    for path in [
        "/livez/",
        "/readyz/",
        "/livez/linearizable_read",
        "/readyz/linearizable_read?verbose",
        "/readyz/data_corruption",
        "/readyz?exclude=linearizable_read",
    ] {
        let answer = page(play, "GET", path).await;
        play.note(path, answer);
    }
    // What is looked at is told in no order.
    let (status, kind, text) = page(play, "GET", "/readyz?verbose").await;
    let lines: std::collections::BTreeSet<_> = text.lines().collect();
    play.note("/readyz?verbose", (status, kind, lines));
}
