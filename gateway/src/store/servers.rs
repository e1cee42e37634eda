//! Finds the servers that take writes, and tells when history may have changed.
//!
//! In: the configured addresses, doubts of whoever talks to a server. Out: a [`View`], the same for everybody in this
//! process. It is made anew after a doubt and every few seconds; no Service and no API call stands between a failover and
//! this. A different server, process, replicated history or epoch makes another view, whose number everybody can follow.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use redis::{RedisResult, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout},
};

use super::{
    Durability, RedisSettings, StoreError,
    dial::connect,
    view::{Node, Report, SlotMap, SlotRange, View, cluster, judge},
};

/// How often the servers are asked though nothing seems wrong: a former primary that does not know it yet answers well.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// A server that does not say what it is within this time counts as silent.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);
/// Once one server is good, the others have this long to tell of a better one.
const OTHERS_TIMEOUT: Duration = Duration::from_millis(250);
/// After a failed search the next one waits, twice as long each time, between these bounds.
const BACKOFF_MIN: Duration = Duration::from_millis(25);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// Nodes of a cluster that are remembered beside the configured ones.
const LEARNED_MAX: usize = 64;

/// All that is known of the servers; clones share it.
#[derive(Debug, Clone)]
pub struct Servers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Arc<RedisSettings>,
    view: watch::Sender<Option<Arc<View>>>,
    number: watch::Sender<u64>,
    /// A server that may throw documents away, and by which policy.
    evicting: watch::Sender<Option<String>>,
    /// Servers that take writes and cannot keep the promise of `synced`, and what they lack for it.
    unsynced: watch::Sender<BTreeMap<Arc<str>, &'static str>>,
    is_doubted: AtomicBool,
    // Held while searching, so that a herd of callers makes one search.
    search: Mutex<Search>,
}

#[derive(Debug, Default)]
struct Search {
    connections: HashMap<Arc<str>, MultiplexedConnection>,
    /// As they are configured now, and what was wrong with that last.
    configured: Vec<Arc<str>>,
    complaint: String,
    /// Addresses of a cluster beside the configured ones.
    learned: Vec<Arc<str>>,
    highest_epoch: u64,
    backoff: Duration,
    not_before: Option<(Instant, StoreError)>,
}

impl Servers {
    /// Asks nobody before the first call.
    pub fn new(settings: Arc<RedisSettings>) -> Self {
        let shared = Arc::new(Shared {
            settings,
            view: watch::Sender::new(None),
            number: watch::Sender::new(0),
            evicting: watch::Sender::new(None),
            unsynced: watch::Sender::default(),
            is_doubted: AtomicBool::new(true),
            search: Mutex::default(),
        });
        // It ends soon after the last clone is gone.
        tokio::spawn(ask_now_and_then(Arc::downgrade(&shared)));
        Self { shared }
    }

    pub(crate) fn settings(&self) -> &RedisSettings {
        &self.shared.settings
    }

    /// The number of the present view; see [`super::Store::history_changes`].
    pub(crate) fn numbers(&self) -> watch::Receiver<u64> {
        self.shared.number.subscribe()
    }

    /// Whether this is still the newest view.
    pub(crate) fn is_current(&self, number: u64) -> bool {
        *self.shared.number.borrow() == number
    }

    /// Completes when this is no longer the newest view.
    pub(crate) async fn changed_from(&self, number: u64) {
        // The sender lives as long as `self`.
        let _ = self.numbers().wait_for(|newest| *newest != number).await;
    }

    /// Whether each slot has a server of its own, as far as anybody knows.
    pub(crate) fn is_cluster(&self) -> bool {
        self.shared.view.borrow().as_ref().is_some_and(|view| view.is_cluster())
    }

    /// Which server may throw keys away when its memory is full, as it was found last.
    pub(crate) fn evicting(&self) -> Option<String> {
        self.shared.evicting.borrow().clone()
    }

    /// Which servers that take writes cannot keep the promise of `--durability synced`, and what to do, where that is
    /// promised; as it was found last.
    pub(crate) fn unsynced(&self) -> Option<String> {
        let unsynced = self.shared.unsynced.borrow();
        let each: Vec<_> = unsynced.iter().map(|(address, lack)| format!("{address} {lack}")).collect();
        (!each.is_empty()).then(|| each.join("; "))
    }

