//! What every store and every bus must do, over the embedded one, a real Redis and a real Valkey.
//!
//! Each scenario runs against all three; what only a server can do (fences, trimming by age, being killed) is in
//! `servers_only.rs`.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod servers;

use std::sync::Arc;

use bytes::Bytes;
use collab_gateway::{
    bus::{Bus, Heard, MemoryBus, RedisBus, document_channel},
    store::{
        Committed, Creation, MemoryStore, NewEntry, Notice, RedisStore, SEED_START_BYTES, Saved, Store, StoreError,
        StoredEntry,
    },
};
use document::{Identity, Point, Role, Verdict};
use rand::{Rng, SeedableRng, rngs::StdRng};
use servers::{Engine, Server};
use sha1::Digest;

/// Two pods' views of one store.
struct World {
    store: Store,
    other: Store,
    bus: Bus,
    other_bus: Bus,
    memory: Option<MemoryStore>,
    server: Option<Server>,
}

impl World {
    fn memory() -> Self {
        let bus = MemoryBus::default();
        let memory = MemoryStore::new(bus.clone());
        let (store, bus) = (Store::Memory(memory.clone()), Bus::Memory(bus));
        Self { other: store.clone(), other_bus: bus.clone(), store, bus, memory: Some(memory), server: None }
    }

    async fn server(engine: Engine) -> Option<Self> {
        let server = Server::start(engine, &[]).await?;
        let store = || Store::Redis(RedisStore::new(server.settings()));
        let bus = || Bus::Redis(RedisBus::new(server.settings()));
        Some(Self { store: store(), other: store(), bus: bus(), other_bus: bus(), memory: None, server: Some(server) })
    }

    /// Sets a key of the application.
    async fn set(&self, key: &str, value: &str) {
        match (&self.memory, &self.server) {
            (Some(memory), _) => memory.set(key, Some(value)),
            (None, Some(server)) => {
                redis::cmd("SET").arg(key).arg(value).exec_async(&mut server.client().await).await.unwrap();
            }
            (None, None) => unreachable!(),
        }
    }

    /// A new empty document.
    async fn create(&self, document: &str) -> Point {
        self.store.create(document, creation(None)).await.unwrap().head
    }
}

/// Runs a scenario against each of the three.
macro_rules! scenarios {
    ($($name:ident)*) => {
        mod embedded { $(#[tokio::test] async fn $name() { super::$name(super::World::memory()).await; })* }
        mod redis_server { $(#[tokio::test] async fn $name() {
            super::$name(super::World::server(super::Engine::Redis).await.unwrap()).await;
        })* }
        mod valkey_server { $(#[tokio::test] async fn $name() {
            if let Some(world) = super::World::server(super::Engine::Valkey).await { super::$name(world).await; }
        })* }
    };
}

scenarios! {
    a_batch_is_appended_with_a_chain_of_hashes
    a_repeated_entry_gets_the_version_it_has
    a_number_used_again_for_other_bytes_changes_nothing
    a_missing_number_is_told_with_the_last_one
    a_client_belongs_to_the_user_who_used_it_first
    an_entry_below_the_window_is_refused_as_behind
    what_is_made_on_its_own_batch_is_appended_where_nothing_else_comes
    the_floor_is_that_of_the_most_forgetful_pod
    the_window_is_bounded_in_bytes_but_keeps_the_last_entry
    a_batch_beyond_its_bounds_is_refused_as_a_whole
    a_batch_of_many_bytes_is_appended_whole
    a_tail_brings_what_others_committed
    a_long_tail_comes_in_parts
    large_entries_come_one_by_one
    a_head_of_another_history_is_told_and_nothing_is_done
    a_document_is_created_once
    the_text_of_the_application_is_found
    a_snapshot_is_stored_in_pieces_and_only_a_newer_one_replaces_it
    rows_of_clients_are_looked_up_with_the_tail
    clients_that_the_gateway_numbers_are_bounded_and_do_not_crowd_out_others
    a_document_has_room_for_twenty_thousand_clients
    presence_rows_come_and_go
    a_lease_is_held_until_it_is_given_back
    roles_and_users_are_those_of_the_application
    a_commit_is_told_on_the_channel
    a_subscription_that_ended_hears_nothing_and_harms_nobody
    a_subscriber_that_does_not_listen_learns_that_it_missed_something
}

