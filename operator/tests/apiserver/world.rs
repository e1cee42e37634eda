//! What the tests stand on: one API server with the CRD, namespaces, and short ways to apply, reconcile and look.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use cluster::ApiServer;
use collab_api::CollabCluster;
use collab_operator::{
    context::Context,
    reconcile::reconcile,
    validate::{Images, Platform},
};
use k8s_openapi::{
    api::core::v1::{Namespace, Secret},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams, ValidationDirective},
    core::NamespaceResourceScope,
    runtime::events::{Recorder, Reporter},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// Far beyond what anything here takes on a busy machine.
const WAIT_MAX: Duration = Duration::from_secs(60);

static SERVER: OnceCell<ApiServer> = OnceCell::const_new();
static NAMESPACES: AtomicU32 = AtomicU32::new(0);

/// A namespace of the API server.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

/// The least that a person can write.
pub(crate) fn minimal() -> Value {
    json!({
        "apiVersion": "collabcluster.io/v1alpha1",
        "kind": "CollabCluster",
        "metadata": {"name": "docs"},
        "spec": {"auth": {"jwt": {"secretRefs": [{"name": "docs-jwt", "key": "secret"}]}}},
    })
}

/// The minimal resource with some fields of its spec changed.
pub(crate) fn with_spec(change: &Value) -> Value {
    let mut resource = minimal();
    merge(&mut resource["spec"], change);
    resource
}

pub(crate) fn merge(target: &mut Value, change: &Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (name, value) in change {
                merge(target.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (target, change) => *target = change.clone(),
    }
}

/// The API server, started by the first test that asks.
pub(crate) async fn server() -> &'static ApiServer {
    SERVER
        .get_or_init(|| async {
            let server = ApiServer::start().await.expect("an API server");
            let client = server.client().await.expect("a client");
            let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
            let strict =
                PatchParams { field_validation: Some(ValidationDirective::Strict), ..PatchParams::apply("test") };
            let crd = crds.patch("collabclusters.collabcluster.io", &strict, &Patch::Apply(collab_api::crd())).await;
            crd.expect("the API server takes the CRD");
            let established = || async {
                let crd = crds.get("collabclusters.collabcluster.io").await.expect("the CRD");
                let conditions = crd.status.and_then(|status| status.conditions).unwrap_or_default();
                let is_served = Api::<CollabCluster>::all(client.clone()).list(&Default::default()).await.is_ok();
                conditions.iter().any(|one| one.type_ == "Established" && one.status == "True") && is_served
            };
            wait_for("the CRD to be served", established).await;
            server
        })
        .await
}

/// Waits for a condition, with a deadline.
pub(crate) async fn wait_for<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let deadline = Instant::now() + WAIT_MAX;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited {} s for {what}", WAIT_MAX.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl World {
    /// A new namespace.
    pub(crate) async fn new() -> Self {
        let client = server().await.client().await.expect("a client");
        let namespace = format!("test-{}", NAMESPACES.fetch_add(1, Ordering::Relaxed));
        let object: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
        Api::all(client.clone()).create(&PostParams::default(), &object).await.expect("a namespace");
        Self { client, namespace }
    }

    /// A new namespace with the Secret that the minimal resource names.
    pub(crate) async fn with_secret() -> Self {
        let world = Self::new().await;
        world.create_secret("docs-jwt").await;
        world
    }

    pub(crate) async fn create_secret(&self, name: &str) {
        let secret = json!({"metadata": {"name": name}, "stringData": {"secret": "hush"}});
        let secret: Secret = serde_json::from_value(secret).unwrap();
        self.api::<Secret>().create(&PostParams::default(), &secret).await.expect("a Secret");
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Server-side apply with strict checks, as `kubectl apply --server-side` does it.
    pub(crate) async fn apply(&self, resource: &Value) -> kube::Result<CollabCluster> {
        let name = resource["metadata"]["name"].as_str().unwrap();
        let mut parameters = PatchParams::apply("person").force();
        parameters.field_validation = Some(ValidationDirective::Strict);
        let mut resource = resource.clone();
        resource["metadata"]["namespace"] = json!(self.namespace);
        self.api::<CollabCluster>().patch(name, &parameters, &Patch::Apply(&resource)).await
    }

    /// What the API server says to a resource that it must refuse.
    pub(crate) async fn refusal(&self, resource: &Value) -> String {
        match self.apply(resource).await {
            Ok(_) => panic!("accepted: {resource}"),
            Err(kube::Error::Api(status)) => status.message.clone(),
            Err(error) => panic!("{error}"),
        }
    }

    /// An operator with these images, as admin.
    pub(crate) fn operator(&self, version: &str) -> Arc<Context> {
        operator(self.client.clone(), version)
    }

    /// Reconciles the resource `docs` as it is now.
    pub(crate) async fn reconcile(&self, context: &Arc<Context>) -> CollabCluster {
        let resource = self.api::<CollabCluster>().get("docs").await.expect("the resource");
        reconcile(Arc::new(resource), context.clone()).await.expect("a reconcile");
        self.api::<CollabCluster>().get("docs").await.expect("the resource")
    }
}

/// An operator that acts through this client.
pub(crate) fn operator(client: Client, version: &str) -> Arc<Context> {
    let images = Images { gateway: format!("example/gateway:{version}"), redis: format!("example/valkey:{version}") };
    let reporter = Reporter { controller: "collab-operator".to_owned(), instance: None };
    let recorder = Recorder::new(client.clone(), reporter);
    Arc::new(Context::new(client, images, Platform::Kubernetes, String::new(), "test".to_owned(), recorder))
}

/// A condition's status, reason and message.
pub(crate) fn condition(resource: &CollabCluster, kind: &str) -> (String, String, String) {
    let status = resource.status.as_ref().expect("a status");
    let condition = status.conditions.iter().find(|condition| condition.kind == kind);
    let condition = condition.unwrap_or_else(|| panic!("no condition {kind} in {status:?}"));
    (condition.status.clone(), condition.reason.clone(), condition.message.clone())
}
