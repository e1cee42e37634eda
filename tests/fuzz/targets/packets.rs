//! Packets from strangers, as far as typed events. In: bytes. Out: nothing may panic, and every refusal has words.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::{Auth, EnginePacket, Limits, Packet};

const LIMITS: Limits = Limits { edit_bytes: 4096 };

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = protocol::check_query(text);
    match protocol::decode_engine(text) {
        Ok(EnginePacket::Message(message)) => packet(message),
        // The same bytes as a Socket.IO packet, so that the fuzzer need not find the digit before it.
        Ok(_) | Err(_) => packet(text),
    }
});

fn packet(text: &str) {
    match protocol::decode_packet(text) {
        Ok(Packet::Connect { auth, .. }) => {
            let _ = Auth::parse(auth);
        }
        Ok(Packet::Event { name, arguments, .. }) => {
            if let Err(refused) = protocol::client_event(&name, &arguments, &LIMITS) {
                assert!(!format!("{refused:?}").is_empty());
            }
        }
        Ok(Packet::Disconnect { .. } | Packet::Ack { .. }) | Err(_) => {}
    }
}
