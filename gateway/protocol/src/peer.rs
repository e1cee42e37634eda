//! What pods tell each other beside log entries, and the rows of the presence hash.
//!
//! In: values of the document's state machine, or text from pub/sub or the store. Out: the other. Messages are JSON
//! arrays that begin with the name of their kind: `["members",…]`, `["cursor",…]`, `["typing",…]`, …; a kind that is not
//! known is an error that the receiver ignores, so that newer pods may say more.

use std::{borrow::Cow, sync::Arc};

use document::{Member, NoDigest, Peer, PeerCursor, Point, User};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    entry::{Unreadable, damaged},
    incoming,
    outgoing::{PositionJson, json},
};

/// A message about a document's people.
pub fn encode_peer(peer: &Peer) -> String {
    match peer {
        Peer::Members(members) => {
            // All of them are the sender's.
            let pod = members.first().map_or("", |member| &*member.pod);
            let rows: Vec<_> = members.iter().map(|member| (&*member.user.id, row(member))).collect();
            json(&("members", pod, rows))
        }
        Peer::Cursor { user_id, client_id, version, position } => {
            json(&("cursor", &**user_id, &**client_id, version, position.as_ref().map(PositionJson)))
        }
        Peer::Typing { user_id, is_typing } => json(&("typing", &**user_id, is_typing)),
        Peer::Ask => json(&("ask",)),
        Peer::Digest { at, digest } => json(&("digest", at.version, &*at.hash, digest.to_string())),
        Peer::Saved { at } => json(&("saved", at.version, &*at.hash)),
        Peer::Cursors(cursors) => {
            let told = |cursor: &PeerCursor| {
                (
                    cursor.user_id.to_string(),
                    cursor.client_id.to_string(),
                    cursor.version,
                    RawValue::from_string(json(&PositionJson(&cursor.position))).ok(),
                )
            };
            json(&("cursors", cursors.iter().map(told).collect::<Vec<_>>()))
        }
    }
}

/// A user's id and row.
type NamedRow<'a> = (Cow<'a, str>, Row<'a>);
/// Ids of a user and a client, the version, the position.
type NamedCursor<'a> = (Cow<'a, str>, Cow<'a, str>, u64, &'a RawValue);

