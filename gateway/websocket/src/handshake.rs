//! The one computation of the opening handshake.

use base64::{Engine, engine::general_purpose::STANDARD};
use sha1::{Digest, Sha1};

/// From RFC 6455 section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`; `None` unless the key is 16 bytes in base64.
pub fn accept_key(key: &str) -> Option<String> {
    let nonce = STANDARD.decode(key).ok()?;
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    (nonce.len() == 16).then(|| STANDARD.encode(digest))
}

#[cfg(test)]
mod tests {
    use super::accept_key;

    #[test]
    fn the_example_of_the_rfc_is_answered_as_there() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ==").as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }

    #[test]
    fn a_key_that_is_not_sixteen_bytes_is_refused() {
        for key in ["", "c2hvcnQ=", "not base64 at all", "dGhlIHNhbXBsZSBub25jZSBsb25nZXI="] {
            assert_eq!(accept_key(key), None, "{key}");
        }
    }
}
