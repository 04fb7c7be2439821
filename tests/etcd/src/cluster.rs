//! One member, or three that belong together.

use std::fs;
use std::ops::{Index, IndexMut};
use std::path::Path;

use tempfile::TempDir;
use tokio::time::{Duration, Instant, sleep};

use crate::authority::Authority;
use crate::member::{Member, Trouble, free_port, spacious_folder};
use crate::release::Release;

/// How a cluster is to be.
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

    /// So many members.
    #[must_use]
    pub const fn members(mut self, members: usize) -> Self {
        self.members = members;
        self
    }

    /// Members whose certificates come from `authority`, and that ask the same of their clients.
    #[must_use]
    pub fn authority(mut self, authority: &Authority) -> Self {
        self.authority = Some(authority.clone());
        self
    }

    /// One more argument for the command line of every member.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// A single member that counts the bytes of requests as most do.
    ///
    /// etcd adds an id to a request before it measures it, and the id starts with two bytes of the
    /// member's own: in half of all members it is encoded in nine bytes, in the others in ten, and
    /// in very few in eight. So the largest request there can be differs by a byte from member to
    /// member, and a test that is exact to the byte has to choose.
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
        // The member's id comes from its port: every second one is right.
        for _ in 0..100 {
            let cluster = self.start_any().await;
            if !self.usual_ids || cluster[0].has_usual_id().await {
                return cluster;
            }
        }
        panic!("{}: a hundred members, and none has an id as usual", self.release)
    }

    async fn start_any(&self) -> Cluster {
        // Between finding a free port and using it, somebody else may.
        for _ in 0..10 {
            let mut cluster = self.arrange();
            for member in &mut cluster.members {
                member.start();
            }
            match cluster.wait_ready().await {
                Ok(()) => return cluster,
                Err(Trouble::PortTaken) => {}
                Err(trouble) => panic!("{} {trouble}", self.release),
            }
        }
        panic!("{}: ten times, somebody took the ports that were just free", self.release)
    }

    /// The members, with folders and ports, not yet started.
    fn arrange(&self) -> Cluster {
        let folder = tempfile::Builder::new().prefix("coord-etcd-").tempdir_in(spacious_folder());
        let folder = folder.expect("a folder can be made");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        let ports: Vec<_> = (0..self.members).map(|_| (free_port(), free_port())).collect();
        let peer = |n: usize| format!("http://127.0.0.1:{}", ports[n].1);
        let peers: Vec<_> = (0..self.members).map(|n| format!("m{n}={}", peer(n))).collect();

        let mut common = self.arguments.clone();
        common.push(format!("--initial-cluster={}", peers.join(",")));
        // Where data lie in memory this changes nothing; elsewhere it makes tests bearable.
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

/// Members that run, in folders of their own. Dropped, it is gone.
#[derive(Debug)]
pub struct Cluster {
    release: Release,
    // Invariant: dropped, and so stopped, before the folder.
    members: Vec<Member>,
    folder: TempDir,
}

impl Cluster {
    /// The version of its members.
    #[must_use]
    pub const fn release(&self) -> &Release {
        &self.release
    }

    /// The URLs at which clients reach the members.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.endpoint().to_owned()).collect()
    }

    /// Where its data are.
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

    async fn wait_ready(&mut self) -> Result<(), Trouble> {
        for member in &mut self.members {
            member.wait_ready().await?;
        }
        Ok(())
    }

    /// Which member leads. Waits until one does.
    ///
    /// # Panics
    /// If none does within half a minute.
    pub async fn leader(&self) -> usize {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            for (n, member) in self.members.iter().enumerate() {
                let asked = tokio::time::timeout(Duration::from_secs(1), member.leads()).await;
                if matches!(asked, Ok(Ok(true))) {
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
    #[expect(clippy::print_stderr, reason = "whoever reads of the failure wants to know where")]
    fn drop(&mut self) {
        for member in &mut self.members {
            member.kill();
        }
        if !std::thread::panicking() {
            return;
        }
        // A second panic would end the whole test program, so nothing here may fail.
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