async fn a_batch_is_appended_with_a_chain_of_hashes(world: World) {
    let root = world.create("d").await;
    let committed =
        world.store.commit("d", &root, 0, &[entry("a", 1, 0, b"one"), entry("b", 1, 0, b"two")]).await.unwrap();
    assert_eq!(committed.verdicts, [Verdict::Ok(1), Verdict::Ok(2)]);
    let first = chained(&root, b"one");
    let second = chained(&first.at, b"two");
    assert_eq!(committed.tail.entries, [first, second.clone()]);
    assert!(!committed.tail.more && !committed.tail.forked);
    assert_eq!(world.other.open("d").await.unwrap().unwrap().head, second.at);
}

async fn a_repeated_entry_gets_the_version_it_has(world: World) {
    let root = world.create("d").await;
    world.store.commit("d", &root, 0, &[entry("a", 1, 0, b"one"), entry("b", 1, 0, b"two")]).await.unwrap();
    let again = world.other.commit("d", &root, 0, &[entry("b", 1, 0, b"two, said otherwise")]).await.unwrap();
    assert_eq!(again.verdicts, [Verdict::Dup(2)]);
    assert_eq!(again.tail.entries.len(), 2, "the answer brings what the pod did not know");
}

async fn a_number_used_again_for_other_bytes_changes_nothing(world: World) {
    let root = world.create("d").await;
    world.store.commit("d", &root, 0, &[entry("a", 1, 0, b"one")]).await.unwrap();
    let again = world.store.commit("d", &root, 0, &[entry("a", 1, 0, b"two")]).await.unwrap();
    assert_eq!(again.verdicts, [Verdict::Dup(1)]);
    assert_eq!(again.tail.entries, [chained(&root, b"one")]);
}

async fn a_missing_number_is_told_with_the_last_one(world: World) {
    let root = world.create("d").await;
    let committed = world.store.commit("d", &root, 0, &[entry("a", 2, 0, b"x")]).await.unwrap();
    assert_eq!((committed.verdicts, committed.tail.entries.len()), (vec![Verdict::Gap(0)], 0));
    let committed = world.store.commit("d", &root, 0, &[entry("a", 1, 0, b"x")]).await.unwrap();
    let head = &committed.tail.entries[0].at;
    let committed = world.store.commit("d", head, 0, &[entry("a", 3, 1, b"z"), entry("b", 1, 1, b"b")]).await.unwrap();
    assert_eq!(committed.verdicts, [Verdict::Gap(1), Verdict::Ok(2)], "one entry's gap is no other's");
}

async fn a_client_belongs_to_the_user_who_used_it_first(world: World) {
    let root = world.create("d").await;
    world.store.commit("d", &root, 0, &[entry("a", 1, 0, b"x")]).await.unwrap();
    for seq in [1, 2] {
        let theirs = NewEntry { owner: "mallory".into(), ..entry("a", seq, 0, b"y") };
        let committed = world.store.commit("d", &root, 0, &[theirs]).await.unwrap();
        assert_eq!(committed.verdicts, [Verdict::Gap(1)], "seq {seq}");
    }
    // A name that the gateway numbers is another one, even if it reads the same.
    let numbered = NewEntry { identity: numbered("a", 1), owner: "mallory".into(), ..entry("a", 1, 0, b"z") };
    assert_eq!(world.store.commit("d", &root, 0, &[numbered]).await.unwrap().verdicts, [Verdict::Ok(2)]);
}

async fn an_entry_below_the_window_is_refused_as_behind(world: World) {
    let head = fill(&world.store, "d", world.create("d").await, 513, 10).await;
    assert_eq!(head.version, 513);
    let committed =
        world.store.commit("d", &head, 0, &[entry("late", 1, 0, b"x"), entry("just", 1, 1, b"y")]).await.unwrap();
    assert_eq!(committed.verdicts, [Verdict::Behind, Verdict::Ok(514)]);
    let again = world.store.commit("d", &head, 0, &[entry("filler", 513, 0, b"x")]).await.unwrap();
    assert_eq!(again.verdicts, [Verdict::Dup(513)], "what is in the log is never refused");
}

