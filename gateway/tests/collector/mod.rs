//! A collector of traces that speaks OTLP over HTTP.
//!
//! In: what a gateway sends to its address. Out: the spans that it got, whose they are, and how they came.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message;
use tokio::net::TcpListener;

use crate::servers::eventually;

/// Every trace, and soon.
pub const ALL: [(&str, &str); 2] = [("OTEL_TRACES_SAMPLER", "always_on"), ("OTEL_BSP_SCHEDULE_DELAY", "20")];

pub struct Collector {
    pub address: SocketAddr,
    pub got: Arc<Mutex<Got>>,
}

#[derive(Debug, Default)]
pub struct Got {
    pub spans: Vec<Span>,
    /// The last sender's.
    pub resource: Vec<KeyValue>,
    pub paths: Vec<String>,
    pub types: Vec<String>,
}

impl Collector {
    pub async fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, got) = (listener.local_addr().unwrap(), Arc::<Mutex<Got>>::default());
        let collector = Collector { address, got: got.clone() };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let got = got.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| take(request, got.clone()));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        collector
    }

    pub fn named(&self, name: &str) -> Vec<Span> {
        self.got.lock().unwrap().spans.iter().filter(|span| span.name == name).cloned().collect()
    }

    pub async fn one(&self, name: &str) -> Span {
        eventually(name, async || !self.named(name).is_empty()).await;
        self.named(name).remove(0)
    }
}

pub fn text(attributes: &[KeyValue], name: &str) -> Option<String> {
    let value = value(attributes, name)?;
    let Value::StringValue(text) = value else { panic!("{name} is {value:?}") };
    Some(text)
}

pub fn number(attributes: &[KeyValue], name: &str) -> Option<i64> {
    let value = value(attributes, name)?;
    let Value::IntValue(number) = value else { panic!("{name} is {value:?}") };
    Some(number)
}

async fn take(request: Request<Incoming>, got: Arc<Mutex<Got>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let kind = request.headers()["content-type"].to_str().unwrap().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let message = ExportTraceServiceRequest::decode(body).unwrap();
    let mut got = got.lock().unwrap();
    got.paths.push(path);
    got.types.push(kind);
    for resource in message.resource_spans {
        got.resource = resource.resource.unwrap().attributes;
        got.spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
    }
    Ok(Response::new(Full::default()))
}

fn value(attributes: &[KeyValue], name: &str) -> Option<Value> {
    attributes.iter().find(|pair| pair.key == name)?.value.clone()?.value
}
