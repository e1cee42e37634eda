//! Tokens and keys, good, old, forged and absurd, and what is said of each.

use std::{path::PathBuf, time::Duration};

use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Value, json};

use super::{Authenticator, Claims, Denial, NoClaims, Verified, jwks, keys, signatures};
use crate::{config::Jwt, metrics::Metrics};

#[path = "../../tests/signers/mod.rs"]
mod signers;
use signers::{FAR, Signer, hs256};

fn jwt(folder: &tempfile::TempDir, secrets: &[&str], public: Option<&str>) -> Jwt {
    let write = |name: String, text: String| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let secret_files =
        secrets.iter().enumerate().map(|(number, secret)| write(number.to_string(), format!("{secret}\n"))).collect();
    let public_key_file = public.map(|pem| write("public.pem".to_owned(), pem.to_owned()));
    Jwt { secret_files, public_key_file, jwks_url: None, issuer: None, audience: None }
}

fn authenticator(secrets: &[&str], issuer: Option<&str>, audience: Option<&str>) -> Authenticator {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (issuer, audience) = (issuer.map(Into::into), audience.map(Into::into));
    Authenticator::new(&Jwt { issuer, audience, ..jwt(&folder, secrets, None) }, &Metrics::default())
        .expect("reads the secrets")
}

fn with_public(pem: &str) -> Authenticator {
    let folder = tempfile::tempdir().expect("a temporary folder");
    Authenticator::new(&jwt(&folder, &["s"], Some(pem)), &Metrics::default()).expect("reads the keys")
}

fn token(secret: &str, claims: &Value) -> String {
    hs256(secret.as_bytes(), claims)
}

async fn verify(authenticator: &Authenticator, token: &str) -> Result<Claims, Denial> {
    authenticator.verify(Some(token)).await.map_err(|error| match error {
        NoClaims::Denied(denial) => denial,
        NoClaims::KeysAway => panic!("there is no key set"),
    })
}

#[tokio::test]
async fn every_secret_verifies_and_its_newline_is_not_part_of_it() {
    let authenticator = authenticator(&["new", "old"], None, None);
    for secret in ["new", "old"] {
        let claims = verify(&authenticator, &token(secret, &json!({"sub": "u1", "exp": FAR}))).await.expect("good");
        assert_eq!(&*claims.user_id, "u1");
    }
    assert_eq!(verify(&authenticator, &token("other", &json!({"sub": "u1"}))).await, Err(Denial::TokenInvalid));
}

#[tokio::test]
async fn each_refusal_has_its_reason() {
    let authenticator = authenticator(&["s"], Some("us"), Some("docs"));
    let good = json!({"sub": "u", "iss": "us", "aud": "docs", "exp": FAR});
    assert!(verify(&authenticator, &token("s", &good)).await.is_ok());
    assert_eq!(authenticator.verify(None).await, Err(Denial::TokenRequired.into()));
    assert_eq!(verify(&authenticator, "").await, Err(Denial::TokenRequired));
    for bad in ["no.token.at all", "..", "a.b", "a.b.c.d", "{}", "\u{1F600}"] {
        assert_eq!(verify(&authenticator, bad).await, Err(Denial::TokenInvalid), "{bad}");
    }
    for (key, value, denial) in [
        ("exp", json!(1), Denial::TokenExpired),
        ("nbf", json!(FAR), Denial::TokenInvalid),
        ("iss", json!("them"), Denial::TokenInvalid),
        ("iss", json!(7), Denial::TokenInvalid),
        ("aud", json!("mail"), Denial::TokenInvalid),
        ("aud", json!(["mail", "news"]), Denial::TokenInvalid),
        ("aud", json!({"docs": true}), Denial::TokenInvalid),
        ("sub", json!("a\u{7}b"), Denial::TokenInvalid),
        ("sub", json!("a\u{85}b"), Denial::TokenInvalid),
        ("sub", json!("a\0"), Denial::TokenInvalid),
        ("sub", json!("x".repeat(257)), Denial::TokenInvalid),
        ("sub", json!(""), Denial::TokenInvalid),
        ("sub", json!(1.5), Denial::TokenInvalid),
        ("sub", json!(1e30), Denial::TokenInvalid),
        ("sub", json!(["u"]), Denial::TokenInvalid),
        ("sub", json!(true), Denial::TokenInvalid),
    ] {
        let mut claims = good.clone();
        claims[key] = value;
        assert_eq!(verify(&authenticator, &token("s", &claims)).await, Err(denial), "{claims}");
    }
    let mut several = good.clone();
    several["aud"] = json!(["mail", "docs"]);
    assert!(verify(&authenticator, &token("s", &several)).await.is_ok());
}

