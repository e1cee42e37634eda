//! The opening handshake: whether a request is a Socket.IO client's upgrade, and what refused ones are answered.
//!
//! In: the head of an HTTP request. Out: the value of `Sec-WebSocket-Accept` and the terms of compression, or a
//! [`Refusal`] with the response that Engine.IO, RFC 6455 or RFC 9110 give it. Nothing here costs more than looking at
//! headers.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN, RETRY_AFTER,
        SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING,
        UPGRADE,
    },
};
use protocol::HandshakeError;
use websocket::Deflate;

use crate::admission::Later;

/// The version of RFC 6455, the only one.
const VERSION: &str = "13";

/// Why a request gets no socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is no client of ours.
    Handshake(HandshakeError),
    /// It speaks another version of the WebSocket protocol.
    Version,
    /// There is no place now.
    Later(Later),
}

/// The `Sec-WebSocket-Accept` for a request that is in order.
///
/// # Errors
/// With what is wrong first: Engine.IO's query, then the method, then RFC 6455 section 4.2.1.
pub fn check<B>(request: &Request<B>) -> Result<HeaderValue, Refusal> {
    protocol::check_query(request.uri().query().unwrap_or_default()).map_err(Refusal::Handshake)?;
    if *request.method() != Method::GET {
        return Err(Refusal::Handshake(HandshakeError::BadMethod));
    }
    let bad = Refusal::Handshake(HandshakeError::BadRequest);
    let headers = request.headers();
    let is_upgrade = names(headers, &CONNECTION, "upgrade") && names(headers, &UPGRADE, "websocket");
    if !is_upgrade || request.version() < Version::HTTP_11 || only(headers, &HOST).is_none() || has_body(headers) {
        return Err(bad);
    }
    match only(headers, &SEC_WEBSOCKET_VERSION) {
        None => return Err(bad),
        Some(version) if version.trim() != VERSION => return Err(Refusal::Version),
        Some(_) => {}
    }
    let accept = only(headers, &SEC_WEBSOCKET_KEY).and_then(websocket::accept_key);
    accept.and_then(|accept| HeaderValue::try_from(accept).ok()).ok_or(bad)
}

/// Whether a browser's page may connect; others do not say where they come from, or claim what they like.
pub fn is_allowed_origin(headers: &HeaderMap, allowed: &[String]) -> bool {
    let origins = headers.get_all(ORIGIN);
    allowed.is_empty() || origins.iter().all(|origin| allowed.iter().any(|a| a.as_bytes() == origin.as_bytes()))
}

/// The terms of compression that the client offers and that can be served; without any it talks uncompressed.
pub fn deflate(headers: &HeaderMap) -> Option<Deflate> {
    let offers = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
    Deflate::negotiate(offers.filter_map(|offer| offer.to_str().ok()))
}

/// The answer that makes the connection a WebSocket, compressed on these terms.
pub fn switching(accept: HeaderValue, deflate: Option<Deflate>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(answer) = deflate.and_then(|deflate| HeaderValue::try_from(deflate.answer()).ok()) {
        headers.insert(SEC_WEBSOCKET_EXTENSIONS, answer);
    }
    response
}

/// A short text.
pub fn plain(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

impl Refusal {
    /// For the metrics; none where the admission has counted it.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Refusal::Handshake(HandshakeError::UnknownTransport) => Some("unknown_transport"),
            Refusal::Handshake(HandshakeError::UnknownSid) => Some("unknown_sid"),
            Refusal::Handshake(HandshakeError::BadMethod) => Some("bad_method"),
            Refusal::Handshake(HandshakeError::BadRequest) => Some("bad_request"),
            Refusal::Handshake(HandshakeError::Forbidden) => Some("origin"),
            Refusal::Handshake(HandshakeError::UnsupportedVersion) => Some("unsupported_version"),
            Refusal::Version => Some("websocket_version"),
            Refusal::Later(_) => None,
        }
    }

    /// What the client is answered.
    pub fn response(self) -> Response<Full<Bytes>> {
        match self {
            Refusal::Handshake(error) => {
                json(StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST), error)
            }
            Refusal::Version => {
                let mut response = json(StatusCode::UPGRADE_REQUIRED, HandshakeError::BadRequest);
                let headers = response.headers_mut();
                headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(CONNECTION, HeaderValue::from_static("Upgrade, close"));
                response
            }
            Refusal::Later(later) => {
                let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, "come back later\n");
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(later.retry_after_s()));
                // A proxy that reuses the connection would only be refused again.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                response
            }
        }
    }
}

