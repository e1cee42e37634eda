//! Random calls of a store, made of the model and of a real one.
//!
//! In: a seed and a store. Out: the first answer that differs.

use std::{fmt::Debug, sync::Arc};

use bytes::Bytes;
use collab_gateway::store::{BATCH_BYTES_MAX, Creation, NewEntry, Saved, Store as Real, StoreError, Tail};
use document::{Identity, Point, Verdict};
use redis::aio::MultiplexedConnection;
use sha1::{Digest, Sha1};
use sim::{
    random::Random,
    store::{Kept, New, Part, Payload, Rules, Saving, Store},
};

/// Calls of one sequence.
const CALLS: usize = 60;
/// How much time is made to pass at once: more than the log keeps, so that rows of gateways go where there are many; so
/// that they go with a save; so that all rows do.
const AGES_MS: [u64; 3] = [1_200_000, 4_800_000, 8 * 24 * 3_600_000];

#[derive(Debug, Clone, PartialEq)]
pub struct Raw(Bytes);

impl Payload for Raw {
    fn bytes(&self) -> usize {
        self.0.len()
    }

    fn hash_after(&self, before: &str) -> Arc<str> {
        let digest = Sha1::new().chain_update(before).chain_update(&self.0).finalize();
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        hex[..11].into()
    }
}

/// The real store, and a way behind its back.
pub struct Backend {
    store: Real,
    client: Option<MultiplexedConnection>,
    commit_script: Option<String>,
}

impl Backend {
    pub fn new(store: Real, client: Option<MultiplexedConnection>) -> Self {
        Self { store, client, commit_script: None }
    }

    /// Commits with this script instead of the product's.
    pub fn with_commit_script(self, script: &str) -> Self {
        Self { commit_script: Some(script.to_owned()), ..self }
    }

    /// Makes time pass for a document's log, and for its rows: what was just now is long ago.
    async fn age(&mut self, document: &str, log_ms: u64, rows_ms: u64) {
        let Some(client) = &mut self.client else { return };
        let script = "local time, marks = unpack(redis.call('HMGET', KEYS[1], 'time', 'marks'))
            marks = string.gsub(marks, '(%d+):', function(ms) return string.format('%.0f:', ms - ARGV[1]) end)
            redis.call('HSET', KEYS[1], 'time', string.format('%.0f', time - ARGV[1]), 'marks', marks)
            local rows = redis.call('HGETALL', KEYS[2])
            for i = 1, #rows, 2 do
              local row = string.gsub(rows[i + 1], '^(%d+ %d+) (%d+)', function(numbers, s)
                return numbers .. string.format(' %.0f', s - ARGV[2] / 1000)
              end)
              redis.call('HSET', KEYS[2], rows[i], row)
            end";
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(2);
        for name in ["meta", "clients"] {
            command.arg(format!("{{doc:{document}}}:{name}"));
        }
        command.arg(log_ms).arg(rows_ms);
        command.exec_async(client).await.unwrap();
    }

    async fn fence(&mut self, is_past: bool) {
        let Some(client) = &mut self.client else { return };
        let mut command = redis::cmd(if is_past { "HSET" } else { "DEL" });
        command.arg("collab:fence");
        if is_past {
            command.arg("until").arg(1);
        }
        command.exec_async(client).await.unwrap();
    }

    async fn commit(
        &mut self,
        document: &str,
        head: &Point,
        floor: u64,
        batch: &[NewEntry],
    ) -> Result<(Vec<Verdict>, Option<Tail>), StoreError> {
        let Some(script) = self.commit_script.clone() else {
            let answer = self.store.commit(document, head, floor, batch).await?;
            return Ok((answer.verdicts, Some(answer.tail)));
        };
        // One call takes no more bytes.
        let large = batch.iter().map(|entry| entry.bytes.len()).sum::<usize>() > BATCH_BYTES_MAX;
        let mut verdicts = Vec::new();
        for part in batch.chunks(if large { 1 } else { batch.len().max(1) }) {
            let floor = if verdicts.is_empty() { floor } else { 0 };
            verdicts.extend(self.call(&script, document, head, floor, part).await?);
        }
        Ok((verdicts, None))
    }

