//! Redis in Cluster mode with three nodes: edits and subscriptions spread over them, a slot that moves while it is edited,
//! a node that dies and comes back, hangs, loads, refuses changes, or gives its slots to its replica.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod editor;
mod pods;
#[macro_use]
mod servers;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use collab_gateway::{
    bus::{Bus, Heard, RedisBus, Subscription, document_channel},
    store::RedisSettings,
};
use editor::Editor;
use futures_util::future::join_all;
use pods::Pod;
use redis::aio::MultiplexedConnection;
use servers::{Engine, PATIENCE, Server, eventually, run};
use tokio_util::sync::CancellationToken;

/// One on each node; checked when the cluster is built.
const DOCUMENTS: [&str; 3] = ["a", "b", "c"];
const SLOTS: u16 = 16384;
const STORE_UP: &str = "collab_gateway_store_up";

on_both! {
    documents_on_three_nodes_are_edited_through_two_gateways
    a_slot_moves_while_its_document_is_edited
    a_node_dies_and_comes_back
    a_cluster_that_is_down_with_one_node_comes_back
    a_node_hangs_and_goes_on
    a_node_loads_its_data_for_a_while
    a_node_out_of_memory
    a_node_without_followers
    a_replica_takes_over_from_a_node_that_was_killed
    a_replica_takes_over_as_planned
    the_other_nodes_are_heard_while_one_is_away
}

async fn documents_on_three_nodes_are_edited_through_two_gateways(engine: Engine) -> Option<()> {
    let mut cluster = Cluster::start(engine).await?;
    edit_while(&mut cluster, async |cluster| cluster.progress(30).await).await;
    Some(())
}

async fn a_slot_moves_while_its_document_is_edited(engine: Engine) -> Option<()> {
    let mut cluster = Cluster::start(engine).await?;
    edit_while(&mut cluster, async |cluster| {
        cluster.progress(20).await;
        for (document, to) in [("b", 0), ("b", 1), ("c", 2), ("b", 2)] {
            cluster.move_document(document, to).await;
            cluster.progress(20).await;
        }
    })
    .await;
    Some(())
}

async fn a_node_dies_and_comes_back(engine: Engine) -> Option<()> {
    let mut cluster = Cluster::start(engine).await?;
    edit_while(&mut cluster, async |cluster| {
        cluster.progress(20).await;
        for dead in 0..cluster.nodes.len() {
            cluster.nodes[dead].kill();
            // Its documents wait; those of the other nodes need not.
            cluster.progress_of(&cluster.others(dead), 20).await;
            cluster.nodes[dead].start_again().await;
            cluster.progress(20).await;
        }
    })
    .await;
    Some(())
}

/// Every node answers CLUSTERDOWN until all slots have one.
async fn a_cluster_that_is_down_with_one_node_comes_back(engine: Engine) -> Option<()> {
    let mut cluster = Cluster::start(engine).await?;
    for node in &cluster.nodes {
        run(&mut node.client().await, &["CONFIG", "SET", "cluster-require-full-coverage", "yes"]).await;
    }
    edit_while(&mut cluster, async |cluster| {
        cluster.progress(20).await;
        cluster.nodes[0].kill();
        for node in &cluster.nodes[1..] {
            let mut client = node.client().await;
            eventually("it is down", async || {
                ask(&mut client, &["CLUSTER", "INFO"]).await.contains("cluster_state:fail")
            })
            .await;
        }
        cluster.nodes[0].start_again().await;
        cluster.progress(20).await;
    })
    .await;
    Some(())
}

/// Longer than it takes the others to give it up.
async fn a_node_hangs_and_goes_on(engine: Engine) -> Option<()> {
    let mut cluster = Cluster::start(engine).await?;
    edit_while(&mut cluster, async |cluster| {
        cluster.progress(20).await;
        for hung in 0..cluster.nodes.len() {
            cluster.nodes[hung].signal("-STOP");
            let mut other = cluster.nodes[(hung + 1) % 3].client().await;
            eventually("the others miss it", async || {
                ask(&mut other, &["CLUSTER", "NODES"]).await.lines().any(|node| node.contains(" master,fail "))
            })
            .await;
            cluster.progress_of(&cluster.others(hung), 20).await;
            cluster.nodes[hung].signal("-CONT");
            cluster.progress(20).await;
        }
    })
    .await;
    Some(())
}

