//! Connections to the servers that take writes, for one purpose: made when needed, dropped on doubt.
//!
//! In: a command, pipeline or script, and the key it is about. Out: its answer and the era it belongs to, or a
//! [`StoreError`]. A link serves one purpose (commits, everything else), so that a slow answer of one kind never holds up
//! another. Calls that another server of a cluster must answer are sent there; nothing else is repeated here.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex as StdMutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use redis::{Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, Value, aio::MultiplexedConnection};
use tokio::sync::Mutex;

use super::{
    Era, Servers, StoreError,
    dial::connect,
    errors::{Consequence, classify},
    servers::report,
    slots::slot,
    view::{Identity, Node, View},
};

/// The longest that a script or a persistence pause may take; then the connection is given up and the call repeated.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often one call follows the servers of a cluster that send it elsewhere.
const REDIRECTS_MAX: u32 = 6;
/// Before it follows again, longer each time: a slot may be on its way.
const REDIRECT_PAUSE: Duration = Duration::from_millis(20);
/// Written by commits and other changes outside Cluster mode.
const SERVER_KEYS: [&str; 2] = ["collab:fence", "collab:position"];

/// Connections for one purpose; clones share them.
#[derive(Debug, Clone)]
pub struct Link {
    servers: Servers,
    timeout: Duration,
    held: Arc<StdMutex<HashMap<Arc<str>, Slot>>>,
}

/// The connection to one server, once there is one.
type Slot = Arc<Mutex<Option<Held>>>;

#[derive(Debug, Clone)]
struct Held {
    connection: MultiplexedConnection,
    identity: Identity,
    is_broken: Arc<AtomicBool>,
}

/// What is sent.
#[derive(Clone, Copy)]
enum Request<'a> {
    Command(&'a Cmd),
    Pipeline(&'a Pipeline),
    Script { script: &'a Script, keys: &'a [String], changes: bool, arguments: &'a [&'a [u8]] },
}

impl Link {
    /// A link that connects at its first call.
    pub fn new(servers: Servers) -> Self {
        Self::with_timeout(servers, RESPONSE_TIMEOUT)
    }

    /// The same for calls that may take this long.
    pub(crate) fn with_timeout(servers: Servers, timeout: Duration) -> Self {
        Self { servers, timeout, held: Arc::default() }
    }

    pub(crate) fn servers(&self) -> &Servers {
        &self.servers
    }

    /// One command about one key.
    ///
    /// # Errors
    /// See [`StoreError`]; after a passing one nobody knows whether it was carried out.
    pub async fn query<T: FromRedisValue>(&self, key: &str, command: &Cmd) -> Result<T, StoreError> {
        read(self.call(slot(key.as_bytes()), Request::Command(command)).await?.0)
    }

    /// Several commands about keys of one slot, in one write.
    ///
    /// # Errors
    /// As for [`Link::query`].
    pub async fn pipeline<T: FromRedisValue>(&self, key: &str, pipeline: &Pipeline) -> Result<T, StoreError> {
        read(self.call(slot(key.as_bytes()), Request::Pipeline(pipeline)).await?.0)
    }

    /// The same on a server of a view: where the key would go does not matter.
    ///
    /// # Errors
    /// As for [`Link::query`].
    pub(crate) async fn pipeline_on(&self, view: &View, index: u16, pipeline: &Pipeline) -> Result<Value, StoreError> {
        let node = view.by_index(index).ok_or_else(|| StoreError::Unavailable("no such server".into()))?;
        let outcome = self.send(view, node, Request::Pipeline(pipeline), false).await;
        outcome.map_err(|unsent| unsent.error)?.map_err(|error| classify(&error).0)
    }

