//! `etcdctl lock` and `etcdctl elect`, which are Go's package at work, and our mutex and election:
//! one name, one line, whoever came first.

use std::process::Stdio;
use std::time::Duration;

use coord_core::{
    Client, Election, Mutex,
    election::Leader,
    kv::{Put, Txn},
};
use coord_etcd_tests::Cluster;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::support::{client, secs, session, single, until};

/// Why calls cannot fail.
const THERE: &str = "the server is there";

/// An `etcdctl` that stands in a line, or holds what it stood for.
struct Etcdctl {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Etcdctl {
    fn run(server: &Cluster, arguments: &[&str]) -> Self {
        let mut command = Command::from(server.release().etcdctl());
        command.args(["--endpoints", server[0].endpoint()]).args(arguments);
        command.stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().expect("etcdctl lies beside etcd");
        let stdout = process.stdout.take().expect("it was piped");
        Self { process, lines: BufReader::new(stdout).lines() }
    }

    /// Waits until it holds the lock or leads; returns its key.
    async fn held(&mut self) -> String {
        let line = timeout(secs(30), self.lines.next_line()).await.expect("its turn comes");
        line.expect("its output can be read").expect("it says so before it ends")
    }

    /// Waits until it has printed this line.
    async fn prints(&mut self, expected: &str) {
        let found = async {
            loop {
                let line = self.lines.next_line().await.expect("its output can be read");
                if line.expect("it goes on printing") == expected {
                    return;
                }
            }
        };
        timeout(secs(30), found).await.unwrap_or_else(|_| panic!("no line {expected:?}"));
    }

    /// Nothing said yet.
    async fn waits(&mut self) {
        let said = timeout(Duration::from_millis(300), self.lines.next_line()).await;
        assert!(said.is_err(), "etcdctl holds what we hold: {said:?}");
    }

