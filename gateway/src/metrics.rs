//! The metrics of CONTRACT section 3, in Prometheus' text form. Labels are bounded: each has a fixed set of values.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// From half a millisecond to ten seconds.
const SECONDS_BUCKETS: [f64; 14] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// All values that labels ever have, of each metric by its name without prefix and ending. What counts is checked against
/// it where there are debug assertions, so that no value comes from outside or is forgotten here.
pub const LABELS: [(&str, &str, &[&str]); 7] = [
    // Why a connection was refused, about in the order in which it can happen.
    (
        "connections_refused",
        "reason",
        &[
            "unheard", // It said nothing for longer than others, and there were too many.
            "tls",
            "bad_http",
            "slow_request",
            // Of the upgrade.
            "unknown_transport",
            "unknown_sid",
            "bad_method",
            "bad_request",
            "unsupported_version",
            "websocket_version",
            "origin",
            // 503.
            "draining",
            "accept_rate",
            "max_connections",
            "no_connect", // Not in time, or something else first.
            // The codes that clients get.
            "TOKEN_REQUIRED",
            "TOKEN_INVALID",
            "TOKEN_EXPIRED",
            "USER_NOT_FOUND",
            // Nobody could tell who it is.
            "store_unavailable",
            "keys_unavailable",
            "held_max",
            "max_connections_per_user",
        ],
    ),
    // What bytes are held for.
    ("held_bytes", "what", &["frames", "inbox", "edits", "documents"]),
    // What was held up or ended while memory was used up: connections for their `inbox` or `outbox`, `edits` that waited, a
    // `join` that was put off, an `unused` document that was closed early, the `growth` of a large one.
    ("overloaded", "what", &["inbox", "outbox", "edits", "join", "unused", "growth"]),
    // What came too fast; `user_join`: all connections of a user are counted.
    ("rate_limited", "event", &["cursor", "typing", "join", "user_join"]),
    ("webhook_requests", "hook", &["users", "access"]),
    // What became of a request to a webhook; `crowded`: too many waited for their turn; `given_up`: nobody waits for it any
    // more.
    (
        "webhook_requests",
        "outcome",
        &["found", "not_found", "late", "failed", "status", "unreadable", "crowded", "given_up"],
    ),
    ("key_set_fetches", "outcome", &["changed", "unchanged", "failed"]),
];

/// Why a connection was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Refused {
    /// One of [`LABELS`].
    pub reason: &'static str,
}

/// What bytes are held for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Held {
    /// One of [`LABELS`].
    pub what: &'static str,
}

/// What was held up or ended while the pod's memory was used up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Overloaded {
    /// One of [`LABELS`].
    pub what: &'static str,
}

/// What came too fast.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Limited {
    /// One of [`LABELS`].
    pub event: &'static str,
}

/// What became of a request to a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WebhookOutcome {
    /// One of [`LABELS`].
    pub hook: &'static str,
    /// One of [`LABELS`].
    pub outcome: &'static str,
}

/// What became of a fetch of the key set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FetchOutcome {
    /// One of [`LABELS`].
    pub outcome: &'static str,
}

