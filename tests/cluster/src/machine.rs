//! Whether this machine can carry the cluster, and the Debian packages that it needs.
//!
//! In: the machine. Out: nothing, or an error that says what is missing and what to do. Packages are installed.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

use crate::{cgroup, process::run_command, progress::Step};

/// A file that shows that a package is there, and the package.
const NEEDED: &[(&str, &str)] = &[
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("setsid", "util-linux"),
    ("mount", "mount"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
];

/// Where programs of the system are looked for; root's PATH may lack the sbin folders.
pub(crate) const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const OTHERWISE: &str = "or set KUBECONFIG to a cluster that is there already";

/// Checks that nodes can be made here and installs missing packages.
///
/// # Errors
/// Says which need is not met: Linux, root, network namespaces, cgroups, packages.
pub(crate) fn prepare() -> Result<()> {
    if !cfg!(target_os = "linux") {
        bail!(
            "the test cluster needs Linux: its nodes are network, mount and process namespaces; run it in a virtual machine, {OTHERWISE}"
        );
    }
    require_root()?;
    install_packages()?;
    if fs::metadata("/proc/self/ns/net").is_err() || !can_make_namespaces() {
        bail!(
            "this machine does not allow new network, mount and process namespaces (a container without CAP_SYS_ADMIN?); use a virtual machine, {OTHERWISE}"
        );
    }
    if !Path::new("/sys/fs/cgroup").is_dir() || cgroup::roots().is_empty() {
        bail!("no cgroups are mounted below /sys/fs/cgroup, and containers need them");
    }
    Ok(())
}

/// # Errors
/// When this process is not root's.
pub(crate) fn require_root() -> Result<()> {
    if !is_root() {
        bail!(
            "the test cluster needs root: it makes network interfaces, mounts and cgroups; run it with sudo, {OTHERWISE}"
        );
    }
    Ok(())
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn can_make_namespaces() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn is_there(file: &str) -> bool {
    file.starts_with('/') && Path::new(file).exists()
        || SYSTEM_PATH.split(':').any(|folder| Path::new(folder).join(file).exists())
}

fn install_packages() -> Result<()> {
    let mut missing: Vec<&str> =
        NEEDED.iter().filter(|(file, _)| !is_there(file)).map(|(_, package)| *package).collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_there("apt-get") {
        bail!("please install these (names of Debian packages): {}", missing.join(" "));
    }
    let _step = Step::start(format!("installing Debian packages: {}", missing.join(" ")));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        run_command(command)
    };
    apt(&["update", "-qq"])?;
    apt(&[&["install", "-y", "-qq", "--no-install-recommends"], missing.as_slice()].concat())?;
    Ok(())
}
