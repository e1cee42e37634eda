//! The kinds of objects that the operator makes, and an object of one of them as plain JSON.
//!
//! Objects are JSON and not typed structs so that fields newer than this operator pass through unharmed; the API server
//! checks them strictly.

use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::{ConfigMap, Secret, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use kube::core::{ApiResource, DynamicObject};
use serde_json::{Value, json};

/// A kind that the operator makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "Kubernetes' own names")]
pub enum Kind {
    ConfigMap,
    Deployment,
    PodDisruptionBudget,
    Secret,
    Service,
    ServiceAccount,
    StatefulSet,
}

/// An object as it is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its kind.
    pub kind: Kind,
    /// Its whole body, with `apiVersion`, `kind` and `metadata`.
    pub body: Value,
}

impl Kind {
    /// How the API server calls the kind.
    pub fn api_resource(self) -> ApiResource {
        match self {
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
            Self::PodDisruptionBudget => ApiResource::erase::<PodDisruptionBudget>(&()),
            Self::Secret => ApiResource::erase::<Secret>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
            Self::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
        }
    }
}

impl Object {
    /// An object with `metadata`, and the further fields of `rest`.
    pub fn new(kind: Kind, metadata: &Value, rest: Value) -> Self {
        let resource = kind.api_resource();
        let mut body = json!({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata});
        if let (Some(body), Value::Object(rest)) = (body.as_object_mut(), rest) {
            body.extend(rest);
        }
        Self { kind, body }
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.body["metadata"]["name"].as_str().unwrap_or_default()
    }
}

/// One field of a live object by its JSON pointer, as a number.
pub fn number_at(object: &DynamicObject, pointer: &str) -> Option<i64> {
    object.data.pointer(pointer).and_then(Value::as_i64)
}
