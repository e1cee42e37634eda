//! Golden tests of the events of the contract: what clients send, and what they get, byte for byte.

use std::sync::Arc;

use document::*;
use ot::Delta;
use serde_json::value::RawValue;

use crate::*;

const LIMITS: Limits = Limits { edit_bytes: 1024 };

fn read(name: &str, json: &str) -> Result<ClientEvent, Refused> {
    let raw = RawValue::from_string(json.to_owned()).unwrap();
    client_event(name, &[&raw], &LIMITS)
}

fn refusal(code: Code, message: &str) -> Refusal {
    Refusal { code, message: message.into(), seq: None, last_seq: None, retry_after_ms: None }
}

fn canonical(by_gateway: bool) -> Arc<Canonical> {
    Arc::new(Canonical {
        at: Point { version: 5, hash: "abc".into() },
        identity: Identity { id: "c2".into(), seq: 3, by_gateway },
        client_id: "c2".into(),
        user_id: "u2".into(),
        session: "s".into(),
        ops: Arc::new(Delta::new().retain(1, None).insert("x", None)),
        digest: None,
    })
}

fn user() -> User {
    User { id: "u1".into(), name: "Ann \"A\"".into(), avatar: None }
}

#[test]
fn joins_are_read_in_both_forms() {
    let bare = JoinEvent {
        document_id: "d-1".into(),
        form: Form::Text,
        version: None,
        hash: None,
        last_session: None,
        seq: None,
    };
    assert_eq!(read("join-document", r#""d-1""#), Ok(ClientEvent::Join(bare.clone())));
    assert_eq!(read("join-document", r#"{"documentId":"d-1","as":null}"#), Ok(ClientEvent::Join(bare)));
    let json = r#"{"documentId":"d~1","as":"quill","version":0,"hash":"aa","session":"s-1","seq":4,"later":{}}"#;
    let full = JoinEvent {
        document_id: "d~1".into(),
        form: Form::Quill,
        version: Some(0),
        hash: Some("aa".into()),
        last_session: Some("s-1".into()),
        seq: Some(4),
    };
    assert_eq!(read("join-document", json), Ok(ClientEvent::Join(full)));
}

#[test]
fn the_other_events_are_read() {
    assert_eq!(read("leave-document", r#""d""#), Ok(ClientEvent::Leave { document_id: "d".into() }));
    let edit = EditEvent {
        document_id: "d".into(),
        version: 2,
        ops: Delta::new().insert("x", None),
        unreadable: None,
        seq: None,
        session: None,
    };
    assert_eq!(read("edit", r#"{"documentId":"d","version":2,"ops":[{"insert":"x"}]}"#), Ok(ClientEvent::Edit(edit)));
    let cursor = |position| ClientEvent::Cursor { document_id: "d".into(), version: Some(1), position };
    for (json, want) in [
        ("null", None),
        (r#"{"index":4,"length":2}"#, Some(Position::Range { index: 4, length: 2 })),
        (r#"{"index":4,"length":-2}"#, Some(Position::Other(r#"{"index":4,"length":-2}"#.into()))),
        (r#"[1,"a"]"#, Some(Position::Other(r#"[1,"a"]"#.into()))),
    ] {
        let payload = format!(r#"{{"documentId":"d","version":1,"position":{json}}}"#);
        assert_eq!(read("cursor-position", &payload), Ok(cursor(want)), "{json}");
    }
    let typing = ClientEvent::Typing { document_id: "d".into(), is_typing: true };
    assert_eq!(read("typing", r#"{"documentId":"d","isTyping":true}"#), Ok(typing));
    assert_eq!(read("token-refresh", r#"{"token":"t"}"#), Ok(ClientEvent::TokenRefresh { token: "t".into() }));
}

#[test]
fn refusals_say_what_to_write_instead() {
    let long = format!(r#"{{"documentId":"{}"}}"#, "a".repeat(129));
    let big = format!(r#"{{"documentId":"d","version":1,"seq":7,"ops":[{{"insert":"{}"}}]}}"#, "a".repeat(1024));
    let wide = format!(r#"{{"documentId":"d","position":"{}"}}"#, "a".repeat(1024));
    for (name, json, code, part) in [
        ("join-document", "7", Code::BadRequest, "must be an object"),
        ("join-document", "{}", Code::BadRequest, "documentId must be a string"),
        ("join-document", r#""a b""#, Code::BadRequest, "documentId must be"),
        ("join-document", r#""é""#, Code::BadRequest, "documentId must be"),
        ("join-document", r#""\ud800""#, Code::BadRequest, "documentId must be"),
        ("join-document", r#""""#, Code::BadRequest, "documentId must be"),
        ("join-document", r#""a/b""#, Code::BadRequest, "documentId must be"),
        ("join-document", r#""a{b}""#, Code::BadRequest, "documentId must be"),
        ("join-document", &long, Code::BadRequest, "documentId must be"),
        ("join-document", r#"{"documentId":"d","as":"html"}"#, Code::BadRequest, "as must be"),
        ("join-document", r#"{"documentId":"d","version":-1}"#, Code::BadRequest, "version must be a whole number"),
        ("join-document", r#"{"documentId":"d","seq":0}"#, Code::BadRequest, "seq must be a whole number from 1"),
        ("edit", r#"{"documentId":"d","ops":[]}"#, Code::BadRequest, "version is missing"),
        ("edit", r#"{"documentId":"d","version":1}"#, Code::OpInvalid, "ops is missing"),
        ("edit", r#"{"documentId":"d","version":1,"ops":[{"insert":1}]}"#, Code::OpInvalid, "ops[0]"),
        ("edit", &big, Code::OpInvalid, "send it in parts"),
        ("cursor-position", r#"{"documentId":"d"}"#, Code::BadRequest, "position is missing"),
        ("cursor-position", &wide, Code::BadRequest, "at most 1024"),
        ("typing", r#"{"documentId":"d","isTyping":1}"#, Code::BadRequest, "isTyping must be"),
        ("token-refresh", "{}", Code::BadRequest, "token is missing"),
        ("shout", "{}", Code::BadRequest, "unknown event \"shout\""),
    ] {
        let refusal = match read(name, json) {
            Ok(ClientEvent::Edit(edit)) => *edit.unreadable.expect(json),
            other => other.unwrap_err().refusal,
        };
        assert_eq!(refusal.code, code, "{name} {json}");
        assert!(refusal.message.contains(part), "{name} {json}: {}", refusal.message);
    }
    assert!(client_event("edit", &[], &LIMITS).unwrap_err().refusal.message.contains("needs a payload"));
}

#[test]
fn an_edit_that_cannot_be_read_keeps_its_place() {
    for (json, session, seq, code) in [
        (r#"{"documentId":"d","version":1,"seq":7,"session":"s","ops":[{}]}"#, Some("s"), Some(7), Code::OpInvalid),
        (r#"{"documentId":"d","seq":7,"session":"s","ops":[]}"#, Some("s"), Some(7), Code::BadRequest),
        (r#"{"documentId":"d","version":1,"seq":"x","session":"s","ops":[]}"#, Some("s"), None, Code::BadRequest),
        (r#"{"documentId":"d","version":1,"seq":7,"session":9,"ops":[]}"#, None, Some(7), Code::BadRequest),
    ] {
        let Ok(ClientEvent::Edit(edit)) = read("edit", json) else { panic!("{json}") };
        let unreadable = edit.unreadable.expect(json);
        assert_eq!((&*edit.document_id, edit.session.as_deref(), edit.seq), ("d", session, seq), "{json}");
        assert_eq!((unreadable.code, unreadable.seq), (code, seq), "{json}");
        assert!(edit.ops.is_empty());
    }
}

#[test]
fn connect_auth_takes_what_is_usable() {
    let auth = |json| Auth::parse(Some(json));
    assert_eq!(Auth::parse(None), Auth::default());
    assert_eq!(
        auth(r#"{"token":"t","clientId":"a_b-1"}"#),
        Auth { token: Some("t".into()), client_id: Some("a_b-1".into()) }
    );
    assert_eq!(auth(r#"{"token":"","clientId":"a b"}"#), Auth::default());
    assert_eq!(auth(r#"{"token":7,"clientId":{}}"#), Auth::default());
}

#[test]
fn ids_keep_to_the_contract() {
    assert!(is_document_id(&"a".repeat(128)) && is_document_id("A.z_0~-"));
    assert!(!is_document_id("") && !is_document_id("a:b") && !is_document_id("a*"));
    assert!(is_client_id(&"a".repeat(64)) && !is_client_id(&"a".repeat(65)) && !is_client_id("a.b"));
    assert!(is_user_id("zoë:1/2") && !is_user_id("") && !is_user_id("a\nb") && !is_user_id(&"a".repeat(257)));
}

#[test]
fn events_are_written_as_the_contract_says() {
    let at = Point { version: 6, hash: "h6".into() };
    let cases = [
        (Event::Rejoin, r#"42["rejoin",{"documentId":"d"}]"#),
        (Event::AccessChanged { role: None }, r#"42["access-changed",{"documentId":"d","role":null}]"#),
        (
            Event::Edit(canonical(false)),
            r#"42["edit",{"documentId":"d","version":5,"hash":"abc","ops":[{"retain":1},{"insert":"x"}],"userId":"u2","clientId":"c2","seq":3}]"#,
        ),
        (
            Event::Edit(canonical(true)),
            r#"42["edit",{"documentId":"d","version":5,"hash":"abc","ops":[{"retain":1},{"insert":"x"}],"userId":"u2","clientId":"c2","seq":null}]"#,
        ),
        (
            Event::EditCommitted { at: at.clone(), client_id: "c1".into(), seq: Some(2), digest: None },
            r#"42["edit-committed",{"documentId":"d","version":6,"hash":"h6","clientId":"c1","seq":2}]"#,
        ),
        (
            Event::EditCommitted { at: at.clone(), client_id: "c1".into(), seq: None, digest: None },
            r#"42["edit-committed",{"documentId":"d","version":6,"hash":"h6","clientId":"c1","seq":null}]"#,
        ),
        (
            Event::UserJoined(user()),
            r##"42["user-joined",{"documentId":"d","userId":"u1","name":"Ann \"A\"","avatar":null,"color":"#98D8C8"}]"##,
        ),
        (Event::UserLeft { user_id: "u1".into() }, r#"42["user-left",{"documentId":"d","userId":"u1"}]"#),
        (Event::Presence { active_count: 101 }, r#"42["presence",{"documentId":"d","activeCount":101}]"#),
        (
            Event::CursorUpdate {
                user_id: "u1".into(),
                client_id: "c1".into(),
                version: 6,
                position: Some(Position::Range { index: 1, length: 2 }),
            },
            r#"42["cursor-update",{"documentId":"d","version":6,"userId":"u1","clientId":"c1","position":{"index":1,"length":2}}]"#,
        ),
        (
            Event::CursorUpdate { user_id: "u1".into(), client_id: "c1".into(), version: 6, position: None },
            r#"42["cursor-update",{"documentId":"d","version":6,"userId":"u1","clientId":"c1","position":null}]"#,
        ),
        (
            Event::TypingUpdate { user_id: "u1".into(), is_typing: false },
            r#"42["typing-update",{"documentId":"d","userId":"u1","isTyping":false}]"#,
        ),
        (
            Event::Error(Refusal { last_seq: Some(4), seq: Some(6), ..refusal(Code::SeqGap, "m") }),
            r#"42["error",{"code":"SEQ_GAP","message":"m","documentId":"d","seq":6,"lastSeq":4}]"#,
        ),
    ];
    for (value, golden) in cases {
        assert_eq!(event("d", &value), golden);
    }
}

#[test]
fn document_joined_has_its_content_in_three_forms() {
    let joined = |content| {
        Event::DocumentJoined(Box::new(Joined {
            at: Point { version: 5, hash: "abc".into() },
            session: "s1".into(),
            role: Role::Comment,
            client_id: "c1".into(),
            last_seq: 2,
            active_users: vec![ActiveUser {
                user: user(),
                is_typing: true,
                cursors: vec![ActiveCursor {
                    client_id: "c9".into(),
                    version: 5,
                    position: Position::Range { index: 0, length: 0 },
                }],
            }],
            active_count: 2,
            content,
        }))
    };
    let head = concat!(
        r#"42["document-joined",{"documentId":"d","version":5,"hash":"abc","session":"s1","role":"comment","#,
        r#""clientId":"c1","lastSeq":2,"resume":null,"activeUsers":[{"id":"u1","name":"Ann \"A\"","avatar":null,"#,
        r##""color":"#98D8C8","isTyping":true,"cursors":[{"clientId":"c9","version":5,"position":{"index":0,"length":0}}]}],"##,
        r#""activeCount":2,"#
    );
    assert_eq!(event("d", &joined(JoinedContent::Text("a\n".into()))), format!(r#"{head}"content":"a\n"}}]"#));
    let ops = JoinedContent::Ops(Delta::new().insert("a", None));
    assert_eq!(event("d", &joined(ops)), format!(r#"{head}"ops":[{{"insert":"a"}}]}}]"#));
    let edits = JoinedContent::Edits(vec![canonical(false)]);
    let edit =
        r#"{"version":5,"hash":"abc","ops":[{"retain":1},{"insert":"x"}],"userId":"u2","clientId":"c2","seq":3}"#;
    assert_eq!(event("d", &joined(edits)), format!(r#"{head}"edits":[{edit}]}}]"#));
}

#[test]
fn answers_go_to_the_callback_or_become_an_error_event() {
    let failed = Err(Refusal { retry_after_ms: Some(500), ..refusal(Code::StoreUnavailable, "m") });
    let error = r#"{"code":"STORE_UNAVAILABLE","message":"m","documentId":"d","retryAfterMs":500}"#;
    let answer = |reply, answer: &Result<Answer, Refusal>| acknowledgement(reply, "d", answer);
    assert_eq!(answer(Some(ReplyId(3)), &Ok(Answer::Version(9))).as_deref(), Some(r#"433[{"version":9}]"#));
    assert_eq!(answer(Some(ReplyId(0)), &Ok(Answer::Empty)).as_deref(), Some("430[{}]"));
    assert_eq!(answer(None, &Ok(Answer::Empty)), None);
    assert_eq!(answer(Some(ReplyId(3)), &failed), Some(format!(r#"433[{{"error":{error}}}]"#)));
    assert_eq!(answer(None, &failed), Some(format!(r#"42["error",{error}]"#)));
}

#[test]
fn the_gateways_own_messages_are_these() {
    assert_eq!(connected("x1"), r#"40{"sid":"x1"}"#);
    assert_eq!(
        connect_error("Authentication failed", "TOKEN_EXPIRED"),
        r#"44{"message":"Authentication failed","data":{"code":"TOKEN_EXPIRED"}}"#
    );
    assert_eq!(invalid_namespace("/random"), r#"44/random,{"message":"Invalid namespace"}"#);
    assert_eq!(draining(1500), r#"42["draining",{"reconnectAfterMs":1500}]"#);
    assert_eq!(demo_pod("docs-1"), r#"42["demo-pod",{"name":"docs-1"}]"#);
    assert_eq!(token_expiring(1000), r#"42["token-expiring",{"expiresAt":1000}]"#);
    assert_eq!(token_refreshed(Some(ReplyId(1)), Some(5)).as_deref(), Some(r#"431[{"expiresAt":5}]"#));
    assert_eq!(token_refreshed(None, Some(5)), None);
}

/// A small generator: the same numbers for the same seed, without a dependency.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).unwrap()).unwrap()
    }
}

#[test]
fn no_mutilated_text_makes_a_decoder_panic() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x2545_f491_4f6c_dd1d);
    println!("SEED={seed}");
    let mut random = Random(seed);
    let whole = [
        r#"42/nsp,17["edit",{"documentId":"d","version":1,"seq":2,"ops":[{"retain":3},{"insert":"é😀","attributes":{"b":1.0}}]}]"#,
        r#"452-7["edit",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#,
        r#"40{"token":"x","clientId":"c"}"#,
        r#"42["cursor-position",{"documentId":"d","position":{"index":4,"length":2}}]"#,
        r#"42["join-document",{"documentId":"d","as":"quill","version":0,"hash":"aa","session":"s","seq":4}]"#,
        r#"[1,1,["c1",7,0],"c1","u","s",41,[{"retain":3},{"insert":"x"},{"delete":1}]]"#,
        r#"[1,1,9,"b",[{"insert":"hé"}],[["b",["c1",1,0],"c1","u1","s-1",[{"insert":"hé"}]]]]"#,
        r#"["member","pod","u",{"connections":2,"since":17,"name":"Zoë"}]"#,
    ];
    let bits = ["", "\"", "{", "}", "[", "]", ",", "-", "\\ud800", "null", "99999999999999999999", "é", "\u{0}", "1e9"];
    let mut understood = 0;
    for _ in 0..5_000 {
        let mut text: Vec<char> = whole[random.below(whole.len())].chars().collect();
        for _ in 0..random.below(4) {
            let (from, length) = (random.below(text.len() + 1), random.below(6));
            let to = (from + length).min(text.len());
            text.splice(from..to, bits[random.below(bits.len())].chars());
        }
        let text: String = text.into_iter().collect();
        if let Ok(EnginePacket::Message(packet)) = decode_engine(&text)
            && let Ok(packet) = decode_packet(packet)
        {
            understood += 1;
            match packet {
                Packet::Event { name, arguments, .. } => drop(client_event(&name, &arguments, &LIMITS)),
                Packet::Connect { auth, .. } => drop(Auth::parse(auth)),
                Packet::Disconnect { .. } | Packet::Ack { .. } => {}
            }
        }
        let _ = (decode_entry(&text), decode_snapshot(&text), decode_peer(&text), decode_member(&text, &text));
        let _ = (parse_delta(&text), decode_claim(&text));
    }
    assert!(understood > 500, "only {understood} were packets at all: the test looks at too little");
}
