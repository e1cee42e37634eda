//! The task that hears all channels of this pod on the servers that take writes.
//!
//! In: requests to hear channels, and what the servers publish. Out: messages to listeners, and [`Heard::Missed`] to
//! those of every channel that was subscribed to anew. The library's own subscriptions are not relied on (it loses sharded
//! ones): this task knows every channel, and what the servers have confirmed. It says something to itself every second;
//! a server that takes that but does not bring it back is left, because a connection may be silent for many reasons: a
//! dead network, a primary that was replaced, a subscription that a server forgot.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    SinkExt, StreamExt,
    future::BoxFuture,
    stream::{FuturesUnordered, SelectAll, SplitSink, SplitStream},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval},
};

use super::{Heard, Listener, redis::publish};
use crate::store::{Link, RawConnection, Reply, Servers, StoreError, View, closed, connect_raw, slot};

/// How long the servers may take to confirm the next of the subscriptions they were asked for.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
/// How often this task speaks to itself, and how long it may take until it hears that.
const PROBE_EVERY: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// After a failed attempt the next one waits, twice as long each time, between these bounds.
const BACKOFF_MIN: Duration = Duration::from_millis(25);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// How often a node of a cluster that was away is tried, while the others are heard.
const TRY_AWAY_EVERY: Duration = Duration::from_secs(1);
/// Requests taken at once.
const AT_ONCE_MAX: usize = 256;
/// Channels in one command.
const CHANNELS_PER_COMMAND: usize = 256;

#[derive(Debug)]
pub(super) enum Request {
    Subscribe { channel: String, listener: Listener, done: oneshot::Sender<Result<(), StoreError>> },
    End { channel: String, id: u64 },
}

pub(super) struct Ear {
    servers: Servers,
    link: Link,
    requests: mpsc::UnboundedReceiver<Request>,
    channels: HashMap<String, Channel>,
    /// Channels with commands that the server has not confirmed.
    unconfirmed: HashSet<String>,
}

#[derive(Default)]
struct Channel {
    listeners: Vec<Listener>,
    waiting: Vec<oneshot::Sender<Result<(), StoreError>>>,
    /// Commands to subscribe that are under way on this connection.
    asked: u32,
    /// Heard on an earlier connection: its listeners must learn that something may be missing.
    has_gap: bool,
}

/// Why the connections were left.
enum Left {
    Lost(StoreError),
    NobodyListens,
}

/// Connections to the servers of a view, in their order.
struct Ears {
    /// `None`: this node of the cluster is away; its channels are not heard until it is back.
    sinks: Vec<Option<SplitSink<RawConnection, Vec<u8>>>>,
    streams: SelectAll<Tagged>,
    probes: Vec<Probe>,
}

/// A node's place in the list, the number of the probe, and how many heard it.
type Probed = (usize, u64, Result<u64, StoreError>);
type Tagged = BoxStreamOf<(u16, Option<std::io::Result<Reply>>)>;
type BoxStreamOf<T> = futures_util::stream::BoxStream<'static, T>;

/// What was last said to oneself over one server.
#[derive(Debug)]
struct Probe {
    channel: String,
    number: u64,
    heard: u64,
    /// The server has not answered to the number yet.
    is_under_way: bool,
    /// Since when the server has taken the number without bringing it back.
    taken: Option<Instant>,
}

impl Ear {
    pub(super) fn new(servers: Servers, requests: mpsc::UnboundedReceiver<Request>) -> Self {
        let link = Link::with_timeout(servers.clone(), PROBE_TIMEOUT);
        Self { servers, link, requests, channels: HashMap::new(), unconfirmed: HashSet::new() }
    }