async fn what_is_made_on_its_own_batch_is_appended_where_nothing_else_comes(world: World) {
    let root = world.create("d").await;
    let list = [entry("a", 1, 0, b"1"), entry("b", 1, 1, b"2"), entry("a", 2, 2, b"3")];
    let verdicts =
        async |head: &Point, batch: &[NewEntry]| world.store.commit("d", head, 0, batch).await.unwrap().verdicts;
    assert_eq!(verdicts(&root, &list).await, [1, 2, 3].map(Verdict::Ok));
    assert_eq!(verdicts(&root, &list).await, [3, 2, 3].map(Verdict::Dup), "repeated");
    let head = world.store.tail("d", &root).await.unwrap().entries[2].at.clone();
    // Number 3 of `a` is missing: what stands behind it is made on something that is not there.
    let list = [entry("a", 4, 3, b"5"), entry("b", 2, 4, b"6"), entry("b", 3, 5, b"7")];
    assert_eq!(verdicts(&head, &list).await, [Verdict::Gap(2), Verdict::Behind, Verdict::Behind]);
    world.other.commit("d", &head, 0, &[entry("c", 1, 3, b"x")]).await.unwrap();
    let list = [entry("a", 3, 3, b"4"), entry("a", 4, 4, b"5"), entry("b", 2, 5, b"6")];
    assert_eq!(verdicts(&head, &list).await, [Verdict::Ok(5), Verdict::Behind, Verdict::Behind], "another was first");
}

async fn the_floor_is_that_of_the_most_forgetful_pod(world: World) {
    let head = fill(&world.store, "d", world.create("d").await, 10, 10).await;
    let verdict = async |store: &Store, floor, client: &str, base| {
        store.commit("d", &head, floor, &[entry(client, 1, base, b"x")]).await.unwrap().verdicts[0]
    };
    assert_eq!(verdict(&world.store, 0, "a", 4).await, Verdict::Ok(11));
    assert_eq!(verdict(&world.store, 5, "b", 4).await, Verdict::Behind, "the floor holds for the call that raises it");
    assert_eq!(verdict(&world.other, 0, "c", 4).await, Verdict::Behind, "and for other pods, whatever they keep");
    assert_eq!(verdict(&world.other, 0, "d", 5).await, Verdict::Ok(12));
    assert_eq!(verdict(&world.store, 99, "e", 10).await, Verdict::Behind);
    let head = world.store.tail("d", &head).await.unwrap().entries[1].at.clone();
    let last = world.store.commit("d", &head, 0, &[entry("f", 1, 11, b"x")]).await.unwrap().verdicts;
    assert_eq!(last, [Verdict::Ok(13)], "the last entry always belongs to the window");
}

async fn the_window_is_bounded_in_bytes_but_keeps_the_last_entry(world: World) {
    let head = fill(&world.store, "d", world.create("d").await, 4, 300 << 10).await;
    let verdict = async |client: &str, base| {
        let committed = world.store.commit("d", &head, 0, &[entry(client, 1, base, b"x")]).await.unwrap();
        committed.verdicts[0]
    };
    assert_eq!(verdict("a", 0).await, Verdict::Behind);
    assert_eq!(verdict("b", 1).await, Verdict::Ok(5));
    let head = fill(&world.store, "e", world.create("e").await, 2, 2 << 20).await;
    let committed = world.store.commit("e", &head, 0, &[entry("a", 1, 1, b"x")]).await.unwrap();
    assert_eq!(committed.verdicts, [Verdict::Ok(3)], "an entry may miss the last one, whatever its size");
    assert_eq!(world.store.commit("e", &head, 0, &[entry("b", 1, 0, b"x")]).await.unwrap().verdicts, [Verdict::Behind]);
}

async fn a_batch_beyond_its_bounds_is_refused_as_a_whole(world: World) {
    let root = world.create("d").await;
    let batch: Vec<_> = (0..257).map(|n| entry(&format!("c{n}"), 1, 0, b"x")).collect();
    assert!(matches!(world.store.commit("d", &root, 0, &batch).await, Err(StoreError::OutOfBounds(_))));
    let committed = world.store.commit("d", &root, 0, &batch[..256]).await.unwrap();
    assert_eq!(committed.verdicts.len(), 256);
}