#[tokio::test]
async fn clocks_may_differ_by_half_a_minute_and_no_more() {
    let authenticator = authenticator(&["s"], None, None);
    let now = crate::clock::unix_s();
    for (key, at, expected) in [
        ("exp", now - 20, Ok(())),
        ("exp", now - 40, Err(Denial::TokenExpired)),
        ("nbf", now + 20, Ok(())),
        ("nbf", now + 40, Err(Denial::TokenInvalid)),
    ] {
        let mut claims = json!({"sub": "u", "exp": FAR});
        claims[key] = json!(at);
        assert_eq!(verify(&authenticator, &token("s", &claims)).await.map(drop), expected, "{claims}");
    }
}

#[tokio::test]
async fn where_issuer_and_audience_are_wanted_a_token_must_name_both() {
    let authenticator = authenticator(&["s"], Some("us"), Some("docs"));
    for missing in ["iss", "aud"] {
        let mut claims = json!({"sub": "u", "iss": "us", "aud": ["docs"], "exp": FAR});
        claims.as_object_mut().unwrap().remove(missing);
        assert_eq!(verify(&authenticator, &token("s", &claims)).await, Err(Denial::TokenInvalid), "{missing}");
    }
}

#[tokio::test]
async fn the_user_id_is_the_claim_user_id_before_sub_and_numbers_are_their_decimal_text() {
    let authenticator = authenticator(&["s"], None, None);
    for (claims, id) in [
        (json!({"userId": 42, "sub": "x", "exp": FAR}), "42"),
        (json!({"userId": null, "sub": "x"}), "x"),
        (json!({"sub": u64::MAX}), "18446744073709551615"),
        (json!({"sub": -3}), "-3"),
    ] {
        assert_eq!(&*verify(&authenticator, &token("s", &claims)).await.expect("good").user_id, id);
    }
}

#[tokio::test]
async fn times_may_be_anything_and_nothing_breaks() {
    let authenticator = authenticator(&["s"], None, None);
    let now = jsonwebtoken::get_current_timestamp();
    for (exp, expected) in [
        (json!(now + 60), Ok(())),
        // Within the leeway for clocks that differ.
        (json!(now - 20), Ok(())),
        (json!(now as f64 + 60.4), Ok(())),
        (json!(4e15), Ok(())),
        (json!(now - 40), Err(Denial::TokenExpired)),
        (json!(0), Err(Denial::TokenExpired)),
        (json!(0.3), Err(Denial::TokenExpired)),
        (json!(-1), Err(Denial::TokenInvalid)),
        (json!(-1e9), Err(Denial::TokenInvalid)),
        (json!(1e300), Err(Denial::TokenInvalid)),
        (json!("2030-01-01"), Err(Denial::TokenInvalid)),
        (json!([now]), Err(Denial::TokenInvalid)),
    ] {
        let verified = verify(&authenticator, &token("s", &json!({"sub": "u", "exp": exp}))).await;
        assert_eq!(verified.map(drop), expected, "{exp}");
    }
    let forever = verify(&authenticator, &token("s", &json!({"sub": "u"}))).await.expect("good");
    assert_eq!(forever.expires_at, None);
}

