//! The Go programs of the cluster, built once from the modules below `go/`.
//!
//! In: Go's module proxy as the machine is set up for it. Out: a folder with `testkube` (also as `kubectl` and
//! `helm`), `containerd`, `containerd-shim-runc-v2`, `ctr`, `coredns` and `pause`, named after a hash of the sources.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{paths, process::run_command, progress::Step};

/// The version of Kubernetes that the modules pin.
pub const KUBERNETES: &str = "1.36.3";

struct Program {
    module: &'static str,
    package: &'static str,
    file: &'static str,
    says: &'static str,
}

const PROGRAMS: &[Program] = &[
    Program {
        module: "kubernetes",
        package: "testkube",
        file: "testkube",
        says: "building Kubernetes 1.36.3, etcd, kubectl and Helm; about 6 minutes on 2 cores, once",
    },
    Program {
        module: "kubernetes",
        package: "coredns",
        file: "coredns",
        says: "building CoreDNS; about 1 minute, once",
    },
    Program {
        module: "runtime",
        package: "containerd",
        file: "containerd",
        says: "building containerd; about 1 minute, once",
    },
    Program { module: "runtime", package: "shim", file: "containerd-shim-runc-v2", says: "building containerd's shim" },
    Program { module: "runtime", package: "ctr", file: "ctr", says: "building containerd's client" },
    Program { module: "runtime", package: "pause", file: "pause", says: "building the pods' sandbox" },
];

/// The folder of the built programs; builds what is missing, which takes about 8 minutes of 2 cores the first time.
///
/// # Errors
/// When Go is missing, a module cannot be fetched, or a program does not compile.
pub fn ensure() -> Result<PathBuf> {
    let folder = folder()?;
    if folder.is_dir() {
        return Ok(folder);
    }
    if Command::new("go").arg("version").output().is_err() {
        bail!("Go 1.26 or newer is needed to build the test cluster's Kubernetes, and `go` is not on the PATH");
    }
    let cache = paths::cache()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let lock = File::create(cache.join("programs.lock"))?;
    if lock.try_lock().is_err() {
        let _step = Step::start("waiting for another process that builds the cluster's programs");
        lock.lock()?;
    }
    if folder.is_dir() {
        return Ok(folder);
    }
    build(&folder)?;
    remove_older(&cache, &folder);
    Ok(folder)
}

/// Where the programs are, or will be once they are built.
///
/// # Errors
/// When the sources cannot be read or there is no place for a cache.
pub fn folder() -> Result<PathBuf> {
    Ok(paths::cache()?.join(format!("programs-{}", &hash()?[..16])))
}

fn sources() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/go"))
}

fn version_flags() -> String {
    let name = "k8s.io/component-base/version";
    let mut parts = KUBERNETES.split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    format!("-s -w -X {name}.gitVersion=v{KUBERNETES} -X {name}.gitMajor={major} -X {name}.gitMinor={minor}")
}

fn hash() -> Result<String> {
    let mut files = Vec::new();
    collect(&sources(), &mut files)?;
    files.sort();
    let mut hash = Sha256::new();
    hash.update(version_flags());
    for file in files {
        hash.update(file.strip_prefix(sources())?.to_string_lossy().as_bytes());
        hash.update(fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn build(folder: &Path) -> Result<()> {
    let unfinished = folder.with_extension("unfinished");
    let _ = fs::remove_dir_all(&unfinished);
    fs::create_dir_all(&unfinished)?;
    for program in PROGRAMS {
        let _step = Step::start(program.says);
        let mut go = Command::new("go");
        go.args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", &version_flags(), "-o"])
            .arg(unfinished.join(program.file))
            .arg(format!("./{}", program.package))
            .current_dir(sources().join(program.module))
            .env("CGO_ENABLED", "0");
        run_command(go)?;
    }
    for name in ["kubectl", "helm"] {
        std::os::unix::fs::symlink("testkube", unfinished.join(name))?;
    }
    fs::rename(&unfinished, folder).context("cannot put the built programs in their place")
}

/// Programs of older sources only take space: 300 MB a set.
fn remove_older(cache: &Path, newest: &Path) {
    let Ok(entries) = fs::read_dir(cache) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("programs-") && path != newest && path.is_dir() {
            let _ = fs::remove_dir_all(path);
        }
    }
}
