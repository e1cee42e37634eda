//! Names the fields that are accepted, differ from their default and have no effect in this version, so that nothing is
//! silently ignored. In: the spec. Out: paths for the condition `ConfigurationWarning`.

use collab_api::{CollabClusterSpec, policy::NetworkPolicy, policy::PauseScope, redis::Durability, redis::Redis};

/// Paths of the fields that have no effect; `storage_grew` tells that the claim is smaller than what is asked for now.
pub fn ineffective_fields(spec: &CollabClusterSpec, storage_grew: bool) -> Vec<String> {
    let redis = Redis::default();
    let without_effect = |what| spec.paused.iter().any(|pause| pause.what == what);
    let checks = [
        ("spec.gateway.maxConnectionAge", spec.gateway.max_connection_age.is_some()),
        ("spec.gateway.route", spec.gateway.route.is_some()),
        ("spec.gateway.ingress", spec.gateway.ingress.is_some()),
        ("spec.agent", spec.agent != collab_api::gateway::Agent::default()),
        ("spec.autoscaling", spec.autoscaling.is_some()),
        ("spec.redis.replicas", spec.redis.replicas != redis.replicas),
        ("spec.redis.durability", !matches!(spec.redis.durability, None | Some(Durability::Async))),
        ("spec.redis.storage.size", storage_grew),
        ("spec.redis.tls", spec.redis.tls != redis.tls),
        ("spec.redis.external", spec.redis.external.is_some()),
        ("spec.redis.restoreFrom", spec.redis.restore_from.is_some()),
        ("spec.redis.backup", spec.redis.backup.is_some()),
        ("spec.networkPolicy", spec.network_policy != NetworkPolicy::default()),
        ("spec.monitoring", spec.monitoring != collab_api::policy::Monitoring::default()),
        ("spec.paused[Autoscaling]", without_effect(PauseScope::Autoscaling)),
        ("spec.paused[Failover]", without_effect(PauseScope::Failover)),
    ];
    checks.into_iter().filter(|(_, differs)| *differs).map(|(path, _)| path.to_owned()).collect()
}
