//! What the laws in `tests/` look at: the repository's files as git knows them, and the workspace's crates as cargo does.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// The top of the checkout.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A tracked (or new and not ignored) file: its path from the top, and its text where it is text.
pub struct File {
    /// With forward slashes, from the top of the checkout.
    pub path: String,
    /// `None` for files that are not UTF-8.
    pub text: Option<String>,
    /// Size on disk.
    pub bytes: u64,
}

/// Every file that a commit of the present tree would hold.
///
/// # Errors
/// When git cannot list the files.
pub fn files() -> Result<Vec<File>> {
    let listing = stdout(Command::new("git").current_dir(root()).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let mut files = Vec::new();
    for path in listing.lines() {
        let full = root().join(path);
        let Ok(metadata) = std::fs::metadata(&full) else { continue }; // deleted, not yet committed
        let text = std::fs::read_to_string(&full).ok();
        files.push(File { path: path.to_owned(), text, bytes: metadata.len() });
    }
    Ok(files)
}

/// The workspace's crates and the names of what each depends on, dev-dependencies left out.
///
/// # Errors
/// When cargo's answer cannot be read.
pub fn dependencies() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let text = stdout(Command::new(env!("CARGO")).current_dir(root()).args([
        "metadata",
        "--no-deps",
        "--format-version=1",
        "--offline",
    ]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    Ok(packages.iter().map(|package| (name(package), normal_dependencies(package))).collect())
}

fn normal_dependencies(package: &serde_json::Value) -> BTreeSet<String> {
    let all = package["dependencies"].as_array().into_iter().flatten();
    all.filter(|dependency| dependency["kind"].is_null()).map(name).collect()
}

fn name(value: &serde_json::Value) -> String {
    value["name"].as_str().unwrap_or_default().to_owned()
}

fn stdout(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
