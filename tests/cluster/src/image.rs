//! Container images without a daemon: an OCI archive with one layer, the same bytes for the same files.
//!
//! In: a name, an entry point and files. Out: a tar file that `ctr images import`, `docker load` and `skopeo` read.
//! Nothing of the time, the machine or the order of arguments gets in, so that a digest tells the contents.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// The user of every image: no name on the host has this number.
pub const USER: u32 = 65532;

static WRITTEN: AtomicU32 = AtomicU32::new(0);

/// An image under construction.
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    entrypoint: Vec<String>,
    environment: Vec<String>,
    port: Option<u16>,
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug)]
enum Entry {
    File {
        bytes: Vec<u8>,
        mode: u32,
    },
    Link {
        target: String,
    },
    /// Belongs to the image's user.
    Folder {
        mode: u32,
    },
}

impl Image {
    /// An image of a full name such as `docker.io/collabcluster/gateway:0.1.0`. It holds a user database with root and
    /// the user 65532, and an empty `/tmp`.
    pub fn new(name: &str, entrypoint: &[&str]) -> Self {
        let mut image = Self {
            name: name.to_owned(),
            entrypoint: entrypoint.iter().map(|word| (*word).to_owned()).collect(),
            environment: vec!["PATH=/usr/local/bin:/usr/bin:/bin".to_owned()],
            port: None,
            entries: BTreeMap::new(),
        };
        let users = format!("root:x:0:0:root:/:/none\nnonroot:x:{USER}:{USER}:nonroot:/:/none\n");
        image.file("etc/passwd", users.into_bytes(), 0o644);
        image.file("etc/group", format!("root:x:0:\nnonroot:x:{USER}:\n").into_bytes(), 0o644);
        // Addresses in /etc/hosts before DNS; without this file the C library asks in an order of its own.
        image.file("etc/nsswitch.conf", b"hosts: files dns\n".to_vec(), 0o644);
        image.folder("tmp", 0o1777);
        image
    }

    /// Adds a file; the path has no leading slash.
    pub fn file(&mut self, path: &str, bytes: Vec<u8>, mode: u32) -> &mut Self {
        self.entries.insert(path.to_owned(), Entry::File { bytes, mode });
        self
    }

