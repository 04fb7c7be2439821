//! Differential test of coord's server against a real etcd, message by message, over real sockets.
//!
//! A scenario is a script of calls by a raw gRPC client, so that requests can also be malformed.
//! Each scenario runs on a new etcd and on a new `coord-server` over an in-memory store, and the
//! two transcripts must be equal in every field, apart from the values of the cluster id, the
//! member id and the Raft term. So etcd proves what coord's server has to do.
//! [`DIFFERENCES`] lists the lines that differ, deliberately or in an older etcd, with the reasons.
//! A listed line must differ, and its label must be unique in its scenario, so that no other line
//! is excused.
#![expect(clippy::unwrap_used, reason = "a call that fails fails the test")]

mod compression;
mod http_endpoints;
mod kv;
mod lease;
mod limits;
mod member;
mod random_requests;
mod scenario_run;
mod txn;
mod watch_events;
mod watch_requests;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use coord_etcd_tests::test_server::TestServer;
use coord_etcd_tests::{ClusterBuilder, Release};
use coord_mem::MemBackend;
use coord_server::{Server, ServerBuilder};
use futures_util::future::BoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};

use crate::scenario_run::ScenarioRun;

/// A scenario: a script of calls, and the settings of the servers on which it runs.
struct Scenario {
    name: &'static str,
    script: for<'a> fn(&'a mut ScenarioRun) -> BoxFuture<'a, ()>,
    /// A command-line argument of etcd.
    etcd_argument: Option<&'static str>,
    /// The corresponding setting of coord's server.
    configure: fn(ServerBuilder) -> ServerBuilder,
}

/// `scenarios![kv: puts, …]` builds one scenario per function, named `kv::puts`. Brackets contain
/// the settings of the servers.
macro_rules! scenarios {
    ($($module:ident: $($name:ident $([$argument:literal, $configure:expr])?),+;)+) => {
        &[$($(Scenario {
            name: concat!(stringify!($module), "::", stringify!($name)),
            script: |run| Box::pin($module::$name(run)),
            etcd_argument: scenarios!(@argument $($argument)?),
            configure: scenarios!(@configure $($configure)?),
        },)+)+]
    };
    (@argument) => { None };
    (@argument $argument:literal) => { Some($argument) };
    (@configure) => { |server| server };
    (@configure $configure:expr) => { $configure };
}

const SCENARIOS: &[Scenario] = scenarios![
    kv: puts, reads, sorts, deletes, compactions, sizes, large_responses;
    txn: compares, steps, rejections, duplicates, history, depths;
    lease: grants, attached_keys, keep_alives, list_order, expiry;
    limits:
        small_requests ["--max-request-bytes=10000", |server| server.max_request_bytes(10_000)],
        large_and_invalid ["--max-request-bytes=10000", |server| server.max_request_bytes(10_000)],
        max_streams ["--max-concurrent-streams=2", |server| server.max_streams(2)],
        notifications [
            "--experimental-watch-progress-notify-interval=600ms",
            |server| server.progress_interval(Duration::from_millis(600))
        ],
        no_notifications [
            "--experimental-watch-progress-notify-interval=2000000h",
            |server| server.progress_interval(Duration::MAX)
        ];
    watch_requests: ids, rejections, starts, cancels, half_closed;
    watch_requests: progress, progress_after_future_watch, progress_during_future_watch;
    watch_requests: progress_before_other_requests, progress_without_watches;
    watch_events: events, filters, prev_kvs, fragments, shared_keys, long_history;
    member: maintenance, alarms, operations, cluster, auth, health, unknown;
    http_endpoints: pages, watch_gauges, probes;
    compression: gzip;
    random_requests: random_sequence;
];

/// A line that differs between the transcripts of etcd and of coord's server.
struct Difference {
    /// The minor version of etcd; empty for all versions.
    minor: &'static str,
    scenario: &'static str,
    /// The label of the line, which no other line of the scenario has.
    line: &'static str,
    reason: &'static str,
}

const ONE_MEMBER: &str = "coord's server has one member, and its membership cannot change";
const NO_USERS: &str = "coord's server has no users and no roles";
const CHANGED_AFTER_3_4: &str = "etcd fixed or added it after 3.4.23";

/// `differences![minor scenario: lines => reason; …]` builds one entry per line.
macro_rules! differences {
    ($($minor:literal $scenario:literal: $($line:literal),+ => $reason:expr;)+) => {
        &[$($(Difference { minor: $minor, scenario: $scenario, line: $line, reason: $reason },)+)+]
    };
}