fn json(status: StatusCode, error: HandshakeError) -> Response<Full<Bytes>> {
    let mut response = plain(status, error.body());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Whether a list of words has this one.
fn names(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name);
    let mut words = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    words.any(|word| word.trim().eq_ignore_ascii_case(wanted))
}

/// The value of a header that must be there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok();
    value.filter(|_| values.next().is_none())
}

/// The bytes of a body would be taken for frames by one side and for a request by the other.
fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING)
        || headers.get_all(CONTENT_LENGTH).iter().any(|length| length.as_bytes() != b"0")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn request(change: impl FnOnce(&mut Request<()>)) -> Result<HeaderValue, Refusal> {
        let mut request = Request::new(());
        *request.uri_mut() = "/socket.io/?EIO=4&transport=websocket".parse().expect("a path");
        for (name, value) in [
            (HOST, "x"),
            (CONNECTION, "keep-alive, Upgrade"),
            (UPGRADE, "WebSocket"),
            (SEC_WEBSOCKET_VERSION, "13"),
            (SEC_WEBSOCKET_KEY, KEY),
        ] {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        change(&mut request);
        check(&request)
    }

    #[test]
    fn a_request_that_is_in_order_gets_the_value_of_the_rfc() {
        assert_eq!(request(|_| {}), Ok(HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
        let zero = request(|r| drop(r.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"))));
        assert!(zero.is_ok(), "no body");
    }

    #[test]
    fn each_thing_that_the_rfc_asks_for_is_asked_for() {
        let bad = Err(Refusal::Handshake(HandshakeError::BadRequest));
        for name in [HOST, CONNECTION, UPGRADE, SEC_WEBSOCKET_VERSION, SEC_WEBSOCKET_KEY] {
            assert_eq!(request(|r| drop(r.headers_mut().remove(&name))), bad, "without {name}");
        }
        for (name, value) in [
            (CONNECTION, "close"),
            (UPGRADE, "h2c"),
            (SEC_WEBSOCKET_KEY, "c2hvcnQ="),
            (SEC_WEBSOCKET_KEY, "not base64"),
            (CONTENT_LENGTH, "5"),
            (TRANSFER_ENCODING, "chunked"),
        ] {
            let got = request(|r| drop(r.headers_mut().insert(&name, HeaderValue::from_static(value))));
            assert_eq!(got, bad, "{name}: {value}");
        }
        for name in [HOST, SEC_WEBSOCKET_VERSION, SEC_WEBSOCKET_KEY] {
            let twice = request(|r| {
                let value = r.headers().get(&name).cloned().expect("there");
                r.headers_mut().append(&name, value);
            });
            assert_eq!(twice, bad, "{name} twice");
        }
        assert_eq!(request(|r| *r.version_mut() = Version::HTTP_10), bad);
        for version in ["8", "0", "14", "thirteen"] {
            let header = HeaderValue::from_static(version);
            let got = request(|r| drop(r.headers_mut().insert(SEC_WEBSOCKET_VERSION, header)));
            assert_eq!(got, Err(Refusal::Version), "{version}");
        }
    }

    #[test]
    fn the_answer_names_compression_only_where_it_was_offered_well() {
        let offered = |values: &[&'static [u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_bytes(value).expect("a value"));
            }
            let response = switching(HeaderValue::from_static("x"), deflate(&headers));
            response.headers().get(SEC_WEBSOCKET_EXTENSIONS).map(|value| value.to_str().expect("text").to_owned())
        };
        let answer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        assert_eq!(offered(&[b"permessage-deflate; client_max_window_bits"]).as_deref(), Some(answer));
        assert_eq!(offered(&[b"\xff", b"bbf-usp-protocol", b"permessage-deflate"]).as_deref(), Some(answer));
        assert_eq!(offered(&[b"\xff"]), None);
        assert_eq!(offered(&[]), None);
    }

    #[test]
    fn a_page_that_names_two_origins_needs_both() {
        let allowed = ["https://a.example".to_owned()];
        let mut headers = HeaderMap::new();
        assert!(is_allowed_origin(&headers, &allowed));
        headers.append(ORIGIN, HeaderValue::from_static("https://a.example"));
        assert!(is_allowed_origin(&headers, &allowed));
        headers.append(ORIGIN, HeaderValue::from_static("https://b.example"));
        assert!(!is_allowed_origin(&headers, &allowed) && is_allowed_origin(&headers, &[]));
    }
}
