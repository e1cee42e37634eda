//! When what was committed is durable: a group commit on its own connection, so that commits never queue behind it.
//!
//! In: eras in which something was committed. Out: an answer as soon as everything that was committed in that era before
//! the question is on a follower (`replicated`), or on a follower's and the primary's disk (`synced`). One loop per
//! primary sends a write and WAIT for all who ask at the time. The write is what makes WAIT mean something: without one
//! on the same connection the server has nothing to wait for and answers at once.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use redis::{Pipeline, Value};
use tokio::sync::{mpsc, oneshot};

use super::{Away, Durability, Era, Link, Servers, StoreError, View};

/// How long one WAIT blocks its connection; too few followers only mean that the next one follows.
const WAIT: Duration = Duration::from_secs(1);
/// The same for disks. With `appendfsync everysec` each disk has a write after one second, two when it is busy; the next
/// round begins with another write, so that shorter ones might never come to an end.
const WAIT_FOR_DISKS: Duration = Duration::from_secs(6);
/// A server that does not answer this long after the end of a WAIT is gone or hung.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Followers that must have it.
const FOLLOWERS: u64 = 1;
/// After a round that failed.
const AGAIN: Duration = Duration::from_millis(50);
/// How long the key of a process that ended stays, in seconds.
const KEY_LIFE_S: u64 = 600;
/// Questions that wait for the next round; the askers beyond that wait to ask. A document asks once at a time.
const QUESTIONS_MAX: usize = 1024;

/// Asks the followers; clones share the loops.
#[derive(Debug, Clone)]
pub(crate) struct GroupCommit {
    servers: Servers,
    level: Durability,
    loops: Arc<Mutex<HashMap<u16, mpsc::Sender<Question>>>>,
    late: Late,
}

/// Of each server, since when acknowledgements wait for more than a round, and why; clones are the same.
#[derive(Debug, Clone, Default)]
struct Late {
    by_node: Arc<Mutex<BTreeMap<u16, (Instant, String)>>>,
}

#[derive(Debug)]
struct Question {
    era: Era,
    answer: oneshot::Sender<Result<(), StoreError>>,
}

impl GroupCommit {
    pub(crate) fn new(servers: Servers) -> Self {
        let level = servers.settings().durability;
        Self { servers, level, loops: Arc::default(), late: Late::default() }
    }

