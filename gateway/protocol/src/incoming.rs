//! What clients ask for.
//!
//! In: the name and the JSON arguments of a Socket.IO event. Out: a typed request within the limits of the contract,
//! or a refusal that says what to write instead.

use std::sync::Arc;

use document::{Code, Form, Position, Refusal, Version};
use ot::Delta;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::delta;

/// Longest `documentId`.
const DOCUMENT_ID_BYTES_MAX: usize = 128;
/// Longest `clientId`.
const CLIENT_ID_BYTES_MAX: usize = 64;
/// Longest user id.
const USER_ID_BYTES_MAX: usize = 256;
/// Longest `session`: the gateway makes no longer ones.
const SESSION_BYTES_MAX: usize = 32;
/// Longest `hash` that is worth a look: the gateway's have 11 digits.
const HASH_BYTES_MAX: usize = 64;
/// Most bytes of a cursor position that is not a range.
const POSITION_BYTES_MAX: usize = 1024;
/// Longest token that is worth verifying.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// The largest number that JavaScript counts exactly.
const NUMBER_MAX: u64 = (1 << 53) - 1;

/// Limits that the operator of the gateway sets.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most bytes of the JSON of `ops`.
    pub edit_bytes: usize,
}

/// A request of a client.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names are those of the contract")]
pub enum ClientEvent {
    Join(JoinEvent),
    Leave { document_id: Arc<str> },
    Edit(EditEvent),
    Cursor { document_id: Arc<str>, version: Option<Version>, position: Option<Position> },
    Typing { document_id: Arc<str>, is_typing: bool },
    TokenRefresh { token: String },
}

/// `join-document`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names are those of the contract")]
pub struct JoinEvent {
    pub document_id: Arc<str>,
    pub form: Form,
    pub version: Option<Version>,
    pub hash: Option<Arc<str>>,
    pub last_session: Option<Arc<str>>,
    pub seq: Option<u64>,
}

/// `edit`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names are those of the contract")]
pub struct EditEvent {
    pub document_id: Arc<str>,
    pub version: Version,
    pub ops: Delta,
    /// Why the edit cannot be read, where only its document can: it still has a place among the edits of its session.
    pub unreadable: Option<Box<Refusal>>,
    pub seq: Option<u64>,
    pub session: Option<Arc<str>>,
}

/// A request that was refused, with what could be read of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Where it could be read.
    pub document_id: Option<Arc<str>>,
    /// What the client is told.
    pub refusal: Refusal,
}

/// The `auth` object of CONNECT.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Auth {
    /// None where there is no token, or something that cannot be one.
    pub token: Option<String>,
    /// None where it is missing or malformed: a new one is made.
    pub client_id: Option<Arc<str>>,
}

impl Auth {
    /// Reads the payload of CONNECT; what is not understood counts as missing.
    pub fn parse(json: Option<&str>) -> Auth {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct AuthJson<'a> {
            #[serde(borrow)]
            token: Option<&'a RawValue>,
            #[serde(borrow)]
            client_id: Option<&'a RawValue>,
        }
        let Some(json) = json.and_then(|json| serde_json::from_str::<AuthJson<'_>>(json).ok()) else {
            return Auth::default();
        };
        let token = json.token.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        let client_id = json.client_id.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        Auth {
            // One that is too long is refused by whoever reads it: it is there, and it is bad.
            token: token.filter(|token| !token.is_empty()),
            client_id: client_id.filter(|id| is_client_id(id)).map(Arc::from),
        }
    }
}

/// Whether a document may have this id.
pub fn is_document_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
    (1..=DOCUMENT_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(allowed)
}

/// Whether an editor instance may have this id.
pub fn is_client_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    (1..=CLIENT_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(allowed)
}

/// Whether a user may have this id.
pub fn is_user_id(id: &str) -> bool {
    (1..=USER_ID_BYTES_MAX).contains(&id.len()) && !id.chars().any(char::is_control)
}

/// Reads one event.
///
/// # Errors
/// What is wrong with it, for the client's developer.
pub fn event(name: &str, arguments: &[&RawValue], limits: &Limits) -> Result<ClientEvent, Refused> {
    let payload = || match arguments {
        [] => Err(Refused::bad(format!("{name} needs a payload"))),
        // More arguments than one are left alone, as Socket.IO servers do.
        [first, ..] => Ok(first.get()),
    };
    match name {
        "join-document" => join(payload()?).map(ClientEvent::Join),
        "leave-document" => leave(payload()?),
        "edit" => edit(payload()?, limits).map(ClientEvent::Edit),
        "cursor-position" => cursor(payload()?),
        "typing" => typing(payload()?),
        "token-refresh" => token_refresh(payload()?),
        other => {
            let other: String = other.chars().take(40).collect();
            Err(Refused::bad(format!(
                "unknown event {other:?}; there are join-document, leave-document, edit, cursor-position, typing and \
                 token-refresh"
            )))
        }
    }
}