/// Counters that all parts of the process share. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Connections that are open now.
    pub connections: Gauge,
    /// Connections that have not been upgraded yet.
    pub connections_unheard: Gauge,
    /// Connections that waited in the kernel's backlog because too many came at once.
    pub arrivals_delayed: Counter,
    /// Connections whose CONNECT was accepted.
    pub connections_accepted: Counter,
    /// Of those admitted, the ones that had a resume ticket.
    pub connections_resumed: Counter,
    /// Connections refused, by reason.
    pub connections_refused: Family<Refused, Counter>,
    /// CONNECTs that were held because nobody could say who it is.
    pub connects_held: Counter,
    /// Those that are held now.
    pub connects_waiting: Gauge,
    /// Requests to webhooks.
    pub webhook_requests: Family<WebhookOutcome, Counter>,
    /// From a request's turn to its answer.
    pub webhook_seconds: Histogram,
    /// Fetches of the key set.
    pub key_set_fetches: Family<FetchOutcome, Counter>,
    /// Cursors, typing signals and joins that came too fast.
    pub rate_limited: Family<Limited, Counter>,
    /// Bytes that clients make the pod hold.
    pub held_bytes: Family<Held, Gauge>,
    /// What happened because that was too much.
    pub overloaded: Family<Overloaded, Counter>,
    /// Pauses of reading because a connection sent too fast.
    pub reads_slowed: Counter,
    /// Documents that are open on this pod.
    pub documents: Gauge,
    /// Edits of this pod's clients that entered the log.
    pub edits_committed: Counter,
    /// From sending an edit to the store until the answer that it is in the log, repeats of the call included.
    pub edit_commit_seconds: Histogram,
    /// Acknowledgements of edits in the log that wait until these are durable.
    pub acknowledgements_waiting: Gauge,
    /// Edits written to sockets.
    pub deliveries: Counter,
    /// From the commit on any pod to the socket write here.
    pub edit_delivery_seconds: Histogram,
    /// Connections closed because they did not read.
    pub slow_consumers: Counter,
    /// Times that a changed certificate could not be used.
    pub certificate_failures: Counter,
    /// Copies of a document that were found to differ.
    pub divergence: Counter,
    /// 1 while the store takes changes, as far as this pod knows.
    pub store_up: Gauge,
    /// 1 while the store would throw documents away when its memory is full.
    pub store_may_evict: Gauge,
    /// Edits that a failover lost and this pod set out to put back.
    pub edits_put_back: Counter,
    /// Edits that a failover lost and this pod could not put back.
    pub edits_given_up: Counter,
    /// Bytes that compression spared sockets, at least.
    pub compression_saved_bytes: Counter,
    /// 1 while this pod drains.
    pub draining: Gauge,
    /// Connections that a drain has still to see gone.
    pub drain_connections_left: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("collab_gateway");
        let histogram = || Histogram::new(SECONDS_BUCKETS);
        let mut metrics = Self {
            registry: Arc::default(),
            connections: Gauge::default(),
            connections_unheard: Gauge::default(),
            arrivals_delayed: Counter::default(),
            connections_accepted: Counter::default(),
            connections_resumed: Counter::default(),
            connections_refused: Family::default(),
            connects_held: Counter::default(),
            connects_waiting: Gauge::default(),
            webhook_requests: Family::default(),
            webhook_seconds: histogram(),
            key_set_fetches: Family::default(),
            rate_limited: Family::default(),
            held_bytes: Family::default(),
            overloaded: Family::default(),
            reads_slowed: Counter::default(),
            documents: Gauge::default(),
            edits_committed: Counter::default(),
            edit_commit_seconds: histogram(),
            acknowledgements_waiting: Gauge::default(),
            deliveries: Counter::default(),
            edit_delivery_seconds: histogram(),
            slow_consumers: Counter::default(),
            certificate_failures: Counter::default(),
            divergence: Counter::default(),
            store_up: Gauge::default(),
            store_may_evict: Gauge::default(),
            edits_put_back: Counter::default(),
            edits_given_up: Counter::default(),
            compression_saved_bytes: Counter::default(),
            draining: Gauge::default(),
            drain_connections_left: Gauge::default(),
        };
        let m = &metrics;
        registry.register("connections", "Connections that are open now", m.connections.clone());
        registry.register("connections_unheard", "Connections before the upgrade", m.connections_unheard.clone());
        registry.register("arrivals_delayed", "Connections that waited to be accepted", m.arrivals_delayed.clone());
        registry.register("connections_accepted", "Connections signed in", m.connections_accepted.clone());
        registry.register("connections_resumed", "Connections with a ticket", m.connections_resumed.clone());
        registry.register("connections_refused", "Connections refused, by reason", m.connections_refused.clone());
        registry.register("connects_held", "CONNECTs held for an answer about them", m.connects_held.clone());
        registry.register("connects_waiting", "CONNECTs that are held now", m.connects_waiting.clone());
        registry.register("webhook_requests", "Requests to webhooks, by outcome", m.webhook_requests.clone());
        registry.register("webhook_seconds", "A webhook's time to answer", m.webhook_seconds.clone());
        registry.register("key_set_fetches", "Fetches of the key set, by outcome", m.key_set_fetches.clone());
        registry.register("rate_limited", "Events refused for their rate", m.rate_limited.clone());
        registry.register("held_bytes", "Bytes held for clients, by use", m.held_bytes.clone());
        registry.register("overloaded", "What was put off or ended for memory", m.overloaded.clone());
        registry.register("reads_slowed", "Pauses of a socket that sent too fast", m.reads_slowed.clone());
        registry.register("documents", "Documents open on this pod", m.documents.clone());
        registry.register("edits_committed", "Edits that entered the log", m.edits_committed.clone());
        registry.register("edit_commit_seconds", "An edit, from sending to answer", m.edit_commit_seconds.clone());
        let waiting = m.acknowledgements_waiting.clone();
        registry.register("acknowledgements_waiting", "Acknowledgements that wait for replicas", waiting);
        registry.register("deliveries", "Edits written to sockets", m.deliveries.clone());
        registry.register("edit_delivery_seconds", "Commit to socket write", m.edit_delivery_seconds.clone());
        registry.register(
            "slow_consumers",
            "Connections that read too slowly: told to join again, or closed",
            m.slow_consumers.clone(),
        );
        registry.register("certificate_failures", "Unusable new certificates", m.certificate_failures.clone());
        registry.register("divergence", "Copies found to differ", m.divergence.clone());
        let left = m.drain_connections_left.clone();
        registry.register("drain_connections_left", "Connections that a drain has still to see gone", left);
        registry.register("store_up", "1 while the store takes changes", m.store_up.clone());
        registry.register("store_may_evict", "1 while the store may drop keys", m.store_may_evict.clone());
        registry.register("edits_put_back", "Edits lost by a failover, put back", m.edits_put_back.clone());
        registry.register("edits_given_up", "Edits lost by a failover for good", m.edits_given_up.clone());
        let saved = m.compression_saved_bytes.clone();
        registry.register("compression_saved_bytes", "Bytes that compression spared sockets", saved);
        registry.register("draining", "1 while this pod drains", m.draining.clone());
        metrics.registry = Arc::new(registry);
        metrics
    }
}

