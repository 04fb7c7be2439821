//! HTTP endpoints: health checks, version and metrics.

use coord_etcd_tests::create_watch;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, sleep, timeout};

use crate::kv::put;
use crate::scenario_run::ScenarioRun;

/// Sends an HTTP/1.1 request. Returns the status line, selected headers and the body of the
/// response.
async fn fetch(run: &ScenarioRun, method: &str, path: &str) -> (String, String, String) {
    let address = run.endpoint().trim_start_matches("http://").to_owned();
    let mut socket = TcpStream::connect(&address).await.unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n");
    let request = head + "Connection: close\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    socket.read_to_end(&mut response).await.unwrap();
    let response = String::from_utf8(response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let mut head = head.lines();
    let status = head.next().unwrap().to_owned();
    let named = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        ["content-type", "allow"].contains(&&*name.to_lowercase()).then(|| value.to_owned())
    };
    let mut kinds: Vec<_> = head.filter_map(named).collect();
    kinds.sort();
    (status, kinds.join(", "), body.to_owned())
}

/// Records the response at a path.
pub(crate) async fn note(run: &mut ScenarioRun, path: &str) {
    let response = fetch(run, "GET", path).await;
    run.note(path, response);
}

pub(crate) async fn pages(run: &mut ScenarioRun) {
    for method in ["GET", "POST", "HEAD", "PUT"] {
        for path in ["/health", "/version", "/nowhere"] {
            let (status, kind, mut text) = fetch(run, method, path).await;
            if path == "/version" && method == "GET" {
                // The patch version may differ.
                text = text
                    .split(r#""etcdcluster""#)
                    .next()
                    .unwrap_or_default()
                    .replace(|c: char| c.is_ascii_digit(), "n");
            }
            run.note(&format!("{method} {path}"), (status, kind, text));
        }
    }
    for path in ["/", "/v2/keys", "/health/", "/health?serializable=true"] {
        let response = fetch(run, "GET", path).await;
        run.note(path, response);
    }
    let (status, kind, text) = fetch(run, "GET", "/metrics").await;
    run.note("/metrics", (status, kind.split("; escaping").next()));
    for metric in [
        "etcd_server_has_leader 1",
        "etcd_server_is_leader 1",
        "etcd_server_is_learner 0",
        "etcd_server_version{server_version=\"3.",
        "etcd_cluster_version{cluster_version=\"3.",
        "etcd_debugging_mvcc_current_revision 1",
    ] {
        run.note(metric, text.lines().any(|line| line.starts_with(metric)));
    }
}

/// Records whether the gauges reach these values within 5 s. The server detects closed streams with
/// a delay.
async fn note_gauges(run: &mut ScenarioRun, what: &str, streams: usize, watches: usize) {
    let lines = [
        format!("etcd_debugging_mvcc_watch_stream_total {streams}"),
        format!("etcd_debugging_mvcc_watcher_total {watches}"),
    ];
    let reach_values = async {
        loop {
            let (_, _, text) = fetch(run, "GET", "/metrics").await;
            if lines.iter().all(|line| text.lines().any(|metric| metric == line)) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let reached = timeout(Duration::from_secs(5), reach_values).await.is_ok();
    run.note(what, (lines, reached));
}

pub(crate) async fn watch_gauges(run: &mut ScenarioRun) {
    note_gauges(run, "no watches", 0, 0).await;
    for _ in 0..3 {
        run.put("put", put("a", "1")).await;
    }
    run.compact("compact", 3, true).await;
    let (mut one, mut other) = (run.watch().await, run.watch().await);
    for stream in [&mut one, &mut other] {
        stream.send_request(create_watch!("a"));
        run.next("create", stream).await;
        stream.send_request(create_watch!("a", range_end: b"c".to_vec()));
        run.next("create", stream).await;
    }
    note_gauges(run, "two on each stream", 2, 4).await;
    one.send_request(create_watch!("c", range_end: b"a".to_vec()));
    run.next("rejected", &mut one).await;
    note_gauges(run, "a rejected watch does not count", 2, 4).await;
    one.send_request(create_watch!("a", start_revision: 1));
    run.next("create", &mut one).await;
    run.next("compacted", &mut one).await;
    note_gauges(run, "a compacted watch counts", 2, 5).await;
    one.cancel(2);
    run.next("cancel it", &mut one).await;
    one.cancel(0);
    run.next("cancel", &mut one).await;
    note_gauges(run, "two watches cancelled", 2, 3).await;
    drop(other);
    note_gauges(run, "one stream closed", 1, 1).await;
    drop(one);
    note_gauges(run, "no watches", 0, 0).await;
}

pub(crate) async fn probes(run: &mut ScenarioRun) {
    for method in ["GET", "POST", "HEAD"] {
        for path in ["/livez", "/readyz", "/livez?verbose", "/livez/serializable_read?verbose"] {
            let response = fetch(run, method, path).await;
            run.note(&format!("{method} {path}"), response);
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
        let response = fetch(run, "GET", path).await;
        run.note(path, response);
    }
    // The order of the checks is not specified.
    let (status, kind, text) = fetch(run, "GET", "/readyz?verbose").await;
    let lines: std::collections::BTreeSet<_> = text.lines().collect();
    run.note("/readyz?verbose", (status, kind, lines));
}
