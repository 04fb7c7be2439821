//! Interoperability tests with `etcdctl lock` and `etcdctl elect`, which use Go's package: they
//! share the wait queue of a name with coord's mutex and election.

use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use coord_core::{
    Election, Mutex,
    election::Leader,
    kv::{Put, Txn},
};
use coord_etcd_tests::Cluster;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::support::{
    assert_waits, client, secs, session, single_member, wait_for_queue_length, within,
};

/// An `etcdctl` process that waits for a lock or an election, or holds it.
struct Etcdctl {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Etcdctl {
    fn start(server: &Cluster, arguments: &[&str]) -> Self {
        let mut command = Command::from(server.release().etcdctl());
        command.args(["--endpoints", server[0].endpoint()]).args(arguments);
        command.stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let stdout = process.stdout.take().unwrap();
        Self { process, lines: BufReader::new(stdout).lines() }
    }

    /// Waits until it holds the lock or leads, and returns its key, which it prints then.
    async fn wait_until_held(&mut self) -> String {
        within(secs(30), self.lines.next_line()).await.unwrap().unwrap()
    }

    /// Waits until it has printed this line.
    async fn wait_for_line(&mut self, expected: &str) {
        let found = async {
            loop {
                if self.lines.next_line().await.unwrap().unwrap() == expected {
                    return;
                }
            }
        };
        timeout(secs(30), found).await.unwrap_or_else(|_| panic!("no line {expected:?}"));
    }

    /// Asserts that it does not hold the lock yet.
    async fn assert_waiting(&mut self) {
        let printed = timeout(Duration::from_millis(300), self.lines.next_line()).await;
        assert!(printed.is_err(), "etcdctl and coord hold the lock at the same time: {printed:?}");
    }

