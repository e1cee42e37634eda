//! The events, acknowledgements and errors that clients get, as whole Engine.IO messages.
//!
//! In: what a document or the gateway has to say. Out: text that is encoded once and shared by all receivers.

use document::{
    ActiveUser, Answer, Canonical, Code, Event, Joined, JoinedContent, Point, Position, Refusal, ReplyId, Role, User,
};
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::delta::DeltaJson;

/// One event of a document.
pub fn event(document_id: &str, event: &Event) -> String {
    event_with_ticket(document_id, event, None)
}

/// The same; a join carries this resume ticket.
pub fn event_with_ticket(document_id: &str, event: &Event, resume: Option<&str>) -> String {
    match event {
        Event::DocumentJoined(joined) => packet("document-joined", &JoinedJson { document_id, joined, resume }),
        Event::Rejoin => packet("rejoin", &DocumentJson { document_id }),
        Event::AccessChanged { role } => {
            packet("access-changed", &AccessJson { document_id, role: role.map(role_name) })
        }
        Event::Edit(canonical) => packet("edit", &EditJson { document_id: Some(document_id), canonical }),
        Event::EditCommitted { at, client_id, seq, digest } => packet(
            "edit-committed",
            &CommittedJson {
                document_id,
                version: at.version,
                hash: &at.hash,
                client_id,
                seq: *seq,
                digest: digest.map(|digest| digest.to_string()),
            },
        ),
        Event::UserJoined(user) => {
            packet("user-joined", &UserJoinedJson { document_id, user_id: &user.id, person: person(user) })
        }
        Event::UserLeft { user_id } => packet("user-left", &UserLeftJson { document_id, user_id }),
        Event::Presence { active_count } => {
            packet("presence", &PresenceJson { document_id, active_count: *active_count })
        }
        Event::CursorUpdate { user_id, client_id, version, position } => packet(
            "cursor-update",
            &CursorJson {
                document_id,
                version: *version,
                user_id,
                client_id,
                position: position.as_ref().map(PositionJson),
            },
        ),
        Event::TypingUpdate { user_id, is_typing } => {
            packet("typing-update", &TypingJson { document_id, user_id, is_typing: *is_typing })
        }
        Event::Error(refusal) => error(Some(document_id), refusal),
    }
}

/// The answer to an event: the acknowledgement if one was asked for; else nothing, or the `error` event.
pub fn acknowledgement(reply: Option<ReplyId>, document_id: &str, answer: &Result<Answer, Refusal>) -> Option<String> {
    match (reply, answer) {
        (Some(reply), Ok(Answer::Version(version))) => Some(format!("43{}[{{\"version\":{version}}}]", reply.0)),
        (Some(reply), Ok(Answer::Empty)) => Some(format!("43{}[{{}}]", reply.0)),
        (None, Ok(_)) => None,
        (reply, Err(refusal)) => Some(refused_answer(reply, Some(document_id), refusal)),
    }
}

/// A refusal: in the acknowledgement if one was asked for, else as the `error` event.
pub fn refused_answer(reply: Option<ReplyId>, document_id: Option<&str>, refusal: &Refusal) -> String {
    #[derive(Serialize)]
    struct Failed<'a> {
        error: RefusalJson<'a>,
    }
    match reply {
        Some(reply) => format!("43{}[{}]", reply.0, json(&Failed { error: RefusalJson { document_id, refusal } })),
        None => error(document_id, refusal),
    }
}

/// The `error` event.
pub fn error(document_id: Option<&str>, refusal: &Refusal) -> String {
    packet("error", &RefusalJson { document_id, refusal })
}

/// `connect`: the connection has this Socket.IO id. `pid` is never sent.
pub fn connected(sid: &str) -> String {
    #[derive(Serialize)]
    struct Connected<'a> {
        sid: &'a str,
    }
    format!("40{}", json(&Connected { sid }))
}

/// `connect_error`.
pub fn connect_error(message: &str, code: &str) -> String {
    #[derive(Serialize)]
    struct Data<'a> {
        code: &'a str,
    }
    #[derive(Serialize)]
    struct ConnectError<'a> {
        message: &'a str,
        data: Data<'a>,
    }
    format!("44{}", json(&ConnectError { message, data: Data { code } }))
}