    pub(super) async fn run(mut self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let error = match self.connect().await {
                Ok((view, ears)) => match self.hear(&view, ears).await {
                    Left::NobodyListens => return,
                    Left::Lost(error) => {
                        tracing::warn!(%error, channels = self.channels.len(), "the subscriptions were lost, connecting again");
                        self.servers.doubt(view.number);
                        error
                    }
                },
                Err(error) => error,
            };
            let is_new = backoff == BACKOFF_MIN;
            for channel in self.channels.values_mut() {
                channel.has_gap |= channel.waiting.len() < channel.listeners.len();
                channel.asked = 0;
                for done in channel.waiting.drain(..) {
                    let _ = done.send(Err(error.clone()));
                }
            }
            self.unconfirmed.clear();
            if self.refuse_for(backoff, &error).await {
                return;
            }
            backoff =
                if is_new && self.servers.view().await.is_ok() { BACKOFF_MIN } else { (backoff * 2).min(BACKOFF_MAX) };
        }
    }

    async fn connect(&self) -> Result<(std::sync::Arc<View>, Ears), StoreError> {
        let view = self.servers.view().await?;
        let mut ears = Ears { sinks: Vec::new(), streams: SelectAll::new(), probes: Vec::new() };
        let connecting = view.nodes.iter().map(|node| connect_raw(self.servers.settings(), &node.address));
        let mut away = None;
        for (index, connection) in (0u16..).zip(futures_util::future::join_all(connecting).await) {
            match connection {
                Ok(connection) => {
                    let (sink, stream): (_, SplitStream<_>) = connection.split();
                    ears.sinks.push(Some(sink));
                    let ended = futures_util::stream::once(async move { None });
                    ears.streams.push(stream.map(Some).chain(ended).map(move |reply| (index, reply)).boxed());
                }
                Err(error) => {
                    self.servers.doubt(view.number);
                    ears.sinks.push(None);
                    away = Some(error);
                }
            }
            ears.probes.push(Probe {
                channel: probe_channel(&view, index),
                number: 0,
                heard: 0,
                is_under_way: false,
                taken: None,
            });
        }
        match away {
            Some(error) if ears.streams.is_empty() => Err(error),
            Some(_) | None => Ok((view, ears)),
        }
    }

    /// Waits, while answering everybody that there is no connection. True when nobody listens any more.
    async fn refuse_for(&mut self, wait: Duration, error: &StoreError) -> bool {
        let until = Instant::now() + wait;
        loop {
            match tokio::time::timeout_at(until, self.requests.recv()).await {
                Err(_) => return false,
                Ok(None) => return true,
                Ok(Some(Request::End { channel, id })) => {
                    self.end(&channel, id);
                }
                Ok(Some(Request::Subscribe { done, .. })) => {
                    let _ = done.send(Err(error.clone()));
                }
            }
        }
    }

    async fn hear(&mut self, view: &View, mut ears: Ears) -> Left {
        let mut names: Vec<String> = self.channels.keys().cloned().collect();
        let heard = ears.probes.iter().zip(&ears.sinks).filter(|(_, sink)| sink.is_some());
        names.extend(heard.map(|(probe, _)| probe.channel.clone()));
        if let Err(error) = self.subscribe(view, &mut ears, names).await {
            return Left::Lost(error);
        }
        let mut confirm_by = Instant::now() + CONFIRM_TIMEOUT;
        let mut ticks = interval(PROBE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut taken: FuturesUnordered<BoxFuture<'static, Probed>> = FuturesUnordered::new();
        let mut batch = Vec::new();
        let (servers, number) = (self.servers.clone(), view.number);
        let changed = async move { servers.changed_from(number).await };
        let nodes = view.nodes.iter().zip(&ears.sinks);
        let away: Vec<_> =
            nodes.filter(|(_, sink)| sink.is_none()).map(|(node, _)| std::sync::Arc::clone(&node.address)).collect();
        let back = until_back(self.servers.clone(), away.clone());
        tokio::pin!(changed, back);
        loop {
            let outcome = tokio::select! {
                Some((index, reply)) = ears.streams.next() => {
                    let before = self.unconfirmed.len();
                    let outcome = match reply {
                        Some(Ok(reply)) => self.take(&mut ears, usize::from(index), reply),
                        Some(Err(error)) => Err(lost(&error)),
                        None => Err(lost(&closed())),
                    };
                    if self.unconfirmed.len() < before {
                        confirm_by = Instant::now() + CONFIRM_TIMEOUT;
                    }
                    outcome
                }
                count = self.requests.recv_many(&mut batch, AT_ONCE_MAX) => {
                    if count == 0 {
                        return Left::NobodyListens;
                    }
                    if self.unconfirmed.is_empty() {
                        confirm_by = Instant::now() + CONFIRM_TIMEOUT;
                    }
                    self.serve(view, &mut ears, &mut batch).await
                }
                _ = ticks.tick() => {
                    // Those of the last tick were answered, or the link has given them up.
                    let heard = ears.probes.iter_mut().zip(&ears.sinks).enumerate();
                    let due = heard.filter(|(_, (probe, sink))| sink.is_some() && !probe.is_under_way);
                    for (index, (probe, _)) in due {
                        probe.number += 1;
                        probe.is_under_way = true;
                        let (link, channel, number) = (self.link.clone(), probe.channel.clone(), probe.number);
                        taken.push(Box::pin(async move {
                            (index, number, publish(&link, &channel, number.to_string().as_bytes()).await)
                        }));
                    }
                    ears.all_are_heard()
                }
                Some((index, number, outcome)) = taken.next(), if !taken.is_empty() => ears.taken(index, number, outcome),
                () = tokio::time::sleep_until(confirm_by), if !self.unconfirmed.is_empty() => {
                    Err(StoreError::Unavailable("subscriptions were not confirmed in time".into()))
                }
                () = &mut back, if !away.is_empty() => {
                    Err(StoreError::Unavailable("a server that was away is back".into()))
                }
                () = &mut changed => Err(StoreError::Unavailable("another server became the primary".into())),
            };
            if let Err(error) = outcome {
                return Left::Lost(error);
            }
        }
    }

    /// Asks for channels, each at its server.
    async fn subscribe(&mut self, view: &View, ears: &mut Ears, names: Vec<String>) -> Result<(), StoreError> {
        let (names, away): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| ears.reach(view, name));
        for name in &names {
            if let Some(channel) = self.channels.get_mut(name) {
                channel.asked += 1;
                self.unconfirmed.insert(name.clone());
            }
        }
        for name in &away {
            if let Some(channel) = self.channels.get_mut(name) {
                channel.has_gap = true;
                for done in channel.waiting.drain(..) {
                    let _ = done.send(Err(server_away()));
                }
            }
        }
        ears.command(view, "SUBSCRIBE", names).await
    }

    async fn serve(&mut self, view: &View, ears: &mut Ears, batch: &mut Vec<Request>) -> Result<(), StoreError> {
        let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
        for request in batch.drain(..) {
            match request {
                Request::Subscribe { channel: name, listener, done } => {
                    let channel = self.channels.entry(name.clone()).or_default();
                    let is_new = channel.listeners.is_empty();
                    channel.listeners.push(listener);
                    if !is_new && channel.asked == 0 {
                        // Not asked for though something was missed: its server is away.
                        let _ = done.send(if channel.has_gap { Err(server_away()) } else { Ok(()) });
                        continue;
                    }
                    channel.waiting.push(done);
                    if is_new {
                        wanted.push(name);
                    }
                }
                Request::End { channel, id } => {
                    if self.end(&channel, id) {
                        // Not sent yet: then nothing is to be taken back.
                        match wanted.iter().position(|name| *name == channel) {
                            Some(at) => drop(wanted.swap_remove(at)),
                            None => unwanted.push(channel),
                        }
                    }
                }
            }
        }
        // First what ends: a channel that ended and is wanted again is subscribed to in the end.
        if !unwanted.is_empty() {
            ears.command(view, "UNSUBSCRIBE", unwanted).await?;
        }
        if wanted.is_empty() { Ok(()) } else { self.subscribe(view, ears, wanted).await }
    }

    /// Takes in what a server says.
    fn take(&mut self, ears: &mut Ears, index: usize, reply: Reply) -> Result<(), StoreError> {
        let parts = match reply {
            Reply::Parts(parts) => parts,
            Reply::Error(text) => return Err(StoreError::Unavailable(text)),
            Reply::Word(_) | Reply::Number(_) | Reply::Bulk(_) => return Ok(()),
        };
        let [Reply::Bulk(Some(kind)), Reply::Bulk(Some(name)), last] = &parts[..] else { return Ok(()) };
        let Ok(name) = std::str::from_utf8(name) else { return Ok(()) };
        match (&kind[..], last) {
            (b"message" | b"smessage", Reply::Bulk(Some(payload))) => {
                if let Some(probe) = ears.probes.get_mut(index).filter(|probe| probe.channel == name) {
                    probe.heard = std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
                    return Ok(());
                }
                // A copy: the slice would keep all of the read buffer as long as the message.
                let payload = Bytes::copy_from_slice(payload);
                for listener in self.channels.get(name).into_iter().flat_map(|channel| &channel.listeners) {
                    listener.tell(Heard::Message(payload.clone()));
                }
            }
            (b"subscribe" | b"ssubscribe", _) => self.confirmed(name),
            // A server that gives a slot away ends subscriptions that nobody wanted to end.
            (b"sunsubscribe", _) if self.channels.get(name).is_some_and(|channel| channel.asked == 0) => {
                return Err(StoreError::Unavailable(format!("the server gave up channel {name}")));
            }
            _ => {}
        }
        Ok(())
    }

    fn confirmed(&mut self, name: &str) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        channel.asked = channel.asked.saturating_sub(1);
        if channel.asked > 0 {
            return;
        }
        self.unconfirmed.remove(name);
        if std::mem::take(&mut channel.has_gap) {
            for listener in &channel.listeners {
                listener.tell(Heard::Missed);
            }
        }
        for done in channel.waiting.drain(..) {
            let _ = done.send(Ok(()));
        }
    }

    /// Forgets a subscriber; true if it was the channel's last.
    fn end(&mut self, name: &str, id: u64) -> bool {
        let Some(channel) = self.channels.get_mut(name) else { return false };
        channel.listeners.retain(|listener| listener.id != id);
        let is_last = channel.listeners.is_empty();
        if is_last {
            self.channels.remove(name);
            self.unconfirmed.remove(name);
        }
        is_last
    }
}

