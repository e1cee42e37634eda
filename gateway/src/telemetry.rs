//! Traces over OTLP, for whoever names a collector.
//!
//! In: where the collector is, spans of [`TARGET`]. Out: some of them, in batches, from a thread of their own. Without a
//! collector no span is ever made. With one that is away, spans are dropped, which is said once; nothing that serves
//! editors waits for it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, Uri};
use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanContext, SpanKind, TraceContextExt, TraceId, TracerProvider},
};
use opentelemetry_http::HttpError;
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SamplingResult, SdkTracerProvider, ShouldSample},
};
use tokio::runtime::Handle;
use tracing::{Dispatch, Metadata, Span, Subscriber, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, Registry, filter::filter_fn, layer::SubscriberExt, registry::LookupSpan};

use crate::http_client::{HttpClient, Limit, NoAnswer};

/// The target of every span that is traced, and of nothing else.
pub const TARGET: &str = "collab_trace";

/// Of connects and batches, unless `OTEL_TRACES_SAMPLER` says otherwise: enough to see where time goes.
const RATIO: f64 = 0.01;
/// What is always traced: it happens once, and what it took is asked afterwards.
const ALWAYS: &str = "drain";
/// How long the collector may take for one batch, and how much it may say to it.
const EXPORT: Limit = Limit { time: Duration::from_secs(5), bytes: 64 << 10 };
/// How long the last spans may take when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer values of attributes are cut: ids are the clients'.
const VALUE_BYTES_MAX: usize = 128;
/// Spans have a handful of attributes, and no events.
const ATTRIBUTES_MAX: u32 = 16;

/// Traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum NoTraces {
    /// This build has no TLS, which would be a bug.
    #[error(transparent)]
    Client(#[from] NoAnswer),
    /// An `OTEL_…` variable asks for what there is not.
    #[error(transparent)]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// Sends spans to a collector.
#[derive(Debug)]
pub struct Telemetry {
    provider: SdkTracerProvider,
}

impl Telemetry {
    /// To this URL, on the runtime of the caller. How many spans wait, and for how long, `OTEL_BSP_…` say; 2048 and 5 s.
    ///
    /// # Errors
    /// When the environment asks for what there is not.
    pub fn start(traces: &Uri) -> Result<Telemetry, NoTraces> {
        let collector =
            Collector { client: HttpClient::new()?, runtime: Handle::current(), is_away: AtomicBool::new(false) };
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(collector)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(traces.to_string())
            .with_timeout(EXPORT.time)
            .build()?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_max_attributes_per_span(ATTRIBUTES_MAX)
            .with_resource(resource());
        // The library reads the variable where nothing else is said.
        let is_chosen = std::env::var("OTEL_TRACES_SAMPLER").is_ok_and(|name| !name.is_empty());
        let provider = if is_chosen { provider } else { provider.with_sampler(Sampler::ParentBased(Box::new(Roots))) };
        Ok(Telemetry { provider: provider.build() })
    }

    /// What takes the spans.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("collab-gateway"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_level(false)
            .with_target(false)
            .with_context_activation(false)
            .with_filter(filter_fn(is_traced).with_max_level_hint(LevelFilter::INFO))
    }

    /// Sends what has not been sent, for a bounded time. Later spans are lost.
    pub async fn flush(self) {
        let provider = self.provider;
        // It blocks its thread, for no longer than this.
        let flushing = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_TIMEOUT));
        if let Ok(Err(error)) = flushing.await {
            tracing::warn!(%error, "the last traces are lost");
        }
    }
}

/// The process's log, and its traces if there are any. Without them no span is made: a layer that is not there (`None`) asks
/// for every one.
pub fn subscriber<L>(lines: L, telemetry: Option<&Telemetry>) -> Dispatch
where
    L: Layer<Registry> + Send + Sync + 'static,
{
    let log = tracing_subscriber::registry().with(lines);
    match telemetry {
        Some(telemetry) => log.with(telemetry.layer()).into(),
        None => log.into(),
    }
}

/// A part of something larger: a span under another.
macro_rules! step {
    ($parent:expr, $name:literal $($fields:tt)*) => {
        tracing::info_span!(target: crate::telemetry::TARGET, parent: $parent, $name $($fields)*)
    };
}
/// The beginning of a trace.
macro_rules! root {
    ($name:literal $($fields:tt)*) => {
        tracing::info_span!(target: crate::telemetry::TARGET, parent: None, $name $($fields)*)
    };
}
pub(crate) use {root, step};

/// A future, and the span that lasts as long.
pub(crate) async fn within<T>(span: Span, work: impl Future<Output = T>) -> T {
    let done = work.await;
    drop(span);
    done
}

/// The value of an attribute.
pub(crate) fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(VALUE_BYTES_MAX)]
}

