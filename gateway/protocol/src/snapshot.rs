//! Snapshots as they are stored. This format is final: a change is a new format number beside this one.
//!
//! In: a [`Snapshot`], or the text of one (the store cuts and joins chunks). Out: the other. A snapshot is the JSON
//! array
//!
//! `[format, semantics, version, hash, content, window]`
//!
//! where `content` is a Delta of inserts and `window` holds, oldest first and ending at `version`, one array
//! `[hash, [dedupe id, seq, 1 or 0], clientId, userId, session, ops]` for each canonical entry.

use std::sync::Arc;

use document::{Canonical, Point, Snapshot};
use serde::{Serialize, Serializer, ser::SerializeTuple};
use serde_json::value::RawValue;

use crate::{
    delta::{self, DeltaJson},
    entry::{FORMAT, IdentityJson, SEMANTICS, Unreadable, check_version, damaged, read, text_of},
};

/// The text of a snapshot.
pub fn encode_snapshot(snapshot: &Snapshot) -> String {
    crate::outgoing::json(&SnapshotJson(snapshot))
}

/// The snapshot of this text.
///
/// # Errors
/// When it is of a newer version, or damaged.
pub fn decode_snapshot(text: &str) -> Result<Snapshot, Unreadable> {
    let parts: Vec<&RawValue> = serde_json::from_str(text).map_err(damaged)?;
    let [format, semantics, ..] = parts.as_slice() else { return Err(Unreadable::Damaged("too short".to_owned())) };
    check_version(format, semantics)?;
    let [_, _, version, hash, content, window] = parts.as_slice() else {
        return Err(Unreadable::Damaged(format!("{} parts instead of 6", parts.len())));
    };
    let at = Point { version: read(version)?, hash: text_of(hash)? };
    let content = delta::decode(content.get()).map_err(Unreadable::Damaged)?;
    if !content.is_document() {
        return Err(Unreadable::Damaged("the content has more than inserts".to_owned()));
    }
    let entries: Vec<&RawValue> = read(window)?;
    let first = u64::try_from(entries.len())
        .ok()
        .and_then(|length| at.version.checked_sub(length))
        .ok_or_else(|| Unreadable::Damaged("a window longer than the history".to_owned()))?;
    let window =
        (first + 1..).zip(entries).map(|(version, raw)| canonical(version, raw)).collect::<Result<Vec<_>, _>>()?;
    if window.last().is_some_and(|last| last.at != at) {
        return Err(Unreadable::Damaged("the window ends elsewhere".to_owned()));
    }
    Ok(Snapshot { at, content, window })
}

fn canonical(version: u64, raw: &RawValue) -> Result<Canonical, Unreadable> {
    let parts: Vec<&RawValue> = read(raw)?;
    let [hash, identity, client_id, user_id, session, ops] = parts.as_slice() else {
        return Err(Unreadable::Damaged(format!("a window entry of {} parts instead of 6", parts.len())));
    };
    Ok(Canonical {
        at: Point { version, hash: text_of(hash)? },
        identity: read::<IdentityJson<'_>>(identity)?.into(),
        client_id: text_of(client_id)?,
        user_id: text_of(user_id)?,
        session: text_of(session)?,
        ops: Arc::new(delta::decode(ops.get()).map_err(Unreadable::Damaged)?),
        // Snapshots do not keep it: whoever opens the document has not computed it.
        digest: None,
    })
}

struct SnapshotJson<'a>(&'a Snapshot);

impl Serialize for SnapshotJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Snapshot { at, content, window } = self.0;
        let window: Vec<CanonicalJson<'_>> = window.iter().map(CanonicalJson).collect();
        let mut parts = serializer.serialize_tuple(6)?;
        parts.serialize_element(&FORMAT)?;
        parts.serialize_element(&SEMANTICS)?;
        parts.serialize_element(&at.version)?;
        parts.serialize_element(&*at.hash)?;
        parts.serialize_element(&DeltaJson(content))?;
        parts.serialize_element(&window)?;
        parts.end()
    }
}

struct CanonicalJson<'a>(&'a Canonical);

impl Serialize for CanonicalJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Canonical { at, identity, client_id, user_id, session, ops, digest: _ } = self.0;
        let mut parts = serializer.serialize_tuple(6)?;
        parts.serialize_element(&*at.hash)?;
        parts.serialize_element(&IdentityJson::from(identity))?;
        parts.serialize_element(&**client_id)?;
        parts.serialize_element(&**user_id)?;
        parts.serialize_element(&**session)?;
        parts.serialize_element(&DeltaJson(ops))?;
        parts.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use document::Identity;
    use ot::Delta;

    fn snapshot() -> Snapshot {
        let entry = |version, hash: &str, seq, ops| Canonical {
            at: Point { version, hash: hash.into() },
            identity: Identity { id: "c1".into(), seq, by_gateway: false },
            client_id: "c1".into(),
            user_id: "u1".into(),
            session: "s-1".into(),
            ops: Arc::new(ops),
            digest: None,
        };
        Snapshot {
            at: Point { version: 9, hash: "bbb".into() },
            content: Delta::new().insert("héllo", None),
            window: vec![
                entry(8, "aaa", 1, Delta::new().insert("hé", None)),
                entry(9, "bbb", 2, Delta::new().retain(2, None).insert("llo", None)),
            ],
        }
    }

    #[test]
    fn the_text_of_a_snapshot_is_this() {
        let golden = concat!(
            r#"[1,1,9,"bbb",[{"insert":"héllo"}],[["aaa",["c1",1,0],"c1","u1","s-1",[{"insert":"hé"}]],"#,
            r#"["bbb",["c1",2,0],"c1","u1","s-1",[{"retain":2},{"insert":"llo"}]]]]"#
        );
        assert_eq!(encode_snapshot(&snapshot()), golden);
        assert_eq!(decode_snapshot(golden), Ok(snapshot()));
        let new = Snapshot { at: Point { version: 0, hash: "x".into() }, content: Delta::new(), window: Vec::new() };
        assert_eq!(decode_snapshot(&encode_snapshot(&new)), Ok(new));
    }

    #[test]
    fn newer_versions_are_told_apart_from_damage() {
        assert_eq!(decode_snapshot("[1,2,0]"), Err(Unreadable::Unknown { format: 1, semantics: 2 }));
        for text in [
            "",
            "[1,1]",
            r#"[1,1,0,"h",[{"retain":1,"attributes":{"b":1}}],[]]"#,
            r#"[1,1,0,"h",[],[["h",["c",1,0],"c","u","s",[]]]]"#,
            r#"[1,1,1,"h",[],[["g",["c",1,0],"c","u","s",[]]]]"#,
        ] {
            assert!(matches!(decode_snapshot(text), Err(Unreadable::Damaged(_))), "{text}");
        }
    }
}