    /// The same of one server.
    pub(crate) fn lacks_for_synced(&self, address: &str) -> Option<&'static str> {
        self.shared.unsynced.borrow().get(address).copied()
    }

    /// Something is wrong with this view: whoever asks next makes a new one.
    pub(crate) fn doubt(&self, number: u64) {
        if self.is_current(number) {
            self.shared.is_doubted.store(true, Ordering::Release);
        }
    }

    /// Who takes writes now.
    ///
    /// # Errors
    /// Passing, with the reason that speaks against the best server.
    pub(crate) async fn view(&self) -> Result<Arc<View>, StoreError> {
        if let Some(view) = self.shared.undoubted() {
            return Ok(view);
        }
        let mut search = self.shared.search.lock().await;
        match self.shared.undoubted() {
            Some(view) => Ok(view),
            None => self.shared.search(&mut search).await,
        }
    }
}

async fn ask_now_and_then(shared: std::sync::Weak<Shared>) {
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        let Some(shared) = shared.upgrade() else { return };
        let is_in_use = shared.view.borrow().is_some();
        if is_in_use {
            let mut search = shared.search.lock().await;
            if let Err(error) = shared.search(&mut search).await {
                // The present view may still work; whoever finds that it does not asks again.
                tracing::debug!(%error, "no server takes writes");
            }
        }
    }
}

impl Shared {
    fn undoubted(&self) -> Option<Arc<View>> {
        if self.is_doubted.load(Ordering::Acquire) { None } else { self.view.borrow().clone() }
    }

    async fn search(&self, search: &mut Search) -> Result<Arc<View>, StoreError> {
        if let Some((_, error)) = search.not_before.as_ref().filter(|(until, _)| *until > Instant::now()) {
            return Err(error.clone());
        }
        // A doubt that comes from now on is about what is found now.
        self.is_doubted.store(false, Ordering::Release);
        match self.look(search).await {
            Ok((nodes, slots)) => {
                (search.backoff, search.not_before) = (BACKOFF_MIN, None);
                Ok(self.publish(View { number: 0, nodes, slots }))
            }
            Err(error) => {
                self.is_doubted.store(true, Ordering::Release);
                let backoff = search.backoff.clamp(BACKOFF_MIN, BACKOFF_MAX);
                search.not_before = Some((Instant::now() + backoff, error.clone()));
                search.backoff = backoff * 2;
                Err(error)
            }
        }
    }

    fn publish(&self, found: View) -> Arc<View> {
        let known = self.view.borrow().clone();
        if let Some(known) = known.filter(|known| known.is_like(&found)) {
            return known;
        }
        let view = Arc::new(View { number: *self.number.borrow() + 1, ..found });
        let primaries: Vec<_> =
            view.nodes.iter().map(|node| format!("{} (epoch {})", node.address, node.identity.epoch)).collect();
        tracing::info!(primary = primaries.join(", "), "the servers that take writes are known");
        self.view.send_replace(Some(Arc::clone(&view)));
        self.number.send_replace(view.number);
        view
    }

    async fn look(&self, search: &mut Search) -> Result<(Vec<Node>, Option<SlotMap>), StoreError> {
        search.configure(&self.settings);
        let mut addresses = search.configured.clone();
        addresses.extend(search.learned.iter().filter(|learned| !search.configured.contains(learned)).cloned());
        let is_alone = addresses.len() == 1;
        let (mut reports, mut failure) = (Vec::new(), None);
        let mut asked: FuturesUnordered<_> = addresses
            .iter()
            .map(|address| self.report(Arc::clone(address), search.connections.remove(address)))
            .collect();
        let mut patience = None;
        while let Some((address, outcome)) = next_within(&mut asked, patience).await {
            match outcome {
                Err(error) => failure = Some(error),
                Ok((connection, report)) => {
                    search.connections.insert(Arc::clone(&address), connection);
                    search.highest_epoch = search.highest_epoch.max(report.identity.epoch);
                    let is_good = report.is_cluster || judge(&address, &report, search.highest_epoch, is_alone).is_ok();
                    reports.push((address, report));
                    if is_good {
                        patience = patience.or_else(|| Some(Instant::now() + OTHERS_TIMEOUT));
                    }
                }
            }
        }
        drop(asked);
        self.warn_of_eviction(&reports);
        let found = if reports.iter().any(|(_, report)| report.is_cluster) {
            self.look_at_cluster(search, &mut reports).await
        } else {
            self.choose(&reports, search.highest_epoch, is_alone, failure)
        }?;
        self.warn_of_unsynced(&found.0, &reports);
        Ok(found)
    }

    /// Says once when a server begins to be one that may throw documents away. It is used all the same: with memory to
    /// spare nothing is lost, and without it nobody could edit.
    fn warn_of_eviction(&self, reports: &[(Arc<str>, Report)]) {
        let evicting = reports.iter().find_map(|(address, report)| Some((address, report.evicts_by.as_ref()?)));
        let evicting = evicting.map(|(address, policy)| format!("{address} has maxmemory-policy {policy}"));
        let is_news = self.evicting.send_if_modified(|known| {
            let is_news = *known != evicting;
            known.clone_from(&evicting);
            is_news
        });
        if let Some(evicting) = evicting.filter(|_| is_news) {
            tracing::warn!("{evicting}: it may throw documents away when its memory is full; set noeviction");
        }
    }