    async fn call(
        &mut self,
        script: &str,
        document: &str,
        head: &Point,
        floor: u64,
        batch: &[NewEntry],
    ) -> Result<Vec<Verdict>, StoreError> {
        let Some(client) = &mut self.client else { return Ok(Vec::new()) };
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(5);
        for name in ["meta", "log", "clients"] {
            command.arg(format!("{{doc:{document}}}:{name}"));
        }
        command.arg("collab:fence").arg("collab:position");
        command.arg("channel").arg(head.version).arg(&*head.hash).arg(floor).arg(batch.len());
        for entry in batch {
            let name = if entry.identity.by_gateway { "~" } else { "" }.to_owned() + &entry.identity.id;
            command.arg(name).arg(entry.identity.seq).arg(u8::from(entry.identity.by_gateway));
            command.arg(&*entry.owner).arg(entry.base).arg(entry.bytes.as_ref());
        }
        let answer: (u8, u8, Vec<String>, redis::Value) =
            command.query_async(client).await.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let verdict = |text: &String| {
            let number = text[1..].parse().unwrap();
            match &text[..1] {
                "o" => Verdict::Ok(number),
                "d" => Verdict::Dup(number),
                "g" => Verdict::Gap(number),
                "b" => Verdict::Behind,
                _ => Verdict::Overloaded,
            }
        };
        Ok(answer.2.iter().map(verdict).collect())
    }
}

type Model = Store<Raw, Option<Bytes>>;

/// Plays a sequence on both, which have these bounds.
pub async fn compare(seed: u64, rules: &Rules, backend: &mut Backend) -> Result<(), String> {
    let mut random = Random::new(seed);
    let document = format!("d{seed}");
    let root = Point { version: 0, hash: format!("{:011x}", seed * 7_919).into() };
    let first = random.one_in(2).then(|| Bytes::from_static(b"first"));
    let creation = Creation { root: root.hash.clone(), snapshot: first.clone() };
    backend.store.create(&document, creation).await.map_err(|error| error.to_string())?;
    let mut model = Model::new(rules.clone(), root, first);
    let mut now_ms = 1_000_000;
    // Of one kind of sequence each: many entries, large entries.
    let (many, large) = (random.one_in(4), random.one_in(4));
    for call in 0..CALLS {
        let context = |what: &str| format!("sequence {seed}, call {call}, {what}");
        match random.below(20) {
            0..10 => {
                let size = if many { 100 + random.below(157) } else { 1 + random.below(4) };
                let (head, floor) = (point(&mut random, &model), random.below(model.version() as usize + 3) as u64);
                let floor = if random.one_in(3) { floor } else { 0 };
                let mut entries: Vec<_> = (0..size).map(|_| entry(&mut random, &model, large, many)).collect();
                // Each on those before it; a batch that is cut because it is large cannot be such a list.
                if !large && random.one_in(6) {
                    (head.version..).zip(&mut entries).for_each(|(base, entry)| entry.base = base);
                }
                let batch: Vec<_> = entries.iter().map(real_entry).collect();
                if random.one_in(10) && backend.client.is_some() {
                    backend.fence(true).await;
                    let fenced = backend.commit(&document, &head, floor, &batch).await;
                    backend.fence(false).await;
                    if backend.commit_script.is_none() && !matches!(fenced, Err(StoreError::Fenced)) {
                        return Err(context("the fence does not hold"));
                    }
                }
                let expected = match model.commit(&head, floor, &entries, now_ms) {
                    None => (Vec::new(), forked()),
                    Some((verdicts, part)) => (verdicts, tail(part)),
                };
                let found = backend.commit(&document, &head, floor, &batch).await.map_err(|error| error.to_string())?;
                same(&context("verdicts"), &found.0, &expected.0)?;
                if let Some(found) = found.1 {
                    same(&context("tail of the commit"), &found, &expected.1)?;
                }
            }
            10..13 => {
                let after = point(&mut random, &model);
                let clients: Vec<Arc<str>> = ["c0", "c3", "~s1", "nobody"].map(Arc::from).into();
                let found =
                    backend.store.lookup(&document, &clients, &after).await.map_err(|error| error.to_string())?;
                let expected = if model.has(&after) { tail(model.after(after.version)) } else { forked() };
                same(&context("rows"), &found.rows, &model.rows(&clients))?;
                same(&context("tail"), &found.tail, &expected)?;
            }
            13..16 => {
                let at = point(&mut random, &model);
                let bytes = Bytes::from(format!("snapshot of {call}"));
                let found = backend.store.save(&document, &at, &bytes).await.map_err(|error| error.to_string())?;
                let expected = match model.save(&at, Some(bytes), now_ms) {
                    Saving::Stored => Saved::Stored,
                    Saving::Stale => Saved::Stale,
                    Saving::Forked => Saved::Forked,
                };
                same(&context("save"), &found, &expected)?;
            }
            16 if backend.client.is_some() => {
                let age_ms = AGES_MS[random.below(AGES_MS.len())];
                now_ms += age_ms;
                if many {
                    // More rows than a script looks at in one call: which of them it forgets first is its own affair.
                    model.keep_rows_young(age_ms);
                    backend.age(&document, age_ms, 0).await;
                } else {
                    backend.age(&document, age_ms, age_ms).await;
                }
            }
            _ => {
                let found = backend.store.open(&document).await.map_err(|error| error.to_string())?;
                let found = found.ok_or_else(|| context("it is gone"))?;
                same(&context("head"), &found.head, model.head())?;
                same(&context("snapshot"), &(found.snapshot_at, found.snapshot), &model.snapshot)?;
                same(&context("tail of the open"), &found.tail, &tail(model.after(model.snapshot.0.version)))?;
            }
        }
    }
    Ok(())
}

