//! Who gets in before whom: resume tickets from `document-joined` to the next upgrade, on any pod of the same key.

use collab_gateway::{bus::MemoryBus, directory::Trust, store::MemoryStore};

use crate::{
    harness::{Client, Gateway},
    upgrade::{UPGRADE, get},
};

/// The status of an upgrade with this ticket; the connection ends with it.
async fn status(gateway: &Gateway, ticket: &str) -> u16 {
    let answer = gateway.http(&get(&format!("EIO=4&transport=websocket&resume={ticket}"), UPGRADE)).await;
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

#[tokio::test]
async fn a_ticket_of_one_pod_goes_first_on_another_and_opens_nothing() {
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), "a key of all these pods\n").unwrap();
    let (bus, key) = (MemoryBus::default(), key.path().to_str().unwrap());
    let store = MemoryStore::new(bus.clone());
    let flags = ["--resume-key-file", key, "--max-connections", "20"];
    let one = Gateway::over(store.clone(), bus.clone(), Trust::Everything, &flags).await;
    let two = Gateway::over(store, bus, Trust::Everything, &flags).await;
    let (_ann, joined) = Client::joined(&one, "ann", "a1", "d").await;
    let ticket = joined["resume"].as_str().expect("every join gives one");

    let mut strangers = Vec::new();
    for _ in 0..19 {
        strangers.push(Client::upgraded(&two).await);
    }
    assert_eq!(status(&two, "").await, 503, "the last place is kept");
    let other_key = "A".repeat(ticket.len());
    for forged in [&other_key, &ticket[1..], "%00", "é", &"x".repeat(5000)] {
        assert_eq!(status(&two, forged).await, 503, "counts as none: {forged}");
    }
    let mut back = Client::upgraded_with(&two, &format!("&resume={ticket}")).await;
    // The place is all it gave: the token is asked for as ever.
    back.send("40").await;
    assert!(back.text().await.contains("TOKEN_REQUIRED"));
    let metrics = two.server.pod().metrics.text();
    assert!(metrics.contains("collab_gateway_connections_resumed_total 1"), "{metrics}");
    assert!(metrics.contains("refused_total{reason=\"max_connections\"} 6"), "{metrics}");
}

#[tokio::test]
async fn a_storm_of_logins_leaves_room_for_those_who_come_back() {
    let gateway = Gateway::start(Trust::Everything, &["--accept-rate", "8"]).await;
    let (_ann, joined) = Client::joined(&gateway, "ann", "a1", "d").await;
    let ticket = joined["resume"].as_str().unwrap();
    // More than a second's worth at once; how many get in depends on how long it takes, but never the reserve.
    while status(&gateway, "").await != 503 {}
    assert_eq!(status(&gateway, ticket).await, 101);
}

/// More come at once than are taken in that time: the rest waits before it is accepted, and nobody is closed unheard.
#[tokio::test]
async fn whoever_comes_in_a_storm_is_answered() {
    let gateway = Gateway::start(Trust::Everything, &["--accept-rate", "1"]).await;
    let answers = futures_util::future::join_all((0..200).map(|_| status(&gateway, ""))).await;
    assert!(answers.iter().all(|status| matches!(status, 101 | 503)), "{answers:?}");
    assert!(gateway.server.pod().metrics.arrivals_delayed.get() > 0, "make it more");
}

#[tokio::test]
async fn without_a_key_file_a_ticket_is_good_on_its_own_pod() {
    let gateway = Gateway::start(Trust::Everything, &["--max-connections", "20"]).await;
    let (_ann, joined) = Client::joined(&gateway, "ann", "a1", "d").await;
    let mut strangers = Vec::new();
    for _ in 0..18 {
        strangers.push(Client::upgraded(&gateway).await);
    }
    assert_eq!(status(&gateway, "").await, 503);
    assert_eq!(status(&gateway, joined["resume"].as_str().unwrap()).await, 101);
}