#[tokio::test]
async fn large_and_deep_tokens_cost_nothing_but_their_refusal() {
    let authenticator = authenticator(&["s"], None, None);
    assert_eq!(verify(&authenticator, &"x".repeat(1 << 20)).await, Err(Denial::TokenInvalid));
    let large = token("s", &json!({"sub": "u", "exp": FAR, "name": "n".repeat(1 << 20)}));
    assert_eq!(verify(&authenticator, &large).await, Err(Denial::TokenInvalid));
    // As deep as fits into a token that is not too long; signed well, so that its claims are read.
    let deep = format!("{}{}", "[".repeat(2500), "]".repeat(2500));
    let claims: &serde_json::value::RawValue = serde_json::from_str(&deep).expect("JSON");
    for name in ["x", "sub", "name", "exp"] {
        let payload = std::collections::BTreeMap::from([(name, claims)]);
        let key = jsonwebtoken::EncodingKey::from_secret(b"s");
        let deep = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &payload, &key).expect("signs");
        assert_eq!(verify(&authenticator, &deep).await, Err(Denial::TokenInvalid), "{name}");
    }
}

#[tokio::test]
async fn a_demo_token_verifies_where_it_was_signed_and_only_demo_users_are_demo() {
    let authenticator = authenticator(&["s"], Some("us"), Some("docs"));
    let demo = authenticator.sign_demo("demo-x", "Blue Fox").expect("signs");
    let claims = verify(&authenticator, &demo).await;
    assert!(claims.as_ref().is_ok_and(|claims| claims.is_demo && claims.name.as_deref() == Some("Blue Fox")));
    let forged = token("s", &json!({"sub": "boss", "demo": true, "iss": "us", "aud": "docs"}));
    assert!(!verify(&authenticator, &forged).await.expect("good").is_demo);
}

#[tokio::test]
async fn every_kind_of_public_key_verifies_its_own_tokens_and_no_others() {
    let signers = [Signer::rsa(2048), Signer::ec(), Signer::ed()];
    let stranger = [Signer::ec(), Signer::ed()];
    let all: String = signers.iter().map(|signer| signer.public_pem.as_str()).collect();
    let authenticator = with_public(&format!("# a comment\n{all}"));
    for signer in &signers {
        let claims = verify(&authenticator, &signer.token("u1")).await.expect("good");
        assert_eq!((&*claims.user_id, claims.is_demo), ("u1", false));
        let expired = signer.sign(&json!({"sub": "u1", "exp": 1}));
        assert_eq!(verify(&authenticator, &expired).await, Err(Denial::TokenExpired));
        let alone = with_public(&signer.public_pem);
        for other in signers.iter().filter(|other| other.algorithm != signer.algorithm).chain(&stranger) {
            assert_eq!(verify(&alone, &other.token("u1")).await, Err(Denial::TokenInvalid));
        }
    }
    // A token of the application cannot make a demo user: those are this process's own.
    let demo = signers[1].sign(&json!({"sub": "demo-1", "demo": true, "exp": FAR}));
    assert!(!verify(&authenticator, &demo).await.expect("good").is_demo);
}

#[tokio::test]
async fn a_public_key_is_never_a_secret_and_no_signature_is_no_signature() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
    for signer in [Signer::rsa(2048), Signer::ec(), Signer::ed()] {
        let authenticator = with_public(&signer.public_pem);
        let claims = json!({"sub": "u1", "exp": FAR});
        let pem = signer.public_pem.as_bytes();
        let der = pem::parse_der(&signer.public_pem);
        for secret in [pem, signer.public_pem.trim().as_bytes(), &der, b""] {
            assert_eq!(verify(&authenticator, &hs256(secret, &claims)).await, Err(Denial::TokenInvalid));
        }
        let good = signer.token("u1");
        let (_, rest) = good.split_once('.').expect("a token");
        let (payload, signature) = rest.split_once('.').expect("a token");
        for header in [
            json!({"alg": "none"}),
            json!({"alg": "None"}),
            json!({"alg": ""}),
            json!({}),
            json!({"alg": "HS256"}),
            json!({"alg": "HS384"}),
            json!({"alg": "PS256"}),
            json!({"alg": ["RS256"]}),
            json!({"alg": "ES256", "crit": ["b64"], "b64": false}),
            json!({"alg": "EdDSA", "jwk": signer.jwk(), "jku": "http://localhost/"}),
        ] {
            for signature in [signature, "", "AAAA"] {
                let forged = format!("{}.{payload}.{signature}", B64.encode(header.to_string()));
                assert_eq!(verify(&authenticator, &forged).await, Err(Denial::TokenInvalid), "{header}");
            }
        }
        assert!(verify(&authenticator, &good).await.is_ok());
    }
}