/// The refusal of any namespace but `/`, as Socket.IO servers word it.
pub fn invalid_namespace(namespace: &str) -> String {
    format!(r#"44{namespace},{{"message":"Invalid namespace"}}"#)
}

/// `draining`: the transport will be closed; come back after this time.
pub fn draining(reconnect_after_ms: u64) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Draining {
        reconnect_after_ms: u64,
    }
    packet("draining", &Draining { reconnect_after_ms })
}

/// `token-expiring`, with the Unix time in milliseconds.
pub fn token_expiring(expires_at_ms: u64) -> String {
    packet("token-expiring", &ExpiresJson { expires_at: expires_at_ms })
}

/// The acknowledgement of `token-refresh`, if one was asked for.
pub fn token_refreshed(reply: Option<ReplyId>, expires_at_ms: Option<u64>) -> Option<String> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Refreshed {
        expires_at: Option<u64>,
    }
    reply.map(|reply| format!("43{}[{}]", reply.0, json(&Refreshed { expires_at: expires_at_ms })))
}

/// The refusal of `token-refresh`, whose codes are those of CONNECT.
pub fn token_refused(reply: Option<ReplyId>, code: &str, message: &str) -> String {
    #[derive(Serialize)]
    struct Refused<'a> {
        code: &'a str,
        message: &'a str,
    }
    #[derive(Serialize)]
    struct Failed<'a> {
        error: Refused<'a>,
    }
    let error = Refused { code, message };
    match reply {
        Some(reply) => format!("43{}[{}]", reply.0, json(&Failed { error })),
        None => packet("error", &error),
    }
}

/// `demo-pod`: the host name of the pod.
pub fn demo_pod(name: &str) -> String {
    #[derive(Serialize)]
    struct DemoPod<'a> {
        name: &'a str,
    }
    packet("demo-pod", &DemoPod { name })
}

/// The name of a code on the wire.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::BadRequest => "BAD_REQUEST",
        Code::OpInvalid => "OP_INVALID",
        Code::ReadOnly => "READ_ONLY",
        Code::DocumentTooLarge => "DOCUMENT_TOO_LARGE",
        Code::RateLimited => "RATE_LIMITED",
        Code::Overloaded => "OVERLOADED",
        Code::StoreUnavailable => "STORE_UNAVAILABLE",
        Code::SeqGap => "SEQ_GAP",
        Code::VersionTooOld => "VERSION_TOO_OLD",
        Code::VersionAhead => "VERSION_AHEAD",
        Code::AccessDenied => "ACCESS_DENIED",
        Code::JoinFailed => "JOIN_FAILED",
        Code::NotJoined => "NOT_JOINED",
        Code::ClientReplaced => "CLIENT_REPLACED",
        Code::NotDurableYet => "NOT_DURABLE_YET",
    }
}

/// JSON text of a value. The types here have string keys and finite numbers, so it cannot fail; should it ever, `null`
/// is what a client can make sense of.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

fn packet<T: Serialize>(name: &str, payload: &T) -> String {
    let payload = json(payload);
    let mut text = String::with_capacity(payload.len() + name.len() + 8);
    text.push_str("42[\"");
    text.push_str(name);
    text.push_str("\",");
    text.push_str(&payload);
    text.push(']');
    text
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DocumentJson<'a> {
    document_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CommittedJson<'a> {
    document_id: &'a str,
    version: u64,
    hash: &'a str,
    client_id: &'a str,
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UserLeftJson<'a> {
    document_id: &'a str,
    user_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UserJoinedJson<'a> {
    document_id: &'a str,
    user_id: &'a str,
    #[serde(flatten)]
    person: PersonJson<'a>,
}

#[derive(Serialize)]
struct PersonJson<'a> {
    name: &'a str,
    avatar: Option<&'a str>,
    color: &'a str,
}

fn person(user: &User) -> PersonJson<'_> {
    PersonJson { name: &user.name, avatar: user.avatar.as_deref(), color: document::color(&user.id) }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PresenceJson<'a> {
    document_id: &'a str,
    active_count: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CursorJson<'a> {
    document_id: &'a str,
    version: u64,
    user_id: &'a str,
    client_id: &'a str,
    position: Option<PositionJson<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TypingJson<'a> {
    document_id: &'a str,
    user_id: &'a str,
    is_typing: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExpiresJson {
    expires_at: u64,
}

/// A position as clients sent it: a range, or the JSON that is kept as text.
pub(crate) struct PositionJson<'a>(pub(crate) &'a Position);

