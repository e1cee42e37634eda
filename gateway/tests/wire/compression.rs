//! permessage-deflate between the gateway and clients of every kind.
//!
//! In: a client of this file that negotiates, compresses and inflates by itself, one that knows no compression, and peers
//! that break the rules. Out: the same events for everybody, and the close codes of the RFCs.

use collab_gateway::directory::Trust;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    harness::{Client, Gateway, PATIENCE, token},
    upgrade::{UPGRADE, get},
};

const OFFER: &str = "permessage-deflate; client_max_window_bits";
const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
const DEFLATED_TEXT: u8 = 0xc1;

/// A frame as it came.
struct Frame {
    first: u8,
    payload: Vec<u8>,
}

impl Frame {
    fn is_deflated(&self) -> bool {
        self.first & 0x40 != 0
    }

    /// The text it carries; whoever limits the window inflates with no more than that.
    fn text(&self) -> String {
        if !self.is_deflated() {
            return String::from_utf8(self.payload.clone()).unwrap();
        }
        let mut text = Vec::with_capacity(4 << 20);
        let bytes = [&self.payload[..], &[0, 0, 0xff, 0xff]].concat();
        Decompress::new(false).decompress_vec(&bytes, &mut text, FlushDecompress::Sync).unwrap();
        String::from_utf8(text).unwrap()
    }

    fn close_code(&self) -> Option<u16> {
        (self.first == 0x88).then(|| u16::from_be_bytes([self.payload[0], self.payload[1]]))
    }
}

/// A client that compresses whatever it sends.
struct Squeezed {
    stream: TcpStream,
    buffer: Vec<u8>,
    extension: Option<String>,
}

impl Squeezed {
    async fn upgraded(gateway: &Gateway, offer: &str) -> Squeezed {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let headers = format!("{UPGRADE}Sec-WebSocket-Extensions: {offer}\r\n");
        stream.write_all(get("EIO=4&transport=websocket", &headers).as_bytes()).await.unwrap();
        let mut buffer = Vec::new();
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            assert!(timeout(PATIENCE, stream.read_buf(&mut buffer)).await.expect("an answer").unwrap() > 0);
        };
        let rest = buffer.split_off(end);
        let head = String::from_utf8(buffer).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let extension = head.lines().find_map(|line| line.strip_prefix("sec-websocket-extensions: "));
        let extension = extension.map(str::to_owned);
        let mut client = Squeezed { stream, buffer: rest, extension };
        assert!(client.frame().await.text().starts_with("0{"));
        client
    }

    /// Signed in; every message was compressed.
    async fn connected(gateway: &Gateway, offer: &str, name: &str) -> Squeezed {
        let mut client = Squeezed::upgraded(gateway, offer).await;
        client.say(&format!("40{}", json!({"token": token(name), "clientId": name}))).await;
        assert!(client.text().await.starts_with("40{"));
        client
    }

    async fn joined(gateway: &Gateway, offer: &str, name: &str) -> Squeezed {
        let mut client = Squeezed::connected(gateway, offer, name).await;
        client.say(r#"42["join-document",{"documentId":"d"}]"#).await;
        client.event("document-joined").await;
        client
    }

    async fn say(&mut self, text: &str) {
        self.write(&masked(DEFLATED_TEXT, &deflated(text.as_bytes()))).await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        // Where the gateway has closed already, what it said is read next.
        let _ = self.stream.write_all(bytes).await;
    }

    async fn frame(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.whole() {
                return frame;
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await.expect("nothing came");
            assert!(read.unwrap() > 0, "the end came");
        }
    }

    fn whole(&mut self) -> Option<Frame> {
        let (start, length) = match *self.buffer.get(1)? {
            126 => (4, usize::from(u16::from_be_bytes(self.buffer.get(2..4)?.try_into().unwrap()))),
            127 => (10, u64::from_be_bytes(self.buffer.get(2..10)?.try_into().unwrap()).try_into().unwrap()),
            short => (2, usize::from(short)),
        };
        let payload = self.buffer.get(start..start + length)?.to_vec();
        let first = self.buffer[0];
        self.buffer.drain(..start + length);
        Some(Frame { first, payload })
    }

    /// The next text that is no heartbeat.
    async fn text(&mut self) -> String {
        loop {
            let text = self.frame().await.text();
            if text != "2" {
                return text;
            }
            self.say("3").await;
        }
    }

    /// The next event of this name.
    async fn event(&mut self, name: &str) -> Value {
        loop {
            let text = self.text().await;
            let event = text.strip_prefix("42").and_then(|event| serde_json::from_str::<(String, Value)>(event).ok());
            if let Some((_, payload)) = event.filter(|(told, _)| told == name) {
                return payload;
            }
        }
    }

    async fn close_code(&mut self) -> u16 {
        loop {
            if let Some(code) = self.frame().await.close_code() {
                return code;
            }
        }
    }
}

fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 1024);
    Compress::new(Compression::best(), false).compress_vec(payload, &mut out, FlushCompress::Sync).unwrap();
    out.truncate(out.len() - 4);
    out
}

fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, 0x80 | 127];
    frame.extend((payload.len() as u64).to_be_bytes());
    frame.extend([1, 2, 3, 4]);
    frame.extend(payload.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

async fn compressing() -> Gateway {
    Gateway::start(Trust::Everything, &["--compression"]).await
}

#[tokio::test]
async fn offers_are_answered_only_with_the_flag_and_only_if_they_can_be_served() {
    let plain = Gateway::alone().await;
    let mut client = Squeezed::upgraded(&plain, OFFER).await;
    assert_eq!(client.extension, None);
    client.say("40{}").await;
    assert_eq!(client.close_code().await, 1002, "compressed without an agreement");

    let gateway = compressing().await;
    for (offer, answer) in [
        (OFFER, Some(ANSWER.to_owned())),
        ("permessage-deflate; server_max_window_bits=10", Some(format!("{ANSWER}; server_max_window_bits=10"))),
        ("x-unknown, permessage-deflate; server_max_window_bits=77", None),
        ("permessage-deflate; ;;==\",", None),
    ] {
        assert_eq!(Squeezed::upgraded(&gateway, offer).await.extension, answer, "{offer}");
    }
    let mut declined = Squeezed::upgraded(&gateway, "permessage-deflate; mystery").await;
    declined.say("40{}").await;
    assert_eq!(declined.close_code().await, 1002);
    // Who offers nothing is served as ever.
    Client::joined(&gateway, "u", "c", "d").await;
}

#[tokio::test]
async fn receivers_with_and_without_compression_get_equal_events() {
    const EDITS: u64 = 20;
    let gateway = compressing().await;
    let narrow = "permessage-deflate; server_max_window_bits=9";
    let mut writer = Squeezed::joined(&gateway, OFFER, "writer").await;
    let mut squeezed = Squeezed::joined(&gateway, OFFER, "squeezed").await;
    let mut narrow = Squeezed::joined(&gateway, narrow, "narrow").await;
    let (mut plain, _) = Client::joined(&gateway, "plain", "plain", "d").await;
    for seq in 1..=EDITS {
        // From a word to more than a small window.
        let text = "a word or two ".repeat(1 + 10 * usize::try_from(seq).unwrap());
        let edit = json!(["edit", {"documentId": "d", "version": 0, "seq": seq, "ops": [{"insert": text}]}]);
        writer.say(&format!("42{edit}")).await;
    }
    let mut sizes = [0, 0, 0];
    for version in 1..=EDITS {
        let expected = plain.event("edit").await;
        assert_eq!(expected["version"], json!(version));
        for (client, bytes) in [(&mut squeezed, 1), (&mut narrow, 2)] {
            loop {
                let frame = client.frame().await;
                let text = frame.text();
                let Some(event) = text.strip_prefix(r#"42["edit","#) else { continue };
                assert_eq!(serde_json::from_str::<Value>(event.strip_suffix(']').unwrap()).unwrap(), expected);
                assert_eq!(frame.is_deflated(), bytes == 1 || text.len() <= 512, "{} bytes", text.len());
                sizes[bytes] += frame.payload.len();
                sizes[0] += if bytes == 1 { text.len() } else { 0 };
                break;
            }
        }
    }
    assert!(sizes[1] * 5 < sizes[0] && sizes[1] < sizes[2], "{sizes:?}");
    assert!(gateway.server.pod().metrics.compression_saved_bytes.get() >= (sizes[0] - sizes[1] - 100) as u64);
    writer.event("edit-committed").await;
}

#[tokio::test]
async fn a_compressed_message_in_fragments_is_read_with_control_frames_in_between() {
    let gateway = compressing().await;
    let mut client = Squeezed::joined(&gateway, OFFER, "u").await;
    let edit = json!(["edit", {"documentId": "d", "version": 0, "seq": 1, "ops": [{"insert": "x".repeat(3000)}]}]);
    let small = deflated(format!("42{edit}").as_bytes());
    let (head, tail) = small.split_at(small.len() / 2);
    client.write(&[masked(0x41, head), masked(0x89, b"beat"), masked(0x80, tail)].concat()).await;
    let pong = loop {
        let frame = client.frame().await;
        if frame.first & 0x0f == 0xa {
            break frame;
        }
    };
    assert_eq!((pong.first, &pong.payload[..]), (0x8a, &b"beat"[..]), "never compressed");
    assert_eq!(client.event("edit-committed").await["version"], json!(1));
}

#[tokio::test]
async fn whoever_breaks_the_rules_of_compression_is_closed_with_the_code_for_it() {
    let gateway = compressing().await;
    let hello = deflated(b"3");
    for (bytes, code) in [
        (masked(0xc9, b"a compressed ping"), 1002),
        (masked(0xc0, &hello), 1002),
        (masked(0xa1, &hello), 1002),
        ([masked(0x41, &hello), masked(0xc0, b"")].concat(), 1002),
        (masked(DEFLATED_TEXT, b"this is no deflate"), 1007),
        (masked(DEFLATED_TEXT, &deflated(&[0xff; 300])), 1007),
        // Before CONNECT a message has 64 KiB at most.
        (masked(DEFLATED_TEXT, &deflated(&[b'3'; 64 * 1024 + 1])), 1009),
    ] {
        let mut client = Squeezed::upgraded(&gateway, OFFER).await;
        client.write(&bytes).await;
        assert_eq!(client.close_code().await, code, "{:?}", &bytes[..bytes.len().min(24)]);
    }
}

#[tokio::test]
async fn a_bomb_ends_its_connection_and_no_other() {
    let gateway = compressing().await;
    let (mut other, _) = Client::joined(&gateway, "other", "other", "d").await;
    let bomb = deflated(&vec![b'x'; 100 << 20]);
    assert!(bomb.len() < 200_000);
    let mut whole = Squeezed::connected(&gateway, OFFER, "whole").await;
    whole.write(&masked(DEFLATED_TEXT, &bomb)).await;
    assert_eq!(whole.close_code().await, 1009);
    let mut parts = Squeezed::connected(&gateway, OFFER, "parts").await;
    let (head, tail) = bomb.split_at(bomb.len() / 2);
    parts.write(&[masked(0x41, head), masked(0x80, tail)].concat()).await;
    assert_eq!(parts.close_code().await, 1009);
    let answer = other.ask("leave-document", json!("d")).await;
    assert!(answer["error"].is_null(), "{answer}");
}

#[tokio::test]
async fn small_frames_that_grow_large_are_read_at_the_rate_of_what_they_become() {
    const MESSAGES: usize = 24;
    const BYTES: usize = 1 << 20;
    let rate = 8 << 20;
    let flags = ["--compression", "--message-bytes-rate", &rate.to_string()];
    let gateway = Gateway::start(Trust::Everything, &flags).await;
    let mut client = Squeezed::connected(&gateway, OFFER, "u").await;
    // Far more than what may come at once, which is five seconds' worth.
    let rounds = 6 * rate / (MESSAGES * BYTES) + 1;
    let large = masked(DEFLATED_TEXT, &deflated(format!("42[\"nothing\",\"{}\"]", "x".repeat(BYTES)).as_bytes()));
    let start = Instant::now();
    client.write(&large.repeat(MESSAGES * rounds)).await;
    client.say(r#"420["leave-document","d"]"#).await;
    while client.text().await != "430[{}]" {}
    assert!(gateway.server.pod().metrics.reads_slowed.get() > 0);
    assert!(start.elapsed().as_millis() >= 900, "{:?}", start.elapsed());
}
