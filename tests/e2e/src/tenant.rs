//! One namespace with one CollabCluster called `docs`, and the people who may use it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use collab_api::CollabCluster;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use cluster::forward::{Forward, Pods, Target, is_ready};

use crate::{Stack, wait_for};

/// Signs the tests' tokens; the gateways verify with it.
const JWT_SECRET: &str = "end-to-end-secret-0123456789abcdef0123456789";
/// Two writers, and who compares.
pub const USERS: [&str; 3] = ["writer-0", "writer-1", "witness"];

/// A namespace that a test has to itself.
pub struct Tenant<'a> {
    /// Where it lives.
    pub stack: &'a Stack,
    /// The namespace's name.
    pub namespace: String,
    /// From `kubectl apply` to Ready.
    pub time_to_ready: Duration,
}

impl<'a> Tenant<'a> {
    /// Makes the namespace anew, applies a CollabCluster with `auth` and what `spec` adds, and waits until it is Ready.
    ///
    /// # Errors
    /// When the API server refuses something or the cluster does not become Ready within three minutes.
    pub async fn apply(stack: &'a Stack, namespace: &str, spec: Value) -> Result<Self> {
        make_namespace(stack, namespace).await?;
        let secrets: Api<Secret> = Api::namespaced(stack.client.clone(), namespace);
        let secret = json!({"metadata": {"name": "docs-jwt"}, "stringData": {"key": JWT_SECRET}});
        secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
        let started = Instant::now();
        let mut tenant = Self { stack, namespace: namespace.to_owned(), time_to_ready: Duration::ZERO };
        tenant.change(spec).await?;
        tenant.wait_ready().await?;
        tenant.time_to_ready = started.elapsed();
        eprintln!("{namespace}: Ready after {:?}", tenant.time_to_ready);
        Ok(tenant)
    }

