//! Connections to the Redis primary: found among the configured servers, made anew with backoff, dropped on doubt.
//!
//! In: addresses, an ACL user, a file of passwords that is read anew for every connection. Out: a pipelined connection,
//! or [`StoreError`]. A link serves one purpose (commits, subscriptions, everything else), so that a slow answer of one
//! kind never holds up another.

use std::{
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::{Duration, Instant},
};

use redis::{
    Client, Cmd, FromRedisValue, IntoConnectionInfo, Pipeline, RedisConnectionInfo, RedisError, RedisResult, Value,
    aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use tokio::sync::Mutex;

use super::StoreError;
pub use crate::config::Redis as RedisSettings;

/// A server that does not even accept within this time is as good as away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest that a script or a persistence pause may take; then the connection is given up and the call repeated.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// After a failed attempt the next one waits, twice as long each time, between these bounds.
const BACKOFF_MIN: Duration = Duration::from_millis(25);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// One connection for one purpose; clones share it.
#[derive(Debug, Clone)]
pub struct Link {
    settings: Arc<RedisSettings>,
    // Held while connecting, so that a herd of callers makes one connection.
    state: Arc<Mutex<State>>,
    // The generation that answered last with an error that ends a connection.
    broken: Arc<StdMutex<u64>>,
}

#[derive(Debug)]
struct State {
    connection: Option<MultiplexedConnection>,
    generation: u64,
    backoff: Duration,
    not_before: Option<(Instant, StoreError)>,
}

impl Link {
    /// A link that connects at its first call.
    pub fn new(settings: Arc<RedisSettings>) -> Self {
        let state = State { connection: None, generation: 0, backoff: BACKOFF_MIN, not_before: None };
        Self { settings, state: Arc::new(Mutex::new(state)), broken: Arc::default() }
    }

    /// One command.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let (mut connection, generation) = self.connection().await?;
        self.judge(generation, command.query_async(&mut connection).await)
    }

    /// Several commands in one write.
    pub async fn pipeline<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, StoreError> {
        let (mut connection, generation) = self.connection().await?;
        self.judge(generation, pipeline.query_async(&mut connection).await)
    }

    /// A script by its hash; by its text where the server does not know it yet.
    pub async fn script(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[&[u8]],
    ) -> Result<Vec<Value>, StoreError> {
        let (mut connection, generation) = self.connection().await?;
        let call = |name: &str, which: &str| {
            let mut command = redis::cmd(name);
            command.arg(which).arg(keys.len()).arg(keys).arg(arguments);
            command
        };
        let mut result = call("EVALSHA", &script.hash).query_async(&mut connection).await;
        let is_unknown = |error: &RedisError| error.code() == Some("NOSCRIPT");
        if result.as_ref().is_err_and(is_unknown) {
            result = call("EVAL", &script.text).query_async(&mut connection).await;
        }
        let answer = self.judge(generation, result)?;
        Ok(if let Value::Array(values) = answer { values } else { vec![answer] })
    }

    async fn connection(&self) -> Result<(MultiplexedConnection, u64), StoreError> {
        let mut state = self.state.lock().await;
        let broken = *self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = state.connection.as_ref().filter(|_| broken < state.generation) {
            return Ok((connection.clone(), state.generation));
        }
        state.connection = None;
        if let Some((_, error)) = state.not_before.as_ref().filter(|(until, _)| *until > Instant::now()) {
            return Err(error.clone());
        }
        match find_primary(&self.settings).await {
            Ok((_, connection)) => {
                state.generation += 1;
                state.connection = Some(connection.clone());
                state.backoff = BACKOFF_MIN;
                state.not_before = None;
                Ok((connection, state.generation))
            }
            Err(error) => {
                state.not_before = Some((Instant::now() + state.backoff, error.clone()));
                state.backoff = (state.backoff * 2).min(BACKOFF_MAX);
                Err(error)
            }
        }
    }

    fn judge<T>(&self, generation: u64, result: RedisResult<T>) -> Result<T, StoreError> {
        result.map_err(|error| {
            let error = classify(&error);
            if error.is_passing() {
                let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
                *broken = generation.max(*broken);
            }
            error
        })
    }
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

/// Tries every server with every password until one is the primary.
pub(crate) async fn find_primary(settings: &RedisSettings) -> Result<(Client, MultiplexedConnection), StoreError> {
    let passwords = passwords(settings)?;
    let mut last = StoreError::Unavailable("no server is configured".into());
    for address in &settings.addresses {
        for password in &passwords {
            match connect(settings, address, password.as_deref()).await {
                Ok((client, connection)) => match is_primary(settings, connection.clone()).await {
                    Ok(true) => return Ok((client, connection)),
                    Ok(false) => last = StoreError::Unavailable(format!("{address} is not the primary")),
                    Err(error) => last = classify(&error),
                },
                Err(error) => {
                    let is_password = error.kind() == redis::ErrorKind::AuthenticationFailed
                        || matches!(error.code(), Some("WRONGPASS" | "NOAUTH"));
                    last = StoreError::Unavailable(format!("{address}: {error}"));
                    if is_password {
                        continue;
                    }
                }
            }
            break;
        }
    }
    Err(last)
}

async fn connect(
    settings: &RedisSettings,
    address: &str,
    password: Option<&str>,
) -> RedisResult<(Client, MultiplexedConnection)> {
    // Servers before 7.2 answer the library's name with an error, which looks like trouble in their statistics.
    let mut user = RedisConnectionInfo::default().set_skip_set_lib_name();
    if let Some(username) = &settings.username {
        user = user.set_username(username);
    }
    if let Some(password) = password {
        user = user.set_password(password);
    }
    let info = format!("redis://{address}")
        .into_connection_info()?
        .set_redis_settings(user)
        .set_tcp_settings(TcpSettings::default().set_nodelay(true));
    let client = Client::open(info)?;
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT));
    let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    Ok((client, connection))
}

