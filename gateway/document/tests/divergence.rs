//! Two pods whose copies differ notice it at the next digest, and both open the document anew.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests look for one variant among many")]

mod common;

use common::{Desk, entry, insert};
use document::{Command, DIGEST_EVERY, Event, Input, Peer, Settings};
use ot::Delta;

#[test]
fn copies_that_differ_are_noticed_told_once_and_opened_anew() {
    let (mut writer, mut reader) = (desk("abc"), desk("abX"));
    reader.join(1);
    reader.take(1);
    let told = write_to_digest(&mut writer);
    reader.input(Input::Learned(writer.log.clone()));
    reader.commands.clear();
    reader.input(hear(told.clone()));
    let answer = digests(&mut reader.commands);
    assert_eq!((answer.len(), diverged(&reader)), (1, 1));
    assert!(reader.commands.iter().any(|command| matches!(command, Command::Reopen)));
    assert!(reader.events(1).contains(&Event::Rejoin), "its clients join again with content");
    // The writer looks at itself: it cannot know which of the two is right.
    writer.commands.clear();
    writer.input(hear(answer[0].clone()));
    assert_eq!((digests(&mut writer.commands).len(), diverged(&writer)), (1, 1));
    // From the store both get the same, and old words do not start it again.
    for desk in [&mut writer, &mut reader] {
        desk.commands.clear();
        let log = desk.log.clone();
        desk.document.open_again(common::start("abc"), log, 2_000).expect("it opens");
        desk.input(hear(told.clone()));
        desk.input(hear(answer[0].clone()));
        assert_eq!((digests(&mut desk.commands).len(), diverged(desk)), (0, 0));
    }
}

#[test]
fn a_digest_that_comes_before_its_version_is_compared_when_that_comes() {
    for (content, count) in [("abX", 1), ("abc", 0)] {
        let (mut writer, mut reader) = (desk("abc"), desk(content));
        let told = write_to_digest(&mut writer);
        reader.input(hear(told));
        assert_eq!(diverged(&reader), 0);
        reader.input(Input::Learned(writer.log.clone()));
        assert_eq!(diverged(&reader), count, "{content}");
    }
}

#[test]
fn a_digest_of_another_history_says_nothing() {
    let (mut writer, mut reader) = (desk("abc"), desk("abX"));
    let Peer::Digest { mut at, digest } = write_to_digest(&mut writer) else { panic!() };
    reader.input(Input::Learned(writer.log.clone()));
    at.hash = "another".into();
    reader.input(hear(Peer::Digest { at, digest }));
    assert_eq!(diverged(&reader), 0);
}

fn desk(content: &str) -> Desk {
    Desk::with(Settings::default(), Delta::new().insert(content, None))
}

/// Others write, and the last version before a digest is this pod's own.
fn write_to_digest(writer: &mut Desk) -> Peer {
    for seq in 1..DIGEST_EVERY {
        writer.append(entry("c9", seq, "far", seq - 1, insert(0, "x")));
    }
    let log = writer.log.clone();
    writer.input(Input::Learned(log));
    writer.join(2);
    writer.commands.clear();
    writer.edit(2, DIGEST_EVERY - 1, 1, insert(0, "y"));
    let told = digests(&mut writer.commands);
    assert_eq!(told.len(), 1, "whoever commits it tells its digest");
    told[0].clone()
}

fn hear(peer: Peer) -> Input {
    Input::Peer { pod: "another".into(), peer }
}

fn digests(commands: &mut [Command]) -> Vec<Peer> {
    let digest = |command: &Command| match command {
        Command::Publish(peer @ Peer::Digest { .. }) => Some(peer.clone()),
        _ => None,
    };
    commands.iter().filter_map(digest).collect()
}

fn diverged(desk: &Desk) -> usize {
    desk.commands.iter().filter(|command| matches!(command, Command::Diverged { .. })).count()
}
