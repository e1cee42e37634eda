//! The project's images, built without a daemon into the cache.
//!
//! In: this repository's sources and registries. Out: archives in the cache's `images` folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::{image::Image, paths};

/// The sandbox of every pod.
pub(crate) fn ensure_pause(programs: &Path) -> Result<PathBuf> {
    let folder = paths::images()?;
    fs::create_dir_all(&folder)?;
    let archive = folder.join("pause.tar");
    let mut image = Image::new("docker.io/collabcluster/pause:1", &["/pause"]);
    image.copy(&programs.join("pause"), "pause", 0o755)?;
    image.write(&archive)?;
    Ok(archive)
}