    /// Applies the CollabCluster with `auth` and what `spec` adds.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn change(&self, mut spec: Value) -> Result<()> {
        let small = json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}});
        spec["gateway"]["resources"] = small;
        spec["redis"]["storage"] = json!({"size": "1Gi"});
        spec["auth"] = json!({"jwt": {"secretRefs": [{"name": "docs-jwt", "key": "key"}]}});
        let object = json!({
            "apiVersion": "collabcluster.io/v1alpha1", "kind": "CollabCluster",
            "metadata": {"name": "docs", "namespace": self.namespace}, "spec": spec,
        });
        let parameters = PatchParams::apply("e2e").force();
        self.clusters()
            .patch("docs", &parameters, &Patch::Apply(object))
            .await
            .context("applying the CollabCluster")?;
        Ok(())
    }

    /// Waits for `Ready=True` of the present generation.
    ///
    /// # Errors
    /// After three minutes, with the conditions at that time.
    pub async fn wait_ready(&self) -> Result<()> {
        let clusters = self.clusters();
        wait_for("the CollabCluster to be Ready", Duration::from_secs(180), || async {
            let object = serde_json::to_value(clusters.get_status("docs").await?)?;
            let generation = &object["metadata"]["generation"];
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.iter().any(|condition| {
                condition["type"] == "Ready"
                    && condition["status"] == "True"
                    && condition["observedGeneration"] == *generation
            });
            Ok(if ready { Ok(()) } else { Err(serde_json::to_string(&conditions)?) })
        })
        .await
    }

    /// The CollabClusters of this namespace.
    pub fn clusters(&self) -> Api<CollabCluster> {
        Api::namespaced(self.stack.client.clone(), &self.namespace)
    }

    /// The pods of this namespace.
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.stack.client.clone(), &self.namespace)
    }

    /// Ready gateway pods as (name, node), by name: the order in which [`Self::fronts`] prefers them.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn gateways(&self) -> Result<Vec<(String, String)>> {
        let pods = self.pods().list(&ListParams::default().labels(GATEWAYS)).await?;
        let mut ready: Vec<_> = pods
            .iter()
            .filter(|pod| is_ready(pod))
            .map(|pod| (pod.name_any(), pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()))
            .collect();
        ready.sort();
        Ok(ready)
    }

    /// Waits until `count` gateway pods are ready.
    ///
    /// # Errors
    /// After three minutes.
    pub async fn wait_gateways(&self, count: usize) -> Result<()> {
        wait_for("gateway pods", Duration::from_secs(180), || async {
            let ready = self.gateways().await?;
            Ok(if ready.len() == count { Ok(()) } else { Err(format!("{ready:?}")) })
        })
        .await
    }

    /// A loopback address that leads to the gateway pods in turn.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn front(&self) -> Result<Forward> {
        self.open(Pods::InTurn(GATEWAYS.to_owned()), 3000).await
    }

    /// Two loopback addresses that lead to two different gateway pods while both are ready.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn fronts(&self) -> Result<[Forward; 2]> {
        let preferred = |number| self.open(Pods::Preferred(GATEWAYS.to_owned(), number), 3000);
        Ok([preferred(0).await?, preferred(1).await?])
    }

    async fn open(&self, pods: Pods, port: u16) -> Result<Forward> {
        let target = Target { namespace: self.namespace.clone(), pods, port };
        Forward::open(self.stack.client.clone(), target).await
    }

    /// A connection to Redis as the application has it, through a port-forward.
    ///
    /// # Errors
    /// When Redis cannot be reached or refuses the password.
    pub async fn redis(&self) -> Result<(Forward, redis::aio::MultiplexedConnection)> {
        let secrets: Api<Secret> = Api::namespaced(self.stack.client.clone(), &self.namespace);
        let secret = secrets.get("docs-redis-auth").await?;
        let password = &secret.data.context("docs-redis-auth is empty")?["password"];
        let password = String::from_utf8(password.0.clone())?;
        let front = self.open(Pods::InTurn(REDIS.to_owned()), 6379).await?;
        let url = format!("redis://gateway:{}@{}", password.trim_end(), front.address());
        let connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
        Ok((front, connection))
    }

    /// Writes the users of [`USERS`] and their access to `document`, as an application does.
    ///
    /// # Errors
    /// When Redis refuses.
    pub async fn admit(&self, document: &str) -> Result<()> {
        let (_front, mut redis) = self.redis().await?;
        for user in USERS {
            let row = json!({"id": user, "name": user}).to_string();
            let mut both = redis::pipe();
            both.set(format!("user:{user}"), row).set(format!("doc:{document}:access:{user}"), "write");
            both.query_async::<()>(&mut redis).await?;
        }
        Ok(())
    }

    /// The secret that tokens are signed with.
    pub fn jwt_secret(&self) -> &'static str {
        JWT_SECRET
    }

    /// Removes the namespace and with it everything of the test.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn remove(self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.stack.client.clone());
        namespaces.delete(&self.namespace, &DeleteParams::background()).await?;
        Ok(())
    }
}

const GATEWAYS: &str = "app.kubernetes.io/component=gateway";
const REDIS: &str = "app.kubernetes.io/component=redis";

/// A namespace of an earlier run is removed first.
async fn make_namespace(stack: &Stack, name: &str) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(stack.client.clone());
    if namespaces.get_opt(name).await?.is_some() {
        namespaces.delete(name, &DeleteParams::background()).await?;
        wait_for("the old namespace to go", Duration::from_secs(120), || async {
            let old = namespaces.get_opt(name).await?;
            Ok(old.map_or(Ok(()), |old| Err(format!("{:?}", old.status))))
        })
        .await?;
    }
    let restricted = json!({
        "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    });
    namespaces.create(&PostParams::default(), &serde_json::from_value(restricted)?).await?;
    ensure!(namespaces.get_opt(name).await?.is_some(), "namespace {name} was not made");
    Ok(())
}