async fn a_batch_of_many_bytes_is_appended_whole(world: World) {
    let root = world.create("d").await;
    let batch: Vec<_> = (1..=3).map(|n| entry(&format!("c{n}"), 1, 0, &vec![b'x'; 200 << 10])).collect();
    let ok = [Verdict::Ok(1), Verdict::Ok(2), Verdict::Ok(3)];
    let committed = world.store.commit("d", &root, 0, &batch).await.unwrap();
    assert_eq!(committed.verdicts, ok);
    assert_eq!((committed.tail.entries.len(), committed.tail.more), (1, true));
    let again = world.store.commit("d", &root, 0, &batch).await.unwrap();
    assert_eq!(again.verdicts, [Verdict::Dup(1), Verdict::Dup(2), Verdict::Dup(3)]);
    let strange = Point { hash: "fffffffffff".into(), ..root };
    let forked = world.store.commit("d", &strange, 0, &batch).await.unwrap();
    assert!(forked.tail.forked && forked.verdicts.is_empty());
}

async fn a_tail_brings_what_others_committed(world: World) {
    let root = world.create("d").await;
    world.other.commit("d", &root, 0, &[entry("b", 1, 0, b"theirs")]).await.unwrap();
    let committed = world.store.commit("d", &root, 0, &[entry("a", 1, 0, b"mine")]).await.unwrap();
    assert_eq!(committed.verdicts, [Verdict::Ok(2)]);
    let bytes: Vec<_> = committed.tail.entries.iter().map(|entry| &entry.bytes[..]).collect();
    assert_eq!(bytes, [&b"theirs"[..], b"mine"]);
    assert_eq!(
        world.store.tail("d", &committed.tail.entries[0].at).await.unwrap().entries,
        committed.tail.entries[1..]
    );
}

async fn a_long_tail_comes_in_parts(world: World) {
    let root = world.create("d").await;
    let head = fill(&world.store, "d", root.clone(), 600, 10).await;
    let first = world.store.tail("d", &root).await.unwrap();
    assert_eq!((first.entries.len(), first.more), (512, true));
    let rest = world.store.tail("d", &first.entries[511].at).await.unwrap();
    assert_eq!((rest.entries.len(), rest.more), (88, false));
    assert_eq!(rest.entries[87].at, head);
    let floor = first.entries[87].at.clone();
    let opened = world.store.open("d").await.unwrap().unwrap();
    assert_eq!((opened.tail, opened.head), (first, head));
    let committed = world.store.commit("d", &floor, 0, &[entry("a", 1, 88, b"x")]).await.unwrap();
    assert_eq!(committed.verdicts, [Verdict::Ok(601)]);
    assert_eq!((committed.tail.entries.len(), committed.tail.more), (512, true), "the own entry is beyond the answer");
}

async fn large_entries_come_one_by_one(world: World) {
    let root = world.create("d").await;
    fill(&world.store, "d", root.clone(), 3, 200 << 10).await;
    let tail = world.store.tail("d", &root).await.unwrap();
    assert_eq!((tail.entries.len(), tail.more), (1, true));
}

async fn a_head_of_another_history_is_told_and_nothing_is_done(world: World) {
    let root = world.create("d").await;
    let head = fill(&world.store, "d", root, 3, 10).await;
    let wrong = [
        Point { version: 4, hash: head.hash.clone() },
        Point { version: 3, hash: "0000000000a".into() },
        Point { version: 2, hash: "0000000000a".into() },
        Point { version: 0, hash: "0000000000a".into() },
    ];
    for point in &wrong {
        let committed = world.store.commit("d", point, 0, &[entry("a", 1, 1, b"x")]).await.unwrap();
        assert!(committed.tail.forked && committed.verdicts.is_empty(), "{point:?}");
        assert!(world.store.tail("d", point).await.unwrap().forked, "{point:?}");
    }
    assert!(world.store.commit("never", &head, 0, &[entry("a", 1, 1, b"x")]).await.unwrap().tail.forked);
    assert_eq!(world.store.open("d").await.unwrap().unwrap().head, head);
}

async fn a_document_is_created_once(world: World) {
    assert_eq!(world.store.open("d").await.unwrap(), None);
    let (mine, theirs) = (creation(Some("mine")), creation(Some("theirs")));
    let (first, second) = tokio::join!(world.store.create("d", mine), world.other.create("d", theirs));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first, second);
    assert_eq!((first.head.version, &first.head), (0, &first.snapshot_at));
    assert!(["mine", "theirs"].iter().any(|text| first.snapshot.as_deref() == Some(text.as_bytes())));
    let large = "x".repeat(700 << 10);
    let opened = world.store.create("large", creation(Some(&large))).await.unwrap();
    assert_eq!(opened.snapshot.as_deref(), Some(large.as_bytes()));
    assert_eq!(world.other.open("large").await.unwrap(), Some(opened));
}