    /// A script by its hash; by its text where the server does not know it yet. All its keys belong to one slot; if it
    /// `changes` anything, the server-wide keys are added outside Cluster mode.
    ///
    /// # Errors
    /// As for [`Link::query`].
    pub async fn script(
        &self,
        script: &Script,
        keys: &[String],
        changes: bool,
        arguments: &[&[u8]],
    ) -> Result<(Vec<Value>, Era), StoreError> {
        let slot = keys.first().map_or(0, |key| slot(key.as_bytes()));
        let (answer, era) = self.call(slot, Request::Script { script, keys, changes, arguments }).await?;
        Ok((if let Value::Array(values) = answer { values } else { vec![answer] }, era))
    }

    // Boxed: futures of callers in generic code are Send without a proof that the compiler cannot find.
    fn call<'a>(&'a self, slot: u16, request: Request<'a>) -> BoxFuture<'a, Result<(Value, Era), StoreError>> {
        Box::pin(self.call_servers(slot, request))
    }

    async fn call_servers(&self, slot: u16, request: Request<'_>) -> Result<(Value, Era), StoreError> {
        let mut ask: Option<Node> = None;
        let mut last = None;
        for attempt in 0..REDIRECTS_MAX {
            if attempt > 1 {
                tokio::time::sleep(REDIRECT_PAUSE * attempt).await;
            }
            let view = self.servers.view().await?;
            let (index, node) = view.node(slot).ok_or_else(|| {
                self.servers.doubt(view.number);
                StoreError::Unavailable(format!("no server of the cluster has slot {slot}"))
            })?;
            let is_asking = ask.is_some();
            let sent = self.send(&view, ask.take().as_ref().unwrap_or(node), request, is_asking).await;
            let outcome = match sent {
                Ok(outcome) => outcome,
                Err(Unsent { error, is_view_old: true }) => {
                    last = Some(error);
                    continue;
                }
                Err(Unsent { error, .. }) => return Err(error),
            };
            let error = match outcome {
                Ok(answer) => return Ok((answer, Era { view: view.number, node: index })),
                Err(error) => error,
            };
            let (meaning, consequence) = classify(&error);
            match consequence {
                // The server has done nothing: following it is no repetition.
                Consequence::Moved => self.servers.doubt(view.number),
                Consequence::Ask => {
                    ask = error
                        .redirect_node()
                        .map(|(address, _)| Node { address: address.into(), identity: Identity::default() });
                }
                Consequence::TryAgain => {}
                Consequence::Nothing | Consequence::AskAgain | Consequence::Broken => return Err(meaning),
            }
            last = Some(meaning);
        }
        Err(last.unwrap_or_else(|| StoreError::Unavailable("sent from server to server".into())))
    }

    /// Sends to one server; the inner error is the server's own, whose consequences are drawn already.
    async fn send(
        &self,
        view: &View,
        node: &Node,
        request: Request<'_>,
        is_asking: bool,
    ) -> Result<RedisResult<Value>, Unsent> {
        let held = self.connection(view.number, node).await?;
        let work = perform(held.connection.clone(), request, view.is_cluster(), is_asking);
        let outcome = tokio::select! {
            biased;
            outcome = work => outcome,
            // Whatever a replaced server would still answer, nobody may rely on it.
            () = self.servers.changed_from(view.number) => {
                return Err(StoreError::Unavailable("another server became the primary during the call".into()).into());
            }
        };
        if let Err(error) = &outcome {
            match classify(error).1 {
                Consequence::Broken => {
                    held.is_broken.store(true, Ordering::Release);
                    self.servers.doubt(view.number);
                }
                Consequence::AskAgain => self.servers.doubt(view.number),
                Consequence::Nothing | Consequence::Moved | Consequence::Ask | Consequence::TryAgain => {}
            }
        }
        Ok(outcome)
    }