async fn a_node_loads_its_data_for_a_while(engine: Engine) -> Option<()> {
    // While it loads it looks at its connections after every 1,024 commands.
    const KEYS: usize = 30_000;
    let mut cluster = Cluster::start(engine).await?;
    let node = cluster.place["a"];
    let mut client = cluster.nodes[node].client().await;
    for start in (0..KEYS).step_by(500) {
        let mut pipeline = redis::Pipeline::with_capacity(500);
        for n in start..start + 500 {
            pipeline.cmd("SET").arg(format!("{{doc:a}}filler{n}")).arg(n).ignore();
        }
        pipeline.exec_async(&mut client).await.unwrap();
    }
    edit_while(&mut cluster, async |cluster| {
        cluster.progress(20).await;
        cluster.nodes[node].add_arguments(&["--key-load-delay", "150"]);
        cluster.nodes[node].start_again().await;
        let mut client = cluster.nodes[node].client().await;
        let loads = async |client: &mut MultiplexedConnection| {
            let info: redis::RedisResult<String> = redis::cmd("INFO").arg("persistence").query_async(client).await;
            !info.is_ok_and(|info| info.contains("\r\nloading:0"))
        };
        assert!(loads(&mut client).await, "it has loaded already: make it longer");
        cluster.progress_of(&cluster.others(node), 20).await;
        eventually("it has loaded", async || !loads(&mut client).await).await;
        cluster.progress(20).await;
    })
    .await;
    Some(())
}

async fn a_node_out_of_memory(engine: Engine) -> Option<()> {
    refuses_changes(engine, "maxmemory", ["1000", "0"]).await
}

async fn a_node_without_followers(engine: Engine) -> Option<()> {
    refuses_changes(engine, "min-replicas-to-write", ["1", "0"]).await
}

/// With the first value of a setting a node answers to everything but changes.
async fn refuses_changes(engine: Engine, setting: &str, [bad, good]: [&str; 2]) -> Option<()> {
    let mut cluster = Cluster::start(engine).await?;
    edit_while(&mut cluster, async |cluster| {
        cluster.progress(20).await;
        for document in DOCUMENTS {
            let node = cluster.place[document];
            let mut client = cluster.nodes[node].client().await;
            run(&mut client, &["CONFIG", "SET", setting, bad]).await;
            let before = version(&mut client, document).await;
            cluster.tells(false).await;
            let others = cluster.others(node);
            tokio::select! {
                () = cluster.progress_of(&others, 20) => {}
                () = cluster.keeps_telling_it() => {}
            }
            assert_eq!(version(&mut client, document).await, before, "{document} waits");
            run(&mut client, &["CONFIG", "SET", setting, good]).await;
            cluster.progress(20).await;
            cluster.tells(true).await;
        }
    })
    .await;
    Some(())
}

async fn a_replica_takes_over_from_a_node_that_was_killed(engine: Engine) -> Option<()> {
    let mut cluster = Cluster::start(engine).await?;
    let replica = cluster.add_replica_of("b", Server::start(engine, &NODE).await?).await;
    edit_while(&mut cluster, async |cluster| {
        cluster.progress(20).await;
        let old = cluster.place["b"];
        cluster.nodes[old].kill();
        cluster.progress_of(&cluster.others(old), 20).await;
        cluster.leads(replica).await;
        cluster.place.insert("b", replica);
        cluster.progress(20).await;
        // It comes back as a replica.
        cluster.nodes[old].start_again().await;
        cluster.follows(old).await;
        cluster.progress(20).await;
    })
    .await;
    Some(())
}

