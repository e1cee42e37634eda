//! Which slot of a Redis cluster a key belongs to.
//!
//! In: a key or a sharded channel. Out: a number below [`SLOTS`]. Keys of a document share the tag `{doc:<id>}`.

/// Slots of every cluster.
pub(crate) const SLOTS: u16 = 16384;

/// The slot of a key: CRC-16 (XMODEM) of its tag, or of all of it where there is none.
pub(crate) fn slot(key: &[u8]) -> u16 {
    crc16(tag(key)) % SLOTS
}

/// What stands between the first `{` and the next `}`, unless that is nothing.
fn tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else { return key };
    let rest = &key[open + 1..];
    match rest.iter().position(|byte| *byte == b'}') {
        None | Some(0) => key,
        Some(close) => &rest[..close],
    }
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0u16, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_that_the_servers_compute() {
        // CLUSTER KEYSLOT of a real server.
        for (key, expected) in [("123456789", 12739), ("foo", 12182), ("{user1000}.following", 3443), ("", 0)] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        assert_eq!(slot(b"{}x"), crc16(b"{}x") % SLOTS, "an empty tag is none");
        assert_eq!(slot(b"{doc:a}:log"), slot(b"{doc:a}"));
    }
}
