//! The demo: its page at `/`, and tokens for people who are called for the hour.
//!
//! In: GET requests that are not Socket.IO's. Out: the page's files (built into the binary by the feature `demo-page`),
//! or a signed token for a new `demo-…` user. Nothing of it is stored.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use serde_json::json;

use crate::auth::{Authenticator, DEMO_PREFIX};

const ADJECTIVES: [&str; 12] =
    ["Amber", "Brave", "Calm", "Clever", "Gentle", "Keen", "Lucky", "Merry", "Quick", "Quiet", "Sunny", "Swift"];
const ANIMALS: [&str; 12] =
    ["Badger", "Crane", "Dolphin", "Falcon", "Fox", "Hare", "Heron", "Lynx", "Otter", "Owl", "Seal", "Wren"];

/// The answer to a GET, `None` where the demo has nothing there.
pub fn answer(path: &str, authenticator: &Authenticator) -> Option<Response<Full<Bytes>>> {
    match path {
        "/demo/token" => Some(token(authenticator)),
        "/" => page("index.html"),
        _ => page(path.trim_start_matches('/')),
    }
}

fn token(authenticator: &Authenticator) -> Response<Full<Bytes>> {
    let number: u64 = rand::random();
    let user_id = format!("{DEMO_PREFIX}{number:016x}");
    let pick = |words: &[&'static str], number: u64| words[(number % words.len() as u64) as usize];
    let name = format!("{} {}", pick(&ADJECTIVES, number), pick(&ANIMALS, number / 16));
    match authenticator.sign_demo(&user_id, &name) {
        Ok(token) => {
            let body = json!({"token": token, "userId": user_id, "name": name}).to_string();
            let mut response = respond(StatusCode::OK, "application/json", body);
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Err(error) => {
            tracing::warn!(%error, "a demo token cannot be signed");
            respond(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "the token cannot be signed\n")
        }
    }
}

#[cfg(feature = "demo-page")]
fn page(path: &str) -> Option<Response<Full<Bytes>>> {
    static FILES: include_dir::Dir<'static> = include_dir::include_dir!("$CARGO_MANIFEST_DIR/client/dist");
    let file = FILES.get_file(path)?;
    Some(respond(StatusCode::OK, content_type(path), file.contents()))
}

#[cfg(not(feature = "demo-page"))]
fn page(path: &str) -> Option<Response<Full<Bytes>>> {
    let hint = "This gateway was built without the demo page: `make setup`, then build with --features demo-page.\n";
    (path == "index.html").then(|| respond(StatusCode::OK, "text/plain; charset=utf-8", hint))
}

#[cfg(feature = "demo-page")]
fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, ending)| ending) {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "woff2" => "font/woff2",
        "json" => "application/json",
        _ => "application/octet-stream",
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
