//! Several pods that write to one document store it once, not each of them once.
//!
//! In: edits through pods that hear each other at once. Out: who stored which version.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests look for one variant among many")]

mod common;

use common::{Desk, insert};
use document::{Command, Input, Peer, Point, Settings, Version};
use ot::Delta;

const PODS: usize = 4;
const EVERY: usize = 10;

struct Room {
    desks: Vec<Desk>,
    /// Pods that store nothing.
    is_failing: Vec<bool>,
    /// Who stored which version.
    saves: Vec<(usize, Version)>,
}

impl Room {
    fn new(settings: &Settings) -> Self {
        let mut desks: Vec<Desk> = (0..PODS).map(|_| Desk::with(settings.clone(), Delta::new())).collect();
        for (id, desk) in (1..).zip(&mut desks) {
            desk.join(id);
        }
        Self { desks, is_failing: vec![false; PODS], saves: Vec::new() }
    }

    /// Somebody types at this pod, and everybody hears of it.
    fn edit(&mut self, pod: usize, text: &str) {
        let desk = &mut self.desks[pod];
        let (id, version) = (pod as u64 + 1, desk.log.len() as Version);
        let seq = 1 + desk.rows.get(&*format!("c{id}")).map_or(0, |row| row.last_seq);
        desk.edit(id, version, seq, insert(0, text));
        let log = desk.log.clone();
        for other in (0..PODS).filter(|other| *other != pod) {
            let desk = &mut self.desks[other];
            desk.log.clone_from(&log);
            desk.input(Input::Learned(log[version as usize..].to_vec()));
        }
        self.settle();
    }

    fn settle(&mut self) {
        while let Some((pod, command)) = self.next_command() {
            match command {
                Command::Save(snapshot) if !self.is_failing[pod] => {
                    self.saves.push((pod, snapshot.at.version));
                    self.desks[pod].input(Input::Saved(snapshot.at.version));
                }
                Command::Publish(peer @ Peer::Saved { .. }) => {
                    for other in (0..PODS).filter(|other| *other != pod) {
                        self.desks[other].input(Input::Peer { pod: format!("pod{pod}").into(), peer: peer.clone() });
                    }
                }
                _ => {}
            }
        }
    }

    fn next_command(&mut self) -> Option<(usize, Command)> {
        self.desks.iter_mut().enumerate().find_map(|(pod, desk)| Some((pod, desk.commands.pop()?)))
    }
}

fn every_ten_entries() -> Settings {
    Settings { snapshot_tail_entries: EVERY, ..Settings::default() }
}

#[test]
fn pods_that_write_to_one_document_store_one_snapshot_of_it_in_turn() {
    let mut room = Room::new(&every_ten_entries());
    for n in 0..40 * EVERY {
        room.edit(n % PODS, "x");
    }
    let versions: Vec<Version> = room.saves.iter().map(|(_, version)| *version).collect();
    // As soon as more than ten have come since the one before.
    let expected: Vec<Version> = (1..).map(|n| n * (EVERY as Version + 1)).take(versions.len()).collect();
    assert_eq!(versions, expected);
    assert_eq!(versions.len(), 40 * EVERY / (EVERY + 1));
    for pod in 0..PODS {
        let count = room.saves.iter().filter(|(saver, _)| *saver == pod).count();
        assert!(count > 5, "{count} of {} by pod {pod}: whoever wrote the last entry", versions.len());
    }
}

#[test]
fn many_bytes_are_as_good_a_reason_as_many_entries() {
    let mut room = Room::new(&Settings { snapshot_tail_bytes: 1_000, ..Settings::default() });
    for n in 0..64 {
        room.edit(n % PODS, &"x".repeat(300));
    }
    let versions: Vec<Version> = room.saves.iter().map(|(_, version)| *version).collect();
    let apart: Vec<Version> = versions.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(versions.len() > 5 && apart.is_sorted() && apart.iter().all(|apart| *apart >= 3), "{versions:?}");
}

#[test]
fn an_entry_that_is_many_times_what_is_allowed_is_stored_by_one_pod() {
    let mut room = Room::new(&Settings { snapshot_tail_bytes: 100, ..Settings::default() });
    room.edit(2, &"x".repeat(100_000));
    assert_eq!(room.saves, [(2, 1)]);
}

#[test]
fn when_the_pod_whose_turn_it_was_fails_it_is_the_turn_of_another() {
    let mut room = Room::new(&every_ten_entries());
    room.is_failing[2] = true;
    for _ in 0..10 {
        room.edit(0, "x");
    }
    room.edit(2, "x");
    assert_eq!(room.saves, [], "the eleventh was its own");
    for _ in 12..=20 {
        room.edit(1, "x");
    }
    assert_eq!(room.saves, [], "it may still come");
    room.edit(3, "x");
    assert_eq!(room.saves, [(3, 21)], "twice as much as is allowed");
    for _ in 22..=31 {
        room.edit(1, "x");
    }
    assert_eq!(room.saves, [(3, 21)]);
    room.edit(1, "x");
    assert_eq!(room.saves, [(3, 21), (1, 32)], "all count from the newest one");
}

#[test]
fn whoever_commits_next_stores_what_came_while_a_snapshot_was_being_stored() {
    let mut room = Room::new(&every_ten_entries());
    room.is_failing[0] = true;
    for _ in 0..25 {
        room.edit(0, "x");
    }
    assert_eq!(room.saves, []);
    // That of version 11 is stored only now.
    room.desks[0].input(Input::Saved(11));
    room.settle();
    room.edit(1, "x");
    assert_eq!(room.saves, [(1, 26)]);
}

#[test]
fn pods_that_only_read_store_it_when_nobody_else_does() {
    let mut room = Room::new(&every_ten_entries());
    room.is_failing[0] = true;
    for _ in 0..4 * EVERY {
        room.edit(0, "x");
    }
    assert_eq!(room.saves, []);
    room.edit(0, "x");
    assert!(!room.saves.is_empty() && room.saves.iter().all(|(pod, version)| *pod > 0 && *version == 41));
}

#[test]
fn a_snapshot_of_another_history_or_of_the_future_is_nobodys() {
    let mut room = Room::new(&every_ten_entries());
    for _ in 0..8 {
        room.edit(0, "x");
    }
    for at in [Point { version: 8, hash: "other".into() }, Point { version: 1_000, hash: "later".into() }] {
        room.desks[0].input(Input::Peer { pod: "pod1".into(), peer: Peer::Saved { at } });
    }
    for _ in 0..3 {
        room.edit(0, "x");
    }
    assert_eq!(room.saves, [(0, 11)]);
}
