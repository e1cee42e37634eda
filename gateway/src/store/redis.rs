//! The shared store: documents in Redis or Valkey, changed only by scripts, so that every change is whole.
//!
//! In and out: see [`super::Store`]. The rules are in the `.lua` files beside this one; here are their arguments and
//! answers. Keys of a document carry the hash tag `{doc:<id>}`.

use std::{
    sync::{Arc, LazyLock},
    time::Instant,
};

use bytes::Bytes;
use document::{ClientRow, Point, Verdict, Version};
use redis::{Cmd, FromRedisValue, Pipeline, Value};
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use super::{
    Away, CATCH_UPS_MAX, CHUNK_BYTES, Committed, Creation, Era, Link, LookedUp, NewEntry, Opened, PRESENCE_LIFE_S,
    PRESENCE_PAGE_ROWS, PRESENCE_ROWS_MAX, RedisSettings, Saved, Script, Servers, StoreError, StoredEntry, Tail,
    durability::GroupCommit, health::Health, rules, slots::slot,
};

/// Before each chunk of a snapshot: which save it belongs to.
const TAG_BYTES: usize = 16;
/// Presence rows that one call removes; a thousand take Redis about a millisecond.
const FORGET_ROWS: usize = 1000;
/// A snapshot may be replaced while its chunks are read; then it is read again.
const OPEN_ATTEMPTS: usize = 5;

const COMMON: &str = include_str!("common.lua");
static COMMIT: LazyLock<Script> = LazyLock::new(|| Script::new(&[COMMON, include_str!("commit.lua")]));
static OPEN: LazyLock<Script> = LazyLock::new(|| Script::new(&[COMMON, include_str!("open.lua")]));
static READ: LazyLock<Script> = LazyLock::new(|| Script::new(&[COMMON, include_str!("read.lua")]));
static FORGET: LazyLock<Script> = LazyLock::new(|| Script::new(&[include_str!("forget.lua")]));
static SNAPSHOT: LazyLock<Script> = LazyLock::new(|| Script::new(&[COMMON, include_str!("snapshot.lua")]));

/// Documents on a Redis server; clones share the connections.
#[derive(Debug, Clone)]
pub struct RedisStore {
    servers: Servers,
    commits: Link,
    rest: Link,
    durability: GroupCommit,
    health: Health,
    catch_ups: Arc<Semaphore>,
}

impl RedisStore {
    /// Connects at the first call.
    pub fn new(settings: Arc<RedisSettings>) -> Self {
        Self::over(&Servers::new(settings))
    }

    /// The same over servers that others use too.
    pub fn over(servers: &Servers) -> Self {
        Self {
            servers: servers.clone(),
            commits: Link::new(servers.clone()),
            rest: Link::new(servers.clone()),
            durability: GroupCommit::new(servers.clone()),
            health: Health::default(),
            catch_ups: Arc::new(Semaphore::new(CATCH_UPS_MAX)),
        }
    }

    pub(super) async fn application_value(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        let value: Option<Vec<u8>> = self.rest.query(key, Cmd::new().arg("GET").arg(key)).await?;
        Ok(value.map(Bytes::from))
    }

    pub(super) async fn application_value_start(&self, key: &str, bytes: usize) -> Result<Bytes, StoreError> {
        let start: Vec<u8> = self.rest.query(key, Cmd::new().arg("GETRANGE").arg(key).arg(0).arg(bytes - 1)).await?;
        Ok(Bytes::from(start))
    }

    pub(super) async fn set_for_a_while(
        &self,
        key: &str,
        value: Option<&Bytes>,
        life_s: u64,
    ) -> Result<(), StoreError> {
        let mut command = Cmd::new();
        match value {
            Some(value) => command.arg("SET").arg(key).arg(&value[..]).arg("EX").arg(life_s),
            None => command.arg("DEL").arg(key),
        };
        self.rest.query(key, &command).await
    }

