//! Log entries as they are stored. This format is final: a change is a new format number beside this one.
//!
//! In: an [`Entry`], or the bytes of one. Out: the other. To the commit script they are opaque. An entry is the JSON
//! array
//!
//! `[format, semantics, [dedupe id, seq, 1 if the gateway counted it else 0], clientId, userId, session, base, ops]`
//!
//! `format` says how the rest is read, `semantics` how `ops` is folded: a pod that does not know one of them closes the
//! document rather than guess.

use std::{borrow::Cow, sync::Arc};

use document::{Entry, Identity};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeTuple};
use serde_json::value::RawValue;

use crate::delta::{self, DeltaJson};

/// How entries and snapshots are written.
pub(crate) const FORMAT: u64 = 1;
/// What `ops` means: quill-delta 5, ties: the later committed stands first.
pub(crate) const SEMANTICS: u64 = 1;

/// Why stored bytes cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Written by a newer version.
    #[error("format {format} with semantics {semantics} is not known to this version")]
    #[allow(missing_docs, reason = "the numbers in front of what is stored")]
    Unknown { format: u64, semantics: u64 },
    /// Not what any version writes.
    #[error("damaged: {0}")]
    Damaged(String),
}

/// The bytes of an entry.
pub fn encode_entry(entry: &Entry) -> String {
    crate::outgoing::json(&EntryJson(entry))
}

/// The entry of these bytes.
///
/// # Errors
/// When they are of a newer version, or damaged.
pub fn decode_entry(text: &str) -> Result<Entry, Unreadable> {
    let parts: Vec<&RawValue> = serde_json::from_str(text).map_err(damaged)?;
    let [format, semantics, ..] = parts.as_slice() else { return Err(Unreadable::Damaged("too short".to_owned())) };
    check_version(format, semantics)?;
    let [_, _, identity, client_id, user_id, session, base, ops] = parts.as_slice() else {
        return Err(Unreadable::Damaged(format!("{} parts instead of 8", parts.len())));
    };
    Ok(Entry {
        identity: read::<IdentityJson<'_>>(identity)?.into(),
        client_id: text_of(client_id)?,
        user_id: text_of(user_id)?,
        session: text_of(session)?,
        base: read(base)?,
        ops: delta::decode(ops.get()).map_err(Unreadable::Damaged)?,
    })
}

pub(crate) fn check_version(format: &RawValue, semantics: &RawValue) -> Result<(), Unreadable> {
    match (read(format)?, read(semantics)?) {
        (FORMAT, SEMANTICS) => Ok(()),
        (format, semantics) => Err(Unreadable::Unknown { format, semantics }),
    }
}

pub(crate) fn read<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Result<T, Unreadable> {
    serde_json::from_str(raw.get()).map_err(damaged)
}

pub(crate) fn text_of(raw: &RawValue) -> Result<Arc<str>, Unreadable> {
    read::<Cow<'_, str>>(raw).map(|text| Arc::from(text.as_ref()))
}

pub(crate) fn damaged(error: serde_json::Error) -> Unreadable {
    Unreadable::Damaged(error.to_string())
}

/// `[id, seq, 1 or 0]`.
#[derive(Serialize, Deserialize)]
pub(crate) struct IdentityJson<'a>(#[serde(borrow)] Cow<'a, str>, u64, u8);

impl<'a> From<&'a Identity> for IdentityJson<'a> {
    fn from(identity: &'a Identity) -> Self {
        IdentityJson(Cow::Borrowed(&identity.id), identity.seq, u8::from(identity.by_gateway))
    }
}

impl From<IdentityJson<'_>> for Identity {
    fn from(IdentityJson(id, seq, by_gateway): IdentityJson<'_>) -> Self {
        Identity { id: Arc::from(id.as_ref()), seq, by_gateway: by_gateway != 0 }
    }
}

struct EntryJson<'a>(&'a Entry);

impl Serialize for EntryJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Entry { identity, client_id, user_id, session, base, ops } = self.0;
        let mut parts = serializer.serialize_tuple(8)?;
        parts.serialize_element(&FORMAT)?;
        parts.serialize_element(&SEMANTICS)?;
        parts.serialize_element(&IdentityJson::from(identity))?;
        parts.serialize_element(&**client_id)?;
        parts.serialize_element(&**user_id)?;
        parts.serialize_element(&**session)?;
        parts.serialize_element(base)?;
        parts.serialize_element(&DeltaJson(ops))?;
        parts.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ot::Delta;

    fn entry() -> Entry {
        Entry {
            identity: Identity { id: "c1".into(), seq: 7, by_gateway: false },
            client_id: "c1".into(),
            user_id: "zoë".into(),
            session: "a1-2".into(),
            base: 41,
            ops: Delta::new().retain(3, None).insert("x\"😀", None).delete(1),
        }
    }

    #[test]
    fn the_bytes_of_an_entry_are_these() {
        let golden = r#"[1,1,["c1",7,0],"c1","zoë","a1-2",41,[{"retain":3},{"insert":"x\"😀"},{"delete":1}]]"#;
        assert_eq!(encode_entry(&entry()), golden);
        assert_eq!(decode_entry(golden), Ok(entry()));
        let mut numbered = entry();
        numbered.identity = Identity { id: "p-1\n".into(), seq: 1, by_gateway: true };
        assert_eq!(decode_entry(&encode_entry(&numbered)), Ok(numbered));
    }

    #[test]
    fn newer_versions_are_told_apart_from_damage() {
        assert_eq!(decode_entry("[2,1,{}]"), Err(Unreadable::Unknown { format: 2, semantics: 1 }));
        assert_eq!(decode_entry("[1,9]"), Err(Unreadable::Unknown { format: 1, semantics: 9 }));
        for text in [
            "",
            "[]",
            "{}",
            "[1,1]",
            r#"["1",1]"#,
            r#"[1,1,["c",7,0],"c","u","s",-1,[]]"#,
            r#"[1,1,["c",7,0],"c","u","s",1,[{"retain":0}]]"#,
            r#"[1,1,["c",7,0],"c","u","s",1,[],0]"#,
        ] {
            assert!(matches!(decode_entry(text), Err(Unreadable::Damaged(_))), "{text}");
        }
    }
}
