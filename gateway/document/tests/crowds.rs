//! Many people in one document: who is listed, whose cursors are followed, and what is told when the crowd is over.
//!
//! In: people on this pod and rows and cursors of other pods. Out: the events that single connections see. A listener is
//! a small client: it keeps whom it knows and which cursors it shows.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests look for one variant among many")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use common::{Desk, insert, join, user};
use document::{ActiveUser, Command, ConnectionId, Event, Input, Join, Leaving, Member, Peer, PeerCursor, Position};

/// Places of those whose cursors and typing are delivered.
const PLACES: u64 = 50;

/// What a client shows: people, and cursors by client.
#[derive(Debug, Default, Clone, PartialEq)]
struct Listener {
    people: BTreeSet<Arc<str>>,
    cursors: BTreeMap<Arc<str>, usize>,
    counts: Vec<usize>,
}

impl Listener {
    fn new(joined: &[ActiveUser]) -> Self {
        let cursors = joined.iter().flat_map(|active| &active.cursors);
        let index = |position: &Position| if let Position::Range { index, .. } = position { *index } else { 0 };
        Self {
            people: joined.iter().map(|active| active.user.id.clone()).collect(),
            cursors: cursors.map(|cursor| (cursor.client_id.clone(), index(&cursor.position))).collect(),
            counts: Vec::new(),
        }
    }

    fn hear(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::UserJoined(user) => _ = self.people.insert(user.id),
                Event::UserLeft { user_id } => _ = self.people.remove(&user_id),
                Event::Presence { active_count } => self.counts.push(active_count),
                Event::CursorUpdate { client_id, position: Some(Position::Range { index, .. }), .. } => {
                    self.cursors.insert(client_id, index);
                }
                Event::CursorUpdate { client_id, position: None, .. } => _ = self.cursors.remove(&client_id),
                _ => {}
            }
        }
    }
}

fn member(id: u64, connections: u32) -> Member {
    Member { pod: "pod2".into(), user: user(id), connections, since_ms: 5, lapses: 0 }
}

fn ids(users: impl IntoIterator<Item = u64>) -> BTreeSet<Arc<str>> {
    users.into_iter().map(|id| user(id).id).collect()
}

fn clients(users: impl IntoIterator<Item = u64>) -> BTreeSet<Arc<str>> {
    users.into_iter().map(|id| format!("c{id}").into()).collect()
}

/// Somebody on another pod comes or goes.
fn far(desk: &mut Desk, id: u64, connections: u32) {
    desk.input(Input::Peer { pod: "pod2".into(), peer: Peer::Members(vec![member(id, connections)]) });
}

/// The rows of the store: these people on another pod.
fn read(desk: &mut Desk, users: impl IntoIterator<Item = u64>) {
    let members = users.into_iter().map(|id| member(id, 1)).collect();
    desk.input(Input::Presence { members, live: BTreeSet::from(["pod2".into()]) });
}

fn far_cursor(id: u64, index: usize) -> PeerCursor {
    let position = Position::Range { index, length: 0 };
    PeerCursor { user_id: user(id).id, client_id: format!("c{id}").into(), version: 0, position }
}

fn cursor(desk: &mut Desk, id: u64, index: usize) {
    let position = Some(Position::Range { index, length: 0 });
    desk.input(Input::Cursor { connection: ConnectionId(id), version: None, position, reply: None });
}

/// What this pod published of presence since the last call.
fn published(desk: &mut Desk) -> Vec<Peer> {
    let commands = std::mem::take(&mut desk.commands);
    let is_told = |peer: &Peer| matches!(peer, Peer::Ask | Peer::Cursors(_));
    let peers = commands.into_iter().filter_map(|command| match command {
        Command::Publish(peer) => Some(peer),
        _ => None,
    });
    peers.filter(is_told).collect()
}

