//! Our server beside a real etcd, message by message, over real sockets.
//!
//! A scene is a script of calls, made with bare gRPC: nothing of a client's own comes in between,
//! and nonsense can be said that no client would say. Each scene is played on a fresh etcd and on
//! a fresh `coord-server` over a store in memory, and the two transcripts have to be equal, to the
//! last field: so the scene is proved against etcd, and the server by the scene. Where it is to
//! differ, or an older etcd does, the scene's line is named here, with the reason, and then it has
//! to differ.

mod any;
mod compressed;
mod kv;
mod lease;
mod limits;
mod member;
mod plain;
mod play;
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

use crate::play::Play;

/// A script of calls.
struct Scene {
    name: &'static str,
    script: for<'a> fn(&'a mut Play) -> BoxFuture<'a, ()>,
    /// How etcd is told to be for it, and how ours is.
    argument: Option<&'static str>,
    ours: fn(ServerBuilder) -> ServerBuilder,
}

/// `scenes![kv: puts, …]` is the scene of each function, named after it. In brackets is
/// how the servers are to be for it.
macro_rules! scenes {
    ($($module:ident: $($name:ident $([$argument:literal, $ours:expr])?),+;)+) => {
        &[$($(Scene {
            name: concat!(stringify!($module), "::", stringify!($name)),
            script: |play| Box::pin($module::$name(play)),
            argument: scenes!(@argument $($argument)?),
            ours: scenes!(@ours $($ours)?),
        },)+)+]
    };
    (@argument) => { None };
    (@argument $argument:literal) => { Some($argument) };
    (@ours) => { |server| server };
    (@ours $ours:expr) => { $ours };
}

const SCENES: &[Scene] = scenes![
    kv: puts, reads, sorts, deletes, compactions, sizes, large_answers;
    txn: compares, steps, refusals, duplicates, history, depths;
    lease: grants, keys_of_leases, refreshes, order, expiry;
    limits:
        small_requests ["--max-request-bytes=10000", |server| server.max_request_bytes(10_000)],
        large_and_wrong ["--max-request-bytes=10000", |server| server.max_request_bytes(10_000)],
        few_streams ["--max-concurrent-streams=2", |server| server.max_streams(2)],
        notifications [
            "--experimental-watch-progress-notify-interval=600ms",
            |server| server.progress_interval(Duration::from_millis(600))
        ],
        no_notifications [
            "--experimental-watch-progress-notify-interval=2000000h",
            |server| server.progress_interval(Duration::MAX)
        ];
    watch: ids, refusals, starts, cancels, half_closed;
    watch: bookmarks, late_bookmarks, vain_bookmarks, hasty_bookmarks, nobodys_bookmarks;
    watch_live: events, filters, previous, fragments, together, long_history;
    member: maintenance, alarms, operations, cluster, logins, health, unknown;
    plain: pages, watchers, probes;
    compressed: gzip_is_answered_in_kind;
    any: requests;
];

/// Where a transcript differs from ours, and why it may.
struct Difference {
    /// The version of etcd, or empty for all.
    minor: &'static str,
    scene: &'static str,
    /// What the line is called.
    line: &'static str,
    why: &'static str,
}

const OF_ONE: &str = "a cluster of one member is not changed";
const NO_LOGINS: &str = "there are no users and no roles";
const OLD: &str = "mended or added since 3.4.23";

/// `differences![minor scene: lines: why, …]`.
macro_rules! differences {
    ($($minor:literal $scene:literal: $($line:literal),+ => $why:expr;)+) => {
        &[$($(Difference { minor: $minor, scene: $scene, line: $line, why: $why },)+)+]
    };
}

const DIFFERENCES: &[Difference] = differences![
    "" "member::cluster": "add" => OF_ONE;
    "" "member::operations": "snapshot" => "there are no files";
    "" "member::operations":
        "to nothing", "to nonsense", "too far", "further up", "not under way", "unknown"
        => "there is no other version to go to";
    "" "member::logins": "enable", "disable", "users", "add a user", "add a role" => NO_LOGINS;
    "" "member::unknown": "nonsense" => "decoders have words of their own";
    "" "txn::depths": "too deep" => "prost reads messages within messages up to a hundred";
    "3.5" "member::maintenance": "hash of revision 2"
        => "of a revision it compacted at, etcd has kept what it was compacted at before";
    "3.4" "member::maintenance": "hash of revision 2", "version" => OLD;
    "3.4" "member::logins": "status" => OLD;
    "3.4" "member::unknown":
        "/etcdserverpb.KV", "/nobody", "/", "/grpc.health.v1.Health/List" => OLD;
    "3.4" "plain::pages": "GET /health", "/health?serializable=true" => OLD;
    "3.4" "watch::refusals":
        "a negative start", "the least start", "negative and backwards", "taken and negative"
        => OLD;
    "3.4" "watch::late_bookmarks": "cancel instead of a bookmark", "bookmark" => OLD;
    "3.4" "watch::vain_bookmarks":
        "create", "bookmark when the future is there", "and no other" => OLD;
    "3.4" "watch::nobodys_bookmarks": "a bookmark for nobody is not told" => OLD;
];

/// Scenes of which this version knows nothing.
const NEWER: &[(&str, &str)] = &[
    ("3.4", "compressed::gzip_is_answered_in_kind"),
    ("3.4", "member::alarms"),
    ("3.4", "plain::probes"),
];

fn main() -> ExitCode {
    Release::run_on_all(|releases| {
        let trials = releases.iter().flat_map(|release| {
            let minor = release.minor();
            let known = |scene: &&Scene| !NEWER.contains(&(&*minor, scene.name));
            let scenes: Vec<_> = SCENES.iter().filter(known).collect();
            scenes.into_iter().map(|scene| {
                let release = release.clone();
                let name = format!("etcd-{}::{}", release.minor(), scene.name);
                Trial::test(name, || compare(release, scene))
            })
        });
        let mut arguments = Arguments::from_args();
        // An etcd that starts waits more than it works.
        arguments.test_threads = arguments.test_threads.or(Some(6));
        libtest_mimic::run(&arguments, trials.collect()).exit_code()
    })
}

/// Plays the scene twice, and compares.
fn compare(release: Release, scene: &'static Scene) -> Result<(), Failed> {
    let runtime = tokio::runtime::Runtime::new()?;
    let (theirs, ours) = runtime.block_on(async {
        let setup = Setup::new(release.clone());
        let setup = scene.argument.into_iter().fold(setup, Setup::argument);
        let etcd = setup.start().await;
        let theirs = transcript(&etcd.endpoints()[0], scene).await;
        drop(etcd);
        let server = Served::start((scene.ours)(Server::builder(MemBackend::new()))).await;
        let ours = transcript(server.endpoint(), scene).await;
        (theirs, ours)
    });
    let mut faults = Vec::new();
    let known = DIFFERENCES
        .iter()
        .filter(|known| known.scene == scene.name && release.minor().starts_with(known.minor));
    let known: Vec<_> = known.collect();
    if theirs.len() != ours.len() {
        faults.push(format!("{} lines of etcd's, {} of ours", theirs.len(), ours.len()));
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
    let gone = known.iter().filter(|known| !met.contains(&known.line.to_owned()));
    faults.extend(gone.map(|gone| format!("{}: does not differ: {}", gone.line, gone.why)));
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}

async fn transcript(endpoint: &str, scene: &Scene) -> Vec<(String, String)> {
    let mut play = Play::at(endpoint).await;
    (scene.script)(&mut play).await;
    play.transcript()
}
