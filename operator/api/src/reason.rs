//! The catalogue of condition types and reasons in `status.conditions`. Tools may match them.

/// Everything is as asked for.
pub const READY: &str = "Ready";
/// Pods of a new template, or another number of pods, are on their way.
pub const PROGRESSING: &str = "Progressing";
/// At least one gateway pod serves.
pub const GATEWAY_AVAILABLE: &str = "GatewayAvailable";
/// The Redis primary answers.
pub const REDIS_AVAILABLE: &str = "RedisAvailable";
/// A field is accepted but has no effect in this version.
pub const CONFIGURATION_WARNING: &str = "ConfigurationWarning";
/// It works, but something is wrong.
pub const DEGRADED: &str = "Degraded";
/// The operator leaves something alone because `spec.paused` says so.
pub const PAUSED: &str = "Paused";

/// Ready: all pods are ready.
pub const ALL_READY: &str = "AllReady";
/// Ready=False: the spec cannot be acted on; the message names the field. The last good state keeps running.
pub const SPEC_INVALID: &str = "SpecInvalid";
/// Ready=False: an object of a child's name belongs to somebody else.
pub const NAME_TAKEN: &str = "NameTaken";
/// Ready=False: the API server did not take an object; it is tried again.
pub const APPLY_FAILED: &str = "ApplyFailed";
/// Ready=False: gateway pods are missing or not ready.
pub const GATEWAYS_NOT_READY: &str = "GatewaysNotReady";
/// Ready=False: the Redis pod is missing or not ready.
pub const REDIS_NOT_READY: &str = "RedisNotReady";
/// Progressing: pods are being replaced, added or taken away.
pub const ROLLING_OUT: &str = "RollingOut";
/// Progressing=False: nothing is under way.
pub const SETTLED: &str = "Settled";
/// GatewayAvailable, RedisAvailable: it serves.
pub const SERVING: &str = "Serving";
/// GatewayAvailable, RedisAvailable: it does not.
pub const NOT_SERVING: &str = "NotServing";
/// ConfigurationWarning: the message lists the fields.
pub const FIELDS_WITHOUT_EFFECT: &str = "FieldsWithoutEffect";
/// ConfigurationWarning=False.
pub const ALL_IN_EFFECT: &str = "AllInEffect";
/// Degraded: a pod is in trouble; the message says which.
pub const POD_TROUBLE: &str = "PodTrouble";
/// Degraded=False.
pub const AS_EXPECTED: &str = "AsExpected";
/// Paused: the message lists what.
pub const PAUSED_BY_SPEC: &str = "PausedBySpec";
/// Paused=False.
pub const NOT_PAUSED: &str = "NotPaused";
