//! A primary, and followers that are a little behind.
//!
//! In: what changes the primary. Out: followers that have a beginning of it, of which one takes the primary's place when
//! that is lost: what it had not been told is gone. A pod may wait until a follower has all that the primary has.

use std::collections::VecDeque;

use document::{Batch, Canonical, Entry, Input, Snapshot, Verdict};

use crate::{
    client::Broken,
    counts::Met,
    log::{Log, new_entries},
    pod::{Copy, Job, Question},
    schedule::Fault,
    store::BrokenRule,
    typing,
    world::World,
};

/// A change of the primary.
#[derive(Debug, Clone)]
enum Change {
    Commit(Batch, u64),
    Save(Box<Snapshot>, u64),
    /// A write that is there to be waited for.
    Mark,
}

/// The followers, and what is on its way to them.
#[derive(Debug)]
pub(crate) struct Replicas {
    followers: Vec<Follower>,
    /// Changes of the primary.
    written: u64,
    waits: Vec<Wait>,
}

#[derive(Debug)]
struct Follower {
    log: Log,
    stream: VecDeque<Change>,
    /// Changes that it has.
    has: u64,
}

/// A pod that waits until a follower has so many changes.
#[derive(Debug)]
struct Wait {
    pod: usize,
    question: Question,
    changes: u64,
}

impl Replicas {
    pub(crate) fn of(primary: &Log, count: usize) -> Self {
        let follower = || Follower { log: primary.clone(), stream: VecDeque::new(), has: 0 };
        Self { followers: (0..count).map(|_| follower()).collect(), written: 0, waits: Vec::new() }
    }

    pub(crate) fn commit(&mut self, batch: &Batch, now_ms: u64) {
        self.write(&Change::Commit(batch.clone(), now_ms));
    }

    pub(crate) fn save(&mut self, snapshot: &Snapshot, now_ms: u64) {
        self.write(&Change::Save(Box::new(snapshot.clone()), now_ms));
    }

    /// Nobody waits on this pod any more.
    pub(crate) fn forget(&mut self, pod: usize) {
        self.waits.retain(|wait| wait.pod != pod);
    }

    fn write(&mut self, change: &Change) {
        self.written += 1;
        for follower in &mut self.followers {
            follower.stream.push_back(change.clone());
        }
    }

    /// Takes the waits that came true.
    fn fulfilled(&mut self) -> Vec<Wait> {
        let most = self.followers.iter().map(|follower| follower.has).max().unwrap_or(0);
        self.waits.extract_if(.., |wait| wait.changes <= most).collect()
    }
}

impl Follower {
    /// It hears of this many changes.
    fn follow(&mut self, changes: usize) {
        for change in self.stream.drain(..changes.min(self.stream.len())) {
            self.has += 1;
            match change {
                Change::Commit(batch, now_ms) => {
                    self.log.commit(&batch.head, batch.floor, &new_entries(&batch.entries), now_ms);
                }
                Change::Save(snapshot, now_ms) => {
                    self.log.save(&snapshot.at.clone(), *snapshot, now_ms);
                }
                Change::Mark => {}
            }
        }
    }
}

impl World {
    /// Some of what the primary did reaches a follower.
    pub(crate) fn replicate(&mut self) {
        let changes = 1 + self.random.below(6);
        let count = self.replicas.followers.len();
        let index = if count > 1 { self.random.below(count) } else { 0 };
        if let Some(follower) = self.replicas.followers.get_mut(index) {
            follower.follow(changes);
        }
        self.answer_waits();
    }

    /// All of it reaches all.
    pub(crate) fn replicate_all(&mut self) {
        self.replicas.followers.iter_mut().for_each(|follower| follower.follow(usize::MAX));
        self.answer_waits();
    }

    /// One call of a pod's question: whether this primary's log has the point, or, where that is known, WAIT.
    pub(crate) fn ask_for_durability(&mut self, pod: usize, question: Question, lost: bool) {
        match question.era {
            None if lost => self.ask_again(pod, question, None),
            None if self.store.has(&question.at) => self.ask_again(pod, question, Some(self.pods[pod].era)),
            None => self.pods[pod].answer_question(Input::Forked),
            // Nobody follows a lost primary, and of what another one was known to have this one knows nothing.
            Some(era) if lost || self.asks_lost_primary || era != self.era => self.ask_again(pod, question, None),
            Some(_) => self.wait_for_follower(pod, question),
        }
    }

    fn ask_again(&mut self, pod: usize, question: Question, era: Option<u64>) {
        self.pods[pod].jobs.push_back(Job::Wait(Question { era, ..question }));
    }

    /// A write and WAIT: an answer when a follower has the write, and so all that was there before it.
    fn wait_for_follower(&mut self, pod: usize, question: Question) {
        let replicas = &mut self.replicas;
        let writes = self.profile.rules.broken != BrokenRule::WaitWithoutWrite;
        if writes {
            replicas.write(&Change::Mark);
        }
        let changes = if writes { replicas.written } else { 0 };
        replicas.waits.push(Wait { pod, question, changes });
        let has: Vec<_> = self.replicas.followers.iter().map(|f| (f.has, f.log.head().version)).collect();
        self.trace(|| format!("pod {pod} waits for {changes}: {has:?}"));
        self.answer_waits();
    }

    fn answer_waits(&mut self) {
        for Wait { pod, question, .. } in self.replicas.fulfilled() {
            self.pods[pod].answer_question(Input::Durable { ticket: question.ticket });
        }
    }