async fn a_replica_takes_over_as_planned(engine: Engine) -> Option<()> {
    let mut cluster = Cluster::start(engine).await?;
    let mut replica = cluster.add_replica_of("b", Server::start(engine, &NODE).await?).await;
    edit_while(&mut cluster, async |cluster| {
        // There and back.
        for _ in 0..2 {
            cluster.progress(20).await;
            run(&mut cluster.nodes[replica].client().await, &["CLUSTER", "FAILOVER"]).await;
            cluster.leads(replica).await;
            replica = cluster.place.insert("b", replica).unwrap();
            // It is asked still, and takes no changes any more.
            cluster.follows(replica).await;
            cluster.progress(20).await;
        }
    })
    .await;
    Some(())
}

async fn the_other_nodes_are_heard_while_one_is_away(engine: Engine) -> Option<()> {
    let mut cluster = Cluster::start(engine).await?;
    let addresses = cluster.nodes.iter().map(Server::address).collect();
    let bus = Bus::Redis(RedisBus::new(Arc::new(RedisSettings::at(addresses))));
    let channels = DOCUMENTS.map(document_channel);
    let mut hearing = join_all(channels.iter().map(|channel| bus.subscribe(channel))).await;
    let dead = cluster.place["a"];
    cluster.nodes[dead].kill();
    let [of_dead, others @ ..] = &mut hearing[..] else { return None };
    for (subscription, channel) in others.iter_mut().zip(&channels[1..]) {
        let subscription = subscription.as_mut().unwrap();
        assert_eq!(subscription.next().await, Some(Heard::Missed), "the connections were lost");
        until_heard(&bus, channel, subscription).await;
    }
    assert!(bus.subscribe(&channels[0]).await.is_err(), "nobody can hear that now");
    eventually("the others can be heard anew", async || bus.subscribe(&channels[1]).await.is_ok()).await;
    cluster.nodes[dead].start_again().await;
    let subscription = of_dead.as_mut().unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, subscription.next()).await.unwrap(), Some(Heard::Missed));
    until_heard(&bus, &channels[0], subscription).await;
    Some(())
}

