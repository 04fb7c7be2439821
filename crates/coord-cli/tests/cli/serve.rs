//! `coord serve`, with the `etcdctl` of each release as its client.

use coord_core::{
    Client,
    error::ErrorKind,
    kv::{Put, Txn, Watch},
};
use coord_etcd::EtcdBackend;
use rustix::process::Signal;
use tokio::process::Command;

use crate::program::{AVAILABLE, Program, Server, coord};

crate::tests![
    first_line_names_the_address_that_etcdctl_can_use,
    coord_commands_run_on_coord_serve,
    signal_stops_the_server_despite_open_watches,
    address_in_use_is_refused_with_an_exit_status,
    history_beyond_retain_revisions_is_compacted,
    requests_beyond_the_limits_are_refused,
    idle_watch_receives_progress_at_the_chosen_interval,
];

/// Starts `coord serve` on a free port. Returns it and its address.
pub(crate) async fn start_serve(flags: &[&str]) -> (Program, String) {
    let mut command = coord();
    command.args(["serve", "--listen", "127.0.0.1:0"]).args(flags);
    let mut program = Program::start(command);
    let line = program.line().await;
    let address =
        line.strip_prefix("coord: serving etcd v3 API on ").expect("the documented first line");
    (program, address.to_owned())
}

/// Starts `etcdctl` on the server at an address.
pub(crate) fn etcdctl(server: &Server, address: &str, arguments: &[&str]) -> Program {
    let mut command = Command::from(server.release.etcdctl());
    command.args(["--endpoints", address]).args(arguments);
    Program::start(command)
}

async fn first_line_names_the_address_that_etcdctl_can_use(server: Server) {
    let (program, address) = start_serve(&[]).await;
    assert!(address.starts_with("127.0.0.1:") && !address.ends_with(":0"), "{address}");
    let put = etcdctl(&server, &address, &["put", "hello", "world"]).end().await;
    assert_eq!(put.1, "OK\n");
    let got = etcdctl(&server, &address, &["get", "hello"]).end().await;
    assert_eq!(got.1, "hello\nworld\n");
    program.signal(Signal::INT);
    assert_eq!(program.end().await, (Some(0), String::new(), String::new()));
}

async fn coord_commands_run_on_coord_serve(server: Server) {
    let (program, address) = start_serve(&[]).await;
    let store = ["--endpoints", address.as_str()];
    let holder = ["lock", "jobs", "--", "sh", "-c", crate::lock::RUN_UNTIL_EOF];
    let mut holder = server.coord(&[&with_store_flags(&store, "lock")[..], &holder[1..]].concat());
    assert_eq!(holder.line().await, "runs");
    let waiter = etcdctl(&server, &address, &["lock", "jobs"]);
    crate::program::wait_until("both are queued", async || {
        let who = server.coord(&[&with_store_flags(&store, "who")[..], &["jobs"]].concat());
        who.end().await.1.lines().count() == 3
    })
    .await;
    holder.close_input();
    assert_eq!(holder.status().await, Some(0));
    drop(waiter);
    program.signal(Signal::TERM);
    assert_eq!(program.status().await, Some(0));
}

/// A subcommand followed by the flags of its store.
fn with_store_flags<'a>(store: &[&'a str], subcommand: &'a str) -> Vec<&'a str> {
    [&[subcommand], store].concat()
}

async fn signal_stops_the_server_despite_open_watches(server: Server) {
    for signal in [Signal::INT, Signal::TERM] {
        let (program, address) = start_serve(&[]).await;
        let mut watcher = etcdctl(&server, &address, &["watch", "hello"]);
        etcdctl(&server, &address, &["put", "hello", "world"]).status().await;
        crate::program::wait_until("the watch is registered", async || {
            etcdctl(&server, &address, &["put", "hello", "again"]).status().await;
            watcher.has_output().await
        })
        .await;
        program.signal(signal);
        assert_eq!(program.end().await, (Some(0), String::new(), String::new()));
    }
}

async fn address_in_use_is_refused_with_an_exit_status(_: Server) {
    let (program, address) = start_serve(&[]).await;
    let mut command = coord();
    command.args(["serve", "--listen", &address]);
    let (status, stdout, stderr) = Program::start(command).end().await;
    assert_eq!((status, stdout.as_str()), (Some(1), ""));
    assert!(stderr.starts_with(&format!("coord serve: listen on {address}: ")), "{stderr}");
    program.signal(Signal::TERM);
    assert_eq!(program.status().await, Some(0));
}

async fn history_beyond_retain_revisions_is_compacted(server: Server) {
    let (program, address) = start_serve(&["--retain-revisions", "3"]).await;
    for _ in 0..20 {
        etcdctl(&server, &address, &["put", "hello", "world"]).status().await;
    }
    let (status, _, stderr) =
        etcdctl(&server, &address, &["get", "hello", "--rev", "3"]).end().await;
    assert_ne!(status, Some(0));
    assert!(stderr.contains("required revision has been compacted"), "{stderr}");
    program.signal(Signal::TERM);
    assert_eq!(program.status().await, Some(0));
}

async fn requests_beyond_the_limits_are_refused(server: Server) {
    let (program, address) =
        start_serve(&["--max-request-bytes", "1000", "--max-txn-ops", "2"]).await;
    let (few, many) = ("x".repeat(900), "x".repeat(1000));
    let put = etcdctl(&server, &address, &["put", "hello", &few]).end().await;
    assert_eq!(put.1, "OK\n");
    let (status, _, stderr) = etcdctl(&server, &address, &["put", "hello", &many]).end().await;
    assert_ne!(status, Some(0));
    assert!(stderr.contains("etcdserver: request is too large"), "{stderr}");
    // The limit of this client is higher, so that the server refuses.
    let client = Client::new(EtcdBackend::connect([&address]).await.expect(AVAILABLE));
    let puts = |n: usize| Txn::new().and_then((0..n).map(|n| Put::new(n.to_string(), "")));
    client.txn(puts(2)).await.expect(AVAILABLE);
    let refused = client.txn(puts(3)).await.expect_err("three are more than two");
    assert_eq!(refused.kind(), ErrorKind::TooManyOps);
    program.signal(Signal::TERM);
    assert_eq!(program.status().await, Some(0));
}

/// Regression: an interval of 0 caused a panic. It means every millisecond.
async fn idle_watch_receives_progress_at_the_chosen_interval(_: Server) {
    for interval in ["20ms", "0"] {
        let (program, address) = start_serve(&["--watch-progress-notify-interval", interval]).await;
        let client = Client::new(EtcdBackend::connect([&address]).await.expect(AVAILABLE));
        let request = Watch::new("hello").with_progress_notify();
        let mut watch = client.watch(request).await.expect(AVAILABLE);
        let newest = client.put("elsewhere", "").await.expect(AVAILABLE).header.revision;
        crate::program::wait_until("the watch receives the newest revision", async || {
            let batch = watch.next().await.expect("the watch continues").expect(AVAILABLE);
            assert!(batch.events.is_empty(), "{batch:?}");
            batch.revision == newest
        })
        .await;
        drop((watch, client));
        program.signal(Signal::TERM);
        assert_eq!(program.status().await, Some(0));
    }
}