impl Serialize for PositionJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Position::Range { index, length } => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("index", index)?;
                map.serialize_entry("length", length)?;
                map.end()
            }
            Position::Other(text) => match serde_json::from_str::<&serde_json::value::RawValue>(text) {
                Ok(raw) => raw.serialize(serializer),
                Err(_) => serializer.serialize_none(),
            },
        }
    }
}

struct EditJson<'a> {
    document_id: Option<&'a str>,
    canonical: &'a Canonical,
}

impl Serialize for EditJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Canonical { at: Point { version, hash }, identity, client_id, user_id, session: _, ops, digest } =
            self.canonical;
        let mut map = serializer.serialize_map(None)?;
        if let Some(document_id) = self.document_id {
            map.serialize_entry("documentId", document_id)?;
        }
        map.serialize_entry("version", version)?;
        map.serialize_entry("hash", &**hash)?;
        map.serialize_entry("ops", &DeltaJson(ops))?;
        map.serialize_entry("userId", &**user_id)?;
        map.serialize_entry("clientId", &**client_id)?;
        // A number that the gateway counted means nothing to clients.
        map.serialize_entry("seq", &(!identity.by_gateway).then_some(identity.seq))?;
        if let Some(digest) = digest {
            map.serialize_entry("digest", &digest.to_string())?;
        }
        map.end()
    }
}

struct JoinedJson<'a> {
    document_id: &'a str,
    joined: &'a Joined,
    resume: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AccessJson<'a> {
    document_id: &'a str,
    role: Option<&'static str>,
}

impl Serialize for JoinedJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Joined { at, session, role, client_id, last_seq, active_users, active_count, content } = self.joined;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("documentId", self.document_id)?;
        map.serialize_entry("version", &at.version)?;
        map.serialize_entry("hash", &*at.hash)?;
        map.serialize_entry("session", &**session)?;
        map.serialize_entry("role", role_name(*role))?;
        map.serialize_entry("clientId", &**client_id)?;
        map.serialize_entry("lastSeq", last_seq)?;
        map.serialize_entry("resume", &self.resume)?;
        let users: Vec<ActiveUserJson<'_>> = active_users.iter().map(ActiveUserJson).collect();
        map.serialize_entry("activeUsers", &users)?;
        map.serialize_entry("activeCount", active_count)?;
        match content {
            JoinedContent::Text(text) => map.serialize_entry("content", text)?,
            JoinedContent::Ops(ops) => map.serialize_entry("ops", &DeltaJson(ops))?,
            JoinedContent::Edits(edits) => {
                let edits: Vec<EditJson<'_>> =
                    edits.iter().map(|canonical| EditJson { document_id: None, canonical }).collect();
                map.serialize_entry("edits", &edits)?;
            }
        }
        map.end()
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Write => "write",
        Role::Comment => "comment",
        Role::Read => "read",
    }
}

struct ActiveUserJson<'a>(&'a ActiveUser);

impl Serialize for ActiveUserJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Cursor<'a> {
            client_id: &'a str,
            version: u64,
            position: PositionJson<'a>,
        }
        let ActiveUser { user, is_typing, cursors } = self.0;
        let person = person(user);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &*user.id)?;
        map.serialize_entry("name", person.name)?;
        map.serialize_entry("avatar", &person.avatar)?;
        map.serialize_entry("color", person.color)?;
        if *is_typing {
            map.serialize_entry("isTyping", &true)?;
        }
        if !cursors.is_empty() {
            let cursors: Vec<Cursor<'_>> = cursors
                .iter()
                .map(|c| Cursor { client_id: &c.client_id, version: c.version, position: PositionJson(&c.position) })
                .collect();
            map.serialize_entry("cursors", &cursors)?;
        }
        map.end()
    }
}

struct RefusalJson<'a> {
    document_id: Option<&'a str>,
    refusal: &'a Refusal,
}

impl Serialize for RefusalJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Refusal { code, message, seq, last_seq, retry_after_ms } = self.refusal;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("code", code_name(*code))?;
        map.serialize_entry("message", message)?;
        let numbers = [("seq", seq), ("lastSeq", last_seq), ("retryAfterMs", retry_after_ms)];
        if let Some(document_id) = self.document_id {
            map.serialize_entry("documentId", document_id)?;
        }
        for (name, number) in numbers {
            if let Some(number) = number {
                map.serialize_entry(name, number)?;
            }
        }
        map.end()
    }
}
