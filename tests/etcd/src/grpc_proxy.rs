//! A process of `etcd grpc-proxy`, etcd's own proxy, in front of a cluster.

use std::process::{Child, Stdio};

use tempfile::TempDir;

use crate::member::{data_folder, free_port};
use crate::release::{Release, without_etcd_variables};

/// A proxy process. Dropping it kills the process.
#[derive(Debug)]
#[must_use = "the proxy stops when it is dropped"]
pub struct GrpcProxy {
    endpoint: String,
    process: Child,
    _folder: TempDir,
}

impl GrpcProxy {
    /// Starts the proxy of a release in front of `endpoints`. Returns before the proxy is ready.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn start(release: &Release, endpoints: &[String], arguments: &[&str]) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let folder =
            tempfile::tempdir_in(data_folder()).expect("a temporary folder can be created");
        let mut command = without_etcd_variables(&release.etcd);
        command.args(["grpc-proxy", "start"]);
        command.arg(format!("--endpoints={}", endpoints.join(",")));
        command.arg(format!("--listen-addr={address}"));
        // The proxy connects to its own address, and exits when it cannot.
        command.arg(format!("--advertise-client-url={address}"));
        command.args(arguments).current_dir(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("etcd can be started");
        Self { endpoint: format!("http://{address}"), process, _folder: folder }
    }

    /// The URL of the proxy.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether the process is running.
    ///
    /// # Panics
    /// If the operating system does not report the state of the process.
    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().expect("the state of a child process can be read").is_none()
    }
}

impl Drop for GrpcProxy {
    fn drop(&mut self) {
        // Neither fails for a child process that was not waited for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
