//! Objects that a cluster is made with: its DNS Service, its storage class, its volumes.
//!
//! In: a client with all rights. Out: objects in the API server. Volumes whose claim is gone are emptied and offered
//! again, since nothing else does that for `local` volumes.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::ApiResource,
};
use serde::Deserialize;
use serde_json::json;

use crate::{network::NODES, node};

const MANAGER: &str = "cluster";
const STORAGE_CLASS: &str = "local";
/// How long an emptied volume's old object may take to go.
const DELETED_WITHIN: Duration = Duration::from_secs(10);

/// Makes everything that a new cluster has.
pub(crate) async fn create(client: &Client, state: &Path) -> Result<()> {
    for document in serde_yaml::Deserializer::from_str(include_str!("templates/objects.yaml")) {
        let value = serde_json::Value::deserialize(document)?;
        apply(client, value).await?;
    }
    for node in NODES {
        for (name, folder) in node::volumes(state, node) {
            apply(client, volume(&name, &folder, &node.name())).await?;
        }
    }
    Ok(())
}

/// Empties volumes whose claim was deleted, and offers them again. Returns how many.
pub(crate) async fn recycle_volumes(client: &Client, state: &Path) -> Result<usize> {
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let mut recycled = 0;
    for node in NODES {
        for (name, folder) in node::volumes(state, node) {
            // One that is missing was being recycled when its process was killed.
            if let Some(found) = api.get_opt(&name).await? {
                let phase = found.status.and_then(|status| status.phase).unwrap_or_default();
                if phase != "Released" && phase != "Failed" {
                    continue;
                }
            }
            match api.delete(&name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                deleted => drop(deleted?),
            }
            let gone = kube::runtime::wait::await_condition(api.clone(), &name, |object: Option<&PersistentVolume>| {
                object.is_none()
            });
            tokio::time::timeout(DELETED_WITHIN, gone)
                .await
                .with_context(|| format!("volume {name} does not go"))??;
            empty(&folder)?;
            apply(client, volume(&name, &folder, &node.name())).await?;
            recycled += 1;
        }
    }
    Ok(recycled)
}

fn volume(name: &str, folder: &Path, node: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            // Nominal: nothing limits what is written.
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": STORAGE_CLASS,
            "local": {"path": folder},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]},
            ]}]}},
        },
    })
}

fn empty(folder: &Path) -> Result<()> {
    fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    fs::create_dir_all(folder)?;
    Ok(())
}

async fn apply(client: &Client, value: serde_json::Value) -> Result<()> {
    let object: DynamicObject = serde_json::from_value(value)?;
    let types = object.types.clone().context("an object without a kind")?;
    let kind = GroupVersionKind::try_from(&types)?;
    let resource = ApiResource::from_gvk(&kind);
    let api: Api<DynamicObject> = match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let parameters = PatchParams::apply(MANAGER).force();
    api.patch(&object.name_any(), &parameters, &Patch::Apply(&object))
        .await
        .with_context(|| format!("cannot apply {} {}", kind.kind, object.name_any()))?;
    Ok(())
}
