//! Pods, processes and nodes end while people write; nobody loses a letter and nothing is there twice.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Replay, Stack, Tenant, friendsforever, wait_for};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn no_edit_is_lost_when_gateways_are_deleted_killed_and_lose_power() -> Result<()> {
    let Some(trace) = friendsforever() else { return Ok(()) };
    let stack = Stack::ready().await?;
    let gateway = json!({"replicas": 2, "env": heartbeat()});
    let tenant = Tenant::apply(&stack, "e2e-failures", json!({"gateway": gateway})).await?;
    tenant.wait_gateways(2).await?;
    tenant.admit("failures").await?;
    let fronts = tenant.fronts().await?;
    let trace = trace.to_string_lossy();
    let arguments = ["--trace", &trace, "--limit", "3000", "--reconnect-percent", "5", "--rate", "40"];
    let mut replay = Replay::start(&tenant, &fronts, "failures", &arguments)?;

    replay.reach(400).await?;
    let (pod, _) = tenant.gateways().await?.remove(0);
    eprintln!("deleting {pod} (grace 30 s)");
    tenant.pods().delete(&pod, &DeleteParams { grace_period_seconds: Some(30), ..Default::default() }).await?;
    tenant.wait_gateways(2).await?;

    replay.reach(1200).await?;
    let (pod, _) = tenant.gateways().await?.remove(1);
    if stack.cluster.is_ours() {
        eprintln!("kill -9 of the gateway in {pod}");
        stack.cluster.kill_container(&tenant.namespace, &pod, "gateway").await?;
        replay.reach(2000).await?;
        tenant.wait_gateways(2).await?;

        let redis = node_of_redis(&tenant).await?;
        let nodes = tenant.gateways().await?;
        let (pod, node) =
            nodes.iter().find(|(_, node)| *node != redis).context("no gateway without Redis beside it")?;
        eprintln!("power loss of {node}, which has {pod}");
        stack.cluster.kill_node(node)?;
        let verdict = replay.verdict().await;
        stack.cluster.start_node(node).await?;
        eprintln!("failures: {:?}", verdict?);
    } else {
        eprintln!("SKIPPED: kill -9 and power loss, because the cluster is not ours");
        eprintln!("failures: {:?}", replay.verdict().await?);
    }
    tenant.remove().await
}

#[tokio::test(flavor = "multi_thread")]
async fn editing_goes_on_by_itself_when_redis_is_killed() -> Result<()> {
    let stack = Stack::ready().await?;
    if !stack.cluster.is_ours() {
        eprintln!("SKIPPED: kill -9 of Redis, because the cluster is not ours");
        return Ok(());
    }
    let spec = json!({
        "gateway": {"replicas": 2, "env": heartbeat()},
        "redis": {"config": {"appendfsync": "always"}},
    });
    let tenant = Tenant::apply(&stack, "e2e-redis", spec).await?;
    tenant.wait_gateways(2).await?;
    tenant.admit("killed").await?;
    let fronts = tenant.fronts().await?;
    let arguments = ["--mode", "same-place", "--limit", "600", "--with-failures", "--rate", "60"];
    let mut replay = Replay::start(&tenant, &fronts, "killed", &arguments)?;
    for edits in [200, 600] {
        replay.reach(edits).await?;
        let restarts = redis_restarts(&tenant).await?;
        eprintln!("kill -9 of Redis after {edits} edits");
        stack.cluster.kill_container(&tenant.namespace, "docs-redis-0", "redis").await?;
        wait_for("Redis to restart", Duration::from_secs(90), || async {
            let now = redis_restarts(&tenant).await?;
            Ok(if now > restarts { Ok(()) } else { Err(format!("{now} restarts")) })
        })
        .await?;
    }
    let verdict = replay.verdict().await?;
    ensure!(verdict.edits == 1200, "{verdict:?}");
    eprintln!("redis killed twice: {verdict:?}");
    tenant.remove().await
}

/// Short, so that dead peers are noticed within seconds.
fn heartbeat() -> serde_json::Value {
    json!([{"name": "COLLAB_PING_INTERVAL", "value": "2s"}, {"name": "COLLAB_PING_TIMEOUT", "value": "2s"}])
}

async fn redis_pod(tenant: &Tenant<'_>) -> Result<Pod> {
    let pods: Api<Pod> = tenant.pods();
    let list = pods.list(&ListParams::default().labels("app.kubernetes.io/component=redis")).await?;
    list.items.into_iter().next().context("no Redis pod")
}

async fn node_of_redis(tenant: &Tenant<'_>) -> Result<String> {
    redis_pod(tenant).await?.spec.and_then(|spec| spec.node_name).context("the Redis pod has no node")
}

async fn redis_restarts(tenant: &Tenant<'_>) -> Result<i32> {
    let status = redis_pod(tenant).await?.status.context("the Redis pod has no status")?;
    let containers = status.container_statuses.unwrap_or_default();
    Ok(containers.iter().filter(|container| container.ready).map(|container| container.restart_count).sum())
}