impl Metrics {
    /// Counts a refusal.
    pub fn refuse(&self, reason: &'static str) {
        debug_assert!(is_known("connections_refused", "reason", reason), "{reason} is not in the list");
        self.connections_refused.get_or_create(&Refused { reason }).inc();
    }

    /// Counts what memory that is used up did.
    pub fn overload(&self, what: &'static str) {
        debug_assert!(is_known("overloaded", "what", what), "{what} is not in the list");
        self.overloaded.get_or_create(&Overloaded { what }).inc();
    }

    /// Counts an event that came too fast.
    pub fn limit(&self, event: &'static str) {
        debug_assert!(is_known("rate_limited", "event", event), "{event} is not in the list");
        self.rate_limited.get_or_create(&Limited { event }).inc();
    }

    /// Counts a request to a webhook.
    pub fn webhook(&self, hook: &'static str, outcome: &'static str) {
        debug_assert!(is_known("webhook_requests", "hook", hook), "{hook} is not in the list");
        debug_assert!(is_known("webhook_requests", "outcome", outcome), "{outcome} is not in the list");
        self.webhook_requests.get_or_create(&WebhookOutcome { hook, outcome }).inc();
    }

    /// Counts a fetch of the key set.
    pub fn key_set_fetch(&self, outcome: &'static str) {
        debug_assert!(is_known("key_set_fetches", "outcome", outcome), "{outcome} is not in the list");
        self.key_set_fetches.get_or_create(&FetchOutcome { outcome }).inc();
    }

    /// The text that Prometheus scrapes.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Whether [`LABELS`] has this value.
pub fn is_known(metric: &str, label: &str, value: &str) -> bool {
    LABELS.iter().any(|(of, name, values)| *of == metric && *name == label && values.contains(&value))
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn names_are_those_of_the_contract() {
        let metrics = Metrics::default();
        metrics.refuse("TOKEN_EXPIRED");
        let text = metrics.text();
        for name in [
            "collab_gateway_connections 0",
            "collab_gateway_connections_accepted_total 0",
            "collab_gateway_connections_refused_total{reason=\"TOKEN_EXPIRED\"} 1",
            "collab_gateway_connects_held_total 0",
            "collab_gateway_connects_waiting 0",
            "collab_gateway_documents 0",
            "collab_gateway_edits_committed_total 0",
            "collab_gateway_edit_commit_seconds_count 0",
            "collab_gateway_deliveries_total 0",
            "collab_gateway_edit_delivery_seconds_count 0",
            "collab_gateway_slow_consumers_total 0",
            "collab_gateway_divergence_total 0",
            "collab_gateway_draining 0",
            "collab_gateway_drain_connections_left 0",
        ] {
            assert!(text.contains(name), "{name} is missing in\n{text}");
        }
        for (name, kind) in [
            ("connections", "gauge"),
            ("connections_accepted", "counter"),
            ("connections_refused", "counter"),
            ("documents", "gauge"),
            ("edits_committed", "counter"),
            ("edit_commit_seconds", "histogram"),
            ("deliveries", "counter"),
            ("edit_delivery_seconds", "histogram"),
            ("slow_consumers", "counter"),
            ("divergence", "counter"),
            ("draining", "gauge"),
        ] {
            let line = format!("# TYPE collab_gateway_{name} {kind}\n");
            assert!(text.contains(&line), "{line} is missing in\n{text}");
        }
    }
}