    pub(super) fn evicting(&self) -> Option<String> {
        self.servers.evicting()
    }

    pub(super) fn unsynced(&self) -> Option<String> {
        self.servers.unsynced()
    }

    pub(super) fn acknowledges_late(&self) -> Option<Away> {
        self.durability.late()
    }

    pub(super) async fn open(&self, document: &str, creation: Option<&Creation>) -> Result<Option<Opened>, StoreError> {
        let mut torn = None;
        for _ in 0..OPEN_ATTEMPTS {
            let answer = self.open_once(document, creation).await?;
            match answer {
                Attempt::Absent => return Ok(None),
                Attempt::Opened(opened) => return Ok(Some(*opened)),
                // It was not replaced meanwhile: it will be so the next time, too.
                Attempt::Torn(version) if torn == Some(version) => {
                    return Err(StoreError::Damaged("chunks of the snapshot do not belong together".into()));
                }
                Attempt::Torn(version) => torn = Some(version),
            }
        }
        Err(StoreError::Unavailable("the snapshot was replaced each time it was being read".into()))
    }

    async fn open_once(&self, document: &str, creation: Option<&Creation>) -> Result<Attempt, StoreError> {
        let keys = [key(document, "meta"), key(document, "log")];
        let prefix = key(document, "snapshot:");
        let mut arguments: Vec<&[u8]> = vec![prefix.as_bytes()];
        let chunks: Vec<Vec<u8>>;
        if let Some(creation) = creation {
            arguments.push(creation.root.as_bytes());
            let tag = tag();
            chunks = creation.snapshot.iter().flat_map(|snapshot| cut(snapshot, &tag)).collect();
            arguments.extend(chunks.iter().map(Vec::as_slice));
        }
        let mut answer = Fields::new(self.rest.script(&OPEN, &keys, creation.is_some(), &arguments).await?.0);
        if answer.is_empty() {
            return Ok(Attempt::Absent);
        }
        let head = Point { version: answer.next()?, hash: answer.next::<String>()?.into() };
        let snapshot_at = Point { version: answer.next()?, hash: answer.next::<String>()?.into() };
        let count: usize = answer.next()?;
        let first: Vec<u8> = answer.next()?;
        let more: u8 = answer.next()?;
        let tail = tail(snapshot_at.version, more == 1, answer.next()?);
        let snapshot = match count {
            0 => None,
            _ => match self.join_chunks(&prefix, snapshot_at.version, first, count).await? {
                None => return Ok(Attempt::Torn(snapshot_at.version)),
                Some(whole) => Some(whole),
            },
        };
        Ok(Attempt::Opened(Box::new(Opened { head, snapshot_at, snapshot, tail })))
    }

    /// The whole of a snapshot whose first chunk is known; `None` if others are not there any more.
    async fn join_chunks(
        &self,
        prefix: &str,
        version: Version,
        first: Vec<u8>,
        count: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        if first.len() < TAG_BYTES {
            return Err(StoreError::Damaged("a chunk of the snapshot is too short".into()));
        }
        let mut whole = Bytes::from(first);
        let tag = whole.split_to(TAG_BYTES);
        if count == 1 {
            return Ok(Some(whole));
        }
        let mut joined = Vec::with_capacity(count.min(64) * CHUNK_BYTES);
        joined.extend_from_slice(&whole);
        let mut pipeline = Pipeline::new();
        for n in 1..count {
            pipeline.cmd("GET").arg(format!("{prefix}{version}:{n}"));
        }
        let chunks: Vec<Option<Vec<u8>>> = self.rest.pipeline(prefix, &pipeline).await?;
        for chunk in chunks {
            match chunk.as_deref().and_then(|chunk| chunk.strip_prefix(&tag[..])) {
                None => return Ok(None),
                Some(bytes) => joined.extend_from_slice(bytes),
            }
        }
        Ok(Some(joined.into()))
    }