/// The message of this text.
///
/// # Errors
/// When it is of a kind that this version does not know, or damaged.
pub fn decode_peer(text: &str) -> Result<Peer, Unreadable> {
    let parts: Vec<&RawValue> = serde_json::from_str(text).map_err(damaged)?;
    let kind: Cow<'_, str> =
        parts.first().map_or(Ok(Cow::Borrowed("")), |raw| serde_json::from_str(raw.get())).map_err(damaged)?;
    match (kind.as_ref(), text) {
        ("members", text) => {
            let (_, pod, rows): (Skip, Cow<'_, str>, Vec<NamedRow<'_>>) =
                serde_json::from_str(text).map_err(damaged)?;
            Ok(Peer::Members(rows.iter().map(|(user_id, row)| member(&pod, user_id, row)).collect()))
        }
        ("ask", _) => Ok(Peer::Ask),
        ("digest", text) => {
            let (_, version, hash, digest): (Skip, u64, Cow<'_, str>, Cow<'_, str>) =
                serde_json::from_str(text).map_err(damaged)?;
            let digest = digest.parse().map_err(|error: NoDigest| Unreadable::Damaged(error.to_string()))?;
            Ok(Peer::Digest { at: Point { version, hash: arc(&hash) }, digest })
        }
        ("saved", text) => {
            let (_, version, hash): (Skip, u64, Cow<'_, str>) = serde_json::from_str(text).map_err(damaged)?;
            Ok(Peer::Saved { at: Point { version, hash: arc(&hash) } })
        }
        ("cursors", text) => {
            let (_, told): (Skip, Vec<NamedCursor<'_>>) = serde_json::from_str(text).map_err(damaged)?;
            let mut cursors = Vec::new();
            for (user_id, client_id, version, position) in told {
                let position = incoming::position(position.get()).map_err(Unreadable::Damaged)?;
                let Some(position) = position else { continue };
                cursors.push(PeerCursor { user_id: arc(&user_id), client_id: arc(&client_id), version, position });
            }
            Ok(Peer::Cursors(cursors))
        }
        ("cursor", text) => {
            let (_, user_id, client_id, version, position): (Skip, Cow<'_, str>, Cow<'_, str>, u64, &RawValue) =
                serde_json::from_str(text).map_err(damaged)?;
            let position = incoming::position(position.get()).map_err(Unreadable::Damaged)?;
            Ok(Peer::Cursor { user_id: arc(&user_id), client_id: arc(&client_id), version, position })
        }
        ("typing", text) => {
            let (_, user_id, is_typing): (Skip, Cow<'_, str>, bool) = serde_json::from_str(text).map_err(damaged)?;
            Ok(Peer::Typing { user_id: arc(&user_id), is_typing })
        }
        (kind, _) => Err(Unreadable::Damaged(format!("a message of an unknown kind {kind:?}"))),
    }
}

/// A presence row: its field `<pod>/<userId>` and its value.
pub fn encode_member(member: &Member) -> (String, String) {
    (format!("{}/{}", member.pod, member.user.id), json(&row(member)))
}

/// The member of a presence row.
///
/// # Errors
/// When the row is not one.
pub fn decode_member(field: &str, value: &str) -> Result<Member, Unreadable> {
    // A pod's name has no slash; a user's id may have one.
    let (pod, user_id) =
        field.split_once('/').ok_or_else(|| Unreadable::Damaged("a presence field without a slash".to_owned()))?;
    let row: Row<'_> = serde_json::from_str(value).map_err(damaged)?;
    Ok(member(pod, user_id, &row))
}

/// What a pod says after CONNECT: this pair is here now, close it elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Whose editor it is.
    pub user_id: Arc<str>,
    /// Which editor it is.
    pub client_id: Arc<str>,
    /// The pod's incarnation.
    pub pod: Arc<str>,
    /// The connection's number on that pod.
    pub connection: u64,
    /// Unix milliseconds of its CONNECT on that pod's clock: of two claims the later one counts.
    pub at_ms: u64,
}

/// The message on `collab:client`.
pub fn encode_claim(claim: &Claim) -> String {
    json(&ClaimJson {
        user_id: Cow::Borrowed(&claim.user_id),
        client_id: Cow::Borrowed(&claim.client_id),
        pod: Cow::Borrowed(&claim.pod),
        connection: claim.connection,
        at: claim.at_ms,
    })
}

/// The claim of this text.
///
/// # Errors
/// When it is not one.
pub fn decode_claim(text: &str) -> Result<Claim, Unreadable> {
    let claim: ClaimJson<'_> = serde_json::from_str(text).map_err(damaged)?;
    Ok(Claim {
        user_id: arc(&claim.user_id),
        client_id: arc(&claim.client_id),
        pod: arc(&claim.pod),
        connection: claim.connection,
        at_ms: claim.at,
    })
}

/// What an application says it changed; neither named: anything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// The document whose accesses changed.
    pub document_id: Option<Arc<str>>,
    /// The user who changed, or whose access did.
    pub user_id: Option<Arc<str>>,
}

/// The change that this text tells of, as applications publish it on `collab:changed`; fields it does not know are
/// left alone.
///
/// # Errors
/// When it is no JSON object of that form.
pub fn decode_change(text: &str) -> Result<Change, Unreadable> {
    let change: ChangeJson<'_> = serde_json::from_str(text).map_err(damaged)?;
    Ok(Change {
        document_id: change.document_id.as_deref().map(Arc::from),
        user_id: change.user_id.map(|id| match id {
            IdJson::Text(id) => Arc::from(&*id),
            IdJson::Number(id) => id.to_string().into(),
        }),
    })
}

/// A change as `collab:changed` carries it.
pub fn encode_change(change: &Change) -> String {
    let Change { document_id, user_id } = change;
    let user_id = user_id.as_deref().map(|id| IdJson::Text(id.into()));
    json(&ChangeJson { document_id: document_id.as_deref().map(Cow::from), user_id })
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChangeJson<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    document_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    user_id: Option<IdJson<'a>>,
}

/// Applications whose users have numbers publish them as they are.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum IdJson<'a> {
    #[serde(borrow)]
    Text(Cow<'a, str>),
    Number(serde_json::Number),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClaimJson<'a> {
    #[serde(borrow)]
    user_id: Cow<'a, str>,
    #[serde(borrow)]
    client_id: Cow<'a, str>,
    #[serde(borrow)]
    pod: Cow<'a, str>,
    connection: u64,
    at: u64,
}

/// The value of a presence row.
#[derive(Serialize, Deserialize)]
struct Row<'a> {
    connections: u32,
    since: u64,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    avatar: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "is_zero")]
    lapses: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The first part of a message, read already.
type Skip = serde::de::IgnoredAny;

fn row(member: &Member) -> Row<'_> {
    Row {
        connections: member.connections,
        since: member.since_ms,
        name: Cow::Borrowed(&member.user.name),
        avatar: member.user.avatar.as_deref().map(Cow::Borrowed),
        lapses: member.lapses,
    }
}

