//! Two people write one document through two pods, while nothing breaks.

use anyhow::{Result, ensure};
use e2e::{Replay, Stack, Tenant, friendsforever};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_on_two_pods_end_with_the_same_text() -> Result<()> {
    let stack = Stack::ready().await?;
    let tenant = Tenant::apply(&stack, "e2e-editing", json!({"gateway": {"replicas": 2}})).await?;
    tenant.wait_gateways(2).await?;
    let nodes: Vec<_> = tenant.gateways().await?.into_iter().map(|(_, node)| node).collect();
    ensure!(nodes[0] != nodes[1], "both gateways are on {}", nodes[0]);
    let fronts = tenant.fronts().await?;

    // Both type at one place, so that every edit meets another one.
    tenant.admit("same-place").await?;
    let replay = Replay::start(&tenant, &fronts, "same-place", &["--mode", "same-place"])?;
    eprintln!("same place: {:?}", replay.verdict().await?);

    // A real session of two people, to the last letter.
    if let Some(trace) = friendsforever() {
        tenant.admit("friendsforever").await?;
        let arguments = ["--trace", &trace.to_string_lossy()];
        let replay = Replay::start(&tenant, &fronts, "friendsforever", &arguments)?;
        let verdict = replay.verdict().await?;
        ensure!(verdict.edits > 20_000, "the trace has 26,078 transactions, replayed were {}", verdict.edits);
        eprintln!("friendsforever: {verdict:?}");
    }
    tenant.remove().await
}
