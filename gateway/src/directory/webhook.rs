//! The application's webhooks: who a user is, and what a user may do with a document.
//!
//! In: ids. Out: what the application says, or that it does not answer. Only 404 says that there is nothing: whatever else
//! goes wrong is no statement about anybody. One attempt; whoever needs more makes more.

use std::time::Duration;

use document::Role;
use hyper::{StatusCode, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    http_client::{HttpClient, Limit},
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

/// One webhook.
pub(super) struct Webhook {
    flag: &'static str,
    url: String,
    client: HttpClient,
    turns: Semaphore,
}

/// A user as the application tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct ToldUser {
    id: Option<Value>,
    pub(super) name: Option<String>,
    pub(super) avatar: Option<String>,
}

impl Webhook {
    /// At this URL, which that flag gave.
    pub(super) fn new(flag: &'static str, url: &Uri, client: HttpClient) -> Webhook {
        let url = url.to_string().trim_end_matches('/').to_owned();
        Webhook { flag, url, client, turns: Semaphore::new(REQUESTS_MAX) }
    }

    /// `GET <url>/users/<id>`.
    ///
    /// # Errors
    /// Passing: when the application gives no answer that can be read.
    pub(super) async fn user(&self, user_id: &str) -> Result<Option<ToldUser>, StoreError> {
        let Some(id) = segment(user_id) else { return Ok(None) };
        let Some(body) = self.ask(&format!("/users/{id}")).await? else { return Ok(None) };
        let told: ToldUser =
            serde_json::from_slice(&body).map_err(|error| self.away(&format!("its answer is no user: {error}")))?;
        let is_the_one = match &told.id {
            None | Some(Value::Null) => true,
            Some(Value::String(id)) => id == user_id,
            Some(Value::Number(id)) => id.to_string() == user_id,
            Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => false,
        };
        if !is_the_one {
            return Err(self.away("its answer is about another user"));
        }
        Ok(Some(told))
    }

    /// `GET <url>/documents/<id>/access/<userId>`: `{"role": "write"}`, or the bare word as access keys hold it.
    ///
    /// # Errors
    /// Passing: when the application gives no answer that can be read.
    pub(super) async fn role(&self, document_id: &str, user_id: &str) -> Result<Option<Role>, StoreError> {
        let (Some(document), Some(user)) = (segment(document_id), segment(user_id)) else { return Ok(None) };
        let Some(body) = self.ask(&format!("/documents/{document}/access/{user}")).await? else { return Ok(None) };
        role(&body).map(Some).ok_or_else(|| self.away("its answer is no role: write, comment or read"))
    }

    async fn ask(&self, path: &str) -> Result<Option<bytes::Bytes>, StoreError> {
        let url = format!("{}{path}", self.url).parse().map_err(|_| self.away("no URL"))?;
        let turn = timeout(TURN, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(self.away("too many requests wait for it")) };
        let answer = self.client.get(url, LIMIT).await.map_err(|error| self.away(&error.to_string()))?;
        match answer.status {
            StatusCode::OK => Ok(Some(answer.body)),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(self.away(&format!("it answered {status}"))),
        }
    }

    fn away(&self, why: &str) -> StoreError {
        StoreError::Unavailable(format!("{}: {why}", self.flag))
    }
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