fn member(pod: &str, user_id: &str, row: &Row<'_>) -> Member {
    let user = User { id: arc(user_id), name: arc(&row.name), avatar: row.avatar.as_deref().map(Arc::from) };
    Member { pod: arc(pod), user, connections: row.connections, since_ms: row.since, lapses: row.lapses }
}

fn arc(text: &str) -> Arc<str> {
    Arc::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use document::{Digest, Position};

    fn somebody() -> Member {
        let user = User { id: "a/b \"c\"".into(), name: "Zoë".into(), avatar: Some("https://x/y.png".into()) };
        Member { pod: "k3f9".into(), user, connections: 2, since_ms: 1_700_000_000_000, lapses: 0 }
    }

    #[test]
    fn presence_rows_are_these() {
        let (field, value) = encode_member(&somebody());
        assert_eq!(field, "k3f9/a/b \"c\"");
        assert_eq!(value, r#"{"connections":2,"since":1700000000000,"name":"Zoë","avatar":"https://x/y.png"}"#);
        assert_eq!(decode_member(&field, &value), Ok(somebody()));
        assert!(decode_member("noslash", &value).is_err());
        assert!(decode_member(&field, "{}").is_err());
    }

    #[test]
    fn peer_messages_are_these() {
        let cursor = |position| Peer::Cursor { user_id: "u".into(), client_id: "c".into(), version: 4, position };
        for (peer, golden) in [
            (
                Peer::Members(vec![somebody()]),
                r#"["members","k3f9",[["a/b \"c\"",{"connections":2,"since":1700000000000,"name":"Zoë","avatar":"https://x/y.png"}]]]"#,
            ),
            (cursor(Some(Position::Range { index: 3, length: 0 })), r#"["cursor","u","c",4,{"index":3,"length":0}]"#),
            (cursor(Some(Position::Other(r#"{"cell":[1,2]}"#.into()))), r#"["cursor","u","c",4,{"cell":[1,2]}]"#),
            (cursor(None), r#"["cursor","u","c",4,null]"#),
            (Peer::Ask, r#"["ask"]"#),
            (
                Peer::Digest { at: Point { version: 256, hash: "0123456789a".into() }, digest: Digest::of("abc") },
                r#"["digest",256,"0123456789a","1a47e90b016d9863"]"#,
            ),
            (Peer::Saved { at: Point { version: 7, hash: "0123456789a".into() } }, r#"["saved",7,"0123456789a"]"#),
            (
                Peer::Cursors(vec![PeerCursor {
                    user_id: "u".into(),
                    client_id: "c".into(),
                    version: 4,
                    position: Position::Range { index: 3, length: 0 },
                }]),
                r#"["cursors",[["u","c",4,{"index":3,"length":0}]]]"#,
            ),
            (Peer::Typing { user_id: "u".into(), is_typing: true }, r#"["typing","u",true]"#),
        ] {
            assert_eq!(encode_peer(&peer), golden);
            assert_eq!(decode_peer(golden), Ok(peer));
        }
        for text in ["", "[]", r#"["newer",1]"#, r#"["typing","u"]"#, "{}", "[1]"] {
            assert!(decode_peer(text).is_err(), "{text}");
        }
    }

    #[test]
    fn claims_are_these() {
        let claim = Claim { user_id: "u".into(), client_id: "c".into(), pod: "p".into(), connection: 8, at_ms: 17 };
        let golden = r#"{"userId":"u","clientId":"c","pod":"p","connection":8,"at":17}"#;
        assert_eq!(encode_claim(&claim), golden);
        assert_eq!(decode_claim(golden), Ok(claim));
    }

    #[test]
    fn a_change_names_what_it_names_and_numbers_are_ids_too() {
        let change = |document: Option<&str>, user: Option<&str>| Change {
            document_id: document.map(Into::into),
            user_id: user.map(Into::into),
        };
        for (text, expected) in [
            ("{}", change(None, None)),
            (r#"{"documentId":"d"}"#, change(Some("d"), None)),
            (r#"{"documentId":"d","userId":"u\n"}"#, change(Some("d"), Some("u\n"))),
        ] {
            assert_eq!(decode_change(text).as_ref(), Ok(&expected), "{text}");
            assert_eq!(encode_change(&expected), text);
        }
        assert_eq!(decode_change(r#"{"userId":42,"documentId":null,"more":1}"#), Ok(change(None, Some("42"))));
        assert!(decode_change(r#"{"userId":["u"]}"#).is_err());
    }
}
