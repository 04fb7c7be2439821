//! Differential test of our server against a real etcd, message by message, over real sockets.
//!
//! A scenario is a script of calls that a raw gRPC client sends: no client library interferes, and
//! requests can be malformed. Each scenario runs on a fresh etcd and on a fresh `coord-server` over
//! an in-memory store, and the two transcripts must be equal in every field. So etcd proves the
//! scenario's expectations, and the scenario proves the server. Lines that differ, deliberately or
//! in an older etcd, are listed here with the reason; a listed line must differ.

mod compressed;
mod http;
mod kv;
mod lease;
mod limits;
mod member;
mod random;
mod run;
mod txn;
mod watch;
mod watch_live;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use coord_etcd_tests::serve::Served;
use coord_etcd_tests::{Release, Setup};
use coord_mem::MemBackend;
use coord_server::{Server, ServerBuilder};
use futures_util::future::BoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};

use crate::run::ScenarioRun;

/// One scenario: a script of calls, and the settings of the servers that it runs on.
struct Scenario {
    name: &'static str,
    script: for<'a> fn(&'a mut ScenarioRun) -> BoxFuture<'a, ()>,
    /// The command-line argument for etcd, and the corresponding setting of our server.
    argument: Option<&'static str>,
    ours: fn(ServerBuilder) -> ServerBuilder,
}

/// `scenarios![kv: puts, …]` builds one scenario per function, named after it. Brackets contain the
/// settings of the servers.
macro_rules! scenarios {
    ($($module:ident: $($name:ident $([$argument:literal, $ours:expr])?),+;)+) => {
        &[$($(Scenario {
            name: concat!(stringify!($module), "::", stringify!($name)),
            script: |run| Box::pin($module::$name(run)),
            argument: scenarios!(@argument $($argument)?),
            ours: scenarios!(@ours $($ours)?),
        },)+)+]
    };
    (@argument) => { None };
    (@argument $argument:literal) => { Some($argument) };
    (@ours) => { |server| server };
    (@ours $ours:expr) => { $ours };
}

const SCENARIOS: &[Scenario] = scenarios![
    kv: puts, reads, sorts, deletes, compactions, sizes, large_answers;
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
    watch: ids, rejections, starts, cancels, half_closed;
    watch: progress, progress_after_future_watch, progress_during_future_watch;
    watch: progress_before_other_requests, progress_without_watches;
    watch_live: events, filters, prev_kvs, fragments, shared_keys, long_history;
    member: maintenance, alarms, operations, cluster, auth, health, unknown;
    http: endpoints, watch_gauges, probes;
    compressed: gzip;
    random: requests;
];

/// A line of a transcript that may differ, and must.
struct Difference {
    /// The minor version of etcd; empty for all.
    minor: &'static str,
    scenario: &'static str,
    /// The label of the line.
    line: &'static str,
    reason: &'static str,
}

const ONE_MEMBER: &str = "the membership of a cluster of one member cannot change";
const NO_USERS: &str = "there are no users and no roles";
const SINCE_3_4: &str = "fixed or added after 3.4.23";

/// `differences![minor scenario: lines => reason, …]`.
macro_rules! differences {
    ($($minor:literal $scenario:literal: $($line:literal),+ => $reason:expr;)+) => {
        &[$($(Difference { minor: $minor, scenario: $scenario, line: $line, reason: $reason },)+)+]
    };
}