/// Mostly the head, or not far below; sometimes trimmed, ahead, or of another history.
fn point(random: &mut Random, model: &Model) -> Point {
    let newest = model.version();
    let below = match random.below(8) {
        0 => random.below(newest as usize + 1),
        1..4 => random.below(6),
        _ => 0,
    };
    let mut point = model.point(newest.saturating_sub(below as u64)).unwrap().clone();
    match random.below(16) {
        0 => point.hash = "fffffffffff".into(),
        1 => point.version += 1,
        _ => {}
    }
    point
}

fn entry(random: &mut Random, model: &Model, large: bool, many: bool) -> New<Raw> {
    let client = random.below(5);
    let by_gateway = random.one_in(if many { 2 } else { 6 });
    let id: Arc<str> = match by_gateway {
        true => format!("s{}", random.below(if many { 4_000 } else { 6 })).into(),
        false => format!("c{client}").into(),
    };
    let name: Arc<str> = if by_gateway { format!("~{id}").into() } else { id.clone() };
    let last = model.rows(&[name]).first().map_or(0, |row| row.last_seq);
    let seq = match random.below(8) {
        0 => last.saturating_sub(random.below(2) as u64).max(1),
        1 => last + 2,
        _ => last + 1,
    };
    let owner = if random.one_in(30) { "somebody" } else { "u" };
    let back = if random.one_in(4) { random.below(600) } else { random.below(3) };
    let bytes = if large { 10_000 + random.below(190_000) } else { 1 + random.below(60) };
    let fill = b'a' + random.below(26) as u8;
    New {
        identity: Identity { id, seq, by_gateway },
        owner: owner.into(),
        base: model.version().saturating_sub(back as u64),
        payload: Raw(vec![fill; bytes].into()),
    }
}

fn real_entry(new: &New<Raw>) -> NewEntry {
    let (identity, owner) = (new.identity.clone(), new.owner.clone());
    NewEntry { identity, owner, base: new.base, bytes: new.payload.0.clone() }
}

fn tail(part: Part<Raw>) -> Tail {
    let stored = |kept: Kept<Raw>| collab_gateway::store::StoredEntry { at: kept.at, bytes: kept.payload.0 };
    Tail { entries: part.entries.into_iter().map(stored).collect(), more: part.more, forked: false }
}

fn forked() -> Tail {
    Tail { forked: true, ..Tail::default() }
}

fn same<T: PartialEq + Debug>(what: &str, found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?} instead of {expected:?}")) }
}
