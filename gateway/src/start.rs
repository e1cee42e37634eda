//! Puts the parts of the process together.
//!
//! In: the configuration. Out: a server that is ready to serve, what the admin port tells, and the tasks in the
//! background with the handle that stops them.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use document::Settings;
use protocol::{Claim, Limits};
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin,
    auth::Authenticator,
    budget::Budget,
    bus::{Bus, CLIENT_CHANNEL, MemoryBus, RedisBus, SERVER_WIDE_BEHIND_MAX, ServerWide, hear_server_wide},
    changes,
    config::{Config, Mistake},
    connection::Pod,
    directory::{Directory, Trust},
    documents::{Documents, Parts},
    lease::Lease,
    live::Live,
    metrics::Metrics,
    outbox::Common,
    registry::Registry,
    server::Server,
    sign_in::SignIn,
    store::{Durability, MemoryStore, RedisStore, Servers, Store},
    tickets::Tickets,
    tls,
};

/// How long the store may take to hear that the pod is gone; the lease runs out by itself.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// A process that serves as soon as its server is given a listener.
pub struct Running {
    /// The public port's part.
    pub server: Arc<Server>,
    /// The admin port's part.
    pub admin: admin::State,
    /// What runs in the background.
    pub owned: Owned,
}

/// Where documents are kept and how pods hear of each other.
pub struct Backend {
    /// The store.
    pub store: Store,
    /// The bus.
    pub bus: Bus,
    /// Where names and access come from.
    pub trust: Trust,
}

impl Backend {
    /// The backend that the configuration names.
    pub fn new(config: &Config) -> Backend {
        let claims_or = |otherwise| if config.users_from_claims { Trust::Claims } else { otherwise };
        match &config.redis {
            Some(redis) => {
                let servers = Servers::new(Arc::new(redis.clone()));
                let store = Store::Redis(RedisStore::over(&servers));
                Backend { store, bus: Bus::Redis(RedisBus::over(&servers)), trust: claims_or(Trust::Keys) }
            }
            None => {
                // A warning: nobody who runs this by mistake should miss it.
                tracing::warn!("{}", alone(config));
                let bus = MemoryBus::default();
                let store = Store::Memory(MemoryStore::new(bus.clone()));
                Backend { store, bus: Bus::Memory(bus), trust: Trust::Everything }
            }
        }
    }
}

/// What it means to run without a store of one's own: where documents are, and who may do what.
fn alone(config: &Config) -> String {
    let Config { jwt, webhooks, .. } = config;
    let has_keys = !jwt.secret_files.is_empty() || jwt.public_key_file.is_some() || jwt.jwks_url.is_some();
    let access = match &webhooks.access {
        _ if !has_keys => "only users of the demo sign in",
        Some(_) => "--access-url says who may write what",
        None => "every valid token may write every document",
    };
    let names = match &webhooks.users {
        Some(_) if has_keys => "from --user-directory-url",
        Some(_) | None => "from the claims of tokens",
    };
    let demo = if config.demo { "; users of the demo have documents demo-* only" } else { "" };
    format!("no --redis-url: this process runs alone and keeps documents in memory; {access}; names come {names}{demo}")
}

