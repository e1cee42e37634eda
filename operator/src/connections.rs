//! How many connections there are: asks each ready gateway pod's admin port for `collab_gateway_connections`.
//!
//! In: pods. Out: the sum over those that answered. A pod that does not answer in time is left out: counting must never
//! hold up a reconcile.

use std::{net::IpAddr, time::Duration};

use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tokio::{net::TcpStream, time::timeout};

use crate::{names::ADMIN_PORT, pods};

/// A healthy pod answers within milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Pods asked at once.
const REQUESTS_MAX: usize = 16;
/// A gateway's metrics are a few KiB; more is no answer.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// The metric.
const METRIC: &str = "collab_gateway_connections";

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("unreadable answer: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("the request cannot be built: {0}")]
    Request(#[from] hyper::http::Error),
}

/// Sum over the ready pods that answer, `None` where none does (and `Some(0)` where there is no ready pod).
pub async fn count(gateway_pods: &[Pod]) -> Option<i64> {
    let ready = gateway_pods.iter().filter(|pod| pods::is_ready(pod));
    let addresses: Vec<IpAddr> = ready.filter_map(address).collect();
    if addresses.is_empty() {
        return Some(0);
    }
    let answers = stream::iter(addresses).map(count_of).buffer_unordered(REQUESTS_MAX);
    let counts: Vec<i64> = answers.filter_map(async |answer| answer).collect().await;
    (!counts.is_empty()).then(|| counts.iter().sum())
}

fn address(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

async fn count_of(address: IpAddr) -> Option<i64> {
    match timeout(ANSWER_WITHIN, scrape(address)).await {
        Ok(Ok(text)) => parse(&text),
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "a gateway did not tell its connections");
            None
        }
        Err(_) => None,
    }
}

async fn scrape(address: IpAddr) -> Result<String, Error> {
    let stream = TcpStream::connect((address, ADMIN_PORT)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/metrics").header("host", "gateway").header("connection", "close");
    let exchange = async {
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(Error::Body)?;
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    };
    // The connection lives as long as the exchange: no task is left behind.
    tokio::pin!(exchange);
    tokio::pin!(connection);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error.into()),
        },
    }
}

/// The sum of the metric's samples in Prometheus' text format.
fn parse(text: &str) -> Option<i64> {
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(METRIC)?;
        let value = match rest.strip_prefix('{') {
            Some(labels) => labels.split_once('}')?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.split_whitespace().next()?.parse::<f64>().ok()
    });
    let values: Vec<f64> = samples.collect();
    #[expect(clippy::cast_possible_truncation, reason = "a count of connections is far below 2^53")]
    (!values.is_empty()).then(|| values.iter().sum::<f64>() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metric_is_found_among_others_with_a_longer_name() {
        let text = "# TYPE collab_gateway_connections gauge\ncollab_gateway_connections 41\n\
                    collab_gateway_connections_accepted_total 900\n";
        assert_eq!(parse(text), Some(41));
        assert_eq!(parse("collab_gateway_connections{a=\"b\"} 3\ncollab_gateway_connections{a=\"c\"} 4\n"), Some(7));
        assert_eq!(parse("collab_gateway_documents 3\n"), None);
    }
}