async fn the_text_of_the_application_is_found(world: World) {
    world.set("doc:d:content", "Hello").await;
    assert_eq!(world.store.seed("d").await.unwrap().as_deref(), Some(&b"Hello"[..]));
    assert_eq!(world.store.seed("e").await.unwrap(), None);
    assert_eq!(world.store.seed_start("d").await.unwrap(), &b"Hello"[..]);
    assert_eq!(world.store.seed_start("e").await.unwrap(), &b""[..]);
    world.set("doc:f:content", &"long".repeat(SEED_START_BYTES)).await;
    assert_eq!(world.store.seed_start("f").await.unwrap(), "long".repeat(SEED_START_BYTES / 4));
}

async fn a_snapshot_is_stored_in_pieces_and_only_a_newer_one_replaces_it(world: World) {
    let root = world.create("d").await;
    let three = fill(&world.store, "d", root.clone(), 3, 10).await;
    let six = fill(&world.store, "d", three.clone(), 3, 10).await;
    let (older, newer) = (Bytes::from("o".repeat(300 << 10)), Bytes::from("n".repeat(700 << 10)));
    assert_eq!(world.store.save("d", &three, &older).await.unwrap(), Saved::Stored);
    let opened = world.other.open("d").await.unwrap().unwrap();
    assert_eq!((opened.snapshot.as_ref(), &opened.snapshot_at, opened.tail.entries.len()), (Some(&older), &three, 3));
    assert_eq!(world.other.save("d", &six, &newer).await.unwrap(), Saved::Stored);
    for stale in [&three, &six] {
        assert_eq!(world.store.save("d", stale, &older).await.unwrap(), Saved::Stale);
    }
    let opened = world.store.open("d").await.unwrap().unwrap();
    assert_eq!((opened.snapshot.as_ref(), &opened.snapshot_at, opened.tail.entries.len()), (Some(&newer), &six, 0));
    let ahead = Point { version: 7, hash: six.hash.clone() };
    assert_eq!(world.store.save("d", &ahead, &older).await.unwrap(), Saved::Forked);
    let seven = fill(&world.store, "d", six, 1, 10).await;
    let wrong = Point { version: 7, hash: "0000000000a".into() };
    assert_eq!(world.store.save("d", &wrong, &older).await.unwrap(), Saved::Forked);
    assert_eq!(world.store.save("d", &seven, &Bytes::new()).await.unwrap(), Saved::Stored);
    assert_eq!(world.store.open("d").await.unwrap().unwrap().snapshot, Some(Bytes::new()));
}

async fn rows_of_clients_are_looked_up_with_the_tail(world: World) {
    let root = world.create("d").await;
    let owned = |client, owner: &str| NewEntry { owner: owner.into(), ..entry(client, 1, 0, b"x") };
    world.store.commit("d", &root, 0, &[owned("a", "user with spaces"), owned("b", "u2")]).await.unwrap();
    let clients = ["a".into(), "unknown".into(), "b".into()];
    let found = world.other.lookup("d", &clients, &root).await.unwrap();
    let rows: Vec<_> = found.rows.iter().map(|row| (&*row.client_id, &*row.owner, row.last_seq, row.version)).collect();
    assert_eq!(rows, [("a", "user with spaces", 1, 1), ("b", "u2", 1, 2)]);
    assert_eq!(found.tail.entries.len(), 2);
}

async fn clients_that_the_gateway_numbers_are_bounded_and_do_not_crowd_out_others(world: World) {
    let mut head = world.create("d").await;
    for part in 0..4 {
        let batch: Vec<_> = (0..250)
            .map(|n| NewEntry { identity: numbered(&format!("c{part}-{n}"), 1), ..entry("", 1, head.version, b"x") })
            .collect();
        let committed = world.store.commit("d", &head, 0, &batch).await.unwrap();
        assert!(committed.verdicts.iter().all(|verdict| matches!(verdict, Verdict::Ok(_))));
        head = committed.tail.entries.last().unwrap().at.clone();
    }
    let one_more = NewEntry { identity: numbered("more", 1), ..entry("", 1, head.version, b"x") };
    let known = NewEntry { identity: numbered("c0-0", 2), ..entry("", 2, head.version, b"x") };
    let committed =
        world.store.commit("d", &head, 0, &[one_more, known, entry("a", 1, head.version, b"x")]).await.unwrap();
    assert_eq!(committed.verdicts, [Verdict::Overloaded, Verdict::Ok(1001), Verdict::Ok(1002)]);
}