    /// Says once when a server that takes writes begins to be one that cannot tell what is on its disk. It is used all
    /// the same: edits are kept, and acknowledged when it can.
    fn warn_of_unsynced(&self, nodes: &[Node], reports: &[(Arc<str>, Report)]) {
        if self.settings.durability != Durability::Synced {
            return;
        }
        let lack = |node: &Node| {
            let (address, report) = reports.iter().find(|(address, _)| *address == node.address)?;
            Some((Arc::clone(address), report.lacks_for_synced()?))
        };
        let unsynced: BTreeMap<_, _> = nodes.iter().filter_map(lack).collect();
        let known = self.unsynced.send_replace(unsynced.clone());
        for (address, lack) in unsynced.iter().filter(|(address, lack)| known.get(*address) != Some(lack)) {
            tracing::error!("--durability synced: nothing is acknowledged, for {address} {lack}");
        }
    }

    /// The best of the servers that answered.
    fn choose(
        &self,
        reports: &[(Arc<str>, Report)],
        highest_epoch: u64,
        is_alone: bool,
        mut failure: Option<StoreError>,
    ) -> Result<(Vec<Node>, Option<SlotMap>), StoreError> {
        let present =
            self.view.borrow().as_ref().and_then(|view| view.nodes.first().map(|node| Arc::clone(&node.address)));
        let mut chosen: Option<&(Arc<str>, Report)> = None;
        for candidate in reports {
            match judge(&candidate.0, &candidate.1, highest_epoch, is_alone) {
                // Among equals the present one stays: nobody counts epochs, and both think that they are primaries.
                Ok(()) if chosen.is_none() || Some(&candidate.0) == present.as_ref() => chosen = Some(candidate),
                Ok(()) => {}
                // What a server says of itself tells more than that another one is silent.
                Err(error) => failure = Some(error),
            }
        }
        match chosen {
            Some((address, report)) => {
                Ok((vec![Node { address: Arc::clone(address), identity: report.identity.clone() }], None))
            }
            None => Err(failure.unwrap_or_else(|| StoreError::Unavailable("no server is configured".into()))),
        }
    }

    /// One server's word on itself, over its last connection if that still works.
    async fn report(
        &self,
        address: Arc<str>,
        connection: Option<MultiplexedConnection>,
    ) -> (Arc<str>, Result<(MultiplexedConnection, Report), StoreError>) {
        if let Some(connection) = connection
            && let Ok(Ok(report)) = timeout(REPORT_TIMEOUT, self.ask(connection.clone())).await
        {
            return (address, Ok((connection, report)));
        }
        let anew = async {
            let connection = connect(&self.settings, &address, REPORT_TIMEOUT).await?;
            let report = self.ask(connection.clone()).await.map_err(|error| {
                StoreError::Unavailable(format!("{address}: {}", super::errors::classify(&error).0.reason()))
            })?;
            Ok((connection, report))
        };
        let outcome = anew.await;
        (address, outcome)
    }

    /// What it says of itself, and of its disk where an acknowledgement speaks of that.
    async fn ask(&self, connection: MultiplexedConnection) -> RedisResult<Report> {
        let disks = async {
            match self.settings.durability {
                Durability::Async | Durability::Replicated => None,
                Durability::Synced => waits_for_disks(connection.clone()).await,
            }
        };
        let (told, waits_for_disks) = tokio::join!(report(connection.clone()), disks);
        Ok(Report { waits_for_disks, ..told? })
    }

    async fn look_at_cluster(
        &self,
        search: &mut Search,
        reports: &mut Vec<(Arc<str>, Report)>,
    ) -> Result<(Vec<Node>, Option<SlotMap>), StoreError> {
        // Each node has its own idea of the cluster; the one with the highest epoch is the newest.
        let mut newest: Option<(u64, Vec<SlotRange>, Arc<str>)> = None;
        for (address, _) in reports.iter().filter(|(_, report)| report.is_cluster) {
            let Some(connection) = search.connections.get(address) else { continue };
            if let Ok((epoch, ranges)) = map_of_cluster(connection.clone()).await
                && !ranges.is_empty()
                && newest.as_ref().is_none_or(|(highest, _, _)| epoch > *highest)
            {
                newest = Some((epoch, ranges, Arc::clone(address)));
            }
        }
        let Some((_, ranges, asked)) = newest else {
            return Err(StoreError::Unavailable("the cluster has no map of its slots yet".into()));
        };
        let (addresses, slots) = cluster(&ranges, &asked);
        search.learned = addresses.iter().take(LEARNED_MAX).cloned().collect();
        let mut nodes = Vec::with_capacity(addresses.len());
        for address in addresses {
            let identity = match reports.iter().find(|(known, _)| *known == address) {
                Some((_, report)) => report.identity.clone(),
                None => {
                    let (_, outcome) = self.report(Arc::clone(&address), search.connections.remove(&address)).await;
                    match outcome {
                        Ok((connection, report)) => {
                            search.connections.insert(Arc::clone(&address), connection);
                            let identity = report.identity.clone();
                            reports.push((Arc::clone(&address), report));
                            identity
                        }
                        // The others serve their slots meanwhile.
                        Err(_) => super::view::Identity::default(),
                    }
                }
            };
            nodes.push(Node { address, identity });
        }
        Ok((nodes, Some(slots)))
    }
}

