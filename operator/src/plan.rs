//! What `collab-operator plan` and `validate` tell about a file, without a cluster. In: YAML. Out: objects as YAML, or
//! problems.

use collab_api::CollabCluster;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    build::{build, secrets},
    validate::{Cluster, Images, Platform, Problem, Surroundings, validate},
};

/// What stands for the generated password.
const PASSWORD_SHOWN: &str = "generated";

/// Why a file cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not YAML.
    #[error("not YAML: {0}")]
    Yaml(#[from] serde_yaml::Error),
    /// It holds something else.
    #[error("a document has kind {0}: write kind CollabCluster, apiVersion collabcluster.io/v1alpha1")]
    Kind(String),
    /// It holds nothing.
    #[error("the file holds no CollabCluster")]
    Empty,
    /// A field has the wrong type.
    #[error("{0}")]
    Shape(#[from] serde_json::Error),
    /// The resource is wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Problems(Vec<Problem>),
}

/// The CustomResourceDefinition as YAML.
///
/// # Errors
/// Never in practice: the schema is data of this program.
pub fn crd() -> Result<String, Error> {
    let text = serde_yaml::to_string(&collab_api::crd())?;
    // kubectl reads YAML 1.1, in which a bare Off is false.
    let lines = text.lines().map(|line| match line.strip_suffix(" Off") {
        Some(start) => format!("{start} \"Off\"\n"),
        None => format!("{line}\n"),
    });
    Ok(lines.collect())
}

/// Every CollabCluster of a file, validated as on a cluster where all named Secrets exist.
///
/// # Errors
/// The first document's problems, all of them.
pub fn read(text: &str, images: &Images) -> Result<Vec<Cluster>, Error> {
    let documents = serde_yaml::Deserializer::from_str(text).map(Value::deserialize);
    let documents = documents.collect::<Result<Vec<Value>, _>>()?;
    let documents: Vec<Value> = documents.into_iter().filter(|document| !document.is_null()).collect();
    if documents.is_empty() {
        return Err(Error::Empty);
    }
    documents.into_iter().map(|document| read_one(document, images)).collect()
}

/// The objects that would exist, as YAML documents.
///
/// # Errors
/// When a pod template cannot be merged.
pub fn plan(cluster: &Cluster) -> Result<String, Error> {
    let desired = build(cluster).map_err(Error::Problems)?;
    let secrets = secrets::all(cluster, || PASSWORD_SHOWN.to_owned());
    let objects = secrets.into_iter().chain(desired.in_order());
    let texts = objects.map(|object| serde_yaml::to_string(&object.body));
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join("---\n"))
}

fn read_one(mut document: Value, images: &Images) -> Result<Cluster, Error> {
    if document["kind"] != "CollabCluster" || document["apiVersion"] != "collabcluster.io/v1alpha1" {
        return Err(Error::Kind(document["kind"].as_str().unwrap_or("none").to_owned()));
    }
    let unknown = collab_api::unknown_fields(&document);
    if !unknown.is_empty() {
        let problems = unknown.into_iter().map(|field| Problem { field, message: "unknown field".to_owned() });
        return Err(Error::Problems(problems.collect()));
    }
    if document["metadata"]["namespace"].is_null() {
        document["metadata"]["namespace"] = "default".into();
    }
    let resource: CollabCluster = serde_json::from_value(document)?;
    validate(&resource, images, Platform::Kubernetes, &Surroundings::default()).map_err(Error::Problems)
}