    async fn connection(&self, number: u64, node: &Node) -> Result<Held, Unsent> {
        let cell = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            if held.len() > 1 && self.servers.is_current(number) {
                // Connections to servers that nobody talks to any more.
                held.retain(|address, cell| {
                    *address == node.address || Arc::strong_count(cell) > 1 || !is_broken(cell)
                });
            }
            Arc::clone(held.entry(Arc::clone(&node.address)).or_default())
        };
        let mut held = cell.lock().await;
        if let Some(held) = held.as_ref().filter(|held| held.is_good_for(node)) {
            return Ok(held.clone());
        }
        *held = None;
        let connection = match connect(self.servers.settings(), &node.address, self.timeout).await {
            Ok(connection) => connection,
            Err(error) => {
                self.servers.doubt(number);
                return Err(error.into());
            }
        };
        // The process that answers here may be another one than the view was made with.
        if !node.identity.run_id.is_empty() {
            let identity = report(connection.clone()).await.map_err(|error| classify(&error).0)?.identity;
            if identity != node.identity {
                self.servers.doubt(number);
                let error = StoreError::Unavailable(format!("{} is another server than before", node.address));
                return Err(Unsent { error, is_view_old: true });
            }
        }
        let fresh = Held { connection, identity: node.identity.clone(), is_broken: Arc::default() };
        *held = Some(fresh.clone());
        Ok(fresh)
    }
}

/// A call that has no answer from a server.
struct Unsent {
    error: StoreError,
    /// Nothing was sent: the servers are others than the view says.
    is_view_old: bool,
}

impl From<StoreError> for Unsent {
    fn from(error: StoreError) -> Self {
        Self { error, is_view_old: false }
    }
}

impl Held {
    fn is_good_for(&self, node: &Node) -> bool {
        self.identity == node.identity && !self.is_broken.load(Ordering::Acquire)
    }
}

fn is_broken(cell: &Mutex<Option<Held>>) -> bool {
    cell.try_lock().is_ok_and(|held| held.as_ref().is_none_or(|held| held.is_broken.load(Ordering::Acquire)))
}

async fn perform(
    mut connection: MultiplexedConnection,
    request: Request<'_>,
    is_cluster: bool,
    is_asking: bool,
) -> RedisResult<Value> {
    match request {
        Request::Command(command) if is_asking => asking(command, &mut connection).await,
        Request::Command(command) => command.query_async(&mut connection).await,
        Request::Pipeline(pipeline) => pipeline.query_async(&mut connection).await,
        Request::Script { script, keys, changes, arguments } => {
            let server_keys = if changes && !is_cluster { &SERVER_KEYS[..] } else { &[] };
            let call = |name: &str, which: &str| {
                let mut command = redis::cmd(name);
                command.arg(which).arg(keys.len() + server_keys.len()).arg(keys).arg(server_keys).arg(arguments);
                command
            };
            let result = run(call("EVALSHA", &script.hash), &mut connection, is_asking).await;
            let is_unknown = |error: &RedisError| error.code() == Some("NOSCRIPT");
            if !result.as_ref().is_err_and(is_unknown) {
                return result;
            }
            run(call("EVAL", &script.text), &mut connection, is_asking).await
        }
    }
}

async fn run(command: Cmd, connection: &mut MultiplexedConnection, is_asking: bool) -> RedisResult<Value> {
    if is_asking { asking(&command, connection).await } else { command.query_async(connection).await }
}

/// A command that a server answers though it has the slot only soon.
async fn asking(command: &Cmd, connection: &mut MultiplexedConnection) -> RedisResult<Value> {
    let mut pipeline = Pipeline::with_capacity(2);
    pipeline.cmd("ASKING").ignore().add_command(command.clone());
    let mut answers: Vec<Value> = pipeline.query_async(connection).await?;
    Ok(answers.pop().unwrap_or(Value::Nil))
}

fn read<T: FromRedisValue>(value: Value) -> Result<T, StoreError> {
    redis::from_redis_value(value).map_err(|error| StoreError::Damaged(format!("an answer: {error}")))
}

/// A script and the name the server gives it.
#[derive(Debug)]
pub struct Script {
    text: String,
    hash: String,
}

impl Script {
    /// Joins the parts of a script.
    pub fn new(parts: &[&str]) -> Self {
        let text = parts.concat();
        let hash = redis::Script::new(&text).get_hash().to_owned();
        Self { text, hash }
    }
}
