//! What runs met: one that never meets a rule proves nothing about it.
//!
//! In: what happens. Out: how often.

use std::fmt;

/// Something worth meeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs, reason = "the names are the labels of the figures that are printed")]
pub enum Met {
    JoinByEntries,
    JoinByContent,
    Rejoin,
    Refused,
    Dropped,
    Pipelined,
    Folded,
    Duplicate,
    Gap,
    Behind,
    Reopened,
    Crash,
    Pause,
    Ghost,
    LostReply,
    TypedOffline,
    TypedBeforeJoin,
    EarlyEdit,
    PlainEdit,
    Garbage,
    BelowFloor,
    Newline,
    FailedJoin,
    ReadOnly,
    TooLarge,
    Unavailable,
    Failover,
    LostTail,
    Healed,
    Renamed,
    NotDurableYet,
    Offered,
    Appended,
    LateAnswer,
    Unreadable,
    HealersMeet,
    HealerCrash,
    Namesake,
    Overloaded,
    Forgotten,
    OpeningRaced,
    TurnedAway,
    Saved,
    SavedAlready,
}

/// All of them.
const ALL: [Met; 44] = [
    Met::JoinByEntries,
    Met::JoinByContent,
    Met::Rejoin,
    Met::Refused,
    Met::Dropped,
    Met::Pipelined,
    Met::Folded,
    Met::Duplicate,
    Met::Gap,
    Met::Behind,
    Met::Reopened,
    Met::Crash,
    Met::Pause,
    Met::Ghost,
    Met::LostReply,
    Met::TypedOffline,
    Met::TypedBeforeJoin,
    Met::EarlyEdit,
    Met::PlainEdit,
    Met::Garbage,
    Met::BelowFloor,
    Met::Newline,
    Met::FailedJoin,
    Met::ReadOnly,
    Met::TooLarge,
    Met::Unavailable,
    Met::Failover,
    Met::LostTail,
    Met::Healed,
    Met::Renamed,
    Met::NotDurableYet,
    Met::Offered,
    Met::Appended,
    Met::LateAnswer,
    Met::Unreadable,
    Met::HealersMeet,
    Met::HealerCrash,
    Met::Namesake,
    Met::Overloaded,
    Met::Forgotten,
    Met::OpeningRaced,
    Met::TurnedAway,
    Met::Saved,
    Met::SavedAlready,
];

/// How often each was met.
#[derive(Clone, Copy)]
pub struct Counts([usize; ALL.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; ALL.len()])
    }
}

impl Counts {
    /// Met once more.
    pub(crate) fn meet(&mut self, what: Met) {
        self.meet_times(what, 1);
    }

    /// Met so many times more.
    pub(crate) fn meet_times(&mut self, what: Met, times: usize) {
        self.0[what as usize] += times;
    }

    /// Those of another run, too.
    pub fn add(&mut self, other: &Self) {
        for (mine, others) in self.0.iter_mut().zip(other.0) {
            *mine += others;
        }
    }

    /// How often this was met.
    pub fn of(&self, what: Met) -> usize {
        self.0[what as usize]
    }

    /// What was never met.
    pub fn missing(&self) -> Vec<Met> {
        ALL.into_iter().filter(|what| self.of(*what) == 0).collect()
    }
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(ALL.into_iter().map(|what| (what, self.of(what)))).finish()
    }
}
