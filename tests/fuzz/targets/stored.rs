//! Log entries, snapshots and messages between pods, damaged. In: bytes. What can be read is written and read again as
//! the same, and nothing may panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(entry) = protocol::decode_entry(text) {
        let written = protocol::encode_entry(&entry);
        let again = protocol::decode_entry(&written).expect("what is written is read");
        assert_eq!(protocol::encode_entry(&again), written);
    }
    if let Ok(snapshot) = protocol::decode_snapshot(text) {
        let written = protocol::encode_snapshot(&snapshot);
        let again = protocol::decode_snapshot(&written).expect("what is written is read");
        assert_eq!(protocol::encode_snapshot(&again), written);
    }
    let _ = protocol::decode_peer(text);
    let _ = protocol::decode_claim(text);
    let _ = protocol::decode_change(text);
    if let Some((field, value)) = text.split_once('\n') {
        let _ = protocol::decode_member(field, value);
    }
});
