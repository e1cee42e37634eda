//! Where things are kept.
//!
//! In: the environment (`COLLAB_CACHE`, `XDG_CACHE_HOME`, `HOME`). Out: folders. What was built is in the cache and
//! may be kept between runs of CI; a running cluster's state is in one place of the machine whatever the cache is,
//! because its interfaces and addresses exist once on a machine too.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// State of the running cluster. On a disk that allows execution: containers run from below it.
pub(crate) const STATE: &str = "/var/lib/collabcluster";

/// Built programs, images, packages.
///
/// # Errors
/// When neither `COLLAB_CACHE` nor `XDG_CACHE_HOME` nor `HOME` is set.
pub fn cache() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let found = set("COLLAB_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("collabcluster")))
        .or_else(|| set("HOME").map(|folder| folder.join(".cache/collabcluster")))
        .context("set COLLAB_CACHE or HOME: built programs are kept there")?;
    // Daemons work in other folders.
    Ok(std::path::absolute(found)?)
}

/// Image archives that `images` builds.
///
/// # Errors
/// As [`cache`].
pub fn images() -> Result<PathBuf> {
    Ok(cache()?.join("images"))
}

/// The repository's root.
pub fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
