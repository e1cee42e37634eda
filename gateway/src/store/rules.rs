//! Names, hashes and values that both stores share.
//!
//! In: ids and bytes. Out: keys, hashes, roles. The scripts compute the same hashes on the server.

use document::{Point, Role};
use sha1::{Digest, Sha1};

use super::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, NewEntry, StoreError, StoredEntry};

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

/// A batch in as many parts as its bytes need: each within [`BATCH_BYTES_MAX`], or a single entry.
pub(crate) fn parts(batch: &[NewEntry]) -> impl Iterator<Item = &[NewEntry]> {
    let mut rest = batch;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fit = rest.iter().take_while(|entry| {
            bytes += entry.bytes.len();
            bytes <= BATCH_BYTES_MAX
        });
        let (part, after) = rest.split_at(fit.count().max(1).min(rest.len()));
        rest = after;
        (!part.is_empty()).then_some(part)
    })
}

/// The bounds of one call, as the script has them.
///
/// # Errors
/// When the batch is beyond them.
pub(crate) fn within_bounds(batch: &[NewEntry]) -> Result<(), StoreError> {
    if batch.len() > BATCH_ENTRIES_MAX {
        return Err(StoreError::OutOfBounds(format!("a batch has at most {BATCH_ENTRIES_MAX} entries")));
    }
    if batch.len() > 1 && batch.iter().map(|entry| entry.bytes.len()).sum::<usize>() > BATCH_BYTES_MAX {
        return Err(StoreError::OutOfBounds(format!("a batch has at most {BATCH_BYTES_MAX} bytes")));
    }
    Ok(())
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

    fn batch(sizes: &[usize]) -> Vec<NewEntry> {
        let entry = |size: &usize| NewEntry {
            identity: document::Identity { id: "c".into(), seq: 1, by_gateway: false },
            owner: "u".into(),
            base: 0,
            bytes: vec![b'x'; *size].into(),
        };
        sizes.iter().map(entry).collect()
    }

    #[test]
    fn a_batch_is_cut_where_its_bytes_are_too_many_and_no_entry_is_too_large() {
        let counts = |sizes: &[usize]| -> Vec<usize> { parts(&batch(sizes)).map(<[_]>::len).collect() };
        assert!(counts(&[]).is_empty());
        assert_eq!(counts(&[1, 2, BATCH_BYTES_MAX - 3]), [3]);
        assert_eq!(counts(&[1, 2, BATCH_BYTES_MAX - 2]), [2, 1]);
        assert_eq!(counts(&[1, 2 * BATCH_BYTES_MAX, 1, 1]), [1, 1, 2]);
        let sizes = [90_000, 1, 200_000, 300_000, 5, 262_144, 0];
        assert!(parts(&batch(&sizes)).all(|part| within_bounds(part).is_ok()));
        assert!(within_bounds(&batch(&sizes)).is_err() && within_bounds(&batch(&[1; 257])).is_err());
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
