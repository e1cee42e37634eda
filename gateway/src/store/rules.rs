//! Names, hashes and values that both stores share.
//!
//! In: ids and bytes. Out: keys, hashes, roles. The scripts compute the same hashes on the server.

use document::{Point, Role};
use sha1::{Digest, Sha1};

use super::StoredEntry;

/// Hex digits of a point's hash.
pub(crate) const HASH_DIGITS: usize = 11;

/// The hash after an entry: the first 11 hex digits of SHA-1 over the hash before it and its bytes.
pub(crate) fn hash_after(before: &str, entry: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(before.as_bytes());
    hasher.update(entry);
    let mut hex = String::with_capacity(HASH_DIGITS + 1);
    for byte in hasher.finalize().iter().take(HASH_DIGITS.div_ceil(2)) {
        hex.push_str(&format!("{byte:02x}"));
    }
    hex.truncate(HASH_DIGITS);
    hex
}

/// Whether what was published belongs to the history of a head. Entries right behind the head must carry the hashes that
/// follow from it: after a failover another history counts on from the same version. Entries beyond a gap are not judged,
/// for the log is asked for what lies between, and tells.
pub(crate) fn continues(head: &Point, published: &[StoredEntry]) -> bool {
    if published.first().is_none_or(|first| first.at.version != head.version + 1) {
        return true;
    }
    let mut before = &head.hash;
    published.iter().all(|entry| {
        let follows = hash_after(before, &entry.bytes) == *entry.at.hash;
        before = &entry.at.hash;
        follows
    })
}

/// The field of an identity in the table of clients. A `clientId` has no `~`, so that no client can take the place of
/// one that a gateway numbers.
pub(crate) fn row_name(identity: &document::Identity) -> String {
    if identity.by_gateway { format!("~{}", identity.id) } else { identity.id.to_string() }
}

/// What an access key says; anything unknown is no access.
pub(crate) fn role(value: &[u8]) -> Option<Role> {
    match value.trim_ascii() {
        b"1" | b"write" => Some(Role::Write),
        b"comment" => Some(Role::Comment),
        b"read" => Some(Role::Read),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_the_beginning_of_the_sha1_of_the_one_before_and_the_entry() {
        // printf '0123456789aentry' | sha1sum
        assert_eq!(hash_after("0123456789a", b"entry"), "d99857445c0");
        assert_ne!(hash_after("0123456789a", b"entry"), hash_after("0123456789b", b"entry"));
    }

    #[test]
    fn an_entry_of_another_history_does_not_continue_this_one() {
        let head = Point { version: 4, hash: "0123456789a".into() };
        let entry = |version, hash: &str, bytes: &'static [u8]| StoredEntry {
            at: Point { version, hash: hash.into() },
            bytes: bytes.into(),
        };
        let first = hash_after(&head.hash, b"one");
        let own = [entry(5, &first, b"one"), entry(6, &hash_after(&first, b"two"), b"two")];
        assert!(continues(&head, &own) && continues(&head, &[]));
        let strange = hash_after("fffffffffff", b"one");
        assert!(!continues(&head, &[entry(5, &strange, b"one")]));
        assert!(!continues(&head, &[own[0].clone(), entry(6, &strange, b"two")]));
        assert!(continues(&head, &[entry(7, &strange, b"one")]), "a gap is filled from the log first");
    }

    #[test]
    fn only_the_words_of_the_contract_give_access() {
        assert_eq!(role(b"1"), Some(Role::Write));
        assert_eq!(role(b"write"), Some(Role::Write));
        assert_eq!(role(b"comment"), Some(Role::Comment));
        assert_eq!(role(b"read\n"), Some(Role::Read));
        for nothing in [&b""[..], b"0", b"admin", b"WRITE"] {
            assert_eq!(role(nothing), None);
        }
    }
}
