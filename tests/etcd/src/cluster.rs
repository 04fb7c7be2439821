//! Clusters of one or three members, and their setup.

use std::fs;
use std::ops::{Index, IndexMut};
use std::path::Path;

use tempfile::TempDir;
use tokio::time::{Duration, Instant, sleep};

use crate::authority::Authority;
use crate::member::{Member, StartError, data_folder, free_port};
use crate::release::Release;

/// The setup of a cluster.
///
/// ```no_run
/// use coord_etcd_tests::{Release, Setup};
///
/// # async fn example() {
/// let mut cluster = Setup::new(Release::newest()).members(3).start().await;
/// let leader = cluster.leader().await;
/// cluster[leader].kill();
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Setup {
    release: Release,
    members: usize,
    arguments: Vec<String>,
    authority: Option<Authority>,
    usual_ids: bool,
}

impl Setup {
    /// One member, without TLS.
    #[must_use]
    pub const fn new(release: Release) -> Self {
        Self { release, members: 1, arguments: Vec::new(), authority: None, usual_ids: false }
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
    /// and in eight on very few. So the largest request differs by a byte between members, and a
    /// test that is exact to the byte has to choose.
    #[must_use]
    pub const fn usual_ids(mut self) -> Self {
        self.usual_ids = true;
        self
    }

    /// Starts the cluster, and waits until every member is ready.
    ///
    /// # Panics
    /// If a member does not become ready.
    pub async fn start(&self) -> Cluster {
        // The member's id depends on its port, and every second one matches.
        for _ in 0..100 {
            let cluster = self.start_any().await;
            if !self.usual_ids || cluster[0].has_usual_id().await {
                return cluster;
            }
        }
        panic!("{}: none of 100 members has a nine-byte request id", self.release)
    }

    async fn start_any(&self) -> Cluster {
        // Another process may take a free port before the member does.
        for _ in 0..10 {
            let mut cluster = self.arrange();
            for member in &mut cluster.members {
                member.start();
            }
            match cluster.wait_ready().await {
                Ok(()) => return cluster,
                Err(StartError::PortTaken) => {}
                Err(error) => panic!("{} {error}", self.release),
            }
        }
        panic!("{}: other processes took the free ports ten times", self.release)
    }

    /// The members, with folders and ports, not yet started.
    fn arrange(&self) -> Cluster {
        let folder = tempfile::Builder::new().prefix("coord-etcd-").tempdir_in(data_folder());
        let folder = folder.expect("a folder can be created");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        let ports: Vec<_> = (0..self.members).map(|_| (free_port(), free_port())).collect();
        let peer = |n: usize| format!("http://127.0.0.1:{}", ports[n].1);
        let peers: Vec<_> = (0..self.members).map(|n| format!("m{n}={}", peer(n))).collect();

        let mut common = self.arguments.clone();
        common.push(format!("--initial-cluster={}", peers.join(",")));
        // Without effect for data in memory; on a disk it makes tests much faster.
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

/// A running cluster. Dropping it stops the members and removes their folders.
#[derive(Debug)]
pub struct Cluster {
    release: Release,
    // Invariant: before the folder, so that the members are stopped before it is removed.
    members: Vec<Member>,
    folder: TempDir,
}

impl Cluster {
    /// The release of its members.
    #[must_use]
    pub const fn release(&self) -> &Release {
        &self.release
    }

    /// The URLs at which clients reach the members.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.endpoint().to_owned()).collect()
    }

    /// The folder with its data.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Every member.
    pub fn members_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.members.iter_mut()
    }

    /// Waits until every member has a leader and serves.
    ///
    /// # Panics
    /// If one does not within a minute.
    pub async fn ready(&mut self) {
        for member in &mut self.members {
            member.ready().await;
        }
    }

    async fn wait_ready(&mut self) -> Result<(), StartError> {
        for member in &mut self.members {
            member.wait_ready().await?;
        }
        Ok(())
    }

    /// The number of the leader. Waits for an election.
    ///
    /// # Panics
    /// If none does within half a minute.
    pub async fn leader(&self) -> usize {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            for (n, member) in self.members.iter().enumerate() {
                let leads = tokio::time::timeout(Duration::from_secs(1), member.leads()).await;
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
    #[expect(clippy::print_stderr, reason = "the path of the logs belongs to the failure")]
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