    /// Tells it to stop, as a terminal does: it gives up what it holds.
    async fn stop(mut self) {
        let pid = self.process.id().expect("it runs").cast_signed();
        let pid = rustix::process::Pid::from_raw(pid).expect("no process has the number 0");
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
        timeout(secs(30), self.process.wait()).await.expect("it ends").expect("it ends");
    }
}

/// Waits until so many stand in the line `name`.
async fn line_of(kv: &Client, name: &str, length: usize) {
    let prefix = format!("{name}/");
    until("the line has grown", async || {
        kv.get_prefix(prefix.clone()).await.expect("the store is there").len() == length
    })
    .await;
}

/// Their turn, ours, theirs, ours: each begins when the one before has ended.
async fn take_turns(server: &Cluster, arguments: &[&str]) {
    let name = arguments[1];
    let kv = client(&server.endpoints()).await;
    let session = session(&kv, 10).await;
    let mutex = Mutex::new(&session, name);

    let mut theirs = Etcdctl::run(server, arguments);
    let key = theirs.held().await;
    assert!(key.starts_with(&format!("{name}/")), "{key}");
    assert!(mutex.try_lock().await.expect(THERE).is_none(), "held by etcdctl");

    let lock = mutex.lock();
    tokio::pin!(lock);
    tokio::select! {
        biased;
        guard = &mut lock => panic!("{guard:?} while etcdctl has {key}"),
        () = line_of(&kv, name, 2) => {}
    }
    let mut later = Etcdctl::run(server, arguments);
    tokio::select! {
        biased;
        guard = &mut lock => panic!("{guard:?} while etcdctl has {key}"),
        () = line_of(&kv, name, 3) => {}
    }
    theirs.stop().await;
    let ours = timeout(secs(30), lock).await.expect("etcdctl has given it up").expect(THERE);
    later.waits().await;
    ours.txn(Txn::new().and_then([Put::new("written", "by us")])).await.expect(THERE);
    ours.unlock().await.expect(THERE);

    let key = later.held().await;
    assert!(mutex.try_lock().await.expect(THERE).is_none(), "held again by {key}");
    later.stop().await;
    let last = timeout(secs(30), mutex.lock()).await.expect("nobody is left").expect(THERE);
    assert_eq!(
        kv.get_prefix(format!("{name}/")).await.expect(THERE).len(),
        1,
        "nothing left behind"
    );
    last.unlock().await.expect(THERE);
}

#[tokio::test]
async fn etcdctl_lock_and_our_mutex_take_turns() {
    take_turns(&single().await, &["lock", "jobs"]).await;
}

#[tokio::test]
async fn etcdctl_elect_and_our_mutex_take_turns() {
    take_turns(&single().await, &["elect", "jobs", "me"]).await;
}

/// A lock and an election of one name are one line, for all of us.
#[tokio::test]
async fn etcdctl_lock_and_elect_and_our_mutex_stand_in_one_line() {
    let server = single().await;
    let kv = client(&server.endpoints()).await;
    let session = session(&kv, 10).await;
    let ours = Mutex::new(&session, "jobs").lock().await.unwrap();
    let mut locker = Etcdctl::run(&server, &["lock", "jobs"]);
    line_of(&kv, "jobs", 2).await;
    let mut candidate = Etcdctl::run(&server, &["elect", "jobs", "me"]);
    line_of(&kv, "jobs", 3).await;
    tokio::join!(locker.waits(), candidate.waits());
    ours.unlock().await.unwrap();
    locker.held().await;
    candidate.waits().await;
    locker.stop().await;
    let key = candidate.held().await;
    assert_eq!(kv.get(key).await.unwrap().unwrap().value, "me");
    candidate.stop().await;
}

/// `etcdctl elect` and our election: each waits for the other, and our observer sees both.
#[tokio::test]
async fn etcdctl_elect_and_our_election_take_turns() {
    let server = single().await;
    let kv = client(&server.endpoints()).await;
    let session = session(&kv, 10).await;
    let election = Election::new(&session, "jobs");
    let mut leaders = election.observe();
    let mut shown = async || {
        let leader = timeout(secs(30), leaders.next()).await.expect("something changes");
        let value = |leader: Leader| String::from_utf8_lossy(leader.value()).into_owned();
        leader.expect("it goes on").expect(THERE).map(value)
    };
    assert_eq!(shown().await, None);

    let ours = election.campaign("ours").await.unwrap();
    let mut theirs = Etcdctl::run(&server, &["elect", "jobs", "theirs"]);
    line_of(&kv, "jobs", 2).await;
    theirs.waits().await;
    ours.resign().await.unwrap();
    let key = theirs.held().await;
    assert_eq!(election.leader().await.unwrap().expect("etcdctl leads").key(), &key);

    let again = election.enter("ours again").await.unwrap();
    theirs.stop().await;
    let again = timeout(secs(30), again.elected()).await.expect("etcdctl resigned").unwrap();
    again.resign().await.unwrap();
    for expected in [Some("ours"), Some("theirs"), Some("ours again"), None] {
        assert_eq!(shown().await.as_deref(), expected);
    }
}

/// `etcdctl elect --listen` shows whom we elect and what they proclaim.
#[tokio::test]
async fn etcdctl_observes_our_leaders_and_what_they_proclaim() {
    let server = single().await;
    let kv = client(&server.endpoints()).await;
    let session = session(&kv, 10).await;
    let election = Election::new(&session, "jobs");
    let first = election.campaign("first").await.unwrap();
    let mut observer = Etcdctl::run(&server, &["elect", "--listen", "jobs"]);
    observer.prints("first").await;
    first.proclaim("first, ready").await.unwrap();
    observer.prints("first, ready").await;
    let second = election.enter("second").await.unwrap();
    first.resign().await.unwrap();
    let second = second.elected().await.unwrap();
    observer.prints(&second.key().escape_ascii().to_string()).await;
    observer.prints("second").await;
}

/// Names that nest are two locks for us, also when it is etcdctl that holds the inner one.
#[tokio::test]
async fn etcdctl_on_a_name_below_does_not_block_ours() {
    let server = single().await;
    let kv = client(&server.endpoints()).await;
    let session = session(&kv, 10).await;
    let mut inner = Etcdctl::run(&server, &["lock", "jobs/night"]);
    inner.held().await;
    let outer = Mutex::new(&session, "jobs");
    let outer = timeout(secs(10), outer.lock()).await.expect("nobody holds jobs").unwrap();
    let tried = Mutex::new(&session, "jobs/night").try_lock().await.unwrap();
    assert!(tried.is_none(), "etcdctl holds it");
    outer.unlock().await.unwrap();
    inner.stop().await;
}

/// etcdctl that dies, rather than giving up what it holds, is followed when its lease ends.
#[tokio::test]
async fn lock_of_a_killed_etcdctl_is_ours_when_its_lease_ends() {
    let server = single().await;
    let kv = client(&server.endpoints()).await;
    let session = session(&kv, 10).await;
    let mut theirs = Etcdctl::run(&server, &["lock", "--ttl=2", "jobs"]);
    theirs.held().await;
    theirs.process.kill().await.unwrap();
    let mutex = Mutex::new(&session, "jobs");
    assert!(mutex.try_lock().await.unwrap().is_none(), "its lease lives");
    let guard = timeout(secs(20), mutex.lock()).await.expect("its lease has ended").unwrap();
    guard.unlock().await.unwrap();
}