async fn a_document_has_room_for_twenty_thousand_clients(world: World) {
    let mut head = world.create("d").await;
    for part in 0..100 {
        let batch: Vec<_> = (0..200).map(|n| entry(&format!("c{part}-{n}"), 1, head.version, b"x")).collect();
        let committed = world.store.commit("d", &head, 0, &batch).await.unwrap();
        assert!(committed.verdicts.iter().all(|verdict| matches!(verdict, Verdict::Ok(_))), "{part}");
        head = committed.tail.entries.last().unwrap().at.clone();
    }
    let numbered = NewEntry { identity: numbered("more", 1), ..entry("", 1, head.version, b"x") };
    let batch = [entry("new", 1, head.version, b"x"), numbered, entry("c0-0", 2, head.version, b"x")];
    let committed = world.store.commit("d", &head, 0, &batch).await.unwrap();
    assert_eq!(committed.verdicts, [Verdict::Overloaded, Verdict::Overloaded, Verdict::Ok(20_001)]);
}

async fn presence_rows_come_and_go(world: World) {
    world.create("d").await;
    let row =
        |name: &str, row: Option<&'static str>| (name.to_owned(), row.map(|row| Bytes::from_static(row.as_bytes())));
    world.store.write_presence("d", &[row("p1/u1", Some("one")), row("p1/u2", Some("two"))]).await.unwrap();
    world
        .other
        .write_presence("d", &[row("p2/u1", Some("three")), row("p1/u2", None), row("p9/u9", None)])
        .await
        .unwrap();
    let mut rows = world.store.presence("d").await.unwrap();
    rows.sort();
    assert_eq!(
        rows,
        [("p1/u1".to_owned(), Bytes::from_static(b"one")), ("p2/u1".to_owned(), Bytes::from_static(b"three"))]
    );
    assert_eq!(world.store.presence("e").await.unwrap(), []);
    // Only what is as it was read is forgotten: a pod that was thought dead has written its row anew.
    let read: Vec<_> = world.store.presence("d").await.unwrap();
    world.other.write_presence("d", &[row("p1/u1", Some("anew"))]).await.unwrap();
    world.store.forget_presence("d", &read).await.unwrap();
    world.store.forget_presence("e", &read).await.unwrap();
    assert_eq!(world.store.presence("d").await.unwrap(), [("p1/u1".to_owned(), Bytes::from_static(b"anew"))]);
    if let Some(server) = &world.server {
        let life: i64 =
            redis::cmd("TTL").arg("{doc:d}:presence").query_async(&mut server.client().await).await.unwrap();
        assert!((86_000..=86_400).contains(&life), "presence expires by itself, but in {life} s");
    }
}

async fn a_lease_is_held_until_it_is_given_back(world: World) {
    let pods: [Arc<str>; 2] = ["p1".into(), "p2".into()];
    assert_eq!(world.store.living(&pods).await.unwrap(), [false, false]);
    assert_eq!(world.store.living(&[]).await.unwrap(), [false; 0]);
    assert!(!world.store.hold_lease("p1", 15).await.unwrap(), "it was not held before");
    assert!(world.store.hold_lease("p1", 15).await.unwrap());
    assert_eq!(world.other.living(&pods).await.unwrap(), [true, false]);
    assert!(world.store.hold_lease("p1", 0).await.unwrap());
    assert_eq!(world.other.living(&pods).await.unwrap(), [false, false]);
}

