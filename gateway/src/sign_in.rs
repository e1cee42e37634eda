//! Who is behind a CONNECT.
//!
//! In: the token of a CONNECT. Out: its claims and the user, a refusal, or nothing: while the store, the directory or
//! the key set cannot answer, CONNECT is held and tried again, for a bounded time and for a bounded number of clients.
//! Stock clients never come back after a refusal, and by themselves after a closed transport.

use std::time::Duration;

use document::User;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::Span;

use crate::{
    auth::{Authenticator, Claims, Denial, NoClaims},
    directory::{Directory, NoUser},
    metrics::Metrics,
    telemetry::{step, within},
};

/// How long a CONNECT is held (CONTRACT section 1).
const HELD: Duration = Duration::from_secs(8);
/// What takes longer than this is held.
const SLOW: Duration = Duration::from_millis(250);
/// CONNECTs that are held at once, at some KiB each; the others are told to come back at once.
const HELD_MAX: usize = 4096;
/// Before it is tried again, twice as long each time.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Why nobody was signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotIn {
    /// A statement about the token or the user.
    Denied(Denial),
    /// Nobody could tell in time; the reason is a label in metrics.
    Away(&'static str),
}

/// Signs clients in. Shared by all connections.
pub struct SignIn {
    authenticator: Authenticator,
    directory: Directory,
    metrics: Metrics,
    places: Semaphore,
}

impl SignIn {
    /// By these keys and this directory.
    pub fn new(authenticator: Authenticator, directory: Directory, metrics: Metrics) -> SignIn {
        SignIn { authenticator, directory, metrics, places: Semaphore::new(HELD_MAX) }
    }

    /// Whose token it is, and who that is. What it takes is traced under `span`.
    ///
    /// # Errors
    /// With the refusal, or because nobody could tell within [`HELD`].
    pub async fn identify(&self, token: Option<&str>, span: &Span) -> Result<(Claims, User), NotIn> {
        let by = Instant::now() + HELD;
        let mut why = "store_unavailable";
        let result = {
            let trying = self.try_until_answered(token, &mut why, span);
            tokio::pin!(trying);
            match timeout(SLOW, &mut trying).await {
                Ok(result) => Some(result),
                Err(_) => {
                    let Ok(_place) = self.places.try_acquire() else { return Err(NotIn::Away("held_max")) };
                    let _held = Held::new(&self.metrics);
                    timeout_at(by, trying).await.ok()
                }
            }
        };
        result.unwrap_or(Err(NotIn::Away(why)))
    }

    /// The same user as heard last: a name may have changed since the sign-in.
    pub fn as_known(&self, user: &User) -> User {
        self.directory.remembered(&user.id).unwrap_or_else(|| user.clone())
    }

    async fn try_until_answered(
        &self,
        token: Option<&str>,
        why: &mut &'static str,
        span: &Span,
    ) -> Result<(Claims, User), NotIn> {
        let mut pause = PAUSE_MIN;
        loop {
            match within(step!(span, "connect.token"), self.authenticator.verify(token)).await {
                Ok(claims) => match within(step!(span, "connect.user"), self.directory.user(&claims)).await {
                    Ok(user) => return Ok((claims, user)),
                    Err(NoUser::Unknown) => return Err(NotIn::Denied(Denial::UserNotFound)),
                    Err(NoUser::Away(error)) => {
                        tracing::debug!(%error, "a client cannot be signed in yet");
                        *why = "store_unavailable";
                    }
                },
                Err(NoClaims::Denied(denial)) => return Err(NotIn::Denied(denial)),
                Err(NoClaims::KeysAway) => *why = "keys_unavailable",
            }
            let pausing = sleep(pause.mul_f64(rand::random_range(0.5..1.0)));
            pause = (pause * 2).min(PAUSE_MAX);
            tokio::select! {
                () = pausing => {}
                () = self.authenticator.keys_change() => {}
            }
        }
    }
}

/// Counts one that is held, until it is dropped.
struct Held<'a>(&'a Metrics);

impl Held<'_> {
    fn new(metrics: &Metrics) -> Held<'_> {
        metrics.connects_held.inc();
        metrics.connects_waiting.inc();
        Held(metrics)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.connects_waiting.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        bus::MemoryBus,
        config::Jwt,
        directory::{Trust, Urls},
        store::{MemoryStore, Store},
    };

    /// A sign-in whose key set is never fetched, with so many places for those who wait for it.
    fn sign_in(places: usize) -> (Arc<SignIn>, Metrics) {
        let jwks_url = Some("https://keys.invalid/set".parse().expect("a URL"));
        let jwt = Jwt { secret_files: Vec::new(), public_key_file: None, jwks_url, issuer: None, audience: None };
        let metrics = Metrics::default();
        let authenticator = Authenticator::new(&jwt, &metrics).expect("no files");
        let store = Store::Memory(MemoryStore::new(MemoryBus::default()));
        let (directory, _news) =
            Directory::new(store, Trust::Everything, false, &Urls::default(), &metrics).expect("no webhooks");
        let sign_in =
            SignIn { places: Semaphore::new(places), ..SignIn::new(authenticator, directory, metrics.clone()) };
        (Arc::new(sign_in), metrics)
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_are_held_for_eight_seconds_and_others_are_sent_away_soon() {
        let (sign_in, metrics) = sign_in(2);
        let start = Instant::now();
        let mut knocks = tokio::task::JoinSet::new();
        for _ in 0..3 {
            let sign_in = sign_in.clone();
            knocks.spawn(async move {
                // {"alg":"RS256"}, {}
                let outcome = sign_in.identify(Some("eyJhbGciOiJSUzI1NiJ9.e30.AAAA"), &Span::none()).await;
                (outcome.map(|_| ()), start.elapsed())
            });
        }
        let mut ends = knocks.join_all().await;
        ends.sort_by_key(|(_, after)| *after);
        let [(first, soon), (second, late), (third, as_late)] = &ends[..] else { panic!("{ends:?}") };
        assert_eq!(*first, Err(NotIn::Away("held_max")));
        assert!((second, third) == (&Err(NotIn::Away("keys_unavailable")), &Err(NotIn::Away("keys_unavailable"))));
        assert!(
            *soon < Duration::from_secs(1) && *late >= HELD && *as_late < HELD + Duration::from_secs(1),
            "{ends:?}"
        );
        assert_eq!((metrics.connects_held.get(), metrics.connects_waiting.get()), (2, 0));
    }
}