impl Ears {
    /// Whether the server that has a channel is connected.
    fn reach(&self, view: &View, name: &str) -> bool {
        if !is_sharded(view, name) {
            return true;
        }
        let node = view.node(slot(name.as_bytes()));
        node.is_some_and(|(index, _)| self.sinks.get(usize::from(index)).is_some_and(Option::is_some))
    }

    /// Subscribes to channels or ends that, each at its server; those of servers that are away need no end.
    async fn command(&mut self, view: &View, what: &str, names: Vec<String>) -> Result<(), StoreError> {
        let mut plain: Vec<String> = Vec::new();
        for name in names {
            if !is_sharded(view, &name) {
                plain.push(name);
                continue;
            }
            // One command for each: the channels of one command must share a slot.
            let Some((index, _)) = view.node(slot(name.as_bytes())) else { continue };
            let packed = redis::cmd(&format!("S{what}")).arg(&name).get_packed_command();
            if let Some(Some(sink)) = self.sinks.get_mut(usize::from(index)) {
                sink.feed(packed).await.map_err(|error| lost(&error))?;
            }
        }
        for names in plain.chunks(CHANNELS_PER_COMMAND) {
            let packed = redis::cmd(what).arg(names).get_packed_command();
            // On any node of a cluster: what is said on one is heard on all.
            let first = self.sinks.iter_mut().flatten().next().ok_or_else(|| lost(&closed()))?;
            first.feed(packed).await.map_err(|error| lost(&error))?;
        }
        for sink in self.sinks.iter_mut().flatten() {
            tokio::time::timeout(CONFIRM_TIMEOUT, sink.flush())
                .await
                .map_err(|_| StoreError::Unavailable("the server takes no subscriptions".into()))?
                .map_err(|error| lost(&error))?;
        }
        Ok(())
    }