    pub(super) async fn commit(
        &self,
        document: &str,
        head: &Point,
        floor: Version,
        batch: &[NewEntry],
    ) -> Result<Committed, StoreError> {
        const BEFORE_ENTRIES: usize = 5;
        let mut texts = Vec::with_capacity(BEFORE_ENTRIES + 4 * batch.len());
        texts.push(channel(document));
        texts.push(head.version.to_string());
        texts.push(head.hash.to_string());
        texts.push(floor.to_string());
        texts.push(batch.len().to_string());
        for entry in batch {
            texts.push(rules::row_name(&entry.identity));
            texts.push(entry.identity.seq.to_string());
            texts.push(u8::from(entry.identity.by_gateway).to_string());
            texts.push(entry.base.to_string());
        }
        let mut arguments: Vec<&[u8]> = texts[..BEFORE_ENTRIES].iter().map(String::as_bytes).collect();
        for (entry, texts) in batch.iter().zip(texts[BEFORE_ENTRIES..].chunks(4)) {
            arguments.extend(texts[..3].iter().map(String::as_bytes));
            arguments.extend([entry.owner.as_bytes(), texts[3].as_bytes(), &entry.bytes]);
        }
        let keys = [key(document, "meta"), key(document, "log"), key(document, "clients")];
        let outcome = self.commits.script(&COMMIT, &keys, true, &arguments).await;
        self.saw(&keys[0], &outcome);
        let (answer, era) = outcome?;
        let mut answer = Fields::new(answer);
        let forked: u8 = answer.next()?;
        let more: u8 = answer.next()?;
        let verdicts: Vec<String> = answer.next()?;
        let verdicts = verdicts.iter().map(|text| verdict(text)).collect::<Result<Vec<_>, _>>()?;
        let tail = Tail { forked: forked == 1, ..tail(head.version, more == 1, answer.next()?) };
        if !tail.forked && verdicts.len() != batch.len() {
            return Err(StoreError::Damaged("the commit script answered for another batch".into()));
        }
        Ok(Committed { verdicts, tail, era })
    }

    pub(super) async fn lookup(
        &self,
        document: &str,
        clients: &[Arc<str>],
        after: &Point,
    ) -> Result<LookedUp, StoreError> {
        let keys = [key(document, "meta"), key(document, "log"), key(document, "clients")];
        let version = after.version.to_string();
        let mut arguments = vec![version.as_bytes(), after.hash.as_bytes()];
        arguments.extend(clients.iter().map(|client| client.as_bytes()));
        let (answer, era) = self.rest.script(&READ, &keys, false, &arguments).await?;
        let mut answer = Fields::new(answer);
        let forked: u8 = answer.next()?;
        let more: u8 = answer.next()?;
        let tail = Tail { forked: forked == 1, ..tail(after.version, more == 1, answer.next()?) };
        let texts: Vec<String> = answer.next()?;
        let mut rows = Vec::new();
        for (client, text) in clients.iter().zip(texts).filter(|(_, text)| !text.is_empty()) {
            rows.push(row(client, &text)?);
        }
        Ok(LookedUp { rows, tail, era })
    }

