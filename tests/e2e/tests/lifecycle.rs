//! What an SRE does with a CollabCluster: apply, look, scale, change limits, delete.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Replay, Stack, Tenant, wait_for};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, api::DeleteParams};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_only_auth_is_complete_and_tells_how_it_is() -> Result<()> {
    let stack = Stack::ready().await?;
    let tenant = Tenant::apply(&stack, "e2e-lifecycle", json!({"gateway": {"replicas": 1}})).await?;
    let kubectl = |arguments: &[&str]| stack.cluster.kubectl(&[&["-n", tenant.namespace.as_str()], arguments].concat());

    let table = kubectl(&["get", "ccl"])?;
    for column in ["READY", "GATEWAYS", "CONNECTIONS", "REDIS", "AGE", "docs-redis-0", "True"] {
        ensure!(table.contains(column), "{column} is missing in\n{table}");
    }
    ensure!(kubectl(&["explain", "ccl.spec.gateway.drain"])?.contains("maxConnectionsMovedPerSecond"));

    // Connections are counted while people are there.
    tenant.admit("lifecycle").await?;
    let fronts = tenant.fronts().await?;
    let arguments = ["--mode", "same-place", "--limit", "400", "--rate", "10"];
    let replay = Replay::start(&tenant, &fronts, "lifecycle", &arguments)?;
    wait_for("connections in status", Duration::from_secs(60), || async {
        let count = status(&tenant).await?["gateway"]["connections"].as_u64().unwrap_or_default();
        Ok(if count >= 2 { Ok(()) } else { Err(format!("{count} connections")) })
    })
    .await?;
    drop(replay);

    kubectl(&["scale", "ccl", "docs", "--replicas=2"])?;
    tenant.wait_gateways(2).await?;
    tenant.wait_ready().await?;
    wait_for("the summary", Duration::from_secs(60), || async {
        let summary = status(&tenant).await?["gateway"]["summary"].clone();
        Ok(if summary == "2/2" { Ok(()) } else { Err(summary.to_string()) })
    })
    .await?;

    // Deleted, its children go by ownership, without a finalizer.
    tenant.clusters().delete("docs", &DeleteParams::background()).await?;
    let deployments: Api<Deployment> = Api::namespaced(stack.client.clone(), &tenant.namespace);
    wait_for("the Deployment to go", Duration::from_secs(60), || async {
        let left = deployments.get_opt("docs-gateway").await?;
        Ok(left.map_or(Ok(()), |_| Err("still there".to_owned())))
    })
    .await?;
    tenant.remove().await
}

async fn status(tenant: &Tenant<'_>) -> Result<Value> {
    Ok(serde_json::to_value(tenant.clusters().get_status("docs").await?)?["status"].clone())
}
