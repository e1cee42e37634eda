//! The application's webhooks: who a user is, and what a user may do with a document.
//!
//! In: ids. Out: what the application says, or that it does not answer. Only 404 says that there is nothing: whatever else
//! goes wrong is no statement about anybody. One attempt; whoever needs more makes more.

use std::time::{Duration, Instant};

use document::Role;
use hyper::{StatusCode, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    http_client::{HttpClient, Limit, NoAnswer},
    metrics::Metrics,
    store::StoreError,
};

/// What one request may cost. Names and links are short.
const LIMIT: Limit = Limit { time: Duration::from_secs(2), bytes: 64 << 10 };
/// Requests to one webhook at once; more wait, so that a storm of sign-ins is no storm there.
const REQUESTS_MAX: usize = 64;
/// How long one may wait for its turn; whoever asks gives up then.
const TURN: Duration = Duration::from_secs(6);
/// RFC 3986's unreserved characters stay as they are.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Which of the application's webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Users,
    Access,
}

/// One webhook.
pub(super) struct Webhook {
    hook: Hook,
    url: String,
    client: HttpClient,
    turns: Semaphore,
    metrics: Metrics,
}

/// A user as the application tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct ToldUser {
    id: Option<Value>,
    pub(super) name: Option<String>,
    pub(super) avatar: Option<String>,
}

impl Webhook {
    /// At this URL.
    pub(super) fn new(hook: Hook, url: &Uri, client: HttpClient, metrics: Metrics) -> Webhook {
        let url = url.to_string().trim_end_matches('/').to_owned();
        Webhook { hook, url, client, turns: Semaphore::new(REQUESTS_MAX), metrics }
    }

    /// `GET <url>/users/<id>`.
    ///
    /// # Errors
    /// Passing: when the application gives no answer that can be read.
    pub(super) async fn user(&self, user_id: &str) -> Result<Option<ToldUser>, StoreError> {
        let Some(id) = segment(user_id) else { return Ok(None) };
        self.ask(&format!("/users/{id}"), |body| told_user(body, user_id)).await
    }

    /// `GET <url>/documents/<id>/access/<userId>`: `{"role": "write"}`, or the bare word as access keys hold it.
    ///
    /// # Errors
    /// Passing: when the application gives no answer that can be read.
    pub(super) async fn role(&self, document_id: &str, user_id: &str) -> Result<Option<Role>, StoreError> {
        let (Some(document), Some(user)) = (segment(document_id), segment(user_id)) else { return Ok(None) };
        let read = |body: &[u8]| role(body).ok_or_else(|| "its answer is no role: write, comment or read".to_owned());
        self.ask(&format!("/documents/{document}/access/{user}"), read).await
    }

    /// Asks for a path and counts what came of it.
    async fn ask<T>(&self, path: &str, read: impl FnOnce(&[u8]) -> Result<T, String>) -> Result<Option<T>, StoreError> {
        let mut counted = Counted { webhook: self, outcome: "given_up" };
        let (result, outcome) = match self.request(path).await {
            Ok(None) => (Ok(None), "not_found"),
            Ok(Some(body)) => match read(&body) {
                Ok(answer) => (Ok(Some(answer)), "found"),
                Err(why) => (Err(why), "unreadable"),
            },
            Err(trouble) => (Err(trouble.to_string()), trouble.outcome()),
        };
        counted.outcome = outcome;
        result.map_err(|why| StoreError::Unavailable(format!("{}: {why}", self.hook.flag())))
    }

    async fn request(&self, path: &str) -> Result<Option<bytes::Bytes>, Trouble> {
        let url = format!("{}{path}", self.url).parse().map_err(|_| NoAnswer::Failed("no URL".into()))?;
        let turn = timeout(TURN, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(Trouble::Crowded) };
        let start = Instant::now();
        let answer = self.client.get(url, LIMIT).await;
        self.metrics.webhook_seconds.observe(start.elapsed().as_secs_f64());
        let answer = answer?;
        match answer.status {
            StatusCode::OK => Ok(Some(answer.body)),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(Trouble::Status(status)),
        }
    }
}

impl Hook {
    /// The flag that gave its URL.
    fn flag(self) -> &'static str {
        match self {
            Hook::Users => "--user-directory-url",
            Hook::Access => "--access-url",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Hook::Users => "users",
            Hook::Access => "access",
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("too many requests wait for it")]
    Crowded,
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error(transparent)]
    Unheard(#[from] NoAnswer),
}

impl Trouble {
    fn outcome(&self) -> &'static str {
        match self {
            Trouble::Crowded => "crowded",
            Trouble::Status(_) => "status",
            Trouble::Unheard(NoAnswer::Late(_)) => "late",
            Trouble::Unheard(NoAnswer::Large(_)) => "unreadable",
            Trouble::Unheard(NoAnswer::Failed(_)) => "failed",
        }
    }
}

/// Counts a request when it ends, also one that nobody waits for any more.
struct Counted<'a> {
    webhook: &'a Webhook,
    outcome: &'static str,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.webhook.metrics.webhook(self.webhook.hook.label(), self.outcome);
    }
}

fn told_user(body: &[u8], user_id: &str) -> Result<ToldUser, String> {
    let told: ToldUser = serde_json::from_slice(body).map_err(|error| format!("its answer is no user: {error}"))?;
    let is_the_one = match &told.id {
        None | Some(Value::Null) => true,
        Some(Value::String(id)) => id == user_id,
        Some(Value::Number(id)) => id.to_string() == user_id,
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => false,
    };
    if is_the_one { Ok(told) } else { Err("its answer is about another user".into()) }
}

/// An id as a part of a path. `None` for the two that mean another path, however they are written: they are nobody.
fn segment(id: &str) -> Option<String> {
    (id != "." && id != "..").then(|| utf8_percent_encode(id, ESCAPED).to_string())
}

fn role(body: &[u8]) -> Option<Role> {
    #[derive(Deserialize)]
    struct Told {
        role: String,
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(told)) => {
            let Told { role } = serde_json::from_value(Value::Object(told)).ok()?;
            crate::store::role(role.as_bytes())
        }
        Ok(Value::String(word)) => crate::store::role(word.as_bytes()),
        // The bare word, and `1`.
        Ok(Value::Number(_)) | Err(_) => crate::store::role(body),
        Ok(Value::Null | Value::Bool(_) | Value::Array(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use document::Role;

    use super::{role, segment};

    #[test]
    fn roles_are_read_as_json_and_as_keys_hold_them() {
        for (body, expected) in [
            (r#"{"role":"write"}"#, Some(Role::Write)),
            (r#" {"role": "comment", "since": 7} "#, Some(Role::Comment)),
            ("\"read\"", Some(Role::Read)),
            ("1\n", Some(Role::Write)),
            ("comment", Some(Role::Comment)),
            ("{}", None),
            (r#"{"role":null}"#, None),
            (r#"{"role":"owner"}"#, None),
            (r#"{"role":["write"]}"#, None),
            ("true", None),
            ("2", None),
            ("", None),
            ("<html>write</html>", None),
        ] {
            assert_eq!(role(body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn an_id_is_one_part_of_the_path_whatever_is_in_it() {
        assert_eq!(segment("a/../b?c#d e%2F").as_deref(), Some("a%2F..%2Fb%3Fc%23d%20e%252F"));
        assert_eq!(segment("用户7").as_deref(), Some("%E7%94%A8%E6%88%B77"));
        assert_eq!(segment("Az09-._~").as_deref(), Some("Az09-._~"));
        assert_eq!((segment("."), segment(".."), segment("...").as_deref()), (None, None, Some("...")));
    }
}
