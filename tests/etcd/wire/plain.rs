//! What is asked without gRPC.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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