const DIFFERENCES: &[Difference] = differences![
    "" "member::cluster": "add" => ONE_MEMBER;
    "" "member::operations": "snapshot" => "the in-memory store has no files";
    "" "member::operations":
        "empty version", "malformed version", "too low", "higher version",
        "no downgrade in progress", "unknown"
        => "coord's server has one version";
    "" "member::auth": "enable", "disable", "users", "add a user", "add a role" => NO_USERS;
    "" "member::unknown": "malformed" => "the error messages of the decoders differ";
    "" "txn::depths": "nested too deep" => "prost decodes at most 100 nested messages";
    "3.5" "member::maintenance": "hash of revision 2"
        => "at the compact revision, etcd hashes with the previous compact revision";
    "3.4" "member::maintenance": "hash of revision 2", "version" => CHANGED_AFTER_3_4;
    "3.4" "member::auth": "status" => CHANGED_AFTER_3_4;
    "3.4" "member::unknown":
        "/etcdserverpb.KV", "/unknown", "/", "/grpc.health.v1.Health/List" => CHANGED_AFTER_3_4;
    "3.4" "http_endpoints::pages": "GET /health", "/health?serializable=true" => CHANGED_AFTER_3_4;
    "3.4" "watch_requests::rejections":
        "a negative start", "the least start", "negative and backwards", "taken and negative"
        => CHANGED_AFTER_3_4;
    "3.4" "watch_requests::progress_after_future_watch":
        "cancel, without progress before", "progress" => CHANGED_AFTER_3_4;
    "3.4" "watch_requests::progress_during_future_watch":
        "create, without progress before", "progress once the future revision exists",
        "no second progress"
        => CHANGED_AFTER_3_4;
    "3.4" "watch_requests::progress_without_watches": "no progress without watches"
        => CHANGED_AFTER_3_4;
];

/// Scenarios that a minor version of etcd does not support.
const UNSUPPORTED: &[(&str, &str)] =
    &[("3.4", "compression::gzip"), ("3.4", "member::alarms"), ("3.4", "http_endpoints::probes")];

fn main() -> ExitCode {
    Release::run_on_all(|releases| {
        let trials = releases.iter().flat_map(|release| {
            let minor = release.minor();
            let is_supported =
                |scenario: &&Scenario| !UNSUPPORTED.contains(&(&*minor, scenario.name));
            let scenarios: Vec<_> = SCENARIOS.iter().filter(is_supported).collect();
            scenarios.into_iter().map(|scenario| {
                let release = release.clone();
                let name = format!("etcd-{}::{}", release.minor(), scenario.name);
                Trial::test(name, || compare(release, scenario))
            })
        });
        let mut arguments = Arguments::from_args();
        // Not the number of cores, because the tests mostly wait for etcd to start.
        arguments.test_threads = arguments.test_threads.or(Some(6));
        libtest_mimic::run(&arguments, trials.collect()).exit_code()
    })
}

/// Runs a scenario on both servers, and compares the transcripts.
fn compare(release: Release, scenario: &'static Scenario) -> Result<(), Failed> {
    let runtime = tokio::runtime::Runtime::new()?;
    let (etcd, coord) = runtime.block_on(async {
        let builder = ClusterBuilder::new(release.clone());
        let builder = scenario.etcd_argument.into_iter().fold(builder, ClusterBuilder::argument);
        let cluster = builder.start().await;
        let etcd = transcript(&cluster.endpoints()[0], scenario).await;
        drop(cluster);
        let builder = (scenario.configure)(Server::builder(MemBackend::new()));
        let server = TestServer::start(builder).await;
        let coord = transcript(server.endpoint(), scenario).await;
        (etcd, coord)
    });
    let expected = DIFFERENCES.iter().filter(|difference| {
        difference.scenario == scenario.name && release.minor().starts_with(difference.minor)
    });
    let expected: Vec<_> = expected.collect();
    let mut errors = Vec::new();
    if etcd.len() != coord.len() {
        errors.push(format!("{} lines from etcd, {} from coord", etcd.len(), coord.len()));
    }
    for Difference { line, .. } in &expected {
        let count = etcd.iter().filter(|(label, _)| label == line).count();
        if count != 1 {
            errors
                .push(format!("{line}: listed as a difference, but {count} lines have the label"));
        }
    }
    let mismatches = etcd.iter().zip(&coord).filter(|(etcd, coord)| etcd != coord);
    let mut found = BTreeSet::new();
    for ((line, etcd), (_, coord)) in mismatches {
        if expected.iter().any(|difference| difference.line == line) {
            found.insert(line);
        } else {
            errors.push(format!("{line}\n    etcd  {etcd}\n    coord {coord}"));
        }
    }
    let missing = expected.iter().filter(|difference| !found.contains(&difference.line.to_owned()));
    errors.extend(missing.map(|Difference { line, reason, .. }| {
        format!("{line}: expected to differ, but does not: {reason}")
    }));
    if errors.is_empty() { Ok(()) } else { Err(errors.join("\n").into()) }
}

async fn transcript(endpoint: &str, scenario: &Scenario) -> Vec<(String, String)> {
    let mut run = ScenarioRun::connect(endpoint).await;
    (scenario.script)(&mut run).await;
    run.transcript()
}