    /// Nobody closes the semaphore.
    pub(super) async fn turn_to_catch_up(&self) -> Option<SemaphorePermit<'_>> {
        self.catch_ups.acquire().await.ok()
    }

    pub(super) async fn make_durable(&self, era: Era) -> Result<(), StoreError> {
        self.durability.reached(era).await
    }

    pub(super) fn history_changes(&self) -> watch::Receiver<u64> {
        self.servers.numbers()
    }

    pub(super) async fn save(&self, document: &str, at: &Point, snapshot: &Bytes) -> Result<Saved, StoreError> {
        let keys = [key(document, "meta"), key(document, "log"), key(document, "clients")];
        let (prefix, version, tag) = (key(document, "snapshot:"), at.version.to_string(), tag());
        let pieces: Vec<&[u8]> = pieces(snapshot).collect();
        let count = pieces.len().to_string();
        for (n, piece) in pieces.into_iter().enumerate() {
            let n = n.to_string();
            let arguments = [
                prefix.as_bytes(),
                version.as_bytes(),
                at.hash.as_bytes(),
                n.as_bytes(),
                count.as_bytes(),
                tag.as_bytes(),
                piece,
            ];
            let word: String = Fields::new(self.rest.script(&SNAPSHOT, &keys, true, &arguments).await?.0).next()?;
            match word.as_str() {
                "stored" => {}
                "saved" => return Ok(Saved::Stored),
                // Somebody else saves the same version at the same time, which is as good.
                "stale" | "mixed" => return Ok(Saved::Stale),
                "forked" => return Ok(Saved::Forked),
                _ => return Err(StoreError::Damaged(format!("the snapshot script answered {word:?}"))),
            }
        }
        Err(StoreError::Damaged("the snapshot script did not take the last chunk for the last".into()))
    }

    pub(super) async fn presence(&self, document: &str) -> Result<Vec<(String, Bytes)>, StoreError> {
        let key = key(document, "presence");
        let (mut rows, mut cursor) = (Vec::new(), 0_u64);
        loop {
            // A small hash comes whole, a large one never keeps the server from others for long. What is missed because
            // another server goes on with the cursor is doubted before it is believed (`Input::Presence`).
            let mut scan = Cmd::new();
            scan.arg("HSCAN").arg(&key).arg(cursor).arg("COUNT").arg(PRESENCE_PAGE_ROWS);
            let (next, page): (u64, Vec<(String, Vec<u8>)>) = self.rest.query(&key, &scan).await?;
            rows.extend(page.into_iter().map(|(name, row)| (name, Bytes::from(row))));
            cursor = next;
            if cursor == 0 {
                return Ok(rows);
            }
            if rows.len() >= PRESENCE_ROWS_MAX {
                tracing::warn!(document, rows = rows.len(), "more people than are counted");
                return Ok(rows);
            }
        }
    }

    pub(super) async fn write_presence(
        &self,
        document: &str,
        rows: &[(String, Option<Bytes>)],
    ) -> Result<(), StoreError> {
        let key = key(document, "presence");
        let mut pipeline = Pipeline::new();
        for (name, row) in rows {
            match row {
                Some(row) => pipeline.cmd("HSET").arg(&key).arg(name).arg(&row[..]).ignore(),
                None => pipeline.cmd("HDEL").arg(&key).arg(name).ignore(),
            };
        }
        pipeline.cmd("EXPIRE").arg(&key).arg(PRESENCE_LIFE_S).ignore();
        self.rest.pipeline(&key, &pipeline).await
    }

    pub(super) async fn forget_presence(&self, document: &str, rows: &[(String, Bytes)]) -> Result<(), StoreError> {
        let keys = [key(document, "presence")];
        for rows in rows.chunks(FORGET_ROWS) {
            let arguments: Vec<&[u8]> = rows.iter().flat_map(|(name, row)| [name.as_bytes(), &row[..]]).collect();
            self.rest.script(&FORGET, &keys, false, &arguments).await?;
        }
        Ok(())
    }

    pub(super) async fn hold_lease(&self, pod: &str, life_s: u64) -> Result<bool, StoreError> {
        let key = format!("collab:pod:{pod}");
        let mut command = Cmd::new();
        if life_s == 0 {
            command.arg("DEL").arg(&key);
            return self.rest.query(&key, &command).await;
        }
        command.arg("SET").arg(&key).arg(1).arg("EX").arg(life_s).arg("GET");
        let before: Result<Option<String>, StoreError> = self.rest.query(&key, &command).await;
        self.saw(&key, &before);
        Ok(before?.is_some())
    }

    pub(super) async fn living(&self, pods: &[Arc<str>]) -> Result<Vec<bool>, StoreError> {
        // Each may be on another server of a cluster; to the same one they go in one write.
        let asked = pods.iter().map(|pod| {
            let (link, key) = (self.rest.clone(), format!("collab:pod:{pod}"));
            async move { link.query(&key, Cmd::new().arg("EXISTS").arg(&key)).await }
        });
        futures_util::future::try_join_all(asked).await
    }

    /// Takes in what became of a change: in Cluster mode it tells of the key's slot alone.
    fn saw<T>(&self, key: &str, outcome: &Result<T, StoreError>) {
        let slot = self.servers.is_cluster().then(|| slot(key.as_bytes()));
        self.health.saw(slot, outcome, Instant::now());
    }

    pub(super) fn away(&self) -> Option<Away> {
        self.health.told(Instant::now())
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        self.rest.query::<Value>("", Cmd::new().arg("PING")).await?;
        self.health.heard();
        Ok(())
    }

    pub(super) fn has_answered(&self) -> bool {
        self.health.has_answered()
    }
}

