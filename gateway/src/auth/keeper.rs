//! Keeps the keys that verify tokens: reads files again when they change, and fetches the key set.
//!
//! In: paths, a URL, words that a token names an unknown key. Out: the present [`Keys`], never fewer than were good
//! before something could not be read: a key goes only when a file or a set that was read does not have it any more.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use hyper::{StatusCode, Uri};
use jsonwebtoken::DecodingKey;
use quick_cache::sync::Cache;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    jwks,
    keys::{self, Key},
};
use crate::{
    config::{Jwt, LOOK_INTERVAL},
    http_client::{Answer, HttpClient, Limit},
    metrics::Metrics,
};

/// A key set is fetched again after a time between these, so that pods do not ask together.
const REFRESH_S: std::ops::RangeInclusive<u64> = 300..=600;
/// What a fetch may cost.
const FETCH: Limit = Limit { time: Duration::from_secs(5), bytes: 256 << 10 };
/// Between two fetches that were asked for, twice as long each time nothing new came of it: tokens of strangers can name
/// any key.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// After a failed fetch, twice as long each time; while there is no set at all clients wait for one.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(60);
const RETRY_MAX_WITHOUT_KEYS: Duration = Duration::from_secs(2);
/// Unknown keys that were asked for and are remembered, and for how long; a flood of them only makes their tokens wait.
const ASKED_MAX: usize = 4096;
const ASKED_LIFE: Duration = Duration::from_secs(30);

/// All keys at one time.
#[derive(Debug)]
pub(super) struct Keys {
    /// Differs between keys that differ.
    pub(super) generation: u64,
    /// As they are, for signing.
    pub(super) secrets: Vec<Vec<u8>>,
    /// The same, for verifying.
    pub(super) secret_keys: Vec<DecodingKey>,
    /// Of the PEM file.
    pub(super) public: Vec<Key>,
    /// Of the key set.
    pub(super) remote: Remote,
}

/// The key set.
#[derive(Debug, Clone)]
pub(super) enum Remote {
    /// There is none to fetch.
    Absent,
    /// It was never fetched: nothing can be said of tokens.
    Awaited,
    /// As it was when it was asked for last.
    Fetched { keys: Arc<Vec<Key>>, asked_at: Instant },
}

/// The keys and where they come from.
pub(super) struct Keeper {
    keys: watch::Sender<Arc<Keys>>,
    secret_files: Vec<PathBuf>,
    public_file: Option<PathBuf>,
    jwks_url: Option<Uri>,
    metrics: Metrics,
    wanted: Notify,
    /// When the newest of the unknown keys was asked for first.
    wanted_at: Mutex<Option<Instant>>,
    /// Names of keys that tokens asked for, and when first.
    asked: Cache<String, Instant>,
}

impl Keeper {
    /// Reads the files; without any, a random secret that lives as long as the process.
    pub(super) fn new(jwt: &Jwt, metrics: Metrics) -> std::io::Result<Keeper> {
        let secrets =
            if jwt.secret_files.is_empty() { vec![random_secret()?] } else { keys::secrets(&jwt.secret_files)? };
        let public = match &jwt.public_key_file {
            Some(file) => {
                keys::public_file(file).map_err(|why| std::io::Error::other(format!("{} {why}", file.display())))?
            }
            None => Vec::new(),
        };
        let remote = if jwt.jwks_url.is_some() { Remote::Awaited } else { Remote::Absent };
        let secret_keys = decoding(&secrets);
        let keys = Keys { generation: 0, secrets, secret_keys, public, remote };
        Ok(Keeper {
            keys: watch::Sender::new(Arc::new(keys)),
            secret_files: jwt.secret_files.clone(),
            public_file: jwt.public_key_file.clone(),
            jwks_url: jwt.jwks_url.clone(),
            metrics,
            wanted: Notify::new(),
            wanted_at: Mutex::default(),
            asked: Cache::new(ASKED_MAX),
        })
    }

    /// The present keys.
    pub(super) fn keys(&self) -> Arc<Keys> {
        self.keys.borrow().clone()
    }

    /// Changes with the keys.
    pub(super) fn changes(&self) -> watch::Receiver<Arc<Keys>> {
        self.keys.subscribe()
    }

    /// Whether the set is known not to have a key of this name: it was fetched after somebody asked. Otherwise it is
    /// going to be fetched.
    pub(super) fn is_unknown(&self, kid: &str, asked_at: Instant) -> bool {
        let first = self.asked.get(kid).filter(|first| first.elapsed() < ASKED_LIFE).unwrap_or_else(|| {
            let now = Instant::now();
            self.asked.insert(kid.to_owned(), now);
            now
        });
        if asked_at >= first {
            return true;
        }
        {
            let mut wanted_at = self.wanted_at.lock().unwrap_or_else(PoisonError::into_inner);
            *wanted_at = (*wanted_at).max(Some(first));
        }
        self.wanted.notify_one();
        false
    }

    /// Keeps them for good.
    pub(super) async fn keep(&self) {
        match &self.jwks_url {
            Some(url) => tokio::join!(self.follow_files(), self.follow_set(url)).0,
            None => self.follow_files().await,
        }
    }

    async fn follow_files(&self) {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        let mut changed = self.times();
        loop {
            looks.tick().await;
            let now = self.times();
            if now != changed && self.read_files() {
                changed = now;
            }
        }
    }

    fn times(&self) -> Vec<Option<SystemTime>> {
        let time = |file: &PathBuf| std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
        self.secret_files.iter().chain(&self.public_file).map(time).collect()
    }