#[test]
fn cursors_of_the_fifty_most_recent_are_shown_and_places_change_hands_when_somebody_is_quiet() {
    let mut desk = Desk::new();
    let mut listener = Listener::new(&desk.join(1).active_users);
    for id in 2..=60 {
        desk.join(id);
    }
    for id in 2..2 + PLACES {
        cursor(&mut desk, id, 1);
    }
    listener.hear(desk.events(1));
    let shown: BTreeSet<_> = listener.cursors.keys().cloned().collect();
    assert_eq!(shown, clients(2..2 + PLACES));
    // All fifty moved just now: nobody loses a place to a newcomer.
    desk.tick(1_000);
    cursor(&mut desk, 52, 2);
    assert_eq!(desk.events(1), []);
    let joined = desk.join(100);
    assert_eq!(Listener::new(&joined.active_users).cursors, listener.cursors);
    // All but the first go on moving; the first, who is quiet, makes room, and their cursor is taken back.
    for id in 3..2 + PLACES {
        cursor(&mut desk, id, 2);
    }
    desk.tick(1_000);
    cursor(&mut desk, 52, 3);
    listener.hear(desk.events(1));
    let shown: BTreeSet<_> = listener.cursors.keys().cloned().collect();
    assert_eq!(shown, clients(3..=52));
    // The one who was quiet is there all the same, and is followed again when it moves and somebody else is quiet.
    desk.tick(2_000);
    cursor(&mut desk, 2, 0);
    listener.hear(desk.events(1));
    assert_eq!((listener.cursors.len(), listener.cursors[&Arc::<str>::from("c2")]), (50, 0));
    assert!(listener.people.contains("u2"));
}

#[test]
fn typing_takes_places_as_cursors_do() {
    let mut desk = Desk::new();
    for id in 1..=60 {
        desk.join(id);
    }
    desk.take(1);
    for id in 2..=60 {
        desk.input(Input::Typing { connection: ConnectionId(id), is_typing: true, reply: None });
    }
    let typing = |event: &Event| matches!(event, Event::TypingUpdate { is_typing: true, .. });
    assert_eq!(desk.events(1).iter().filter(|event| typing(event)).count(), 50);
    desk.tick(5_000);
    let ended = |event: &Event| matches!(event, Event::TypingUpdate { is_typing: false, .. });
    assert_eq!(desk.events(1).iter().filter(|event| ended(event)).count(), 50, "all of them end, and nobody else");
}

#[test]
fn those_with_cursors_are_listed_first_in_a_crowd() {
    let mut desk = Desk::new();
    desk.join(1);
    read(&mut desk, 1_000..1_400);
    // The last by name, so that no other order lists them by chance.
    for id in 1_390..1_400 {
        desk.input(Input::Peer {
            pod: "pod2".into(),
            peer: Peer::Cursors((1_390..=id).map(|id| far_cursor(id, 1)).collect()),
        });
    }
    let joined = desk.join(2);
    assert_eq!((joined.active_users.len(), joined.active_count), (100, 402));
    let first: BTreeSet<_> = joined.active_users[..10].iter().map(|active| active.user.id.clone()).collect();
    assert_eq!(first, ids(1_390..1_400));
    assert!(joined.active_users[..10].iter().all(|active| active.cursors.len() == 1));
}

#[test]
fn the_end_of_a_crowd_tells_everybody_who_is_there_and_who_went_and_the_cursors() {
    let mut desk = Desk::new();
    let mut early = Listener::new(&desk.join(1).active_users);
    read(&mut desk, 1_000..1_300);
    let mut late = Listener::new(&desk.join(2).active_users);
    assert_eq!(late.people.len(), 100);
    desk.input(Input::Peer {
        pod: "pod2".into(),
        peer: Peer::Cursors(vec![far_cursor(1_250, 2), far_cursor(1_299, 3)]),
    });
    desk.tick(1_000);
    // Most go; some of those who stay nobody here was told of, some who go everybody was.
    let stay: Vec<u64> = (1_000..1_020).chain(1_280..1_300).collect();
    for id in (1_000..1_300).filter(|id| !stay.contains(id)) {
        far(&mut desk, id, 0);
    }
    desk.tick(1_000);
    for (id, listener, other) in [(1, &mut early, 2), (2, &mut late, 1)] {
        listener.hear(desk.events(id));
        let there: BTreeSet<_> = ids(stay.iter().copied().chain([other]));
        assert_eq!(listener.people, there, "connection {id}");
        let shown: BTreeSet<_> = listener.cursors.keys().cloned().collect();
        assert_eq!(shown, clients([1_299]), "connection {id}");
        assert_eq!(listener.counts.last(), Some(&42), "connection {id}");
    }
    // From now on one by one again.
    far(&mut desk, 1_000, 0);
    far(&mut desk, 5_000, 1);
    assert_eq!(desk.events(1), [Event::UserLeft { user_id: user(1_000).id }, Event::UserJoined(user(5_000))]);
}