    /// Adds a file of this machine.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn copy(&mut self, source: &Path, path: &str, mode: u32) -> Result<&mut Self> {
        let bytes = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        Ok(self.file(path, bytes, mode))
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        self.entries.insert(path.to_owned(), Entry::Link { target: target.to_owned() });
        self
    }

    /// Adds a folder that the image's user may write to.
    pub fn folder(&mut self, path: &str, mode: u32) -> &mut Self {
        self.entries.insert(path.to_owned(), Entry::Folder { mode });
        self
    }

    /// Names the port that the image listens on, for people who read its configuration.
    pub fn port(&mut self, port: u16) -> &mut Self {
        self.port = Some(port);
        self
    }

    /// Writes the archive and returns the manifest's digest (`sha256:…`).
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub fn write(&self, archive: &Path) -> Result<String> {
        let layer = self.layer()?;
        let config = serde_json::to_vec(&self.config(&digest(&layer)))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        }))?;
        let mut described = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        described["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": self.name,
        });
        let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [described]}))?;
        // `docker load` of older engines reads this file instead of index.json.
        let docker = serde_json::to_vec(&json!([{
            "Config": blob(&config),
            "RepoTags": [self.name.trim_start_matches("docker.io/")],
            "Layers": [blob(&layer)],
        }]))?;
        let mut files = BTreeMap::from([
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), index),
            ("manifest.json".to_owned(), docker),
        ]);
        let wanted = digest(&manifest);
        for bytes in [config, manifest, layer] {
            files.insert(blob(&bytes), bytes);
        }
        // Written beside and renamed: nobody loads half an archive, and two writers do not take each other's.
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let unfinished = archive.with_extension(format!("{}-{number}.unfinished", std::process::id()));
        let file = fs::File::create(&unfinished).with_context(|| format!("cannot write {}", unfinished.display()))?;
        let mut outer = Builder::new(file);
        for (path, bytes) in files {
            append(&mut outer, &path, EntryType::Regular, 0o644, 0, &bytes)?;
        }
        outer.into_inner()?.flush()?;
        fs::rename(&unfinished, archive)?;
        Ok(wanted)
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        let mut folders: BTreeSet<String> = BTreeSet::new();
        for path in self.entries.keys() {
            let mut above = Path::new(path);
            while let Some(folder) = above.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                folders.insert(folder.display().to_string());
                above = folder;
            }
        }
        for folder in folders.iter().filter(|folder| !self.entries.contains_key(*folder)) {
            append(&mut tar, &format!("{folder}/"), EntryType::Directory, 0o755, 0, &[])?;
        }
        for (path, entry) in &self.entries {
            match entry {
                Entry::File { bytes, mode } => append(&mut tar, path, EntryType::Regular, *mode, 0, bytes)?,
                Entry::Folder { mode } => {
                    append(&mut tar, &format!("{path}/"), EntryType::Directory, *mode, USER, &[])?
                }
                Entry::Link { target } => {
                    let mut header = header(EntryType::Symlink, 0o777, 0, 0);
                    tar.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(tar.into_inner()?)
    }

    fn config(&self, layer: &str) -> Value {
        let mut config = json!({
            "User": format!("{USER}:{USER}"),
            "Entrypoint": self.entrypoint,
            "Env": self.environment,
            "WorkingDir": "/",
        });
        if let Some(port) = self.port {
            config["ExposedPorts"] = json!({format!("{port}/tcp"): {}});
        }
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        json!({
            "architecture": architecture,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        })
    }
}

/// The name of the image in an archive.
///
/// # Errors
/// When it is not an OCI archive with a named image.
pub fn name_in(archive: &Path) -> Result<String> {
    let file = fs::File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries()? {
        let entry = entry?;
        if entry.path()?.as_os_str() == "index.json" {
            let index: Value = serde_json::from_reader(entry)?;
            let name = index["manifests"][0]["annotations"]["io.containerd.image.name"].as_str();
            return name.map(str::to_owned).context("the archive names no image");
        }
    }
    anyhow::bail!("not an OCI archive: it has no index.json")
}

fn digest(bytes: &[u8]) -> String {
    let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hash}")
}

fn blob(bytes: &[u8]) -> String {
    format!("blobs/{}", digest(bytes).replace(':', "/"))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

fn header(kind: EntryType, mode: u32, owner: u32, bytes: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner.into());
    header.set_gid(owner.into());
    header.set_mtime(0);
    header.set_size(bytes);
    header
}

fn append<W: Write>(
    tar: &mut Builder<W>,
    path: &str,
    kind: EntryType,
    mode: u32,
    owner: u32,
    bytes: &[u8],
) -> Result<()> {
    let mut header = header(kind, mode, owner, bytes.len() as u64);
    tar.append_data(&mut header, path, bytes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Image {
        let mut image = Image::new("docker.io/collabcluster/sample:1", &["/usr/local/bin/sample"]);
        image.file("usr/local/bin/sample", b"program".to_vec(), 0o755).folder("data", 0o755).port(3000);
        image.link("bin", "usr/local/bin");
        image
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let folder = std::env::temp_dir().join(format!("collab-image-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (first, second) = (folder.join("first.tar"), folder.join("second.tar"));
        assert_eq!(sample().write(&first).unwrap(), sample().write(&second).unwrap());
        assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap());
        let mut other = sample();
        other.file("usr/local/bin/sample", b"changed".to_vec(), 0o755);
        assert_ne!(other.write(&first).unwrap(), sample().write(&second).unwrap());
        assert_eq!(name_in(&second).unwrap(), "docker.io/collabcluster/sample:1");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn every_entry_has_its_folders_before_it_and_no_time() {
        let layer = sample().layer().unwrap();
        let mut archive = tar::Archive::new(layer.as_slice());
        let mut seen = BTreeSet::from([String::new()]);
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let path = path.trim_end_matches('/').to_owned();
            let above = Path::new(&path).parent().unwrap().display().to_string();
            assert!(seen.contains(&above), "{path} comes before its folder");
            assert_eq!(entry.header().mtime().unwrap(), 0);
            seen.insert(path);
        }
        assert!(seen.contains("usr/local/bin/sample") && seen.contains("tmp") && seen.contains("data"));
    }
}
