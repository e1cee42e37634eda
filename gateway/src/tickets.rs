//! Resume tickets: who was connected a moment ago comes back before those who come for the first time.
//!
//! In: a user who has joined; later the ticket, as the query parameter `resume` of an upgrade, on any pod. Out: a short
//! text that is signed and expires; of a ticket that is good, whose it is. A ticket gives priority and never access: the
//! token is verified as ever. What is wrong with a ticket is never an error, it only counts as none.
//!
//! A ticket is base64url of: format (1 byte), Unix seconds of its end (8), the user (8), HMAC-SHA-256 of these (16). Query
//! strings stand in access logs, so the user too is a keyed hash: nobody can find out from a log whose ticket it is.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::{clock::unix_s, config::LOOK_INTERVAL};

/// How long a ticket is good: a rollout of the cluster or the loss of a pod is over by then.
pub const LIFETIME: Duration = Duration::from_secs(300);

const FORMAT: u8 = 1;
const USER_BYTES: usize = 8;
const SIGNED_BYTES: usize = 1 + 8 + USER_BYTES;
const MAC_BYTES: usize = 16;
const TICKET_BYTES: usize = SIGNED_BYTES + MAC_BYTES;
/// Of its text; anything longer or shorter is not looked at.
const TEXT_BYTES: usize = TICKET_BYTES.div_ceil(3) * 4;
/// A shorter key could be guessed from one ticket.
const KEY_BYTES_MIN: usize = 16;
/// Of the lines of the key file, the last ones are good: during a rotation the new key and the one before.
const KEYS_MAX: usize = 2;

type Key = Hmac<Sha256>;

/// Makes and checks tickets; clones share the keys.
#[derive(Clone)]
pub struct Tickets {
    inner: Arc<Mutex<Keys>>,
}

/// Whose a good ticket is: the same user has the same value as long as the key stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bearer([u8; USER_BYTES]);

struct Keys {
    file: Option<PathBuf>,
    changed: Option<SystemTime>,
    looked_at: Instant,
    /// The last one signs; never empty.
    keys: Vec<Key>,
}

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadKeys {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// No line, or one that is too short.
    #[error("needs a key of at least {KEY_BYTES_MIN} bytes a line, the newest last")]
    TooShort,
}

impl Tickets {
    /// Tickets by the keys of a file, which is read again when it changes; without one, by a random key that nobody else
    /// has.
    ///
    /// # Errors
    /// When the file has no usable key, or no randomness can be had.
    pub fn new(file: Option<&Path>) -> Result<Tickets, BadKeys> {
        let keys = match file {
            Some(file) => read(file)?,
            None => {
                let mut key = [0; 32];
                getrandom::fill(&mut key).map_err(|error| std::io::Error::other(error.to_string()))?;
                vec![hmac(&key).ok_or(BadKeys::TooShort)?]
            }
        };
        let changed = file.and_then(time);
        let keys = Keys { file: file.map(Path::to_owned), changed, looked_at: Instant::now(), keys };
        Ok(Tickets { inner: Arc::new(Mutex::new(keys)) })
    }

    /// A ticket for a user who has joined a document just now.
    pub fn issue(&self, user_id: &str) -> String {
        self.issue_until(user_id, unix_s() + LIFETIME.as_secs())
    }

    /// Whose ticket it is, if it is good.
    pub fn verify(&self, ticket: &str) -> Option<Bearer> {
        self.verify_at(ticket, unix_s())
    }

    fn issue_until(&self, user_id: &str, expires_s: u64) -> String {
        self.with_keys(|keys| {
            let Some(key) = keys.last() else { return String::new() };
            let mut ticket = Vec::with_capacity(TICKET_BYTES);
            ticket.push(FORMAT);
            ticket.extend_from_slice(&expires_s.to_be_bytes());
            // The prefix keeps a user's id from ever being what another ticket signs.
            let user = key.clone().chain_update(b"user:").chain_update(user_id).finalize().into_bytes();
            ticket.extend_from_slice(&user[..USER_BYTES]);
            let mac = key.clone().chain_update(&ticket).finalize().into_bytes();
            ticket.extend_from_slice(&mac[..MAC_BYTES]);
            URL_SAFE_NO_PAD.encode(ticket)
        })
    }

    fn verify_at(&self, ticket: &str, now_s: u64) -> Option<Bearer> {
        if ticket.len() != TEXT_BYTES {
            return None;
        }
        let mut bytes = [0; TICKET_BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(ticket, &mut bytes).ok()?;
        let (signed, mac) = bytes[..length].split_at_checked(SIGNED_BYTES)?;
        // The library compares in constant time.
        let is_ours = self.with_keys(|keys| {
            keys.iter().any(|key| {
                mac.len() == MAC_BYTES && key.clone().chain_update(signed).verify_truncated_left(mac).is_ok()
            })
        });
        let (format, rest) = signed.split_first()?;
        let (expires, user) = rest.split_first_chunk::<8>()?;
        let is_good = is_ours && *format == FORMAT && u64::from_be_bytes(*expires) > now_s;
        is_good.then(|| user.first_chunk().map(|user| Bearer(*user)))?
    }

    /// Lends the present keys. A file that became unusable keeps its last value.
    fn with_keys<T>(&self, use_them: impl FnOnce(&[Key]) -> T) -> T {
        let mut keys = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        keys.look_again();
        use_them(&keys.keys)
    }
}

impl Keys {
    fn look_again(&mut self) {
        let Some(file) = self.file.as_deref().filter(|_| self.looked_at.elapsed() >= LOOK_INTERVAL) else { return };
        self.looked_at = Instant::now();
        let changed = time(file);
        if changed == self.changed {
            return;
        }
        match read(file) {
            Ok(keys) => {
                tracing::info!("read the keys of resume tickets again");
                self.keys = keys;
                self.changed = changed;
            }
            Err(error) => tracing::warn!(%error, "--resume-key-file is of no use: the old keys stay"),
        }
    }
}

fn read(file: &Path) -> Result<Vec<Key>, BadKeys> {
    let bytes = std::fs::read(file)?;
    let lines: Vec<&[u8]> =
        bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()).collect();
    let newest = &lines[lines.len().saturating_sub(KEYS_MAX)..];
    let keys: Option<Vec<Key>> = newest.iter().map(|line| hmac(line)).collect();
    keys.filter(|keys| !keys.is_empty()).ok_or(BadKeys::TooShort)
}