impl Refused {
    fn bad(message: impl Into<String>) -> Refused {
        let refusal = Refusal {
            code: Code::BadRequest,
            message: message.into(),
            seq: None,
            last_seq: None,
            retry_after_ms: None,
        };
        Refused { document_id: None, refusal }
    }

    fn of(document_id: &Arc<str>) -> impl Fn(String) -> Refused + use<> {
        let document_id = document_id.clone();
        move |message| Refused { document_id: Some(document_id.clone()), ..Refused::bad(message) }
    }
}

/// The fields of all events, still as JSON: each is read by itself, so that the refusal can name it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    #[serde(borrow)]
    document_id: Option<&'a RawValue>,
    #[serde(borrow, rename = "as")]
    form: Option<&'a RawValue>,
    #[serde(borrow)]
    version: Option<&'a RawValue>,
    #[serde(borrow)]
    hash: Option<&'a RawValue>,
    #[serde(borrow)]
    session: Option<&'a RawValue>,
    #[serde(borrow)]
    seq: Option<&'a RawValue>,
    #[serde(borrow)]
    ops: Option<&'a RawValue>,
    // `position: null` means something: it must not read as missing.
    #[serde(borrow, default, deserialize_with = "present")]
    position: Option<&'a RawValue>,
    #[serde(borrow)]
    is_typing: Option<&'a RawValue>,
    #[serde(borrow)]
    token: Option<&'a RawValue>,
}

fn present<'de: 'a, 'a, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn fields<'a>(event: &str, json: &'a str) -> Result<Fields<'a>, Refused> {
    serde_json::from_str(json).map_err(|_| Refused::bad(format!("the payload of {event} must be an object")))
}

fn join(json: &str) -> Result<JoinEvent, Refused> {
    if json.starts_with('"') {
        let document_id = document_id_of(json)?;
        return Ok(JoinEvent {
            document_id,
            form: Form::Text,
            version: None,
            hash: None,
            last_session: None,
            seq: None,
        });
    }
    let fields = fields("join-document", json)?;
    let document_id = document_id(&fields)?;
    let refused = Refused::of(&document_id);
    let form = match string("as", fields.form, 16).map_err(&refused)?.as_deref() {
        None | Some("text") => Form::Text,
        Some("delta") => Form::Delta,
        Some("quill") => Form::Quill,
        Some(_) => return Err(refused("as must be \"text\", \"delta\" or \"quill\"".to_owned())),
    };
    Ok(JoinEvent {
        form,
        version: number("version", fields.version, 0).map_err(&refused)?,
        hash: string("hash", fields.hash, HASH_BYTES_MAX).map_err(&refused)?,
        last_session: string("session", fields.session, SESSION_BYTES_MAX).map_err(&refused)?,
        seq: number("seq", fields.seq, 1).map_err(&refused)?,
        document_id,
    })
}

fn leave(json: &str) -> Result<ClientEvent, Refused> {
    let document_id =
        if json.starts_with('{') { document_id(&fields("leave-document", json)?)? } else { document_id_of(json)? };
    Ok(ClientEvent::Leave { document_id })
}

fn edit(json: &str, limits: &Limits) -> Result<EditEvent, Refused> {
    let fields = fields("edit", json)?;
    let mut event = EditEvent {
        document_id: document_id(&fields)?,
        version: 0,
        ops: Delta::new(),
        unreadable: None,
        seq: None,
        session: None,
    };
    if let Err((code, message)) = read_edit(&fields, limits, &mut event) {
        event.unreadable = Some(Box::new(Refusal { seq: event.seq, ..Refusal::new(code, message) }));
    }
    Ok(event)
}

/// Fills in what can be read, the session and the number first: they say which edits are relative to this one.
fn read_edit(fields: &Fields<'_>, limits: &Limits, event: &mut EditEvent) -> Result<(), (Code, String)> {
    let bad = |message| (Code::BadRequest, message);
    let (session, seq) = (string("session", fields.session, SESSION_BYTES_MAX), number("seq", fields.seq, 1));
    event.session = session.as_ref().ok().cloned().flatten();
    event.seq = seq.as_ref().ok().copied().flatten();
    session.map_err(bad)?;
    seq.map_err(bad)?;
    let version = number("version", fields.version, 0).map_err(bad)?;
    event.version = version.ok_or_else(|| bad("version is missing: the last one that was applied".to_owned()))?;
    event.ops = match fields.ops {
        None => Err("ops is missing: an array of Delta components".to_owned()),
        Some(raw) if raw.get().len() > limits.edit_bytes => {
            Err(format!("ops has {} bytes; an edit may have {}: send it in parts", raw.get().len(), limits.edit_bytes))
        }
        Some(raw) => delta::parse(raw.get()),
    }
    .map_err(|message| (Code::OpInvalid, message))?;
    Ok(())
}

fn cursor(json: &str) -> Result<ClientEvent, Refused> {
    let fields = fields("cursor-position", json)?;
    let document_id = document_id(&fields)?;
    let refused = Refused::of(&document_id);
    let version = number("version", fields.version, 0).map_err(&refused)?;
    let raw = fields.position.ok_or_else(|| refused("position is missing: {index, length} or null".to_owned()))?;
    let position = position(raw.get()).map_err(&refused)?;
    Ok(ClientEvent::Cursor { document_id, version, position })
}

/// A position as clients and pods send it; `null` is none.
pub(crate) fn position(json: &str) -> Result<Option<Position>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Range {
        index: u64,
        length: u64,
    }
    if json == "null" {
        return Ok(None);
    }
    if let Ok(Range { index, length }) = serde_json::from_str(json)
        && index <= NUMBER_MAX
        && length <= NUMBER_MAX
        && let (Ok(index), Ok(length)) = (usize::try_from(index), usize::try_from(length))
    {
        return Ok(Some(Position::Range { index, length }));
    }
    if json.len() > POSITION_BYTES_MAX {
        return Err(format!("position has {} bytes; at most {POSITION_BYTES_MAX} are allowed", json.len()));
    }
    Ok(Some(Position::Other(Arc::from(json))))
}

