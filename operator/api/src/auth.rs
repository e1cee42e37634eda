//! `spec.auth`: who may connect, who they are, and what they may edit. The one part without a default.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{common::SecretKeyRef, schema::rule};

/// Sign-in, users and access.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Auth {
    /// How tokens are verified. Changing it restarts the gateway pods; a changed Secret does not.
    pub jwt: Jwt,
    /// Who users are. Changing it restarts the gateway pods.
    #[serde(default)]
    pub users: Users,
    /// What users may do. Changing it restarts the gateway pods.
    #[serde(default)]
    pub access: Access,
}

/// How tokens are verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule(
        "size(self.secretRefs) > 0 || has(self.publicKeySecretRef) || has(self.jwksUrl)",
        "needs a key to verify tokens with: add secretRefs: [{name: <Secret>, key: <key>}], publicKeySecretRef or jwksUrl",
    ),
]))]
pub struct Jwt {
    /// Secrets of HS256; several all verify, for rotation.
    #[schemars(length(max = 16))]
    pub secret_refs: Vec<SecretKeyRef>,
    /// Public key of RS256, ES256 or EdDSA, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key_secret_ref: Option<SecretKeyRef>,
    /// JWKS endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), extend("x-kubernetes-validations" = [rule(URL_RULE, URL_MESSAGE)]))]
    pub jwks_url: Option<String>,
    /// Required `iss` claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub issuer: Option<String>,
    /// Required `aud` claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub audience: Option<String>,
}

/// Who users are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Users {
    /// Webhook asked for a user who is not in Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), extend("x-kubernetes-validations" = [rule(URL_RULE, URL_MESSAGE)]))]
    pub directory_url: Option<String>,
    /// Trust the claims `name` and `avatar` instead of a directory.
    pub from_claims: bool,
}

/// What users may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Access {
    /// Webhook asked for the access to a document.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), extend("x-kubernetes-validations" = [rule(URL_RULE, URL_MESSAGE)]))]
    pub url: Option<String>,
}

const URL_RULE: &str = "self.matches('^https?://.+')";
const URL_MESSAGE: &str = "must be a URL: write https://…";