fn hmac(key: &[u8]) -> Option<Key> {
    (key.len() >= KEY_BYTES_MIN).then(|| Key::new_from_slice(key).ok())?
}

fn time(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "the oldest key of three";
    const ONE: &str = "a key that is long enough";
    const TWO: &str = "another key, long enough";

    fn over(lines: &[&str]) -> (Tickets, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), lines.join("\n") + "\n").expect("written");
        (Tickets::new(Some(file.path())).expect("usable"), file)
    }

    /// As if the look interval were over and the file's time another one.
    fn look_again(tickets: &Tickets) {
        let mut keys = tickets.inner.lock().expect("whole");
        keys.changed = None;
        keys.looked_at = Instant::now().checked_sub(LOOK_INTERVAL).expect("the machine runs for longer");
    }

    #[test]
    fn a_ticket_is_good_on_every_pod_of_the_key_until_it_expires() {
        let ((here, _a), (there, _b)) = (over(&[ONE]), over(&[ONE]));
        let ticket = here.issue_until("ann", 1000);
        assert_eq!(ticket.len(), TEXT_BYTES);
        let bearer = there.verify_at(&ticket, 999).expect("good");
        assert_eq!(there.verify_at(&ticket, 1000), None);
        assert_eq!(there.verify_at(&here.issue_until("ann", 2000), 1), Some(bearer), "the same user");
        assert_ne!(there.verify_at(&here.issue_until("bob", 2000), 1), Some(bearer), "another user");
        assert!(here.verify(&here.issue("ann")).is_some());
        assert!(!ticket.contains("ann"));
    }

    #[test]
    fn what_is_forged_bent_or_of_another_length_counts_as_none() {
        let (tickets, _file) = over(&[ONE]);
        let ticket = tickets.issue_until("ann", 1000);
        let bytes = URL_SAFE_NO_PAD.decode(&ticket).expect("base64url");
        for bit in 0..bytes.len() * 8 {
            let mut bent = bytes.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(tickets.verify_at(&URL_SAFE_NO_PAD.encode(bent), 1), None, "bit {bit}");
        }
        let long = ticket.clone() + "A";
        let huge = "A".repeat(1 << 20);
        for wrong in ["", "x", &ticket[1..], &long, &huge, &"é".repeat(TEXT_BYTES / 2), &"=".repeat(TEXT_BYTES)] {
            assert_eq!(tickets.verify_at(wrong, 1), None);
        }
        let (stranger, _file) = over(&[TWO]);
        assert_eq!(stranger.verify_at(&ticket, 1), None);
        let alone = || Tickets::new(None).expect("random");
        assert_eq!(alone().verify(&alone().issue("ann")), None, "each process alone has a key of its own");
    }

    #[test]
    fn the_last_line_signs_and_the_last_two_verify() {
        let ((old, _a), (one, _b), (two, _c)) = (over(&[OLD]), over(&[ONE]), over(&[TWO]));
        let (rotated, _d) = over(&[OLD, ONE, "", TWO]);
        assert!(two.verify(&rotated.issue("ann")).is_some() && one.verify(&rotated.issue("ann")).is_none());
        assert!(rotated.verify(&one.issue("ann")).is_some() && rotated.verify(&two.issue("ann")).is_some());
        assert!(rotated.verify(&old.issue("ann")).is_none(), "a key that was rotated out");
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_bad_one_changes_nothing() {
        let (tickets, file) = over(&[ONE]);
        let (two, _file) = over(&[TWO]);
        let before = tickets.issue("ann");
        std::fs::write(file.path(), format!("{ONE}\n{TWO}\n")).expect("written");
        assert!(two.verify(&tickets.issue("ann")).is_none(), "not looked at before its time");
        look_again(&tickets);
        assert!(two.verify(&tickets.issue("ann")).is_some() && tickets.verify(&before).is_some());
        std::fs::write(file.path(), "short\n").expect("written");
        look_again(&tickets);
        assert!(two.verify(&tickets.issue("ann")).is_some());
        for text in ["", "\n\n", "fifteen bytes..", "a key that is long enough\nshort"] {
            std::fs::write(file.path(), text).expect("written");
            assert!(matches!(Tickets::new(Some(file.path())), Err(BadKeys::TooShort)), "{text:?}");
        }
    }
}