    /// The server's answer to what was said to oneself: how many heard it there.
    fn taken(&mut self, index: usize, number: u64, outcome: Result<u64, StoreError>) -> Result<(), StoreError> {
        let Some(probe) = self.probes.get_mut(index) else { return Ok(()) };
        probe.is_under_way = false;
        match outcome {
            Ok(0) => Err(StoreError::Unavailable("the server does not know of the subscriptions".into())),
            Ok(_) if probe.heard < number => {
                probe.taken.get_or_insert_with(Instant::now);
                Ok(())
            }
            // Heard, or nobody knows: a server that cannot be spoken to may well be heard.
            Ok(_) | Err(_) => {
                probe.taken = None;
                Ok(())
            }
        }
    }

    fn all_are_heard(&mut self) -> Result<(), StoreError> {
        for probe in &mut self.probes {
            // The newest number stands for all before it.
            if probe.heard + 1 >= probe.number {
                probe.taken = None;
            }
            if probe.taken.is_some_and(|since| since.elapsed() > PROBE_TIMEOUT) {
                return Err(StoreError::Unavailable("the server does not bring back what was published".into()));
            }
        }
        Ok(())
    }
}

/// Completes when a node that was away takes connections again.
async fn until_back(servers: Servers, away: Vec<std::sync::Arc<str>>) {
    loop {
        tokio::time::sleep(TRY_AWAY_EVERY).await;
        for address in &away {
            if connect_raw(servers.settings(), address).await.is_ok() {
                return;
            }
        }
    }
}

/// A channel of this process on one server of a view.
fn probe_channel(view: &View, index: u16) -> String {
    let id = rand::random::<u64>();
    if !view.is_cluster() {
        return format!("collab:probe:{id:016x}");
    }
    let has = |tag: &u32| view.node(slot(tag.to_string().as_bytes())).is_some_and(|(at, _)| at == index);
    // A server without slots needs no probe; its channel is another's then.
    let tag = (0..u32::from(u16::MAX)).find(has).unwrap_or(0);
    format!("{{{tag}}}:collab:probe:{id:016x}")
}

/// In Cluster mode a document's channel stays with its slot.
fn is_sharded(view: &View, name: &str) -> bool {
    view.is_cluster() && name.starts_with('{')
}

fn server_away() -> StoreError {
    StoreError::Unavailable("the server of this channel is away".into())
}

fn lost(error: &std::io::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