#[test]
fn whom_a_newcomer_was_shown_at_the_end_of_a_crowd_the_others_are_told_of_too() {
    let mut desk = Desk::new();
    let mut early = Listener::new(&desk.join(1).active_users);
    read(&mut desk, 1_000..1_100);
    early.hear(desk.events(1));
    assert_eq!(early.people.len(), 99, "the hundred and first makes the crowd and is not told");
    // Somebody goes, and before the total is told again a second tab is shown all who are left.
    far(&mut desk, 1_000, 0);
    let tab = desk.join_with(Join { user: user(1), ..join(2) });
    assert_eq!(Listener::new(&tab.active_users).people, ids(1_001..1_100));
    desk.tick(1_000);
    early.hear(desk.events(1));
    assert_eq!(early.people, ids(1_001..1_100));
}

/// A crowd that comes and goes at random; at rest every client knows exactly who is there.
#[test]
fn after_any_crowd_everybody_knows_who_is_there() {
    let seed = std::env::var("DOCUMENT_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    for seed in seed.map_or(1..200, |seed| seed..seed + 1) {
        let mut state: u64 = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = move |most: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % most
        };
        let mut desk = Desk::new();
        read(&mut desk, []);
        let mut listeners: BTreeMap<u64, Listener> = BTreeMap::new();
        let mut there = BTreeSet::new();
        for step in 0..400 {
            // Around the edge of a crowd, mostly.
            match below(8) {
                0 if listeners.len() < 8 => {
                    let joined = desk.join(step);
                    listeners.insert(step, Listener::new(&joined.active_users));
                }
                1 if listeners.len() > 3 => {
                    let gone = *listeners.keys().nth(below(listeners.len() as u64) as usize).unwrap();
                    listeners.remove(&gone);
                    desk.leave(gone, Leaving::Said);
                }
                2 => desk.tick(below(1_500)),
                _ => {
                    let is_coming = there.len() < 94 || there.len() < 104 && below(2) == 0;
                    for _ in 0..if there.len() < 90 { 20 } else { 1 + below(4) } {
                        let id = 1_000 + below(160);
                        let changed = if is_coming { there.insert(id) } else { there.remove(&id) };
                        if changed {
                            far(&mut desk, id, u32::from(is_coming));
                        }
                    }
                }
            }
            for (id, listener) in &mut listeners {
                listener.hear(desk.events(*id));
            }
        }
        while there.len() > 60 {
            let id = there.pop_first().unwrap();
            far(&mut desk, id, 0);
        }
        desk.tick(2_000);
        let all: BTreeSet<u64> = there.iter().chain(listeners.keys()).copied().collect();
        for (id, listener) in &mut listeners {
            listener.hear(desk.events(*id));
            let others = ids(all.iter().copied().filter(|other| other != id));
            assert_eq!(listener.people, others, "DOCUMENT_SEED={seed}, connection {id}");
        }
    }
}

