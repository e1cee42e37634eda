//! The bounds that clients and pods rely on, with the product's own settings: what just fits, and what is one too many.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests look for one variant among many")]

mod common;

use std::sync::Arc;

use common::{Desk, content, entry, insert, join};
use document::{Code, Command, ConnectionId, Input, Join, JoinedContent, Settings, Version};
use ot::Delta;

/// Somebody else's entry of so many bytes, at the head.
fn others_write(desk: &mut Desk, bytes: usize) {
    let version = desk.log.len() as Version;
    desk.append(entry("other", version + 1, "far", version, insert(0, &"x".repeat(bytes))));
    desk.input(Input::Learned(vec![desk.log[version as usize].clone()]));
}

/// Joins with what a client has that has confirmed `version`; says whether it got entries.
fn is_joined_by_entries(desk: &mut Desk, version: Version) -> bool {
    let named = Join { version: Some(version), hash: Some(format!("h{version}").into()), ..join(1) };
    matches!(desk.join_with(Join { session: "again".into(), ..named }).content, JoinedContent::Edits(_))
}

fn has_saved(desk: &Desk) -> bool {
    desk.commands.iter().any(|command| matches!(command, Command::Save(_)))
}

fn is_paused(desk: &Desk) -> bool {
    desk.commands.contains(&Command::PauseReading { connection: ConnectionId(1), pause: true })
}

#[test]
fn a_join_brings_a_thousand_entries_and_then_the_content() {
    let wide = Settings { window_entries: 2_000, ..Settings::default() };
    let mut desk = Desk::with(wide, Delta::new());
    for _ in 0..1_001 {
        others_write(&mut desk, 1);
    }
    assert!(is_joined_by_entries(&mut desk, 1));
    assert!(!is_joined_by_entries(&mut desk, 0));
}

#[test]
fn a_join_brings_a_quarter_of_a_mebibyte_of_entries_or_a_single_larger_one() {
    let mut desk = Desk::new();
    others_write(&mut desk, 1);
    others_write(&mut desk, 300 << 10);
    assert!(is_joined_by_entries(&mut desk, 1), "one entry always fits");
    assert!(!is_joined_by_entries(&mut desk, 0));
}

#[test]
fn a_join_that_names_no_hash_or_a_wrong_one_brings_the_content() {
    let mut desk = Desk::new();
    others_write(&mut desk, 1);
    for hash in [None, Some("elsewhere")] {
        let joined = desk.join_with(Join { version: Some(1), hash: hash.map(Arc::from), ..join(1) });
        assert_eq!(content(&joined), "xabc", "{hash:?}");
    }
    assert!(is_joined_by_entries(&mut desk, 1));
}

#[test]
fn an_edit_may_have_missed_five_hundred_and_twelve_entries() {
    for (missed, is_taken) in [(512, true), (513, false)] {
        let mut desk = Desk::with(Settings::default(), Delta::new());
        desk.join(1);
        for _ in 0..missed {
            others_write(&mut desk, 1);
        }
        desk.take(1);
        desk.edit(1, 0, 1, insert(0, "mine"));
        if is_taken {
            assert!(desk.text().contains("mine"));
        } else {
            assert_eq!(desk.refusal(1).code, Code::VersionTooOld);
        }
    }
}

#[test]
fn a_client_may_send_256_edits_or_a_quarter_of_a_mebibyte_ahead() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.hold = true;
    for seq in 1..=256 {
        desk.edit(1, 0, seq, insert(0, "x"));
    }
    assert!(!is_paused(&desk));
    desk.edit(1, 0, 257, insert(0, "x"));
    assert!(is_paused(&desk));

    let mut desk = Desk::new();
    desk.join(1);
    desk.hold = true;
    for seq in 1..=5 {
        assert!(!is_paused(&desk), "{seq}");
        desk.edit(1, 0, seq, insert(0, &"x".repeat(60 << 10)));
    }
    assert!(is_paused(&desk));
    desk.release();
    assert_eq!(desk.log.len(), 5, "all of it is committed");
}

#[test]
fn one_call_carries_at_most_256_edits_and_a_quarter_of_a_mebibyte() {
    for (writers, bytes, most) in [(300, 1, 256), (10, 60 << 10, 4), (2, 300 << 10, 1)] {
        let mut desk = Desk::with(Settings::default(), Delta::new());
        for id in 0..=writers {
            desk.join(id);
        }
        desk.hold = true;
        // The first call, of one entry, is under way; what comes meanwhile is the next one's.
        for id in 0..=writers {
            desk.edit(id, 0, 1, insert(0, &"x".repeat(bytes)));
        }
        let Some(Command::Commit(first)) = desk.held.pop() else { panic!("nothing was sent") };
        let reply = desk.commit(&first);
        desk.input(Input::Committed(reply));
        assert!(matches!(&desk.held[..], [Command::Commit(batch)] if batch.entries.len() == most), "{:?}", desk.held);
    }
}

#[test]
fn a_snapshot_is_due_beyond_64_kib_a_tenth_of_the_document_or_a_thousand_entries() {
    // Beside its words an entry counts some hundred bytes.
    for (document, bytes, fit, too_many) in
        [(1, 1 << 10, 50, 70), (2 << 20, 1 << 10, 170, 230), (4 << 20, 1, 1_000, 1_001)]
    {
        let settings = Settings { max_document_bytes: 8 << 20, ..Settings::default() };
        let mut desk = Desk::with(settings, Delta::new().insert(&"x".repeat(document), None));
        desk.join(1);
        for seq in 1..=too_many {
            desk.edit(1, seq - 1, seq, insert(0, &"x".repeat(bytes)));
            assert!(seq > fit || !has_saved(&desk), "{document}: at {seq}");
        }
        assert!(has_saved(&desk), "{document}");
    }
}

#[test]
fn a_connection_that_was_not_stopped_is_told_when_to_come_again() {
    let mut desk = Desk::new();
    desk.join(1);
    desk.hold = true;
    // Of a version that this pod does not have yet, by a connection that sends although nobody reads it.
    let mut sent = 0;
    while desk.take(1).is_empty() {
        sent += 1;
        assert!(sent < 10_000, "it keeps everything");
        desk.edit(1, 7, sent, insert(0, "x"));
        if let Some(common::Got::Answer(_, Err(refusal))) = desk.got.get(&1).and_then(|got| got.first()) {
            assert_eq!(refusal.code, Code::Overloaded);
        }
    }
    assert!(sent > 256);
}

#[test]
fn the_product_keeps_documents_to_four_mebibytes_and_edits_before_a_join_to_64() {
    let Settings { max_document_bytes, early_edits, held_ms, durable_notice_ms, .. } = Settings::default();
    assert_eq!((max_document_bytes, early_edits, held_ms, durable_notice_ms), (4 << 20, 64, 30_000, 5_000));
}