/// Speaks until it is heard: the speaker has to find the servers anew too.
async fn until_heard(bus: &Bus, channel: &str, subscription: &mut Subscription) {
    let word = Bytes::from_static(b"word");
    let heard = async { while subscription.next().await != Some(Heard::Message(word.clone())) {} };
    let speaking = async {
        loop {
            bus.publish(channel, word.clone());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let outcome = async {
        tokio::select! { () = heard => {}, () = speaking => {} }
    };
    tokio::time::timeout(PATIENCE, outcome).await.expect("it is heard");
}

/// Two editors on each document, at two gateways, type without a pause while this happens; in the end everybody has the
/// same, and every word once.
async fn edit_while(cluster: &mut Cluster, story: impl AsyncFnOnce(&mut Cluster)) {
    let addresses: Vec<_> = cluster.nodes.iter().map(Server::address).collect();
    // One address must do: the others are learned.
    cluster.pods = vec![Pod::start(&addresses.join(","), &[]), Pod::start(&addresses[2], &[])];
    cluster.tells(true).await;
    let (a, b) = (cluster.pods[0].address, cluster.pods[1].address);
    let done = CancellationToken::new();
    let typing = DOCUMENTS.map(|document| {
        let done = done.clone();
        async move {
            let mut editors = ["ann", "bob", "eve"].map(|user| Editor::new(user, document, &[b], 1));
            for editor in &mut editors {
                // Each instance has its own.
                editor.client_id = format!("{}-{document}", editor.user);
            }
            let [mut ann, mut bob, mut eve] = editors;
            ann.move_to(&[a]);
            let (typed, too) = tokio::join!(ann.type_until(&done), bob.type_until(&done));
            let newest = ann.version.max(bob.version);
            for editor in [&mut ann, &mut bob, &mut eve] {
                editor.until("it has it all", |editor| editor.is_joined() && editor.version >= newest).await;
            }
            assert_eq!(ann.text(), bob.text());
            assert_eq!(ann.text(), eve.text());
            let mut expected = [typed, too].concat();
            let mut found: Vec<_> = eve.text().split_whitespace().map(str::to_owned).collect();
            expected.sort();
            found.sort();
            assert_eq!(found, expected, "document {document}");
            let errors: Vec<_> =
                [&ann, &bob].iter().flat_map(|editor| &editor.heard).filter(|h| h.0 == "error").collect();
            assert!(errors.is_empty(), "{errors:?}");
        }
    });
    let story = async {
        story(cluster).await;
        done.cancel();
    };
    tokio::join!(join_all(typing), story);
}

/// Full coverage is not asked for: a dead node is no reason for the others to stop.
const NODE: [&str; 8] = [
    "--cluster-enabled",
    "yes",
    "--cluster-node-timeout",
    "1000",
    "--cluster-require-full-coverage",
    "no",
    "--repl-diskless-sync-delay",
    "0",
];

struct Cluster {
    nodes: Vec<Server>,
    /// Of the nodes, in their order.
    ids: Vec<String>,
    /// Two, while they are edited.
    pods: Vec<Pod>,
    place: std::collections::HashMap<&'static str, usize>,
}

impl Cluster {
    async fn start(engine: Engine) -> Option<Self> {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            nodes.push(Server::start(engine, &NODE).await?);
        }
        let mut ids = Vec::new();
        let share = SLOTS / 3 + 1;
        for (n, node) in (0u16..).zip(&nodes) {
            let mut client = node.client().await;
            let (first, last) = (n * share, (SLOTS - 1).min((n + 1) * share - 1));
            run(&mut client, &["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await;
            run(&mut client, &["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]).await;
            ids.push(ask(&mut client, &["CLUSTER", "MYID"]).await);
            if n > 0 {
                run(&mut client, &["CLUSTER", "MEET", "127.0.0.1", &nodes[0].port.to_string()]).await;
            }
        }
        for node in &nodes {
            let mut client = node.client().await;
            eventually("every node knows all", async || {
                let info = ask(&mut client, &["CLUSTER", "INFO"]).await;
                info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
            })
            .await;
        }
        let mut cluster =
            Self { nodes, ids, pods: Vec::new(), place: DOCUMENTS.into_iter().map(|document| (document, 0)).collect() };
        let mut client = cluster.nodes[0].client().await;
        for document in DOCUMENTS {
            let slot: u16 = redis::cmd("CLUSTER")
                .arg("KEYSLOT")
                .arg(format!("{{doc:{document}}}"))
                .query_async(&mut client)
                .await
                .unwrap();
            cluster.place.insert(document, usize::from(slot / share));
            for user in ["ann", "bob", "eve"] {
                cluster.set(&format!("doc:{document}:access:{user}"), share).await;
            }
        }
        let mut used: Vec<_> = cluster.place.values().collect();
        used.sort();
        assert_eq!(used, [&0, &1, &2], "each document has another node");
        Some(cluster)
    }

    /// Gives the node of this document a replica; its index.
    async fn add_replica_of(&mut self, document: &str, server: Server) -> usize {
        let primary = &self.ids[self.place[document]];
        let mut client = server.client().await;
        run(&mut client, &["CLUSTER", "MEET", "127.0.0.1", &self.nodes[0].port.to_string()]).await;
        eventually("it knows its primary", async || {
            let mut replicate = redis::cmd("CLUSTER");
            replicate.arg("REPLICATE").arg(primary).exec_async(&mut client).await.is_ok()
        })
        .await;
        self.ids.push(ask(&mut client, &["CLUSTER", "MYID"]).await);
        self.nodes.push(server);
        let index = self.nodes.len() - 1;
        self.follows(index).await;
        let id = &self.ids[index];
        for node in &self.nodes {
            let mut client = node.client().await;
            eventually("everybody knows it", async || {
                let nodes = ask(&mut client, &["CLUSTER", "NODES"]).await;
                nodes.lines().any(|node| node.contains(id) && node.contains("slave"))
            })
            .await;
        }
        index
    }

    /// Waits until this node has slots of its own.
    async fn leads(&self, node: usize) {
        self.says(node, "role:master").await;
    }

    /// Waits until this node has all of its primary.
    async fn follows(&self, node: usize) {
        self.says(node, "master_link_status:up").await;
    }

    async fn says(&self, node: usize, what: &str) {
        let mut client = self.nodes[node].client().await;
        eventually(what, async || {
            let info: redis::RedisResult<String> = redis::cmd("INFO").arg("replication").query_async(&mut client).await;
            info.is_ok_and(|info| info.contains(what))
        })
        .await;
    }

    /// Waits until the admin ports say that every change can be made, or that some cannot.
    async fn tells(&self, is_well: bool) {
        for pod in &self.pods {
            eventually("the pod tells it", async || {
                let (code, text) = pod.get("/readyz").await;
                let is_told =
                    if is_well { text == "ok\n" } else { text.starts_with("ok, but the store takes no changes") };
                code == 200 && is_told && pod.metric(STORE_UP).await == Some(f64::from(is_well))
            })
            .await;
        }
    }

    /// Ends never: changes to the other nodes are no reason to call the store well.
    async fn keeps_telling_it(&self) {
        loop {
            for pod in &self.pods {
                assert_eq!(pod.metric(STORE_UP).await, Some(0.0));
            }
            // Polling interval, not a wait for something to happen.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The documents that this node does not have.
    fn others(&self, node: usize) -> Vec<&'static str> {
        DOCUMENTS.into_iter().filter(|document| self.place[document] != node).collect()
    }

    /// An access key where it belongs.
    async fn set(&self, key: &str, share: u16) {
        let mut client = self.nodes[0].client().await;
        let slot: u16 = redis::cmd("CLUSTER").arg("KEYSLOT").arg(key).query_async(&mut client).await.unwrap();
        run(&mut self.nodes[usize::from(slot / share)].client().await, &["SET", key, "write"]).await;
    }

    async fn progress(&self, versions: u64) {
        self.progress_of(&DOCUMENTS, versions).await;
    }

    /// Waits until so many more versions of each are committed.
    async fn progress_of(&self, documents: &[&'static str], versions: u64) {
        for document in documents {
            let mut client = self.nodes[self.place[document]].client().await;
            let before = version(&mut client, document).await.unwrap_or(0);
            eventually("it goes on", async || {
                version(&mut client, document).await.is_some_and(|version| version >= before + versions)
            })
            .await;
        }
    }

    /// Moves a document's slot as an operator does: key by key, then for everybody.
    async fn move_document(&mut self, document: &'static str, to: usize) {
        let from = self.place.insert(document, to).unwrap();
        let (mut source, mut target) = (self.nodes[from].client().await, self.nodes[to].client().await);
        let tag = format!("{{doc:{document}}}");
        let slot = redis::cmd("CLUSTER").arg("KEYSLOT").arg(&tag).query_async::<u16>(&mut source).await.unwrap();
        let slot = slot.to_string();
        run(&mut target, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.ids[from]]).await;
        run(&mut source, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.ids[to]]).await;
        let port = self.nodes[to].port.to_string();
        loop {
            let mut command = redis::cmd("CLUSTER");
            let keys: Vec<String> =
                command.arg("GETKEYSINSLOT").arg(&slot).arg(1).query_async(&mut source).await.unwrap();
            let Some(key) = keys.first() else { break };
            run(&mut source, &["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]).await;
            // For a while a document's keys are on two nodes.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for client in [&mut target, &mut source] {
            run(client, &["CLUSTER", "SETSLOT", &slot, "NODE", &self.ids[to]]).await;
        }
    }
}

/// `None` where the document is not (yet) there.
async fn version(client: &mut MultiplexedConnection, document: &str) -> Option<u64> {
    redis::cmd("HGET").arg(format!("{{doc:{document}}}:meta")).arg("v").query_async(client).await.ok().flatten()
}

async fn ask(client: &mut MultiplexedConnection, words: &[&str]) -> String {
    redis::cmd(words[0]).arg(&words[1..]).query_async(client).await.unwrap()
}
