//! Decides when a reconcile runs: on changes of a CollabCluster, of its children and pods, and after the time that the
//! last reconcile asked for. In: watches, each selected by label. Out: calls of `reconcile`, a bounded number at once.

use std::{fmt::Debug, sync::Arc, time::Duration};

use collab_api::CollabCluster;
use futures::{StreamExt, future::join_all};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::{ConfigMap, Pod, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, ResourceExt,
    core::NamespaceResourceScope,
    runtime::{
        Controller,
        controller::{Action, Config},
        reflector::ObjectRef,
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::{
    context::Context,
    health::Ending,
    names::{CLASS_LABEL, MANAGER},
    reconcile::{Error, reconcile},
};

/// Reconciles at once; each makes a handful of requests.
const CONCURRENCY: u16 = 8;
/// Changes that come in a burst (a rollout) are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Between two tries when the API server does not answer or refuses for a while.
const RETRY_AFTER_ERROR: Duration = Duration::from_secs(5);

/// Looks after CollabClusters in these namespaces (all where none is named) until `stop` turns true.
pub async fn run(context: Arc<Context>, namespaces: &[String], stop: watch::Receiver<bool>) {
    let scopes: Vec<Option<&str>> =
        if namespaces.is_empty() { vec![None] } else { namespaces.iter().map(|name| Some(name.as_str())).collect() };
    join_all(scopes.into_iter().map(|namespace| run_scope(context.clone(), namespace, stop.clone()))).await;
}

async fn run_scope(context: Arc<Context>, namespace: Option<&str>, mut stop: watch::Receiver<bool>) {
    let client = &context.client;
    let children = || watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={MANAGER}"));
    let controller = Controller::new(api::<CollabCluster>(client, namespace), resources(&context.class))
        .with_config(Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .owns(api::<Deployment>(client, namespace), children())
        .owns(api::<StatefulSet>(client, namespace), children())
        .owns(api::<Service>(client, namespace), children())
        .owns(api::<ServiceAccount>(client, namespace), children())
        .owns(api::<ConfigMap>(client, namespace), children())
        .owns(api::<PodDisruptionBudget>(client, namespace), children())
        .watches(api::<Pod>(client, namespace), children(), |pod| cluster_of(&pod))
        .graceful_shutdown_on(async move {
            // A sender that is gone means that the process is ending too.
            let _ = stop.wait_for(|stop| *stop).await;
        });
    context.metrics.watching();
    let results = controller.run(reconcile_and_count, |_, error, _| after_error(error), context.clone());
    results
        .for_each(async |result| {
            if let Err(error) = result {
                log(&error)
            }
        })
        .await;
}

/// CRs of our class: labelled with it, or without the label where the class is empty.
fn resources(class: &str) -> watcher::Config {
    let selector = if class.is_empty() { format!("!{CLASS_LABEL}") } else { format!("{CLASS_LABEL}={class}") };
    watcher::Config::default().labels(&selector)
}

async fn reconcile_and_count(resource: Arc<CollabCluster>, context: Arc<Context>) -> Result<Action, Error> {
    let label = format!("{}/{}", resource.namespace().unwrap_or_default(), resource.name_any());
    let result = reconcile(resource, context.clone()).await;
    match &result {
        Ok(_) => context.metrics.reconciled(Ending::Ok),
        Err(error) => {
            context.metrics.reconciled(Ending::Error);
            tracing::warn!(cluster = label, %error, "a reconcile failed and is tried again");
        }
    }
    result
}

fn after_error(_: &Error) -> Action {
    Action::requeue(RETRY_AFTER_ERROR)
}

/// Reconcile errors are logged where they arise; what is left are the watches' own.
fn log<E: std::error::Error>(error: &kube::runtime::controller::Error<Error, E>) {
    use kube::runtime::controller::Error as Trouble;
    match error {
        Trouble::ReconcilerFailed(..) => {}
        Trouble::ObjectNotFound(_) => tracing::debug!("a CollabCluster is gone"),
        Trouble::QueueError(_) | Trouble::RunnerError(_) => {
            tracing::warn!(%error, "a watch had to be started again");
        }
    }
}

/// Pods belong to a ReplicaSet; their labels name the cluster.
fn cluster_of(pod: &Pod) -> Option<ObjectRef<CollabCluster>> {
    let name = pod.labels().get("app.kubernetes.io/instance")?;
    Some(ObjectRef::new(name).within(&pod.namespace()?))
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}
