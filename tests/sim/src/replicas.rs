//! A primary, and a follower that is a little behind.
//!
//! In: what changes the primary. Out: a follower that has a beginning of it, and that takes the primary's place when that
//! is lost: what it had not been told is gone.

use std::collections::VecDeque;

use document::{Batch, Input, Snapshot};

use crate::{
    client::Broken,
    counts::Met,
    log::{Log, new_entries},
    pod::Job,
    world::World,
};

/// A change of the primary.
#[derive(Debug, Clone)]
enum Change {
    Commit(Batch, u64),
    Save(Box<Snapshot>, u64),
}

/// The follower, and what is on its way to it.
#[derive(Debug)]
pub(crate) struct Replica {
    follower: Log,
    stream: VecDeque<Change>,
}

impl Replica {
    pub(crate) fn of(primary: &Log) -> Self {
        Self { follower: primary.clone(), stream: VecDeque::new() }
    }

    pub(crate) fn commit(&mut self, batch: &Batch, now_ms: u64) {
        self.stream.push_back(Change::Commit(batch.clone(), now_ms));
    }

    pub(crate) fn save(&mut self, snapshot: &Snapshot, now_ms: u64) {
        self.stream.push_back(Change::Save(Box::new(snapshot.clone()), now_ms));
    }

    /// The follower hears of this many changes.
    fn follow(&mut self, changes: usize) {
        for change in self.stream.drain(..changes.min(self.stream.len())) {
            match change {
                Change::Commit(batch, now_ms) => {
                    self.follower.commit(&batch.head, batch.floor, &new_entries(&batch.entries), now_ms);
                }
                Change::Save(snapshot, now_ms) => {
                    self.follower.save(&snapshot.at.clone(), *snapshot, now_ms);
                }
            }
        }
    }
}

impl World {
    /// Some of what the primary did reaches the follower.
    pub(crate) fn replicate(&mut self) {
        let changes = 1 + self.random.below(6);
        self.replica.follow(changes);
    }

    /// The primary is lost; the follower is the primary now, and has a follower that has all it has.
    pub(crate) fn fail_over(&mut self) {
        self.counts.meet(Met::Failover);
        let last_words = self.random.below(3);
        self.replica.follow(last_words);
        self.replica.stream.clear();
        let before = self.store.head().clone();
        self.store = self.replica.follower.clone();
        if self.store.point(before.version) != Some(&before) {
            self.counts.meet(Met::LostTail);
            self.lost_tail = true;
        }
        self.replica = Replica::of(&self.store);
        self.era += 1;
    }

    /// A pod whose call meets another primary than the last time: its call fails, and its document's head is checked
    /// before any other call is answered.
    pub(crate) fn meet_new_primary(&mut self, pod: usize) -> bool {
        if self.pods[pod].era == self.era {
            return false;
        }
        self.pods[pod].era = self.era;
        let after = self.pods[pod].document.head().clone();
        self.pods[pod].jobs.push_front(Job::Fetch { after });
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
        self.input(pod, published)
    }
}
