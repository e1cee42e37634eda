//! What it costs to know whose token it is: the gateway's sign-in beside the library that it calls, and beside npm
//! jsonwebtoken, which servers on Socket.IO use.
//!
//! In: `openssl`; `COLLAB_BENCH_PEERS`, the folder of the peers. Out: criterion's figures of wall-clock time; rows of the
//! table, in CPU time.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use collab_gateway::{auth::Authenticator, config::Jwt, metrics::Metrics};
use criterion::{BatchSize, Criterion, Throughput, criterion_group};
use jsonwebtoken::{Algorithm, DecodingKey, crypto::rust_crypto::DEFAULT_PROVIDER, dangerous::insecure_decode_claims};
use load::{
    cpu,
    figures::{Row, write},
};
use serde::Deserialize;
use serde_json::json;
use tokio::runtime::Runtime;

#[path = "../../../gateway/tests/signers/mod.rs"]
mod signers;

use signers::{FAR, Signer, hs256};

/// Of different people: what a new gateway costs is little beside them.
const TOKENS: usize = 2000;
const SECRET: &str = "a secret of this benchmark, 32 B";

criterion_group!(all, benches);

fn main() -> Result<()> {
    // The library takes its means once for all, from whoever comes first; in a gateway nobody signs before this.
    Authenticator::new(&jwt(Vec::new(), None), &Metrics::default())?;
    all();
    Criterion::default().configure_from_args().final_summary();
    rows()
}

fn benches(criterion: &mut Criterion) {
    let runtime = runtime().expect("a runtime");
    for case in cases().expect("keys") {
        let mut group = criterion.benchmark_group(case.name);
        group.sample_size(10).throughput(Throughput::Elements(TOKENS as u64));
        group.bench_function("library", |bencher| bencher.iter(|| case.by_library()));
        group.bench_function("gateway, first time", |bencher| {
            let new = || case.gateway().expect("a gateway");
            bencher.iter_batched(new, |gateway| case.by(&gateway, &runtime), BatchSize::LargeInput);
        });
        let gateway = case.gateway().expect("a gateway");
        group.bench_function("gateway, again", |bencher| bencher.iter(|| case.by(&gateway, &runtime)));
        group.finish();
    }
}

fn rows() -> Result<()> {
    let runtime = runtime()?;
    let mut rows = Vec::new();
    for case in cases()? {
        let us = |ns: f64| ns / 1e3 / TOKENS as f64;
        let library = us(cpu::ns(|| case.by_library())?);
        let first = us(cpu::ns(|| case.gateway().map_or(0, |gateway| case.by(&gateway, &runtime)))?);
        let gateway = case.gateway()?;
        let again = us(cpu::ns(|| case.by(&gateway, &runtime))?);
        let peer = match case.peer()? {
            Some(peer) => format!("; npm jsonwebtoken {peer:.1} µs"),
            None => String::new(),
        };
        rows.push(Row {
            what: format!("CPU to verify a token, {}", case.name),
            figure: format!("{first:.1} µs = {:.2} × the library, the same token again {again:.1} µs", first / library),
            target: String::new(),
            peers: format!("the library alone {library:.1} µs{peer}"),
            is_met: None,
        });
    }
    write(&rows)
}

/// Tokens of one algorithm, and what verifies them.
struct Case {
    name: &'static str,
    algorithm: Algorithm,
    tokens: Vec<String>,
    /// The secret, or the public key as PEM.
    key: String,
    decoding: DecodingKey,
    file: tempfile::NamedTempFile,
}

fn cases() -> Result<Vec<Case>> {
    let signed = |sign: &dyn Fn(&serde_json::Value) -> String| {
        let claims = |n| json!({"sub": format!("user-{n}"), "name": format!("User {n}"), "exp": FAR});
        (0..TOKENS).map(|n| sign(&claims(n))).collect::<Vec<_>>()
    };
    let public = |name, signer: Signer, read: fn(&[u8]) -> jsonwebtoken::errors::Result<DecodingKey>| {
        let tokens = signed(&|claims| signer.sign(claims));
        let decoding = read(signer.public_pem.as_bytes())?;
        Case::new(name, signer.algorithm, tokens, signer.public_pem, decoding)
    };
    let secret = signed(&|claims| hs256(SECRET.as_bytes(), claims));
    Ok(vec![
        Case::new("HS256", Algorithm::HS256, secret, SECRET.into(), DecodingKey::from_secret(SECRET.as_bytes()))?,
        public("RS256 of 2048 bits", Signer::rsa(2048), DecodingKey::from_rsa_pem)?,
        public("ES256", Signer::ec(), DecodingKey::from_ec_pem)?,
        public("EdDSA", Signer::ed(), DecodingKey::from_ed_pem)?,
    ])
}

/// What an application reads of a token.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    name: String,
}

impl Case {
    fn new(
        name: &'static str,
        algorithm: Algorithm,
        tokens: Vec<String>,
        key: String,
        decoding: DecodingKey,
    ) -> Result<Case> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), &key)?;
        Ok(Case { name, algorithm, tokens, key, decoding, file })
    }

    /// The signature as the library checks it by itself, and the claims without their rules: the gateway checks
    /// signatures by other means, in the whole process.
    fn by_library(&self) -> usize {
        let claims = self.tokens.iter().map(|token| {
            let (message, signature) = token.rsplit_once('.').expect("a token");
            let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64");
            let verifier = (DEFAULT_PROVIDER.verifier_factory)(&self.algorithm, &self.decoding).expect("a key");
            verifier.verify(message.as_bytes(), &signature).expect("a good token");
            insecure_decode_claims::<Claims>(token).expect("claims")
        });
        claims.map(|claims| claims.sub.len() + claims.name.len()).sum()
    }

    /// What signs in at a gateway that has not seen any of the tokens.
    fn gateway(&self) -> Result<Authenticator> {
        let path = self.file.path().to_owned();
        let is_secret = self.algorithm == Algorithm::HS256;
        let (secret_files, public_key_file) = if is_secret { (vec![path], None) } else { (Vec::new(), Some(path)) };
        Ok(Authenticator::new(&jwt(secret_files, public_key_file), &Metrics::default())?)
    }

    fn by(&self, gateway: &Authenticator, runtime: &Runtime) -> usize {
        runtime.block_on(async {
            let mut length = 0;
            for token in &self.tokens {
                length += gateway.verify(Some(token)).await.expect("a good token").user_id.len();
            }
            length
        })
    }

    /// Microseconds of npm jsonwebtoken; `None` where it is not there or does not know the algorithm.
    fn peer(&self) -> Result<Option<f64>> {
        let Some(folder) = std::env::var_os("COLLAB_BENCH_PEERS") else {
            println!("SKIPPED npm jsonwebtoken: COLLAB_BENCH_PEERS names no folder");
            return Ok(None);
        };
        let mut command = Command::new("node");
        command.arg("jwt.js").current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn()?;
        let told = json!({"algorithm": self.algorithm, "key": self.key, "tokens": self.tokens});
        child.stdin.take().context("its input")?.write_all(told.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "jwt.js: {}", output.status);
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        Ok(answer["us"].as_f64())
    }
}

fn jwt(secret_files: Vec<PathBuf>, public_key_file: Option<PathBuf>) -> Jwt {
    Jwt { secret_files, public_key_file, jwks_url: None, issuer: None, audience: None }
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().build()?)
}