/// Tasks that end with the process.
pub struct Owned {
    lease: Lease,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Owned {
    /// The pod's lease, which names its incarnation.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Ends them all, and tells the store that this pod is gone.
    pub async fn stop(mut self) {
        self.stop.cancel();
        // Late is as good as never here.
        let _ = tokio::time::timeout(END_TIMEOUT, self.lease.end()).await;
        self.tasks.shutdown().await;
    }
}

/// Asks the store whether it can keep what `--durability` promises. One that cannot be reached is no mistake: `/readyz`
/// tells when it can be and lacks something.
///
/// # Errors
/// With what it lacks and what to do.
pub async fn check_promise(config: &Config) -> Result<(), Mistake> {
    let Some(redis) = config.redis.as_ref().filter(|redis| redis.durability == Durability::Synced) else {
        return Ok(());
    };
    let servers = Servers::new(Arc::new(redis.clone()));
    let _ = servers.view().await;
    match servers.unsynced() {
        None => Ok(()),
        Some(why) => Err(Mistake(format!("--durability synced: {why}; or write --durability replicated"))),
    }
}

/// Starts everything but the ports.
///
/// # Errors
/// When a secret cannot be read any more.
pub async fn start(config: &Config, live: watch::Receiver<Live>) -> anyhow::Result<Running> {
    assemble(config, live, Backend::new(config)).await
}

/// The same over a backend of the caller's.
///
/// # Errors
/// When a secret cannot be read any more.
pub async fn assemble(config: &Config, live: watch::Receiver<Live>, backend: Backend) -> anyhow::Result<Running> {
    let Backend { store, bus, trust } = backend;
    let metrics = Metrics::default();
    let authenticator = Authenticator::new(&config.jwt, &metrics).context("the keys of tokens")?;
    let (directory, news) = Directory::new(store.clone(), trust, config.demo, &config.webhooks, &metrics)?;
    let lease = Lease::start(store.clone());
    let tickets = Tickets::new(config.resume_key_file.as_deref()).context("--resume-key-file")?;
    let budget = Budget::new(config.live.max_buffer_bytes, &metrics);
    let document_memory = Budget::new(config.live.max_documents_bytes, &metrics);
    let common = Common::new(budget.clone(), metrics.clone());
    let (registry, claims) = Registry::new(lease.pod().clone(), common);
    let documents = Documents::new(Parts {
        store: store.clone(),
        bus: bus.clone(),
        directory: directory.clone(),
        lease: lease.clone(),
        settings: Settings {
            max_document_bytes: config.document_bytes_max,
            max_edit_bytes: config.edit_bytes_max,
            // Alone there is nobody else to keep anything: a promise beyond `async` is refused with the flags.
            durable_acks: config.redis.as_ref().is_some_and(|redis| redis.durability != Durability::Async),
            ..Settings::default()
        },
        tickets: tickets.clone(),
        budget: budget.clone(),
        document_memory: document_memory.clone(),
        metrics: metrics.clone(),
    });
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let tls = match &config.tls {
        None => None,
        Some(files) => {
            let (keeper, tls) = tls::Keeper::new(files.clone(), metrics.certificate_failures.clone())?;
            tasks.spawn(keeper.follow());
            Some(tls)
        }
    };
    tasks.spawn(authenticator.clone().keep_keys());
    tasks.spawn(follow_budgets(budget, document_memory, live.clone()));
    tasks.spawn(tell_claims(bus.clone(), claims));
    let (every_pod, said) = broadcast::channel(SERVER_WIDE_BEHIND_MAX);
    tasks.spawn(hear_claims(said, registry.clone()));
    tasks.spawn(changes::hear(every_pod.subscribe(), news, directory.clone(), documents.clone(), registry.clone()));
    // Whoever else wants to hear subscribes to `every_pod` before this.
    tasks.spawn(hear_server_wide(bus.clone(), every_pod));
    let pod = Pod {
        sign_in: SignIn::new(authenticator.clone(), directory, metrics.clone()),
        authenticator,
        documents,
        registry,
        tickets,
        live: live.clone(),
        metrics: metrics.clone(),
        limits: Limits { edit_bytes: config.edit_bytes_max },
        ping_interval: config.ping_interval,
        ping_timeout: config.ping_timeout,
        compression: config.compression,
        demo_host: config.demo.then(host_name),
    };
    Ok(Running {
        server: Server::new(Arc::new(pod), live, tls, config.allowed_origins.clone()),
        admin: admin::State::new(metrics, store, bus),
        owned: Owned { lease, stop, tasks },
    })
}

async fn follow_budgets(budget: Budget, document_memory: Budget, mut live: watch::Receiver<Live>) {
    while live.changed().await.is_ok() {
        let live = live.borrow_and_update();
        budget.set_most(live.max_buffer_bytes);
        document_memory.set_most(live.max_documents_bytes);
    }
}

async fn tell_claims(bus: Bus, mut claims: mpsc::Receiver<Claim>) {
    while let Some(claim) = claims.recv().await {
        bus.publish(CLIENT_CHANNEL, protocol::encode_claim(&claim).into());
    }
}

async fn hear_claims(mut said: broadcast::Receiver<ServerWide>, registry: Registry) {
    loop {
        match said.recv().await {
            Ok(ServerWide::Claim(claim)) => registry.claimed_elsewhere(&claim),
            // What was missed is not missed much: sessions keep two connections of one editor right.
            Ok(ServerWide::Changed(_) | ServerWide::Missed) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// In a pod its name.
fn host_name() -> String {
    let name = std::env::var("HOSTNAME").ok().or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok());
    name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "this host".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_write_what_is_said_of_a_process_that_runs_alone() {
        let secret = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(secret.path(), "secret").expect("written");
        let keys = ["--jwt-secret-file", secret.path().to_str().expect("text")];
        let (access, users) = (["--access-url", "http://x"], ["--user-directory-url", "http://x"]);
        let (every, asked) = ("every valid token may write every document", "--access-url says who may write what");
        let (claims, directory) = ("names come from the claims of tokens", "names come from --user-directory-url");
        let demo = "users of the demo have documents demo-* only";
        for (flags, expected) in [
            (keys.to_vec(), vec![every, claims]),
            ([keys, users].concat(), vec![every, directory]),
            ([keys, access].concat(), vec![asked, claims]),
            (vec!["--demo"], vec!["only users of the demo sign in", claims, demo]),
            ([&keys[..], &["--demo"]].concat(), vec![every, claims, demo]),
            ([&keys[..], &access, &["--demo"]].concat(), vec![asked, claims, demo]),
        ] {
            let words = ["collab-gateway"].iter().chain(&flags).map(Into::into);
            let said = alone(&Config::load(words).expect("works"));
            assert!(said.ends_with(&format!("documents in memory; {}", expected.join("; "))), "{flags:?}: {said}");
        }
    }

    #[tokio::test]
    async fn names_and_roles_come_from_where_the_flags_say() {
        let secret = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(secret.path(), "secret").expect("written");
        let secret = secret.path().to_str().expect("text");
        let redis = ["--redis-url", "redis://127.0.0.1:1"];
        for (flags, trust) in [
            (&[][..], Trust::Everything),
            (&["--users-from-claims"], Trust::Everything),
            (&redis, Trust::Keys),
            (&[redis[0], redis[1], "--users-from-claims"], Trust::Claims),
            (&[redis[0], redis[1], "--users-from-claims", "false"], Trust::Keys),
        ] {
            let words = ["collab-gateway", "--jwt-secret-file", secret];
            let config = Config::load(words.iter().chain(flags).map(Into::into)).expect("works");
            assert_eq!(Backend::new(&config).trust, trust, "{flags:?}");
        }
    }
}