fn typing(json: &str) -> Result<ClientEvent, Refused> {
    let fields = fields("typing", json)?;
    let document_id = document_id(&fields)?;
    match fields.is_typing.map(RawValue::get) {
        Some("true") => Ok(ClientEvent::Typing { document_id, is_typing: true }),
        Some("false") => Ok(ClientEvent::Typing { document_id, is_typing: false }),
        _ => Err(Refused::of(&document_id)("isTyping must be true or false".to_owned())),
    }
}

fn token_refresh(json: &str) -> Result<ClientEvent, Refused> {
    let fields = fields("token-refresh", json)?;
    let token = string("token", fields.token, TOKEN_BYTES_MAX).map_err(Refused::bad)?;
    let token = token.ok_or_else(|| Refused::bad("token is missing: a JWT"))?;
    Ok(ClientEvent::TokenRefresh { token: token.as_ref().to_owned() })
}

fn document_id(fields: &Fields<'_>) -> Result<Arc<str>, Refused> {
    document_id_of(fields.document_id.map_or("null", RawValue::get))
}

fn document_id_of(json: &str) -> Result<Arc<str>, Refused> {
    let id: Option<String> = serde_json::from_str(json).ok();
    id.filter(|id| is_document_id(id)).map(Arc::from).ok_or_else(|| {
        Refused::bad(
            "documentId must be a string of 1 to 128 characters, each a letter A-Z, a-z, a digit or one of . _ ~ -",
        )
    })
}

/// A string or nothing; `null` is nothing.
fn string(name: &str, raw: Option<&RawValue>, bytes_max: usize) -> Result<Option<Arc<str>>, String> {
    let Some(json) = raw.map(RawValue::get).filter(|json| *json != "null") else { return Ok(None) };
    let text: Option<String> = serde_json::from_str(json).ok();
    match text.filter(|text| text.len() <= bytes_max) {
        Some(text) => Ok(Some(Arc::from(text))),
        None => Err(format!("{name} must be a string of at most {bytes_max} bytes")),
    }
}

/// A whole number or nothing; `null` is nothing.
fn number(name: &str, raw: Option<&RawValue>, least: u64) -> Result<Option<u64>, String> {
    let Some(json) = raw.map(RawValue::get).filter(|json| *json != "null") else { return Ok(None) };
    let number: Option<u64> = serde_json::from_str(json).ok();
    match number.filter(|number| (least..=NUMBER_MAX).contains(number)) {
        Some(number) => Ok(Some(number)),
        None => Err(format!("{name} must be a whole number from {least}")),
    }
}
