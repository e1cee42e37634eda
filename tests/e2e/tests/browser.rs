//! A real browser on the demo page, whose two panes are on two pods.

use anyhow::{Result, ensure};
use e2e::{Stack, Tenant};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_typed_in_one_pane_appears_in_the_other() -> Result<()> {
    let stack = Stack::ready().await?;
    let env = json!([{"name": "COLLAB_DEMO", "value": "true"}]);
    let tenant = Tenant::apply(&stack, "e2e-browser", json!({"gateway": {"replicas": 2, "env": env}})).await?;
    tenant.wait_gateways(2).await?;
    let front = tenant.front().await?;
    let status = tokio::process::Command::new("npm")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../js"))
        .args(["run", "--silent", "test:browser"])
        .env("DEMO_URL", front.url())
        .status()
        .await?;
    ensure!(status.success(), "the browser's test failed; build/demo.png shows what it saw");
    tenant.remove().await
}