/// Every bit of a signature and of what is signed counts, as it does for the library itself.
#[test]
fn signatures_hold_where_the_library_says_so_and_nowhere_else() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
    use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER as LIBRARY;
    let zero_before = |number: &Value| {
        let bytes = B64.decode(number.as_str().expect("a number")).expect("base64");
        json!(B64.encode([&[0][..], &bytes].concat()))
    };
    for signer in [Signer::rsa(2048), Signer::ec(), Signer::ed()] {
        let mut keys = vec![serde_json::from_value(signer.jwk()).expect("a key")];
        if signer.algorithm == Algorithm::RS256 {
            let mut jwk = signer.jwk();
            (jwk["n"], jwk["e"]) = (zero_before(&jwk["n"]), zero_before(&jwk["e"]));
            keys.push(serde_json::from_value(jwk).expect("a key"));
        }
        let mut keys: Vec<_> = keys.iter().map(|jwk| DecodingKey::from_jwk(jwk).expect("a key")).collect();
        keys.extend(keys::public_pem(&signer.public_pem).expect("a key").into_iter().map(|key| key.key));
        let token = signer.token("u1");
        let (signed, signature) = token.rsplit_once('.').expect("a token");
        let good = B64.decode(signature).expect("base64");
        let flipped = (0..good.len() * 8).step_by(7).map(|bit| {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            bad
        });
        let other_lengths = [vec![], good[1..].to_vec(), [&good[..], &[0]].concat(), [&[0][..], &good].concat()];
        let bad: Vec<_> = flipped.chain(other_lengths).chain([vec![0; good.len()], vec![0xff; good.len()]]).collect();
        for key in &keys {
            let by_gateway = signatures::verifier(&signer.algorithm, key).expect("a key");
            let by_library = (LIBRARY.verifier_factory)(&signer.algorithm, key).expect("a key");
            for (message, signature) in [(signed, &good), (&signed[1..], &good), ("", &good)]
                .into_iter()
                .chain(bad.iter().map(|signature| (signed, signature)))
            {
                let expected = by_library.verify(message.as_bytes(), signature).is_ok();
                let found = by_gateway.verify(message.as_bytes(), signature).is_ok();
                assert_eq!(found, expected, "{:?}: {message}.{}", signer.algorithm, B64.encode(signature));
                assert_eq!(found, (message, signature) == (signed, &good));
            }
        }
        for other in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
            let is_its = other == signer.algorithm;
            assert_eq!(signatures::verifier(&other, &keys[0]).is_ok(), is_its, "a key is of one algorithm");
        }
    }
}

mod pem {
    use base64::{Engine, engine::general_purpose::STANDARD};

    pub(super) fn parse_der(pem: &str) -> Vec<u8> {
        let text: String = pem.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
        STANDARD.decode(text).expect("base64")
    }
}

#[test]
fn a_file_that_cannot_verify_tokens_says_what_to_write() {
    let ec = Signer::ec().public_pem;
    for (pem, part) in [
        (String::new(), "holds no public key"),
        ("secret".to_owned(), "BEGIN PUBLIC KEY"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----".to_owned(), "private key"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----".to_owned(), "openssl x509 -pubkey"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----".to_owned(), "none of RSA"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA".to_owned(), "without an end"),
        (ec.repeat(17), "more than 16"),
        (Signer::rsa(1024).public_pem, "1024 bits"),
        (signers::p384_public_pem(), "P-256"),
        (format!("{ec}{}", signers::p384_public_pem()), "P-256"),
    ] {
        let why = keys::public_pem(&pem).expect_err(&pem);
        assert!(why.contains(part), "{why:?} does not say {part:?}");
    }
}

