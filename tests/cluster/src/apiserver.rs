//! Only an API server with its etcd, for tests of what talks to nothing else: ready in 3 s, no root needed.
//!
//! In: the built programs. Out: a client and a kubeconfig of a new, empty API server on free ports of 127.0.0.1; as
//! many in parallel as memory allows (400 MB each). No controller runs: nothing makes pods, or deletes a namespace's
//! contents.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail};
use kube::Client;

use crate::{
    control_plane::{api_arguments, etcd_arguments, wait_for_api},
    local::client_of,
    pki::{Authority, Subject},
    process::tail,
    programs,
};

/// Another process may take a port between our asking for a free one and the server's use of it.
const TRIES: u32 = 3;

static STARTED: AtomicU32 = AtomicU32::new(0);

/// A running API server; dropping it ends it and removes its data. It ends too when this process dies.
#[derive(Debug)]
pub struct ApiServer {
    folder: PathBuf,
    supervisor: Child,
}

impl ApiServer {
    /// Starts one and waits until it is ready.
    ///
    /// # Errors
    /// When the programs cannot be built, or it is not ready in time; the message holds the end of its log.
    pub async fn start() -> Result<Self> {
        let programs = tokio::task::spawn_blocking(programs::ensure).await??;
        let mut tries = 1;
        loop {
            match Self::try_start(&programs).await {
                Err(error) if tries < TRIES && format!("{error:#}").contains("address already in use") => tries += 1,
                result => return result,
            }
        }
    }

    /// A client with all rights.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read; each call makes a client for the runtime that it is made in.
    pub async fn client(&self) -> Result<Client> {
        client_of(&self.kubeconfig()).await
    }

    /// The path of a kubeconfig with all rights.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("pki/admin.conf")
    }

    async fn try_start(programs: &Path) -> Result<Self> {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("collab-apiserver-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let [client_port, peer_port, port] = free_ports()?;
        certificates(&folder.join("pki"), port)?;
        let mut arguments = api_arguments("pki", client_port, port);
        arguments.extend(
            [
                "--bind-address=127.0.0.1",
                // May not be loopback, and is not used: no Service leads to this server.
                "--advertise-address=192.0.2.1",
                "--endpoint-reconciler-type=none",
                // Nothing makes the service accounts that it asks for.
                "--disable-admission-plugins=ServiceAccount",
            ]
            .map(str::to_owned),
        );
        fs::write(folder.join("etcd.args"), etcd_arguments("etcd", client_port, peer_port).join("\n") + "\n")?;
        fs::write(folder.join("kube-apiserver.args"), arguments.join("\n") + "\n")?;
        let supervisor = Command::new("bash")
            .args(["-c", include_str!("templates/apiserver.sh")])
            .env("PROGRAM", programs.join("testkube"))
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start bash")?;
        let server = Self { folder, supervisor };
        let client = client_of(&server.kubeconfig()).await?;
        let waited = wait_for_api(&client, || check(&server.folder)).await;
        waited.with_context(|| tail(&server.folder.join("kube-apiserver.log"), 10))?;
        Ok(server)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // Its standard input closes, and it ends the two.
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Errors that will not go away by waiting.
fn check(folder: &Path) -> Result<()> {
    for log in ["etcd.log", "kube-apiserver.log"] {
        let text = tail(&folder.join(log), 5);
        if text.contains("address already in use") || text.contains("Error: ") {
            bail!("{log}: {text}");
        }
    }
    Ok(())
}

fn free_ports() -> Result<[u16; 3]> {
    // All held at once, or the same one would be given twice.
    let held =
        [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    Ok([held[0].local_addr()?.port(), held[1].local_addr()?.port(), held[2].local_addr()?.port()])
}

fn certificates(folder: &Path, port: u16) -> Result<()> {
    let authority = Authority::create(folder)?;
    authority.issue(&Subject {
        file: "apiserver",
        user: "kube-apiserver",
        group: None,
        names: &["localhost", "kubernetes.default.svc"],
        addresses: &[[127, 0, 0, 1].into()],
    })?;
    authority.kubeconfig(&format!("https://127.0.0.1:{port}"), "admin", "admin", Some("system:masters"))
}
