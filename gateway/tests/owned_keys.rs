//! Whose keys are whose: gateways read what the application left in Redis and write only keys of their own.
//!
//! In: gateways as processes, for whom the server forbids every key that is not theirs; editors of a document that the
//! application has seeded. Out: what the server had to refuse, and the keys that are there in the end.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod editor;
mod pods;
mod servers;

use editor::Editor;
use pods::{Pod, http};
use redis::{AsyncCommands, aio::MultiplexedConnection};
use servers::{Engine, Server, run};
use tokio::net::TcpStream;

/// What the application has left, and what else is in its database.
const LEFT: [(&str, &str); 7] = [
    ("user:ann", r#"{"id":"ann","name":"Ann"}"#),
    ("user:bob", r#"{"id":"bob","name":"Bob"}"#),
    ("doc:d:access:ann", "write"),
    ("doc:d:access:bob", "1"),
    ("doc:d:content", "Existing "),
    ("doc:e:content", "of a document that nobody opens"),
    ("collaborators", "of somebody else"),
];
/// Keys that the gateway may write, as rules of access for its user.
const OWNED: [&str; 3] = ["~{doc:*", "~collab:*", "~cache:user:*"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_write_no_key_that_is_not_theirs() {
    for engine in [Engine::Redis, Engine::Valkey] {
        let Some(server) = Server::start(engine, &[]).await else { continue };
        let mut application = server.client().await;
        for (key, value) in LEFT {
            application.set::<_, _, ()>(key, value).await.unwrap();
        }
        let before = dumps(&mut application).await;
        let rules = ["ACL", "SETUSER", "gateway", "on", ">word", "+@all", "&*", "%R~*"];
        run(&mut application, &[&rules[..], &OWNED].concat()).await;
        edit(&server).await;
        let refused: Vec<redis::Value> = redis::cmd("ACL").arg("LOG").query_async(&mut application).await.unwrap();
        assert!(refused.is_empty(), "{engine:?}: {refused:?}");
        assert_eq!(dumps(&mut application).await, before, "{engine:?}: values and lives are as they were left");
        let keys: Vec<String> = application.keys("*").await.unwrap();
        let is_owned = |key: &&String| ["{doc:d}:", "collab:"].iter().any(|start| key.starts_with(start));
        let (own, others): (Vec<_>, Vec<_>) = keys.iter().partition(is_owned);
        assert_eq!(others.len(), LEFT.len(), "{engine:?}: {others:?}");
        assert!(own.iter().any(|key| *key == "{doc:d}:log"), "{engine:?}: {own:?}");
        for key in own.iter().filter(|key| key.ends_with(":presence") || key.starts_with("collab:pod:")) {
            assert!(application.ttl::<_, i64>(key).await.unwrap() > 0, "{engine:?}: {key} stays for ever");
        }
    }
}

/// What each of the application's keys holds, and for how long: -1 is for good.
async fn dumps(client: &mut MultiplexedConnection) -> Vec<(Vec<u8>, i64)> {
    let mut dumps = Vec::new();
    for (key, _) in LEFT {
        let dump = redis::cmd("DUMP").arg(key).query_async(client).await.unwrap();
        dumps.push((dump, client.pttl(key).await.unwrap()));
    }
    dumps
}

/// Two people write through two gateways; one gateway dies, the other drains and closes the document.
async fn edit(server: &Server) {
    let word = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(word.path(), "word").unwrap();
    let flags = ["--redis-username", "gateway", "--redis-password-file", word.path().to_str().unwrap()];
    let (mut one, mut two) = (Pod::start(&server.address(), &flags), Pod::start(&server.address(), &flags));
    let both = [one.address, two.address];
    let (mut ann, mut bob) = (Editor::new("ann", "d", &both, 1), Editor::new("bob", "d", &both[1..], 2));
    let tokens = |of: &str| (0..40).map(|n| format!("{of}{n}")).collect::<Vec<_>>();
    tokio::join!(ann.type_with(tokens("ann"), |n| n % 15 == 14), bob.type_all(tokens("bob")));
    let changed = "POST /v1/changed HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
    let (code, _) = http(TcpStream::connect(one.admin).await.unwrap(), changed).await;
    assert_eq!(code, 202);
    one.signal("KILL");
    assert_eq!(one.exit_code().await, None);
    tokio::join!(ann.type_all(tokens("late")), bob.type_all(tokens("after")));
    assert!(ann.text().contains("Existing "), "the document began with what the application left");
    drop((ann, bob));
    two.signal("TERM");
    assert_eq!(two.exit_code().await, Some(0));
}