#[test]
fn of_a_key_set_only_what_can_verify_is_taken() {
    let (ec, ed, rsa) = (Signer::ec().called("e"), Signer::ed(), Signer::rsa(2048).called("r"));
    let with = |key: Value, name: &str, value: Value| {
        let mut key = key;
        key[name] = value;
        key
    };
    let set = json!({"keys": [
        ec.jwk(), ed.jwk(), rsa.jwk(),
        with(ed.jwk(), "alg", json!("Ed25519")),
        {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "published-secret"},
        with(rsa.jwk(), "use", json!("enc")),
        with(rsa.jwk(), "alg", json!("RS512")),
        with(rsa.jwk(), "n", json!("AQAB")),
        with(rsa.jwk(), "n", json!("***")),
        with(ec.jwk(), "crv", json!("P-384")),
        with(ec.jwk(), "x", json!("AAAA")),
        with(ec.jwk(), "y", ec.jwk()["x"].clone()),
        with(ed.jwk(), "x", json!("AAAA")),
        with(ec.jwk(), "key_ops", json!(["sign"])),
        with(ec.jwk(), "kid", json!("k".repeat(300))),
        7, {}, null,
    ]});
    let set = jwks::parse(set.to_string().as_bytes()).expect("a set");
    assert_eq!((set.keys.len(), set.skipped.len()), (4, 14), "{:?}", set.skipped);
    let many = json!({"keys": vec![ec.jwk(); 100]});
    assert_eq!(jwks::parse(many.to_string().as_bytes()).expect("a set").keys.len(), 64);
    for none in ["", "[]", "{}", r#"{"keys":{}}"#, "<html>"] {
        assert!(jwks::parse(none.as_bytes()).is_err(), "{none}");
    }
}

#[tokio::test]
async fn ten_thousand_bad_tokens_leave_nothing_behind_and_good_ones_stay_within_bounds() {
    let signer = Signer::ed();
    let authenticator = with_public(&signer.public_pem);
    let good = signer.token("u1");
    let (body, _) = good.rsplit_once('.').expect("a token");
    for number in 0..10_000 {
        let forged = format!("{body}.{}", "A".repeat(number % 80));
        let forged = if number % 2 == 0 { forged } else { format!("{forged}{number}") };
        assert_eq!(verify(&authenticator, &forged).await, Err(Denial::TokenInvalid));
    }
    assert_eq!(authenticator.inner.verified.bytes(), 0);
    let claims = verify(&authenticator, &good).await.expect("good");
    assert!(authenticator.inner.verified.bytes() > 0);
    let large = Claims { name: Some("n".repeat(4096)), ..claims };
    for number in 0_u32..10_000 {
        authenticator.inner.verified.keep(Verified::print(&number.to_string()), 0, large.clone());
    }
    assert!(authenticator.inner.verified.bytes() <= 16 << 20);
}

#[tokio::test(start_paused = true)]
async fn the_cache_answers_for_the_same_keys_only_and_not_beyond_a_tokens_end_or_an_hour() {
    let cache = Verified::new();
    let print = Verified::print("token");
    let claims = |expires_at| Claims { user_id: "u".into(), name: None, avatar: None, expires_at, is_demo: false };
    cache.keep(print, 1, claims(Some(FAR)));
    assert!(cache.get(&print, 1).is_some());
    assert!(cache.get(&print, 2).is_none(), "other keys may not verify it");
    cache.keep(print, 2, claims(Some(jsonwebtoken::get_current_timestamp() - 31)));
    assert!(cache.get(&print, 2).is_none(), "it has ended");
    cache.keep(print, 2, claims(None));
    tokio::time::advance(Duration::from_secs(3599)).await;
    assert!(cache.get(&print, 2).is_some());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(cache.get(&print, 2).is_none(), "nothing is believed for longer than an hour");
}