const DIFFERENCES: &[Difference] = differences![
    "" "member::cluster": "add" => ONE_MEMBER;
    "" "member::operations": "snapshot" => "there are no files to snapshot";
    "" "member::operations":
        "empty version", "malformed version", "too low", "higher version",
        "no downgrade in progress", "unknown"
        => "there is no other version to downgrade to";
    "" "member::auth": "enable", "disable", "users", "add a user", "add a role" => NO_USERS;
    "" "member::unknown": "malformed" => "the decoders have different messages";
    "" "txn::depths": "nested too deep" => "prost decodes at most 100 nested messages";
    "3.5" "member::maintenance": "hash of revision 2"
        => "for a compacted revision, etcd hashes with the previous compact revision";
    "3.4" "member::maintenance": "hash of revision 2", "version" => SINCE_3_4;
    "3.4" "member::auth": "status" => SINCE_3_4;
    "3.4" "member::unknown":
        "/etcdserverpb.KV", "/unknown", "/", "/grpc.health.v1.Health/List" => SINCE_3_4;
    "3.4" "http::endpoints": "GET /health", "/health?serializable=true" => SINCE_3_4;
    "3.4" "watch::rejections":
        "a negative start", "the least start", "negative and backwards", "taken and negative"
        => SINCE_3_4;
    "3.4" "watch::progress_after_future_watch":
        "cancel, without progress before", "progress" => SINCE_3_4;
    "3.4" "watch::progress_during_future_watch":
        "create", "progress once the future revision exists", "no second progress" => SINCE_3_4;
    "3.4" "watch::progress_without_watches": "no progress without watches" => SINCE_3_4;
];

/// Scenarios that a version of etcd does not support.
const UNSUPPORTED: &[(&str, &str)] =
    &[("3.4", "compressed::gzip"), ("3.4", "member::alarms"), ("3.4", "http::probes")];

fn main() -> ExitCode {
    Release::run_on_all(|releases| {
        let trials = releases.iter().flat_map(|release| {
            let minor = release.minor();
            let known = |scenario: &&Scenario| !UNSUPPORTED.contains(&(&*minor, scenario.name));
            let scenarios: Vec<_> = SCENARIOS.iter().filter(known).collect();
            scenarios.into_iter().map(|scenario| {
                let release = release.clone();
                let name = format!("etcd-{}::{}", release.minor(), scenario.name);
                Trial::test(name, || compare(release, scenario))
            })
        });
        let mut arguments = Arguments::from_args();
        // Starting an etcd is mostly waiting, so more tests run in parallel than there are cores.
        arguments.test_threads = arguments.test_threads.or(Some(6));
        libtest_mimic::run(&arguments, trials.collect()).exit_code()
    })
}

/// Runs a scenario on both servers, and compares the transcripts.
fn compare(release: Release, scenario: &'static Scenario) -> Result<(), Failed> {
    let runtime = tokio::runtime::Runtime::new()?;
    let (theirs, ours) = runtime.block_on(async {
        let setup = Setup::new(release.clone());
        let setup = scenario.argument.into_iter().fold(setup, Setup::argument);
        let etcd = setup.start().await;
        let theirs = transcript(&etcd.endpoints()[0], scenario).await;
        drop(etcd);
        let server = Served::start((scenario.ours)(Server::builder(MemBackend::new()))).await;
        let ours = transcript(server.endpoint(), scenario).await;
        (theirs, ours)
    });
    let mut faults = Vec::new();
    let known = DIFFERENCES.iter().filter(|known| {
        known.scenario == scenario.name && release.minor().starts_with(known.minor)
    });
    let known: Vec<_> = known.collect();
    if theirs.len() != ours.len() {
        faults.push(format!("{} lines from etcd, {} from our server", theirs.len(), ours.len()));
    }
    let differ = theirs.iter().zip(&ours).filter(|(theirs, ours)| theirs != ours);
    let mut met = BTreeSet::new();
    for ((line, theirs), (_, ours)) in differ {
        if known.iter().any(|known| known.line == line) {
            met.insert(line);
        } else {
            faults.push(format!("{line}\n    etcd {theirs}\n    ours {ours}"));
        }
    }
    let unmet = known.iter().filter(|known| !met.contains(&known.line.to_owned()));
    faults.extend(unmet.map(|known| format!("{}: does not differ: {}", known.line, known.reason)));
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}

async fn transcript(endpoint: &str, scenario: &Scenario) -> Vec<(String, String)> {
    let mut run = ScenarioRun::at(endpoint).await;
    (scenario.script)(&mut run).await;
    run.transcript()
}