/// With several servers only one may be written to. With one there is no choice, and no need to ask.
async fn is_primary(settings: &RedisSettings, mut connection: MultiplexedConnection) -> RedisResult<bool> {
    if settings.addresses.len() == 1 {
        return Ok(true);
    }
    let role: Vec<Value> = redis::cmd("ROLE").query_async(&mut connection).await?;
    Ok(matches!(role.first(), Some(Value::BulkString(name)) if name == b"master"))
}

/// The lines of the password file; one `None` where there is no file.
fn passwords(settings: &RedisSettings) -> Result<Vec<Option<String>>, StoreError> {
    let Some(path) = &settings.password_file else { return Ok(vec![None]) };
    let text = std::fs::read_to_string(path)
        .map_err(|error| StoreError::Unavailable(format!("--redis-password-file {}: {error}", path.display())))?;
    let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).map(|line| Some(line.to_owned())).collect();
    if lines.is_empty() {
        return Err(StoreError::Unavailable(format!("--redis-password-file {} is empty", path.display())));
    }
    Ok(lines)
}

/// What an error means for the caller. Only what will be the same next time is damage.
pub(crate) fn classify(error: &RedisError) -> StoreError {
    let text = error.to_string();
    match error.code() {
        Some("FENCED") => StoreError::Fenced,
        Some("BOUNDS") => StoreError::OutOfBounds(text),
        Some("DAMAGED" | "WRONGTYPE") => StoreError::Damaged(text),
        // A script that stumbles over what it reads.
        Some("ERR") if text.contains("user_script") => StoreError::Damaged(text),
        _ if matches!(error.kind(), redis::ErrorKind::UnexpectedReturnType | redis::ErrorKind::Parse) => {
            StoreError::Damaged(text)
        }
        _ => StoreError::Unavailable(text),
    }
}