enum Attempt {
    Absent,
    Opened(Box<Opened>),
    /// Not all chunks of this snapshot are there: it was replaced, or it is damaged.
    Torn(Version),
}

/// The fields of a script's answer, taken one after the other.
struct Fields(std::vec::IntoIter<Value>);

impl Fields {
    fn new(values: Vec<Value>) -> Self {
        Self(values.into_iter())
    }

    fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    fn next<T: FromRedisValue>(&mut self) -> Result<T, StoreError> {
        let value = self.0.next().ok_or_else(|| StoreError::Damaged("a script's answer is too short".into()))?;
        redis::from_redis_value(value).map_err(|error| StoreError::Damaged(format!("a script's answer: {error}")))
    }
}

fn key(document: &str, what: &str) -> String {
    format!("{{doc:{document}}}:{what}")
}

fn channel(document: &str) -> String {
    crate::bus::document_channel(document)
}

fn tail(after: Version, more: bool, entries: Vec<(Vec<u8>, String)>) -> Tail {
    let entries = entries
        .into_iter()
        .zip(after + 1..)
        .map(|((bytes, hash), version)| StoredEntry { at: Point { version, hash: hash.into() }, bytes: bytes.into() })
        .collect();
    Tail { entries, more, forked: false }
}

fn verdict(text: &str) -> Result<Verdict, StoreError> {
    let damaged = || StoreError::Damaged(format!("the commit script answered {text:?}"));
    let (letter, number) = text.split_at_checked(1).ok_or_else(damaged)?;
    let number: u64 = number.parse().map_err(|_| damaged())?;
    match letter {
        "o" => Ok(Verdict::Ok(number)),
        "d" => Ok(Verdict::Dup(number)),
        "g" => Ok(Verdict::Gap(number)),
        "b" => Ok(Verdict::Behind),
        "f" => Ok(Verdict::Overloaded),
        _ => Err(damaged()),
    }
}

/// `<last seq> <its version> <Unix s> <owner>`
fn row(client: &Arc<str>, text: &str) -> Result<ClientRow, StoreError> {
    let damaged = || StoreError::Damaged(format!("the row of client {client}"));
    let mut fields = text.splitn(4, ' ');
    let mut number = || fields.next().and_then(|field| field.parse().ok()).ok_or_else(damaged);
    let (last_seq, version, _) = (number()?, number()?, number()?);
    let owner = fields.next().ok_or_else(damaged)?.into();
    Ok(ClientRow { client_id: Arc::clone(client), owner, last_seq, version })
}

/// A snapshot in pieces; an empty one is one empty piece.
fn pieces(snapshot: &Bytes) -> impl Iterator<Item = &[u8]> {
    let empty = snapshot.is_empty().then_some(&[][..]);
    snapshot.chunks(CHUNK_BYTES).chain(empty)
}

fn cut(snapshot: &Bytes, tag: &str) -> Vec<Vec<u8>> {
    pieces(snapshot).map(|piece| [tag.as_bytes(), piece].concat()).collect()
}

fn tag() -> String {
    format!("{:016x}", rand::random::<u64>())
}
