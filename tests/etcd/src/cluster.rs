//! etcd clusters on this machine, of one or three members, and their builder.

use std::fs;
use std::ops::{Index, IndexMut};
use std::path::Path;

use tempfile::TempDir;
use tokio::time::{Duration, Instant, sleep};

use crate::authority::Authority;
use crate::member::{Member, StartError, data_folder, free_port};
use crate::release::Release;

/// The configuration of a cluster.
///
/// ```no_run
/// use coord_etcd_tests::{Release, ClusterBuilder};
///
/// # async fn example() {
/// let mut cluster = ClusterBuilder::new(Release::newest()).members(3).start().await;
/// let leader = cluster.leader().await;
/// cluster[leader].kill();
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    release: Release,
    members: usize,
    arguments: Vec<String>,
    authority: Option<Authority>,
    nine_byte_request_ids: bool,
}

impl ClusterBuilder {
    /// One member, without TLS.
    #[must_use]
    pub const fn new(release: Release) -> Self {
        Self {
            release,
            members: 1,
            arguments: Vec::new(),
            authority: None,
            nine_byte_request_ids: false,
        }
    }

    /// Sets the number of members.
    #[must_use]
    pub const fn members(mut self, members: usize) -> Self {
        self.members = members;
        self
    }

    /// Uses TLS with certificates of `authority`, and requires them from clients too.
    #[must_use]
    pub fn authority(mut self, authority: &Authority) -> Self {
        self.authority = Some(authority.clone());
        self
    }

    /// Adds an argument to the command line of every member.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Requires a single member whose request ids are encoded in nine bytes.
    ///
    /// etcd adds an id to a request before it checks the size, and the id starts with two bytes of
    /// the member's id. It is encoded in nine bytes on half of all members, in ten on the others,
    /// and in eight on very few. So the largest request differs by a byte or two between members,
    /// and a test that is exact to the byte has to require one of the lengths.
    #[must_use]
    pub const fn nine_byte_request_ids(mut self) -> Self {
        self.nine_byte_request_ids = true;
        self
    }

    /// Starts the cluster, and waits until every member is ready.
    ///
    /// # Panics
    /// If a member does not become ready, or no member has the required nine-byte request ids.
    pub async fn start(&self) -> Cluster {
        // The member's id depends on its port, and matches on about half of all ports.
        for _ in 0..100 {
            let cluster = self.start_once().await;
            if !self.nine_byte_request_ids || cluster[0].has_nine_byte_request_id().await {
                return cluster;
            }
        }
        panic!("{}: none of 100 members has a nine-byte request id", self.release)
    }

    async fn start_once(&self) -> Cluster {
        // Another process may bind a free port before the member does.
        for _ in 0..10 {
            let mut cluster = self.prepare();
            for member in &mut cluster.members {
                member.start();
            }
            match cluster.try_wait_until_ready().await {
                Ok(()) => return cluster,
                Err(StartError::PortTaken) => {}
                Err(error) => panic!("{} {error}", self.release),
            }
        }
        panic!("{}: other processes bound the free ports ten times", self.release)
    }

    /// A cluster whose members have folders and ports and are not started.
    fn prepare(&self) -> Cluster {
        let folder = tempfile::Builder::new().prefix("coord-etcd-").tempdir_in(data_folder());
        let folder = folder.expect("a temporary folder can be created");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        let ports: Vec<_> = (0..self.members).map(|_| (free_port(), free_port())).collect();
        let peer = |n: usize| format!("http://127.0.0.1:{}", ports[n].1);
        let peers: Vec<_> = (0..self.members).map(|n| format!("m{n}={}", peer(n))).collect();

        let mut common = self.arguments.clone();
        common.push(format!("--initial-cluster={}", peers.join(",")));
        // Speeds up tests whose data are on a disk; no effect on data in memory.
        if self.release.version >= (3, 5, 0) {
            common.push("--unsafe-no-fsync".to_owned());
        }
        if let Some(authority) = &self.authority {
            authority.write(folder.path());
            common.push(format!("--cert-file={}", path("server.pem")));
            common.push(format!("--key-file={}", path("server.key")));
            common.push(format!("--trusted-ca-file={}", path("authority.pem")));
            common.push("--client-cert-auth".to_owned());
        }
        let members = (0..self.members).map(|n| {
            let name = format!("m{n}");
            let endpoint = format!("{scheme}://127.0.0.1:{}", ports[n].0);
            let mut arguments = vec![
                format!("--name={name}"),
                format!("--data-dir={}", path(&name)),
                format!("--listen-client-urls={endpoint}"),
                format!("--advertise-client-urls={endpoint}"),
                format!("--listen-peer-urls={}", peer(n)),
                format!("--initial-advertise-peer-urls={}", peer(n)),
            ];
            arguments.extend_from_slice(&common);
            let log = folder.path().join(format!("{name}.log"));
            Member::new(self.release.clone(), arguments, endpoint, log)
        });
        Cluster { release: self.release.clone(), members: members.collect(), folder }
    }
}

/// A running cluster. Dropping it kills the members and removes their folders.
#[derive(Debug)]
pub struct Cluster {
    release: Release,
    // Field order matters: the members are dropped, and so killed, before the folder is removed.
    members: Vec<Member>,
    folder: TempDir,
}

impl Cluster {
    /// The etcd release of the members.
    #[must_use]
    pub const fn release(&self) -> &Release {
        &self.release
    }

    /// The URLs at which clients reach the members.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.endpoint().to_owned()).collect()
    }

    /// The folder with the data of all members.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// All members.
    pub fn members_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.members.iter_mut()
    }

    /// Waits until every member has a leader and serves.
    ///
    /// # Panics
    /// If a member is not ready within a minute.
    pub async fn wait_until_ready(&mut self) {
        for member in &mut self.members {
            member.wait_until_ready().await;
        }
    }

    async fn try_wait_until_ready(&mut self) -> Result<(), StartError> {
        for member in &mut self.members {
            member.try_wait_until_ready().await?;
        }
        Ok(())
    }

    /// The index of the leader. Waits until a member is elected.
    ///
    /// # Panics
    /// If no member leads within half a minute.
    pub async fn leader(&self) -> usize {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            for (n, member) in self.members.iter().enumerate() {
                let leads = tokio::time::timeout(Duration::from_secs(1), member.is_leader()).await;
                if matches!(leads, Ok(Ok(true))) {
                    return n;
                }
            }
            assert!(Instant::now() < deadline, "{}: no leader in half a minute", self.release);
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Index<usize> for Cluster {
    type Output = Member;

    fn index(&self, n: usize) -> &Member {
        &self.members[n]
    }
}

impl IndexMut<usize> for Cluster {
    fn index_mut(&mut self, n: usize) -> &mut Member {
        &mut self.members[n]
    }
}

impl Drop for Cluster {
    #[expect(clippy::print_stderr, reason = "a failed test prints where its logs are")]
    fn drop(&mut self) {
        for member in &mut self.members {
            member.kill();
        }
        if !std::thread::panicking() {
            return;
        }
        // A second panic would abort the test program, so nothing here may fail.
        let Some(name) = self.folder.path().file_name() else { return };
        let kept = std::env::temp_dir().join(format!("{}-logs", name.display()));
        let _ = fs::create_dir_all(&kept);
        for member in &self.members {
            if let Some(name) = member.log().file_name() {
                let _ = fs::copy(member.log(), kept.join(name));
            }
        }
        eprintln!("{}: the logs are kept in {}", self.release, kept.display());
    }
}
