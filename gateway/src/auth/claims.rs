//! What a good token says.
//!
//! In: the claims of a token whose signature holds. Out: [`Claims`] that everything else may rely on, or a refusal.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{DEMO_PREFIX, Denial};

/// What a good token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `userId`, else `sub`.
    pub user_id: Arc<str>,
    /// The `name` claim.
    pub name: Option<String>,
    /// The `avatar` claim.
    pub avatar: Option<String>,
    /// Unix seconds; `None` for a token that never expires.
    pub expires_at: Option<u64>,
    /// Signed by [`super::Authenticator::sign_demo`].
    pub is_demo: bool,
}

/// The claims as they are written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawClaims {
    user_id: Option<Value>,
    sub: Option<Value>,
    name: Option<Value>,
    avatar: Option<Value>,
    exp: Option<f64>,
    #[serde(default)]
    demo: Value,
}

/// The claims of a demo user.
#[derive(Serialize)]
pub(super) struct DemoClaims<'a> {
    pub(super) sub: &'a str,
    pub(super) name: &'a str,
    pub(super) exp: u64,
    pub(super) demo: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) aud: Option<&'a str>,
}

impl RawClaims {
    /// `is_ours`: signed with a secret of this process, which alone can make demo users.
    pub(super) fn check(self, is_ours: bool) -> Result<Claims, Denial> {
        let given = self.user_id.filter(|id| !id.is_null()).or(self.sub).ok_or(Denial::TokenInvalid)?;
        let user_id = user_id(&given).ok_or(Denial::TokenInvalid)?;
        let is_demo = is_ours && self.demo == Value::Bool(true) && user_id.starts_with(DEMO_PREFIX);
        Ok(Claims {
            user_id: user_id.into(),
            name: self.name.and_then(text),
            avatar: self.avatar.and_then(text),
            // Rounded as its check rounds it. The cast keeps to the bounds of the type.
            expires_at: self.exp.map(|seconds| seconds.round() as u64),
            is_demo,
        })
    }
}

/// A string without control characters, or the decimal text of a whole number.
fn user_id(value: &Value) -> Option<String> {
    let id = match value {
        Value::String(id) => id.clone(),
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    protocol::is_user_id(&id).then_some(id)
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
    }
}