    /// See [`super::Store::make_durable`].
    pub(crate) async fn reached(&self, era: Era) -> Result<(), StoreError> {
        if self.level == Durability::Async {
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        let questions = self.questions(era.node);
        let ended = || StoreError::Unavailable("the process ends".into());
        questions.send(Question { era, answer }).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// Since when acknowledgements wait, where they do, and for what.
    pub(crate) fn late(&self) -> Option<Away> {
        let by_node = self.late.lock();
        let (since, why) = by_node.values().min_by_key(|(since, _)| *since)?;
        Some(Away { since: since.elapsed(), why: why.clone() })
    }

    /// Where questions about this server go.
    fn questions(&self, node: u16) -> mpsc::Sender<Question> {
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        let questions = loops.entry(node).or_insert_with(|| {
            let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
            let rounds = Rounds {
                link: Link::with_timeout(self.servers.clone(), wait(self.level) + ANSWER_TIMEOUT),
                level: self.level,
                node,
                key: format!("{:016x}", rand::random::<u64>()),
                count: 0,
                late: self.late.clone(),
            };
            // It ends with the last clone of this value.
            tokio::spawn(rounds.run(asked));
            questions
        });
        questions.clone()
    }
}

/// The loop of one server.
struct Rounds {
    link: Link,
    level: Durability,
    node: u16,
    key: String,
    count: u64,
    late: Late,
}

impl Late {
    /// A round did not do; whether that is news.
    fn tell(&self, node: u16, why: &str) -> bool {
        let mut by_node = self.lock();
        let (_, known) = by_node.entry(node).or_insert_with(|| (Instant::now(), String::new()));
        let is_new = known != why;
        why.clone_into(known);
        is_new
    }

    /// Nothing waits any more.
    fn is_over(&self, node: u16) {
        self.lock().remove(&node);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, (Instant, String)>> {
        // Nothing panics while it is held.
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rounds {
    async fn run(mut self, mut asked: mpsc::Receiver<Question>) {
        let mut open: Vec<Question> = Vec::new();
        loop {
            if open.is_empty() {
                self.late.is_over(self.node);
                match asked.recv().await {
                    Some(question) => open.push(question),
                    None => return,
                }
            }
            // Everybody who asks before the round begins has committed before it.
            while open.len() < QUESTIONS_MAX {
                match asked.try_recv() {
                    Ok(question) => open.push(question),
                    Err(_) => break,
                }
            }
            open.retain(|question| !question.answer.is_closed());
            if open.is_empty() {
                continue;
            }
            match self.round().await {
                Ok(era) => {
                    for question in open.drain(..) {
                        let answer = if question.era == era { Ok(()) } else { Err(over()) };
                        let _ = question.answer.send(answer);
                    }
                }
                Err(error) => {
                    self.complain(&error);
                    let servers = self.link.servers().clone();
                    // Whoever committed in an era that is over can repeat the commit meanwhile.
                    for question in std::mem::take(&mut open) {
                        if servers.is_current(question.era.view) {
                            open.push(question);
                        } else {
                            let _ = question.answer.send(Err(over()));
                        }
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// One write and WAIT; answers in which era what was committed before it is durable.
    async fn round(&mut self) -> Result<Era, StoreError> {
        let view = self.link.servers().view().await?;
        let Some(node) = view.by_index(self.node) else { return Err(over()) };
        if let Some(lack) = self.link.servers().lacks_for_synced(&node.address) {
            let error = StoreError::Unavailable(format!("{} {lack}", node.address));
            // It was told when it was found.
            self.late.tell(self.node, &error.to_string());
            return Err(error);
        }
        let (epoch, key) = (node.identity.epoch, self.key_in(&view));
        self.count += 1;
        let mut pipeline = Pipeline::with_capacity(4);
        if !view.is_cluster() {
            pipeline.cmd("HGET").arg("collab:fence").arg("epoch");
        }
        pipeline.cmd("SET").arg(key).arg(self.count).arg("EX").arg(KEY_LIFE_S).ignore();
        let wait_ms = u64::try_from(wait(self.level).as_millis()).unwrap_or(1000);
        match self.level {
            Durability::Async | Durability::Replicated => pipeline.cmd("WAIT").arg(FOLLOWERS).arg(wait_ms),
            Durability::Synced => pipeline.cmd("WAITAOF").arg(1).arg(FOLLOWERS).arg(wait_ms),
        };
        if !view.is_cluster() {
            pipeline.cmd("HGET").arg("collab:fence").arg("epoch");
        }
        let Value::Array(answers) = self.link.pipeline_on(&view, self.node, &pipeline).await? else {
            return Err(StoreError::Damaged("WAIT was not answered".into()));
        };
        let mut answers = answers.into_iter();
        let mut epochs_are_right = true;
        if !view.is_cluster() {
            epochs_are_right &= is_epoch(answers.next(), epoch);
        }
        let reached = answers.next().unwrap_or(Value::Nil);
        if !view.is_cluster() {
            epochs_are_right &= is_epoch(answers.next(), epoch);
        }
        if !epochs_are_right {
            // Somebody was promoted meanwhile: what this server waited for may not be what the next one has.
            self.link.servers().doubt(view.number);
            return Err(StoreError::Unavailable("the epoch changed while waiting for followers".into()));
        }
        match (self.level, reached) {
            (Durability::Synced, Value::Array(counts)) => match counts[..] {
                [Value::Int(here), Value::Int(there)] if here >= 1 && there >= 1 => {}
                _ => return Err(StoreError::Unavailable("too few disks have it so far".into())),
            },
            (Durability::Async | Durability::Replicated, Value::Int(count)) if count >= 1 => {}
            _ => return Err(StoreError::Unavailable("no follower has it so far".into())),
        }
        Ok(Era { view: view.number, node: self.node })
    }

    /// A key of this process that the server has.
    fn key_in(&self, view: &View) -> String {
        if !view.is_cluster() {
            return format!("{{wait}}:{}", self.key);
        }
        let has =
            |tag: &u32| view.node(super::slot(tag.to_string().as_bytes())).is_some_and(|(index, _)| index == self.node);
        let tag = (0..u32::from(super::slots::SLOTS) * 4).find(has).unwrap_or(0);
        format!("{{{tag}}}:wait:{}", self.key)
    }

    fn complain(&self, error: &StoreError) {
        if self.late.tell(self.node, &error.to_string()) {
            tracing::warn!(%error, "acknowledgements wait");
        }
    }
}

fn wait(level: Durability) -> Duration {
    match level {
        Durability::Async | Durability::Replicated => WAIT,
        Durability::Synced => WAIT_FOR_DISKS,
    }
}

fn is_epoch(answer: Option<Value>, expected: u64) -> bool {
    let epoch: Option<String> = answer.and_then(|value| redis::from_redis_value(value).ok()).flatten();
    epoch.map_or(0.0, |text| text.parse().unwrap_or(-1.0)) == expected as f64
}

fn over() -> StoreError {
    StoreError::Unavailable("another server became the primary since the commit".into())
}