    /// Interrupts it with SIGINT, so that it releases the lock or resigns, and waits for its exit.
    async fn stop(mut self) {
        let pid = self.process.id().unwrap().cast_signed();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        within(secs(30), self.process.wait()).await.unwrap();
    }
}

/// `etcdctl` and a mutex of coord hold the lock alternately, twice each.
async fn alternate(server: &Cluster, arguments: &[&str]) {
    let name = arguments[1];
    let kv = client(&server.endpoints()).await;
    let session = session(&kv, 10).await;
    let mutex = Mutex::new(&session, name);

    let mut theirs = Etcdctl::start(server, arguments);
    let key = theirs.wait_until_held().await;
    assert!(key.starts_with(&format!("{name}/")), "{key}");
    assert!(mutex.try_lock().await.unwrap().is_none(), "etcdctl holds the lock");

    let mut lock = pin!(mutex.lock());
    assert_waits(&mut lock, &kv, name, 2).await;
    let mut later = Etcdctl::start(server, arguments);
    assert_waits(&mut lock, &kv, name, 3).await;
    theirs.stop().await;
    let ours = within(secs(30), lock).await.unwrap();
    later.assert_waiting().await;
    ours.txn(Txn::new().and_then([Put::new("written", "by coord")])).await.unwrap();
    ours.unlock().await.unwrap();

    let key = later.wait_until_held().await;
    assert!(mutex.try_lock().await.unwrap().is_none(), "etcdctl holds the lock with {key}");
    later.stop().await;
    let last = within(secs(30), mutex.lock()).await.unwrap();
    assert_eq!(kv.get_prefix(format!("{name}/")).await.unwrap().len(), 1, "a key is left behind");
    last.unlock().await.unwrap();
}

#[tokio::test]
async fn etcdctl_lock_and_mutex_alternate() {
    alternate(&single_member().await, &["lock", "jobs"]).await;
}

#[tokio::test]
async fn etcdctl_elect_and_mutex_alternate() {
    alternate(&single_member().await, &["elect", "jobs", "me"]).await;
}

/// A lock and an election of one name share a wait queue.
#[tokio::test]
async fn etcdctl_lock_and_elect_and_mutex_share_a_queue() {
    let server = single_member().await;
    let kv = client(&server.endpoints()).await;
    let session = session(&kv, 10).await;
    let ours = Mutex::new(&session, "jobs").lock().await.unwrap();
    let mut locker = Etcdctl::start(&server, &["lock", "jobs"]);
    wait_for_queue_length(&kv, "jobs", 2).await;
    let mut candidate = Etcdctl::start(&server, &["elect", "jobs", "me"]);
    wait_for_queue_length(&kv, "jobs", 3).await;
    tokio::join!(locker.assert_waiting(), candidate.assert_waiting());
    ours.unlock().await.unwrap();
    locker.wait_until_held().await;
    candidate.assert_waiting().await;
    locker.stop().await;
    let key = candidate.wait_until_held().await;
    assert_eq!(kv.get(key).await.unwrap().unwrap().value, "me");
    candidate.stop().await;
}

/// Each candidate waits for the other, and an observer of coord receives both leaders.
#[tokio::test]
async fn etcdctl_elect_and_election_alternate() {
    let server = single_member().await;
    let kv = client(&server.endpoints()).await;
    let session = session(&kv, 10).await;
    let election = Election::new(&session, "jobs");
    let mut leaders = election.observe();
    let mut next_value = async || {
        let leader = within(secs(30), leaders.next()).await.unwrap().unwrap();
        leader.map(|leader: Leader| String::from_utf8_lossy(leader.value()).into_owned())
    };
    assert_eq!(next_value().await, None);

    let ours = election.campaign("ours").await.unwrap();
    let mut theirs = Etcdctl::start(&server, &["elect", "jobs", "theirs"]);
    wait_for_queue_length(&kv, "jobs", 2).await;
    theirs.assert_waiting().await;
    ours.resign().await.unwrap();
    let key = theirs.wait_until_held().await;
    assert_eq!(election.leader().await.unwrap().unwrap().key(), &key);

    let again = election.enter("ours again").await.unwrap();
    theirs.stop().await;
    let again = within(secs(30), again.elected()).await.unwrap();
    again.resign().await.unwrap();
    for expected in [Some("ours"), Some("theirs"), Some("ours again"), None] {
        assert_eq!(next_value().await.as_deref(), expected);
    }
}

/// `etcdctl elect --listen` prints coord's leaders and their values.
#[tokio::test]
async fn etcdctl_observes_leaders_and_proclaimed_values() {
    let server = single_member().await;
    let kv = client(&server.endpoints()).await;
    let session = session(&kv, 10).await;
    let election = Election::new(&session, "jobs");
    let first = election.campaign("first").await.unwrap();
    let mut observer = Etcdctl::start(&server, &["elect", "--listen", "jobs"]);
    observer.wait_for_line("first").await;
    first.proclaim("first, ready").await.unwrap();
    observer.wait_for_line("first, ready").await;
    let second = election.enter("second").await.unwrap();
    first.resign().await.unwrap();
    let second = second.elected().await.unwrap();
    observer.wait_for_line(&second.key().escape_ascii().to_string()).await;
    observer.wait_for_line("second").await;
}

/// A name and its child name are two locks, also when etcdctl holds the lock of the child name.
#[tokio::test]
async fn etcdctl_on_a_child_name_does_not_block_the_mutex() {
    let server = single_member().await;
    let kv = client(&server.endpoints()).await;
    let session = session(&kv, 10).await;
    let mut inner = Etcdctl::start(&server, &["lock", "jobs/night"]);
    inner.wait_until_held().await;
    let outer = Mutex::new(&session, "jobs");
    let outer = within(secs(10), outer.lock()).await.unwrap();
    let tried = Mutex::new(&session, "jobs/night").try_lock().await.unwrap();
    assert!(tried.is_none(), "etcdctl holds the lock");
    outer.unlock().await.unwrap();
    inner.stop().await;
}

/// A killed etcdctl does not release its lock, so the lock is free once its lease expires.
#[tokio::test]
async fn lock_of_a_killed_etcdctl_is_free_after_its_ttl() {
    let server = single_member().await;
    let kv = client(&server.endpoints()).await;
    let session = session(&kv, 10).await;
    let mut theirs = Etcdctl::start(&server, &["lock", "--ttl=2", "jobs"]);
    theirs.wait_until_held().await;
    theirs.process.kill().await.unwrap();
    let mutex = Mutex::new(&session, "jobs");
    assert!(mutex.try_lock().await.unwrap().is_none(), "the lease of etcdctl has not expired");
    let guard = within(secs(20), mutex.lock()).await.unwrap();
    guard.unlock().await.unwrap();
}