#[test]
fn whoever_may_have_missed_messages_asks_for_cursors_once_the_rows_are_read() {
    let mut desk = Desk::new();
    desk.join(1);
    read(&mut desk, [1_000]);
    assert_eq!(published(&mut desk), [Peer::Ask], "an opened document asks");
    read(&mut desk, [1_000]);
    assert_eq!(published(&mut desk), [], "but once");
    desk.input(Input::Missed);
    assert!(desk.commands.iter().any(|command| matches!(command, Command::ReadPresence)));
    assert_eq!(published(&mut desk), [], "the rows come first");
    read(&mut desk, [1_000]);
    assert_eq!(published(&mut desk), [Peer::Ask]);
    desk.input(Input::Missed);
    read(&mut desk, []);
    desk.tick(10_000);
    read(&mut desk, []);
    desk.input(Input::Missed);
    read(&mut desk, []);
    assert_eq!(published(&mut desk).len(), 1, "where nobody is left to answer nobody is asked");
}

#[test]
fn pods_that_ask_together_get_one_answer_with_the_cursors_of_this_pod() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.join(2);
    read(&mut desk, [1_000]);
    cursor(&mut desk, 1, 1);
    cursor(&mut desk, 2, 2);
    desk.input(Input::Peer { pod: "pod2".into(), peer: Peer::Cursors(vec![far_cursor(1_000, 3)]) });
    published(&mut desk);
    for pod in ["pod2", "pod3"] {
        desk.input(Input::Peer { pod: pod.into(), peer: Peer::Ask });
        desk.tick(100);
    }
    assert_eq!(published(&mut desk), []);
    // The answer is what is true when it is given.
    desk.edit(1, 0, 1, insert(0, "xy"));
    assert_eq!(desk.document.deadline_ms(), Some(desk.now_ms + 100));
    desk.tick(100);
    let own = |id, index| PeerCursor { version: 1, ..far_cursor(id, index) };
    assert_eq!(published(&mut desk), [Peer::Cursors(vec![own(2, 4), own(1, 3)])]);
    desk.tick(1_000);
    assert_eq!(published(&mut desk), []);
}

#[test]
fn an_answer_names_every_cursor_however_large() {
    let mut desk = Desk::new();
    for id in 1..=50 {
        desk.join(id);
        for tab in 1..=3 {
            let tab = 1_000 * tab + id;
            desk.join_with(Join { user: user(id), ..join(tab) });
            let position = Some(Position::Other(format!("{:?}", "x".repeat(1_000)).into()));
            desk.input(Input::Cursor { connection: ConnectionId(tab), version: None, position, reply: None });
        }
    }
    desk.input(Input::Peer { pod: "pod2".into(), peer: Peer::Ask });
    desk.tick(300);
    let told = published(&mut desk);
    assert!(matches!(&told[..], [Peer::Cursors(told)] if told.len() == 150), "what is not named is taken back");
}

#[test]
fn an_answer_brings_what_was_missed_and_takes_back_what_is_gone() {
    let mut desk = Desk::new();
    let mut listener = Listener::new(&desk.join(1).active_users);
    let live = BTreeSet::from(["pod2".into(), "pod3".into()]);
    let third = Member { pod: "pod3".into(), ..member(1_003, 1) };
    desk.input(Input::Presence { members: (1_000..1_003).map(|id| member(id, 1)).chain([third]).collect(), live });
    let tell = |desk: &mut Desk, pod: &str, cursors| {
        desk.input(Input::Peer { pod: pod.into(), peer: Peer::Cursors(cursors) });
    };
    tell(&mut desk, "pod2", vec![far_cursor(1_000, 0), far_cursor(1_001, 1)]);
    tell(&mut desk, "pod3", vec![far_cursor(1_003, 3)]);
    listener.hear(desk.events(1));
    assert_eq!(listener.cursors.keys().cloned().collect::<BTreeSet<_>>(), clients([1_000, 1_001, 1_003]));
    tell(&mut desk, "pod2", vec![far_cursor(1_001, 1), far_cursor(1_002, 2)]);
    let events = desk.events(1);
    assert_eq!(events.len(), 2, "what did not change is not told again: {events:?}");
    listener.hear(events);
    let shown = BTreeMap::from([("c1001".into(), 1), ("c1002".into(), 2), ("c1003".into(), 3)]);
    assert_eq!(listener.cursors, shown);
}