async fn roles_and_users_are_those_of_the_application(world: World) {
    world.set("user:u1", r#"{"id":"u1","name":"Ann"}"#).await;
    world.set("doc:d:access:u1", "comment").await;
    assert_eq!(world.store.user("u1").await.unwrap().as_deref(), Some(&br#"{"id":"u1","name":"Ann"}"#[..]));
    assert_eq!(world.store.user("u2").await.unwrap(), None);
    assert_eq!(world.store.role("d", "u1").await.unwrap(), Some(Role::Comment));
    assert_eq!(world.store.role("d", "u2").await.unwrap(), None);
}

async fn a_commit_is_told_on_the_channel(world: World) {
    let root = world.create("d").await;
    let mut hearing = world.other_bus.subscribe(&document_channel("d")).await.unwrap();
    let committed =
        world.store.commit("d", &root, 0, &[entry("a", 1, 0, b"one"), entry("b", 1, 0, b"")]).await.unwrap();
    let Notice::Entries { entries, at_ms } = notice(hearing.next().await) else { panic!("entries are told") };
    assert_eq!(entries, committed.tail.entries);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    assert!(u128::from(at_ms).abs_diff(now) < 60_000, "{at_ms} is not the time");
    let head = &committed.tail.entries[1].at;
    world.store.commit("d", head, 0, &[entry("a", 1, 2, b"one")]).await.unwrap();
    world.store.commit("d", head, 0, &[entry("a", 2, 2, &[b'x'; 40 << 10])]).await.unwrap();
    let told = notice(hearing.next().await);
    let is_told = matches!(told, Notice::Version { version: 3, at_ms: Some(_) });
    assert!(is_told, "a repetition is not told, a large entry not sent, but {told:?}");
    let nine = Notice::Version { version: 9, at_ms: None };
    world.bus.publish(&document_channel("d"), nine.encode());
    let next = notice(hearing.next().await);
    // Servers tell a version once more, to pods that do not know the form with the time.
    assert_eq!(if next.last_version() == 3 { notice(hearing.next().await) } else { next }, nine);
}

async fn a_subscription_that_ended_hears_nothing_and_harms_nobody(world: World) {
    let ended = world.bus.subscribe("c").await.unwrap();
    let mut stays = world.bus.subscribe("c").await.unwrap();
    let alone = world.bus.subscribe("alone").await.unwrap();
    drop((ended, alone));
    let mut again = world.bus.subscribe("alone").await.unwrap();
    for channel in ["c", "alone"] {
        world.other_bus.publish(channel, Bytes::from_static(b"word"));
    }
    assert_eq!(stays.next().await, Some(Heard::Message(Bytes::from_static(b"word"))));
    assert_eq!(again.next().await, Some(Heard::Message(Bytes::from_static(b"word"))));
}

async fn a_subscriber_that_does_not_listen_learns_that_it_missed_something(world: World) {
    let mut deaf = world.bus.subscribe("c").await.unwrap();
    let mut last = world.bus.subscribe("last").await.unwrap();
    for n in 0..400 {
        world.other_bus.publish("c", Bytes::from(n.to_string()));
    }
    world.other_bus.publish("last", Bytes::from_static(b"word"));
    last.next().await.unwrap();
    let mut heard = 0;
    loop {
        match deaf.next().await.unwrap() {
            Heard::Missed => break,
            Heard::Message(message) => assert_eq!(message, Bytes::from(heard.to_string())),
        }
        heard += 1;
    }
    assert!((100..400).contains(&heard), "{heard}");
}

/// The embedded store keeps the scripts' rules: random batches get the same answers from both.
#[tokio::test]
async fn both_stores_answer_random_calls_alike() {
    let seed = std::env::var("COLLAB_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("COLLAB_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let memory = World::memory();
    let server = World::server(Engine::Redis).await.unwrap();
    let creation = Creation { root: "0123456789a".into(), snapshot: None };
    memory.store.create("d", creation.clone()).await.unwrap();
    let mut points = vec![server.store.create("d", creation).await.unwrap().head];
    let mut next = [0u64; 6];
    for step in 0..400 {
        let latest = points.last().unwrap().clone();
        let far = if random.random_ratio(1, 8) { 20 } else { 2 };
        let mut head = points[points.len().saturating_sub(random.random_range(1..=far)).min(points.len() - 1)].clone();
        if random.random_ratio(1, 30) {
            head.hash = "0000000000a".into();
        }
        if random.random_ratio(1, 20) {
            let snapshot = Bytes::from(step.to_string());
            let answers =
                (memory.store.save("d", &head, &snapshot).await, server.store.save("d", &head, &snapshot).await);
            assert_eq!(answers.0.unwrap(), answers.1.unwrap(), "save at step {step}");
            continue;
        }
        let mut batch = Vec::new();
        for (client, last) in next.iter().enumerate() {
            if random.random_bool(0.6) {
                continue;
            }
            let seq = (last + random.random_range(0..=2)).max(1);
            let below = if random.random_ratio(1, 8) { 700 } else { 3 };
            let base = head.version.saturating_sub(random.random_range(0..below));
            let large = if random.random_ratio(1, 10) { 200 << 10 } else { 300 };
            let length = random.random_range(0..large);
            let identity =
                if client < 3 { identity(&format!("c{client}"), seq) } else { numbered(&format!("c{client}"), seq) };
            let owner = if *last > 0 && random.random_ratio(1, 30) { "mallory" } else { "owner" };
            batch.push(NewEntry { identity, owner: owner.into(), base, bytes: vec![b'x'; length].into() });
        }
        let floor =
            if random.random_ratio(1, 10) { head.version.saturating_sub(random.random_range(0..10)) } else { 0 };
        let mut answers: [Committed; 2] = [
            memory.store.commit("d", &head, floor, &batch).await.unwrap(),
            server.store.commit("d", &head, floor, &batch).await.unwrap(),
        ];
        answers[0].era = answers[1].era;
        assert_eq!(answers[0], answers[1], "commit at step {step}, latest {latest:?}, head {head:?}");
        for (entry, verdict) in batch.iter().zip(&answers[0].verdicts) {
            if let Verdict::Ok(_) = verdict {
                let client: usize = entry.identity.id[1..].parse().unwrap();
                next[client] = entry.identity.seq;
            }
        }
        points.extend(
            answers[0].tail.entries.iter().map(|entry| entry.at.clone()).filter(|at| at.version > latest.version),
        );
        assert_eq!(memory.store.open("d").await.unwrap(), server.store.open("d").await.unwrap(), "open at step {step}");
    }
    assert!(points.len() > 100, "only {} commits: the test lost its point", points.len());
}

#[tokio::test]
async fn a_store_that_is_not_there_is_unavailable_and_not_damaged() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = collab_gateway::store::RedisSettings::at(vec![format!("127.0.0.1:{port}")]);
    let store = Store::Redis(RedisStore::new(Arc::new(settings.clone())));
    assert!(matches!(store.open("d").await, Err(StoreError::Unavailable(_))));
    let bus = Bus::Redis(RedisBus::new(Arc::new(settings)));
    assert!(matches!(bus.subscribe("c").await, Err(StoreError::Unavailable(_))));
}

fn creation(snapshot: Option<&str>) -> Creation {
    let root = format!("{:011x}", rand::random::<u64>() >> 20).into();
    Creation { root, snapshot: snapshot.map(|text| Bytes::copy_from_slice(text.as_bytes())) }
}

fn identity(client: &str, seq: u64) -> Identity {
    Identity { id: client.into(), seq, by_gateway: false }
}

fn numbered(name: &str, seq: u64) -> Identity {
    Identity { by_gateway: true, ..identity(name, seq) }
}

fn entry(client: &str, seq: u64, base: u64, bytes: &[u8]) -> NewEntry {
    NewEntry { identity: identity(client, seq), owner: "owner".into(), base, bytes: Bytes::copy_from_slice(bytes) }
}

/// The entry that follows a point.
fn chained(before: &Point, bytes: &'static [u8]) -> StoredEntry {
    let mut hasher = sha1::Sha1::new();
    hasher.update(before.hash.as_bytes());
    hasher.update(bytes);
    let hash = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>()[..11].into();
    StoredEntry { at: Point { version: before.version + 1, hash }, bytes: Bytes::from_static(bytes) }
}

/// Commits this many entries of this size by one client, one call each.
async fn fill(store: &Store, document: &str, mut head: Point, count: u64, bytes: usize) -> Point {
    for _ in 0..count {
        let seq = head.version + 1;
        let new = entry("filler", seq, head.version, &vec![b'x'; bytes]);
        let committed = store.commit(document, &head, 0, &[new]).await.unwrap();
        assert_eq!(committed.verdicts, [Verdict::Ok(seq)]);
        head = committed.tail.entries[0].at.clone();
    }
    head
}

fn notice(heard: Option<Heard>) -> Notice {
    match heard {
        Some(Heard::Message(message)) => Notice::decode(&message).unwrap(),
        other => panic!("{other:?}"),
    }
}
