//! First step: what is there. Reads only; Secrets are never read, only asked for by a create that changes nothing.
//!
//! In: a client and the resource. Out: [`Fetched`].

use std::collections::{BTreeMap, BTreeSet};

use collab_api::CollabCluster;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
    core::DynamicObject,
};
use serde_json::Value;

use crate::{
    connections,
    context::Context,
    kinds::Kind,
    names::{Component, Names},
    pods,
    validate::{Surroundings, named_secrets, names},
};

/// Requests of one reconcile that are under way at once.
const REQUESTS_MAX: usize = 8;
/// Pods whose Events are looked at: troubles repeat themselves.
const TROUBLED_PODS_MAX: usize = 3;
/// Events of one pod that are looked at.
const EVENTS_MAX: u32 = 50;

/// What is there.
#[derive(Debug, Default)]
pub struct Fetched {
    /// Live children by kind and name.
    pub live: BTreeMap<(Kind, String), DynamicObject>,
    /// The gateway pods.
    pub gateway_pods: Vec<Pod>,
    /// The Redis pods.
    pub redis_pods: Vec<Pod>,
    /// Events of pods that cannot start.
    pub pod_events: Vec<Event>,
    /// Of the Secrets that the operator creates, those that are not there.
    pub absent_secrets: BTreeSet<String>,
    /// Connections on all ready gateway pods; `None` where none answered.
    pub connections: Option<i64>,
    /// What `validate` needs to know.
    pub surroundings: Surroundings,
}

/// Looks at everything that concerns one resource.
///
/// # Errors
/// When the API server does not answer. A gateway that does not answer is no error.
pub async fn fetch(context: &Context, resource: &CollabCluster) -> kube::Result<Fetched> {
    let names = names(resource);
    let client = &context.client;
    let live = live_children(client, &names).await?;
    let gateway_pods = list_pods(client, &names, Component::Gateway).await?;
    let redis_pods = list_pods(client, &names, Component::Redis).await?;
    let pod_events = events_of_stuck(client, &names, gateway_pods.iter().chain(&redis_pods)).await?;
    if !pod_events.is_empty() {
        named_secrets(&resource.spec).iter().for_each(|(_, name)| context.forget_secret(&names.namespace, name));
        names.own_secrets().iter().for_each(|name| context.forget_secret(&names.namespace, name));
    }
    let named = named_secrets(&resource.spec).into_iter().map(|(_, name)| name);
    let missing_secrets = absent_secrets(context, &names.namespace, named).await?;
    Ok(Fetched {
        absent_secrets: absent_secrets(context, &names.namespace, names.own_secrets()).await?,
        connections: connections::count(&gateway_pods).await,
        surroundings: Surroundings { missing_secrets, claimed_storage: claimed_storage(&live, &names) },
        live,
        gateway_pods,
        redis_pods,
        pod_events,
    })
}

async fn live_children(client: &Client, names: &Names) -> kube::Result<BTreeMap<(Kind, String), DynamicObject>> {
    let requests = names.applied().into_iter().map(|(kind, name)| async move {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &names.namespace, &kind.api_resource());
        let found = api.get_opt(&name).await?;
        Ok::<_, kube::Error>(found.map(|object| ((kind, name), object)))
    });
    let found: Vec<Option<_>> = stream::iter(requests).buffer_unordered(REQUESTS_MAX).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

async fn list_pods(client: &Client, names: &Names, component: Component) -> kube::Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &names.namespace);
    let selector = ListParams::default().labels(&names.selector_text(component));
    Ok(api.list(&selector).await?.items)
}

/// A missing Secret or key keeps a pod from starting and is told by its Events alone.
async fn events_of_stuck(client: &Client, names: &Names, pods: impl Iterator<Item = &Pod>) -> kube::Result<Vec<Event>> {
    let api: Api<Event> = Api::namespaced(client.clone(), &names.namespace);
    let mut events = Vec::new();
    for pod in pods.filter(|pod| pods::waits_for_volumes(pod)).take(TROUBLED_PODS_MAX) {
        let selector = format!("involvedObject.kind=Pod,involvedObject.name={}", pod.name_any());
        events.extend(api.list(&ListParams::default().fields(&selector).limit(EVENTS_MAX)).await?.items);
    }
    Ok(events)
}

async fn absent_secrets(
    context: &Context,
    namespace: &str,
    names: impl IntoIterator<Item = String>,
) -> kube::Result<BTreeSet<String>> {
    let mut absent = BTreeSet::new();
    for name in names {
        if !secret_exists(context, namespace, &name).await? {
            absent.insert(name);
        }
    }
    Ok(absent)
}

/// Creating it for show answers 409 where it exists; that needs no right to read Secrets.
async fn secret_exists(context: &Context, namespace: &str, name: &str) -> kube::Result<bool> {
    if context.saw_secret(namespace, name) {
        return Ok(true);
    }
    let mut probe = Secret::default();
    probe.metadata.name = Some(name.to_owned());
    let api: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    match api.create(&PostParams { dry_run: true, ..PostParams::default() }, &probe).await {
        Ok(_) => Ok(false),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            context.see_secret(namespace, name);
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

fn claimed_storage(live: &BTreeMap<(Kind, String), DynamicObject>, names: &Names) -> Option<String> {
    let stateful_set = live.get(&(Kind::StatefulSet, names.redis()))?;
    let size = stateful_set.data.pointer("/spec/volumeClaimTemplates/0/spec/resources/requests/storage")?;
    size.as_str().map(str::to_owned).or_else(|| size.as_i64().map(|bytes| bytes.to_string()))
}

/// Whether a live object belongs to the resource.
pub fn is_ours(object: &DynamicObject, resource: &CollabCluster) -> bool {
    let uid = resource.uid();
    object.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref())
}

/// A live child's status, or null.
pub fn status_of<'a>(live: &'a BTreeMap<(Kind, String), DynamicObject>, kind: Kind, name: &str) -> &'a Value {
    live.get(&(kind, name.to_owned())).map_or(&Value::Null, |object| &object.data["status"])
}