    /// The primary is lost; the follower that has most is the primary now, and has followers that have all it has.
    pub(crate) fn fail_over(&mut self) {
        self.counts.meet(Met::Failover);
        for follower in &mut self.replicas.followers {
            let last_words = self.random.below(3);
            follower.follow(last_words);
        }
        // None of them follows the old primary any more: a wait that it answers now was fulfilled before.
        self.answer_waits();
        let count = self.replicas.followers.len();
        let any = if count > 1 { self.random.below(count) } else { 0 };
        let most = (0..count).max_by_key(|index| self.replicas.followers[*index].has).unwrap_or(0);
        let chosen = if self.profile.rules.broken == BrokenRule::PromoteAny { any } else { most };
        let waits = std::mem::take(&mut self.replicas.waits);
        let before = self.store.head().clone();
        let new = self.replicas.followers.swap_remove(chosen).log;
        let lost = std::mem::replace(&mut self.store, new);
        self.trace(|| format!("failover from {before:?} to {:?}", self.store.head()));
        let common = lost.all.iter().zip(&self.store.all).take_while(|(lost, kept)| lost.at == kept.at).count();
        self.edits.lose(lost.all.iter().skip(common).map(|kept| &kept.payload));
        self.counts.meet_times(Met::LostTail, usize::from(lost.all.len() > common));
        self.lost_primary = self.profile.lost_answers.then_some(lost);
        self.replicas = Replicas::of(&self.store, count);
        self.era += 1;
        for Wait { pod, question, .. } in waits {
            // Its outcome is unknown: it is asked again, of the new primary.
            self.ask_again(pod, question, None);
        }
    }

    /// Edits that a pod has and the log does not, by token.
    pub(crate) fn lost_tokens(&self, pod: usize) -> Vec<u32> {
        let in_log = |entry: &Canonical| self.store.all.iter().any(|kept| kept.payload.identity == entry.identity);
        let lost = self.pods[pod].document.recent().filter(|entry| !in_log(entry));
        let tokens = |entry: &Canonical| self.edits.of(&entry.identity, &entry.user_id);
        lost.flat_map(|entry| tokens(entry).into_iter().chain(typing::tokens_of(&entry.ops))).collect()
    }

    /// A pod cannot put back what there is no room for, or what comes after a number that the store has forgotten.
    pub(crate) fn excuse_healer(&mut self, entry: &Entry, verdict: Verdict) {
        let refused = match verdict {
            Verdict::Overloaded => true,
            Verdict::Gap(_) => self.store.has_forgotten(&entry.identity),
            Verdict::Ok(_) | Verdict::Dup(_) | Verdict::Behind => false,
        };
        if refused && *entry.session == *"healed" && !self.asks_lost_primary {
            self.owed.retain(|(_, token)| !self.edits.is_of(*token, entry));
        }
    }

    /// Whether a pod's next call goes to the primary that was lost: nobody has told the pod, and nobody has stopped that.
    pub(crate) fn reaches_lost_primary(&mut self, pod: usize) -> bool {
        if !self.has(Fault::Failover) || self.lost_primary.is_none() || !self.knows_lost_primary(pod) {
            return false;
        }
        if self.random.one_in(12) {
            // Its time is up: nobody renews the key that lets it take writes.
            self.lost_primary = None;
            return false;
        }
        self.random.below(3) > 0
    }

    /// Whether a pod has not met the primary that took the lost one's place.
    pub(crate) fn knows_lost_primary(&self, pod: usize) -> bool {
        self.pods[pod].era + 1 == self.era
    }

    /// Does this at the primary that was lost. Nobody follows that any more.
    pub(crate) fn at_lost_primary(&mut self, what: impl FnOnce(&mut Self) -> Result<(), Broken>) -> Result<(), Broken> {
        let Some(lost) = self.lost_primary.take() else { return Ok(()) };
        self.counts.meet(Met::LateAnswer);
        let present = std::mem::replace(&mut self.store, lost);
        self.asks_lost_primary = true;
        let done = what(self);
        self.asks_lost_primary = false;
        self.lost_primary = Some(std::mem::replace(&mut self.store, present));
        done
    }

    /// A pod whose call meets another primary than the last time: its call fails, and its document's head is checked
    /// before any other call is answered.
    pub(crate) fn meet_new_primary(&mut self, pod: usize) -> bool {
        if self.pods[pod].era == self.era {
            return false;
        }
        self.pods[pod].era = self.era;
        match &mut self.pods[pod].copy {
            Copy::Open => {}
            Copy::None => return false,
            // Its head is checked when it has one.
            Copy::Opening(opening) | Copy::Reopening(opening) => {
                opening.met_new_primary = true;
                return true;
            }
        }
        self.pods[pod].check_head();
        // It subscribes anew, and until then hears last words of the lost primary.
        self.pods[pod].published.push_back(Input::Missed);
        true
    }

    /// A publish as the gateway takes it: entries that do not follow on what the pod has are of another history, or come
    /// after a gap; either way the log is asked.
    pub(crate) fn hear_publish(&mut self, pod: usize, published: Input) -> Result<(), Broken> {
        let head = self.pods[pod].document.head().clone();
        if let Input::Learned(entries) = &published {
            use crate::store::Payload;
            let mut hash = head.hash.clone();
            for logged in entries.iter().filter(|logged| logged.at.version > head.version) {
                let follows = logged.entry.hash_after(&hash);
                if logged.at.version != head.version + 1 && hash == head.hash {
                    break;
                }
                if self.checks_chain && follows != logged.at.hash {
                    self.pods[pod].jobs.push_back(Job::Fetch { after: head });
                    return Ok(());
                }
                hash = logged.at.hash.clone();
            }
        }
        if matches!(published, Input::Missed) {
            self.pods[pod].check_head();
        }
        self.input(pod, published)
    }
}