    /// False if one cannot be read: then all stay as they are.
    fn read_files(&self) -> bool {
        let secrets = keys::secrets(&self.secret_files).map_err(|error| error.to_string());
        // A file that is being replaced may be empty for a moment, and an empty secret is none.
        let secrets = secrets.and_then(|all| match all.iter().any(|secret| secret.trim_ascii().is_empty()) {
            true => Err("a secret file is empty".to_owned()),
            false => Ok(all),
        });
        let public = self.public_file.as_deref().map_or_else(|| Ok(Vec::new()), read_public);
        match (secrets, public) {
            (Ok(secrets), Ok(public)) => {
                tracing::info!("read the keys of tokens again");
                self.replace(|old| {
                    let secrets = if self.secret_files.is_empty() { old.secrets.clone() } else { secrets };
                    let secret_keys = decoding(&secrets);
                    Keys { generation: old.generation + 1, secrets, secret_keys, public, remote: old.remote.clone() }
                });
                true
            }
            (Err(why), _) | (_, Err(why)) => {
                tracing::warn!("a file of token keys cannot be used, the old keys stay: {why}");
                false
            }
        }
    }

    async fn follow_set(&self, url: &Uri) {
        let client = match HttpClient::new() {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(%error, "no key set can be fetched");
                return std::future::pending().await;
            }
        };
        let (mut pause, mut retry) = (PAUSE_MIN, RETRY_MIN);
        let mut last = Vec::new();
        let mut skipped = Vec::new();
        loop {
            let asked_at = Instant::now();
            let wait = match fetch(&client, url).await {
                Ok(set) => {
                    if set.skipped != skipped {
                        tracing::info!(skipped = ?set.skipped, "keys of the key set that cannot verify tokens here");
                        skipped = set.skipped;
                    }
                    let is_news = set.body != last;
                    last = set.body;
                    self.metrics.key_set_fetch(if is_news { "changed" } else { "unchanged" });
                    pause = if is_news { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
                    retry = RETRY_MIN;
                    self.fetched(set.keys, asked_at, is_news);
                    Duration::from_secs(rand::random_range(REFRESH_S))
                }
                Err(why) => {
                    self.metrics.key_set_fetch("failed");
                    tracing::warn!("the key set cannot be fetched, the keys that were known stay: {why}");
                    let wait = retry.mul_f64(rand::random_range(0.5..1.0));
                    let is_awaited = matches!(self.keys().remote, Remote::Awaited);
                    retry = (retry * 2).min(if is_awaited { RETRY_MAX_WITHOUT_KEYS } else { RETRY_MAX });
                    wait
                }
            };
            let wanted = async {
                // Whoever asked before this fetch began is answered by it.
                loop {
                    self.wanted.notified().await;
                    if self.is_wanted_since(asked_at) {
                        break;
                    }
                }
                tokio::time::sleep_until(asked_at + pause).await;
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = wanted => {}
            }
        }
    }

    /// Whether a key was asked for that a fetch of that time says nothing about.
    fn is_wanted_since(&self, asked_at: Instant) -> bool {
        let has_answered = matches!(self.keys().remote, Remote::Fetched { asked_at: at, .. } if at == asked_at);
        let wanted_at = *self.wanted_at.lock().unwrap_or_else(PoisonError::into_inner);
        !has_answered || wanted_at > Some(asked_at)
    }

    fn fetched(&self, keys: Vec<Key>, asked_at: Instant, is_news: bool) {
        self.replace(|old| {
            let keys = match &old.remote {
                Remote::Fetched { keys, .. } if !is_news => Arc::clone(keys),
                Remote::Fetched { .. } | Remote::Awaited | Remote::Absent => Arc::new(keys),
            };
            Keys {
                generation: old.generation + u64::from(is_news),
                secrets: old.secrets.clone(),
                secret_keys: old.secret_keys.clone(),
                public: old.public.clone(),
                remote: Remote::Fetched { keys, asked_at },
            }
        });
    }

    fn replace(&self, change: impl FnOnce(&Keys) -> Keys) {
        self.keys.send_modify(|keys| *keys = Arc::new(change(keys)));
    }
}

struct FetchedSet {
    body: Vec<u8>,
    keys: Vec<Key>,
    skipped: Vec<String>,
}

async fn fetch(client: &HttpClient, url: &Uri) -> Result<FetchedSet, String> {
    let Answer { status, body } = client.get(url.clone(), FETCH).await.map_err(|error| error.to_string())?;
    if status != StatusCode::OK {
        return Err(format!("its server answered {status}"));
    }
    let set = jwks::parse(&body)?;
    // Nobody means to lock everybody out; whoever does takes the URL away.
    if set.keys.is_empty() {
        return Err(format!("it has no key that can verify tokens here: {}", set.skipped.join("; ")));
    }
    Ok(FetchedSet { body: body.to_vec(), keys: set.keys, skipped: set.skipped })
}

fn read_public(file: &Path) -> Result<Vec<Key>, String> {
    keys::public_file(file).map_err(|why| format!("{} {why}", file.display()))
}

fn decoding(secrets: &[Vec<u8>]) -> Vec<DecodingKey> {
    secrets.iter().map(|secret| DecodingKey::from_secret(secret)).collect()
}

fn random_secret() -> std::io::Result<Vec<u8>> {
    let mut secret = vec![0; 32];
    getrandom::fill(&mut secret).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(secret)
}
