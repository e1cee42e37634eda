//! What happens in a run, and how it is written down.
//!
//! In: a seed, or the line that a failed run printed. Out: the same run, every time. Each event draws its own numbers
//! from the seed and its place, so that leaving one out does not change what the others do: this is what lets a failing
//! run be made smaller.

use std::{fmt, str::FromStr};

use crate::random::Random;

/// Kinds of trouble that can be left out of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Fault {
    /// Pods die with all they had in memory.
    Crash,
    /// Pods stand still for minutes and go on.
    Pause,
    /// Connections break.
    Disconnect,
    /// What was sent before a connection broke still arrives.
    Late,
    /// Clients stay away for long, and type.
    Offline,
    /// Replies of the store are lost; the call is repeated.
    LostReply,
    /// A call whose caller has given up is carried out later.
    Ghost,
    /// Replies of the store come out of order.
    Reorder,
    /// Publishes are lost.
    LostPublish,
    /// Publishes come twice, or out of order.
    Duplicate,
    /// Pods cannot reach the store for a while.
    Away,
    /// Clients send what they kept, before or after their join.
    Flush,
    /// Edits without session come before the join.
    Early,
    /// A client without numbers and sessions.
    Plain,
    /// Edits that fit no document.
    Garbage,
    /// Roles that may not write, and roles that change.
    Roles,
    /// Documents that have hardly room to grow.
    Small,
    /// A client that wants a newline at the end.
    Quill,
    /// The log is trimmed.
    Trim,
    /// The primary is lost and a follower takes its place.
    Failover,
    /// A lost primary goes on for a while, for those who have not heard of the new one.
    OldPrimary,
    /// A client comes under the name of another user's.
    Namesake,
    /// Tables of clients have little room, and days pass in which rows are forgotten.
    Rows,
    /// What is bounded in bytes has room for a few edits.
    Bytes,
    /// A pod opens the document call by call, when somebody joins there.
    Opening,
}

/// All of them, by name.
pub const FAULTS: [(&str, Fault); 25] = [
    ("crash", Fault::Crash),
    ("pause", Fault::Pause),
    ("disconnect", Fault::Disconnect),
    ("late", Fault::Late),
    ("offline", Fault::Offline),
    ("lost-reply", Fault::LostReply),
    ("ghost", Fault::Ghost),
    ("reorder", Fault::Reorder),
    ("lost-publish", Fault::LostPublish),
    ("duplicate", Fault::Duplicate),
    ("away", Fault::Away),
    ("flush", Fault::Flush),
    ("early", Fault::Early),
    ("plain", Fault::Plain),
    ("garbage", Fault::Garbage),
    ("roles", Fault::Roles),
    ("small", Fault::Small),
    ("quill", Fault::Quill),
    ("trim", Fault::Trim),
    ("failover", Fault::Failover),
    ("old-primary", Fault::OldPrimary),
    ("namesake", Fault::Namesake),
    ("rows", Fault::Rows),
    ("bytes", Fault::Bytes),
    ("opening", Fault::Opening),
];

/// Kinds that came later than the others, and draw their numbers from streams of their own: without them the run of a
/// seed is what it was before they came.
const NEWER: [Fault; 3] = [Fault::Rows, Fault::Bytes, Fault::Opening];

/// A set of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults(u32);

impl Faults {
    /// With this one.
    #[must_use]
    pub fn with(self, fault: Fault) -> Self {
        Self(self.0 | 1 << fault as u32)
    }

    /// Whether this one is among them.
    pub fn has(self, fault: Fault) -> bool {
        self.0 & 1 << fault as u32 != 0
    }
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// What everything is drawn from.
    pub seed: u64,
    /// How many clients, at most.
    pub clients: usize,
    /// How many pods, at most.
    pub pods: usize,
    /// An acknowledgement promises that a follower has the edit.
    pub replicated: bool,
    /// Left out.
    pub without: Faults,
    /// Which events happen, in order.
    pub events: Vec<u32>,
}

impl Schedule {
    /// All that belongs to a seed.
    pub fn of(seed: u64) -> Self {
        let events = 250 + Random::new(seed).below(500) as u32;
        Self { seed, clients: 8, pods: 4, replicated: false, without: Faults::default(), events: (0..events).collect() }
    }

    /// The same with acknowledgements that wait for a follower.
    #[must_use]
    pub fn replicated(self) -> Self {
        Self { replicated: true, ..self }
    }

    /// The same without this kind of trouble.
    #[must_use]
    pub fn without(mut self, fault: Fault) -> Self {
        self.without = self.without.with(fault);
        self
    }

    /// The same as before the newer kinds of trouble came.
    #[must_use]
    pub fn without_newer(self) -> Self {
        NEWER.into_iter().fold(self, Self::without)
    }

    /// The numbers of one event.
    pub(crate) fn random(&self, event: u32) -> Random {
        Random::new(self.seed.wrapping_mul(0x1_0001).wrapping_add(u64::from(event) + 1).wrapping_mul(0x9E37_79B9_97F4))
    }

    /// The numbers of one event for a kind of trouble that draws apart from the others.
    pub(crate) fn random_of(&self, fault: Fault, event: u32) -> Random {
        let apart = (fault as u64 + 1).wrapping_mul(0xA076_1D64_78BD_642F);
        Random::new(self.seed.wrapping_mul(0x1_0001).wrapping_add(u64::from(event) + 1) ^ apart)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed={},clients={},pods={}", self.seed, self.clients, self.pods)?;
        let without: Vec<_> =
            FAULTS.iter().filter(|(_, fault)| self.without.has(*fault)).map(|(name, _)| *name).collect();
        if self.replicated {
            f.write_str(",durability=replicated")?;
        }
        write!(f, ",without={},events=", without.join("+"))?;
        let mut rest = self.events.as_slice();
        let mut first = true;
        while let Some(start) = rest.first() {
            let run = rest.iter().zip(*start..).take_while(|(a, b)| **a == *b).count();
            write!(f, "{}{start}-{}", if first { "" } else { "+" }, *start as usize + run - 1)?;
            rest = rest.get(run..).unwrap_or_default();
            first = false;
        }
        Ok(())
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("not a schedule: {what}");
        let mut schedule = Self::of(0);
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or_else(|| wrong(part))?;
            let number = || value.parse::<u64>().map_err(|_| wrong(part));
            match name {
                "seed" => schedule = Self::of(number()?),
                "clients" => schedule.clients = number()? as usize,
                "pods" => schedule.pods = number()? as usize,
                "durability" => schedule.replicated = value == "replicated",
                "without" => {
                    for name in value.split('+').filter(|name| !name.is_empty()) {
                        let found = FAULTS.iter().find(|(known, _)| *known == name).ok_or_else(|| wrong(name))?;
                        schedule.without = schedule.without.with(found.1);
                    }
                }
                "events" => {
                    schedule.events.clear();
                    for range in value.split('+').filter(|range| !range.is_empty()) {
                        let (from, to) = range.split_once('-').ok_or_else(|| wrong(range))?;
                        let bound = |text: &str| text.parse::<u32>().map_err(|_| wrong(range));
                        schedule.events.extend(bound(from)?..=bound(to)?);
                    }
                }
                _ => return Err(wrong(name)),
            }
        }
        Ok(schedule)
    }
}
