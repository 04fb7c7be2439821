//! `etcd grpc-proxy`: etcd's own proxy, a process in front of a cluster.

use std::process::{Child, Stdio};

use tempfile::TempDir;

use crate::member::{free_port, spacious_folder};
use crate::release::{Release, bare};

/// A proxy process. Dropped, it is gone.
#[derive(Debug)]
#[must_use = "the proxy stops when it is dropped"]
pub struct GrpcProxy {
    endpoint: String,
    process: Child,
    _folder: TempDir,
}

impl GrpcProxy {
    /// Starts the proxy of this release in front of `endpoints`; it is not ready at once.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(release: &Release, endpoints: &[String], arguments: &[&str]) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let folder = tempfile::tempdir_in(spacious_folder()).expect("a folder can be made");
        let mut command = bare(&release.etcd);
        command.args(["grpc-proxy", "start"]);
        command.arg(format!("--endpoints={}", endpoints.join(",")));
        command.arg(format!("--listen-addr={address}"));
        // It serves itself over its own address, and ends when it cannot reach that.
        command.arg(format!("--advertise-client-url={address}"));
        command.args(arguments).current_dir(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("the program is there");
        Self { endpoint: format!("http://{address}"), process, _folder: folder }
    }

    /// The URL of the proxy.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether it has not ended by itself.
    ///
    /// # Panics
    /// If the process cannot be waited for.
    pub fn runs(&mut self) -> bool {
        self.process.try_wait().expect("a child can be waited for").is_none()
    }
}

impl Drop for GrpcProxy {
    fn drop(&mut self) {
        // Neither fails for a child that was not waited for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
