//! Clients and pods that are behind: below the floor of the log, in other steps than the log was written in, with
//! cursors of long ago.

#![allow(clippy::wildcard_enum_match_arm, clippy::expect_used, reason = "tests look for one variant among many")]

mod common;

use common::{Desk, Got, edit, entry, insert, join, start};
use document::{
    Answer, Code, ConnectionId, Document, Edit, Event, Input, Join, JoinedContent, Leaving, Position, Settings,
};
use ot::Delta;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// More than the window has.
const FAR: u64 = 600;

/// Others write so much that what a client has at version 0 is below the floor of the log.
fn write_much(desk: &mut Desk) {
    let from = desk.log.len();
    for seq in 1..=FAR {
        let base = desk.log.len() as u64;
        desk.append(entry("c9", seq, "far", base, insert(0, "-")));
    }
    for part in desk.log[from..].to_vec().chunks(100) {
        desk.input(Input::Learned(part.to_vec()));
    }
}

/// Case 8: its edits are not dropped; it takes the content and sends them again under their numbers.
#[test]
fn a_client_below_the_floor_of_the_log_keeps_its_pending_edits() {
    for was_away in [true, false] {
        let mut desk = Desk::new();
        desk.join(1);
        if was_away {
            desk.leave(1, Leaving::Lost);
        }
        write_much(&mut desk);
        if !was_away {
            // On a connection that did not notice: it is told to join again, and the edit is not in the log.
            desk.edit(1, 0, 1, insert(3, "mine"));
            assert_eq!(desk.refusal(1).code, Code::VersionTooOld);
            assert_eq!(desk.log.len() as u64, FAR);
        }
        let again = Join {
            connection: ConnectionId(7),
            session: "s7".into(),
            version: Some(0),
            hash: Some("h0".into()),
            last_session: Some("s1".into()),
            seq: Some(1),
            ..join(1)
        };
        let joined = desk.join_with(again);
        assert_eq!((joined.at.version, joined.last_seq), (FAR, 0), "none of its edits is in the log");
        let JoinedContent::Ops(content) = &joined.content else { panic!("{:?}", joined.content) };
        let place = content.plain_text().len();
        for (seq, ops) in [(1, insert(place, "mine")), (2, insert(place, "and "))] {
            desk.input(Input::Edit(Edit { session: Some("s7".into()), ..edit(7, FAR, Some(seq), ops) }));
        }
        let answers: Vec<_> = desk.take(7).into_iter().filter(|got| matches!(got, Got::Answer(..))).collect();
        let saved = |n: u64| Got::Answer(n, Ok(Answer::Version(FAR + n)));
        assert_eq!(answers, [saved(1), saved(2)]);
        assert!(desk.text().ends_with("abcand mine"), "{}", desk.text());
    }
}

/// Case 18: how the log is cut into answers and publishes makes no difference to anybody who reads it.
#[test]
fn any_cut_of_the_log_gives_one_document() {
    let seed = std::env::var("CUT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1_u64);
    println!("CUT_SEED={seed}");
    for case in 0..200 {
        let mut random = StdRng::seed_from_u64(seed ^ (case << 20));
        let mut desk = Desk::new();
        // Copies of the document at every version: an entry may be based on any of the last few.
        let mut lengths = vec![3];
        for number in 1..=60 {
            let head = lengths.len() - 1;
            let base = head - random.random_range(0..=head.min(8));
            let place = random.random_range(0..=lengths[base]);
            let ops = match random.random_range(0..3) {
                0 if place < lengths[base] => Delta::new().retain(place, None).delete(1),
                _ => insert(place, &random.random_range('a'..='z').to_string().repeat(random.random_range(1..4))),
            };
            desk.append(entry(&format!("c{number}"), 1, "far", base as u64, ops));
            let log = desk.log[head..].to_vec();
            desk.input(Input::Learned(log));
            lengths.push(desk.text().len());
        }
        let (head, content) = (desk.document.head().clone(), desk.document.content());
        for _ in 0..5 {
            let mut copy =
                Document::open(Settings::default(), "pod2".into(), start("abc"), Vec::new(), 0).expect("it opens");
            let mut rest = &desk.log[..];
            while !rest.is_empty() {
                let (part, later) = rest.split_at(random.random_range(1..=rest.len()));
                // Publishes come late and twice: the same entries again change nothing.
                let from = desk.log.len() - rest.len();
                let overlap = from - random.random_range(0..=from.min(3));
                copy.handle(Input::Learned(desk.log[overlap..from + part.len()].to_vec()), 1_000);
                rest = later;
            }
            assert_eq!((copy.head(), copy.content()), (&head, content.clone()), "case {case}");
        }
    }
}

/// Case 21: it is brought to where the document is now, however old the version that it was sent at.
#[test]
fn a_cursor_sent_at_an_old_version_is_shown_where_its_text_is_now() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.join(2);
    for (seq, text) in [(1, "xy"), (2, "z")] {
        desk.edit(1, seq - 1, seq, insert(0, text));
    }
    desk.take(1);
    let cursor = |desk: &mut Desk, version| {
        let position = Some(Position::Range { index: 1, length: 1 });
        desk.input(Input::Cursor { connection: ConnectionId(2), version, position, reply: None });
        desk.events(1).into_iter().find_map(|event| match event {
            Event::CursorUpdate { version, position: Some(Position::Range { index, length }), .. } => {
                Some((version, index, length))
            }
            _ => None,
        })
    };
    assert_eq!(cursor(&mut desk, Some(0)), Some((2, 4, 1)));
    assert_eq!(cursor(&mut desk, Some(1)), Some((2, 2, 1)));
    write_much(&mut desk);
    desk.take(1);
    // Nobody knows any more where that is: it stays within the document, and nobody is closed for it.
    let shown = cursor(&mut desk, Some(0));
    let length = desk.text().len();
    assert!(
        shown.is_none_or(|(version, index, range)| version <= desk.document.head().version && index + range <= length),
        "{shown:?}"
    );
    let head = desk.document.head().version;
    assert_eq!(cursor(&mut desk, Some(head)), Some((head, 1, 1)), "the connection goes on");
}