/// A number as an attribute: others become texts.
pub(crate) fn number(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

/// A span that is over but that later ones belong to; nothing where nothing is traced.
#[derive(Debug, Default)]
pub(crate) struct Origin(Option<Box<SpanContext>>);

impl Origin {
    pub(crate) fn of(span: &Span) -> Origin {
        if span.is_disabled() {
            return Origin(None);
        }
        let context = span.context().span().span_context().clone();
        Origin(context.is_valid().then(|| Box::new(context)))
    }

    /// Makes a span that has just begun a part of it.
    pub(crate) fn adopt(&self, span: &Span) {
        if let Some(context) = &self.0 {
            // It fails where nothing is traced any more.
            let _ = span.set_parent(Context::new().with_remote_span_context((**context).clone()));
        }
    }
}

fn is_traced(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target() == TARGET
}

/// Who sends: what `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say, and what they leave out.
fn resource() -> Resource {
    let said = Resource::builder().build();
    let is_said = |name: &'static str| {
        let value = said.get(&name.into()).map(|value| value.to_string());
        value.is_some_and(|value| !value.starts_with("unknown_service"))
    };
    let variable = |name| std::env::var(name).unwrap_or_default();
    let host = variable("HOSTNAME");
    // In Kubernetes a pod's name is its host's, and every container is told where the API is.
    let pod = if variable("KUBERNETES_SERVICE_HOST").is_empty() { String::new() } else { host.clone() };
    let own = [
        ("service.name", "collab-gateway"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", &host),
        ("k8s.pod.name", &pod),
        ("k8s.namespace.name", &variable("POD_NAMESPACE")),
    ];
    let missing = own.into_iter().filter(|(name, value)| !value.is_empty() && !is_said(name));
    Resource::builder()
        .with_attributes(missing.map(|(name, value)| KeyValue::new(name, value.to_owned())).collect::<Vec<_>>())
        .build()
}

/// Which traces begin.
#[derive(Debug, Clone)]
struct Roots;

impl ShouldSample for Roots {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let sampler = if name == ALWAYS { Sampler::AlwaysOn } else { Sampler::TraceIdRatioBased(RATIO) };
        sampler.should_sample(parent, trace, name, kind, attributes, links)
    }
}

/// The way to the collector.
#[derive(Debug)]
struct Collector {
    client: HttpClient,
    runtime: Handle,
    is_away: AtomicBool,
}

#[async_trait]
impl opentelemetry_http::HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        // The exporter's thread is no runtime's.
        let sending = self.runtime.spawn(async move { client.send(request.map(Full::new), EXPORT).await });
        let answer = sending.await.map_err(|error| NoAnswer::Failed(error.to_string())).flatten();
        match &answer {
            Ok(answer) if answer.status.is_success() => self.is_there(),
            Ok(answer) => self.is_not_there(&format!("it answers {}", answer.status)),
            Err(error) => self.is_not_there(&error.to_string()),
        }
        let answer = answer?;
        let mut response = Response::new(answer.body);
        *response.status_mut() = answer.status;
        Ok(response)
    }
}

impl Collector {
    fn is_there(&self) {
        if self.is_away.swap(false, Ordering::Relaxed) {
            tracing::info!("the collector takes traces again");
        }
    }

    fn is_not_there(&self, why: &str) {
        if !self.is_away.swap(true, Ordering::Relaxed) {
            tracing::warn!(why, "the collector does not take traces over HTTP; they are dropped until it does");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::LogLevel;
    use opentelemetry_sdk::trace::SamplingDecision;

    #[test]
    fn without_a_collector_no_span_is_made() {
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(std::io::sink)
            .with_filter(crate::log::filter(LogLevel::Debug));
        let metadata = tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            [root!("connect"), tracing::info_span!("of the log")].map(|span| span.metadata().expect("it is made"))
        });
        // What `is_disabled` tells holds for all subscribers, and the tests beside this one have theirs.
        let subscriber = subscriber(lines, None);
        assert_eq!(metadata.map(|span| subscriber.register_callsite(span).is_never()), [true, false]);
    }

    #[test]
    fn values_are_cut_between_letters() {
        assert_eq!(bounded("short"), "short");
        let long = "ö".repeat(100);
        assert_eq!(bounded(&format!("x{long}")).len(), 127);
    }

    #[test]
    fn a_drain_is_always_traced_and_few_other_things_are() {
        let sampler = Sampler::ParentBased(Box::new(Roots));
        let is_sampled = |name: &str, trace: u128| {
            let trace = TraceId::from(trace);
            let result = sampler.should_sample(None, trace, name, &SpanKind::Internal, &[], &[]);
            result.decision == SamplingDecision::RecordAndSample
        };
        // Evenly spread, as random ids are.
        let ids = (0..10_000_u128).map(|n| (n << 64) | (n * (u128::from(u64::MAX) / 10_000)));
        assert!(ids.clone().all(|id| is_sampled("drain", id)));
        let commits = ids.filter(|id| is_sampled("commit", *id)).count();
        assert!((90..=110).contains(&commits), "{commits} of 10000");
    }
}