impl Search {
    /// Takes the addresses as they are configured now; those that cannot be read change nothing.
    fn configure(&mut self, settings: &RedisSettings) {
        let shared = |addresses: &[String]| addresses.iter().map(|address| address.as_str().into()).collect();
        if self.configured.is_empty() {
            self.configured = shared(&settings.addresses);
        }
        match settings.addresses_now() {
            Ok(None) => {}
            Ok(Some(addresses)) => {
                self.complaint.clear();
                let now: Vec<Arc<str>> = shared(&addresses);
                if now != self.configured {
                    tracing::info!(servers = addresses.join(", "), "other servers are configured now");
                    self.configured = now;
                }
            }
            Err(mistake) => {
                let complaint = mistake.to_string();
                if complaint != self.complaint {
                    tracing::warn!("the servers stay as they were: {complaint}");
                    self.complaint = complaint;
                }
            }
        }
    }
}

async fn next_within<T>(asked: &mut FuturesUnordered<impl Future<Output = T>>, until: Option<Instant>) -> Option<T> {
    match until {
        None => asked.next().await,
        Some(until) => tokio::time::timeout_at(until, asked.next()).await.ok().flatten(),
    }
}

/// What a server says of itself. What it does not want to tell is left open.
pub(crate) async fn report(mut connection: MultiplexedConnection) -> RedisResult<Report> {
    let (mut second, mut third) = (connection.clone(), connection.clone());
    let (mut info, mut fence, time) = (redis::cmd("INFO"), redis::cmd("HMGET"), redis::cmd("TIME"));
    info.arg("server").arg("replication").arg("persistence").arg("cluster").arg("memory");
    fence.arg("collab:fence").arg("epoch").arg("until");
    let (info, fence, time) = tokio::join!(
        info.query_async::<String>(&mut connection),
        fence.query_async::<Vec<Option<String>>>(&mut second),
        time.query_async::<(u64, u64)>(&mut third),
    );
    let is_refusal = |error: &redis::RedisError| matches!(error.code(), Some("NOPERM" | "ERR"));
    let info = match info {
        Err(error) if is_refusal(&error) => String::new(),
        other => other?,
    };
    let now_ms = time.ok().map(|(seconds, micros)| seconds * 1000 + micros / 1000);
    Ok(Report::read(&info, &fence.unwrap_or_default(), now_ms))
}

/// Whether a server has the command that waits for disks.
async fn waits_for_disks(mut connection: MultiplexedConnection) -> Option<bool> {
    let asked = redis::cmd("COMMAND").arg("INFO").arg("WAITAOF").query_async::<Vec<Value>>(&mut connection).await;
    // Of a command that it does not have it says nothing.
    asked.ok()?.first().map(|told| *told != Value::Nil)
}

/// The cluster's epoch, and its map as one node has it.
async fn map_of_cluster(mut connection: MultiplexedConnection) -> RedisResult<(u64, Vec<SlotRange>)> {
    let info: String = redis::cmd("CLUSTER").arg("INFO").query_async(&mut connection).await?;
    let epoch = info.lines().find_map(|line| line.trim_end().strip_prefix("cluster_current_epoch:"));
    let epoch = epoch.and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    let ranges: Vec<Vec<Value>> = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
    let ranges = ranges.into_iter().filter_map(|range| {
        let mut parts = range.into_iter();
        let first = redis::from_redis_value(parts.next()?).ok()?;
        let last = redis::from_redis_value(parts.next()?).ok()?;
        let Value::Array(primary) = parts.next()? else { return None };
        let mut primary = primary.into_iter();
        let host: Option<String> = redis::from_redis_value(primary.next()?).ok()?;
        let port = redis::from_redis_value(primary.next()?).ok()?;
        Some((first, last, host.unwrap_or_default(), port))
    });
    Ok((epoch, ranges.collect()))
}
