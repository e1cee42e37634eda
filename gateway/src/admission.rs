//! Who gets in: decided before anything was spent on the client.
//!
//! In: upgrade requests with the ticket that came along, the live settings. Out: when the next arrival may be accepted, a
//! [`Seat`], or for how long to stay away. The bucket of new connections keeps its last quarter, and the pod its last places, for those who
//! come back with a resume ticket (`tickets.rs`): in a storm people who were editing get in before people who log in.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::{
    live::Live,
    metrics::Metrics,
    registry::{Registry, Seat},
    tickets::{Bearer, Tickets},
};

/// The part of one second's admissions that only tickets get.
const RATE_RESERVE_DIVISOR: u32 = 4;
/// The part of the places that only tickets get: 5 %.
const PLACES_RESERVE_DIVISOR: usize = 20;
/// A bearer's priority on one pod within [`USES_WINDOW`]. A person with many tabs has as many as that; a ticket that is
/// replayed more often counts as none, so that one user cannot have what is kept for all.
const USES_MAX: u8 = 32;
/// After this time all uses are forgotten.
const USES_WINDOW: Duration = Duration::from_secs(60);
/// Bearers that are remembered; no pod admits more within the window. Beyond it tickets count as none.
const BEARERS_MAX: usize = 65_536;
/// Arrivals a second for each admission a second. A refusal over plain TCP costs microseconds, so that many may hear
/// when to come back; beyond it they wait in the kernel's backlog: whoever was accepted is answered.
const ARRIVALS_PLAIN: u32 = 10;
/// The same where each arrival costs a TLS handshake, which is most of the cost of a connection. Not 1: the ticket comes
/// inside, so that those who have one must get through the handshake.
const ARRIVALS_TLS: u32 = 2;
/// Shorter sleeps than the clock's step would only spin.
const TURN_MIN: Duration = Duration::from_millis(1);
/// As many arrivals as for so many admissions a second are accepted however few are admitted: also where the rate is 0
/// clients are told when to come back, and the next one is never more than a twentieth of a second away.
const HEARD_AS_FOR_MIN: u32 = 10;

/// What an arrival costs before its request can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Nothing.
    Plain,
    /// A handshake.
    Tls,
}

/// Why a client is to come back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Later {
    /// The pod is going away.
    Draining,
    /// Too many came in the last second.
    Rate,
    /// All places are taken.
    Full,
}

impl Later {
    /// The label in metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Later::Draining => "draining",
            Later::Rate => "accept_rate",
            Later::Full => "max_connections",
        }
    }

    /// Seconds to stay away: drawn, so that those who were refused together do not come back together.
    pub fn retry_after_s(self) -> u32 {
        rand::random_range(match self {
            // The next try goes to another pod.
            Later::Draining => 1..=4,
            Later::Rate => 2..=8,
            // Places come free slowly, or by a new pod.
            Later::Full => 5..=20,
        })
    }
}

/// The doorkeeper of one pod.
pub struct Admission {
    live: watch::Receiver<Live>,
    registry: Registry,
    metrics: Metrics,
    tickets: Tickets,
    draining: AtomicBool,
    arrivals: Mutex<Bucket>,
    admissions: Mutex<Bucket>,
    uses: Mutex<Uses>,
}

impl Admission {
    /// Admits by the live settings.
    pub fn new(live: watch::Receiver<Live>, registry: Registry, metrics: Metrics, tickets: Tickets) -> Admission {
        let (now, rate) = (Instant::now(), live.borrow().accept_rate);
        Admission {
            live,
            registry,
            metrics,
            tickets,
            draining: AtomicBool::new(false),
            arrivals: Mutex::new(Bucket::full(heard(rate, ARRIVALS_PLAIN), now)),
            admissions: Mutex::new(Bucket::full(rate, now)),
            uses: Mutex::new(Uses { by: HashMap::new(), since: now }),
        }
    }

    /// From now on nobody is admitted.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// From now on they may again.
    pub fn welcome(&self) {
        self.draining.store(false, Ordering::Release);
    }

    /// Waits until one more TCP connection may be accepted. Dropping it gives nothing away.
    pub async fn next_arrival(&self, arrival: Arrival) {
        let factor = match arrival {
            Arrival::Plain => ARRIVALS_PLAIN,
            Arrival::Tls => ARRIVALS_TLS,
        };
        let mut is_delayed = false;
        loop {
            let rate = heard(self.live.borrow().accept_rate, factor);
            let Err(wait) = lock(&self.arrivals).take_or_wait(rate, Instant::now()) else { return };
            if !std::mem::replace(&mut is_delayed, true) {
                self.metrics.arrivals_delayed.inc();
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// A place for a client whose upgrade is in order.
    ///
    /// # Errors
    /// When there is none for it now; the refusal is counted.
    pub fn admit(&self, ticket: Option<&str>) -> Result<Seat, Later> {
        let admitted = self.try_admit(ticket);
        if let Err(later) = &admitted {
            self.metrics.refuse(later.reason());
        }
        admitted
    }

    fn try_admit(&self, ticket: Option<&str>) -> Result<Seat, Later> {
        if self.draining.load(Ordering::Acquire) {
            return Err(Later::Draining);
        }
        let (places, rate) = {
            let live = self.live.borrow();
            (live.max_connections, live.accept_rate)
        };
        let now = Instant::now();
        let bearer =
            ticket.and_then(|ticket| self.tickets.verify(ticket)).filter(|b| lock(&self.uses).has_left(*b, now));
        let (places, rate_reserve) = match bearer {
            Some(_) => (places, 0),
            None => (places - places / PLACES_RESERVE_DIVISOR, rate / RATE_RESERVE_DIVISOR),
        };
        // Before the bucket: who finds no place must not use up the turn of somebody who would.
        if self.registry.count() >= places {
            return Err(Later::Full);
        }
        if !lock(&self.admissions).take(rate, rate_reserve, now) {
            return Err(Later::Rate);
        }
        let seat = self.registry.admit(places).ok_or(Later::Full)?;
        // A drain that began meanwhile may have looked who is there already.
        if self.draining.load(Ordering::Acquire) {
            return Err(Later::Draining);
        }
        if let Some(bearer) = bearer {
            lock(&self.uses).count(bearer);
            self.metrics.connections_resumed.inc();
        }
        Ok(seat)
    }
}

/// Arrivals a second.
fn heard(accept_rate: u32, factor: u32) -> u32 {
    accept_rate.max(HEARD_AS_FOR_MIN).saturating_mul(factor)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while one is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// So many a second: one second's worth may come at once.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: u32, now: Instant) -> Bucket {
        Bucket { tokens: f64::from(rate), at: now }
    }

    /// Takes one unless that would leave less than `reserve`.
    fn take(&mut self, rate: u32, reserve: u32, now: Instant) -> bool {
        let rate = f64::from(rate);
        self.tokens = (self.tokens + now.saturating_duration_since(self.at).as_secs_f64() * rate).min(rate);
        self.at = now;
        let has_one = self.tokens >= 1.0 + f64::from(reserve);
        if has_one {
            self.tokens -= 1.0;
        }
        has_one
    }

    /// Takes one, or tells after what time there is one. The rate is not 0.
    fn take_or_wait(&mut self, rate: u32, now: Instant) -> Result<(), Duration> {
        if self.take(rate, 0, now) {
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens).max(0.0) / f64::from(rate.max(1))).max(TURN_MIN))
    }
}

/// How often tickets were used lately.
struct Uses {
    by: HashMap<Bearer, u8>,
    since: Instant,
}

impl Uses {
    fn has_left(&mut self, bearer: Bearer, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= USES_WINDOW {
            *self = Uses { by: HashMap::new(), since: now };
        }
        match self.by.get(&bearer) {
            Some(uses) => *uses < USES_MAX,
            None => self.by.len() < BEARERS_MAX,
        }
    }

    fn count(&mut self, bearer: Bearer) {
        let uses = self.by.entry(bearer).or_default();
        *uses = uses.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{budget::Budget, live::Partial, outbox::Common};

    struct Stage {
        admission: Admission,
        tickets: Tickets,
        settings: watch::Sender<Live>,
        seats: Vec<Seat>,
    }

    fn stage(max_connections: usize, accept_rate: u32) -> Stage {
        let settings =
            Partial { max_connections: Some(max_connections), accept_rate: Some(accept_rate), ..Partial::default() };
        let (settings, live) = watch::channel(Live::from(settings));
        let metrics = Metrics::default();
        let common = Common::new(Budget::new(0, &metrics), metrics.clone());
        let (registry, _claims) = Registry::new("p".into(), common);
        let tickets = Tickets::new(None).expect("random");
        let admission = Admission::new(live, registry, metrics, tickets.clone());
        Stage { admission, tickets, settings, seats: Vec::new() }
    }

    impl Stage {
        /// How many of `tries` get in and stay.
        fn enter(&mut self, tries: usize, ticket: impl Fn(usize) -> Option<String>) -> (usize, Option<Later>) {
            let mut refused = None;
            let before = self.seats.len();
            for number in 0..tries {
                match self.admission.admit(ticket(number).as_deref()) {
                    Ok(seat) => self.seats.push(seat),
                    Err(later) => refused = Some(later),
                }
            }
            (self.seats.len() - before, refused)
        }

        fn enter_with_tickets(&mut self, tries: usize) -> (usize, Option<Later>) {
            let tickets = self.tickets.clone();
            self.enter(tries, |number| Some(tickets.issue(&format!("user {number}"))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_of_strangers_leaves_the_last_quarter_of_the_rate_to_tickets() {
        let mut stage = stage(1_000_000, 100);
        assert_eq!(stage.enter(500, |_| None), (75, Some(Later::Rate)));
        let forged = "A".repeat(44);
        assert_eq!(stage.enter(500, |_| Some(forged.clone())), (0, Some(Later::Rate)), "a forged ticket is none");
        assert_eq!(stage.enter_with_tickets(500), (25, Some(Later::Rate)));
        // While both come all the time, strangers wait until those with tickets are through.
        for _ in 0..10 {
            tokio::time::advance(Duration::from_millis(100)).await;
            assert_eq!(stage.enter(500, |_| None).0, 0);
            assert_eq!(stage.enter_with_tickets(500).0, 10);
        }
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(stage.enter(500, |_| None).0, 75, "one second's worth, however long nobody came");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_twentieth_of_the_places_is_for_tickets() {
        let mut stage = stage(100, 1000);
        assert_eq!(stage.enter(200, |_| None), (95, Some(Later::Full)));
        assert_eq!(stage.enter_with_tickets(50), (5, Some(Later::Full)));
        stage.seats.truncate(96);
        assert_eq!(stage.enter(10, |_| None), (0, Some(Later::Full)));
        stage.seats.truncate(90);
        assert_eq!(stage.enter(10, |_| None).0, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_pod_has_no_place_that_only_tickets_get() {
        let mut stage = stage(1, 1);
        assert_eq!(stage.enter(3, |_| None), (1, Some(Later::Full)));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_finds_no_place_does_not_use_up_the_rate() {
        let mut stage = stage(1, 10);
        stage.enter(1, |_| None);
        stage.enter_with_tickets(100);
        stage.seats.clear();
        assert_eq!(stage.enter_with_tickets(1), (1, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_replayed_ticket_soon_counts_as_none() {
        let mut stage = stage(1_000_000, 1000);
        stage.enter(750, |_| None);
        let ticket = stage.tickets.issue("ann");
        let again = |_| Some(ticket.clone());
        assert_eq!(stage.enter(200, again), (usize::from(USES_MAX), Some(Later::Rate)));
        assert_eq!(stage.enter_with_tickets(50).0, 50, "others still have theirs");
        tokio::time::advance(USES_WINDOW).await;
        assert_eq!(stage.enter(750, |_| None).0, 750);
        assert_eq!(stage.enter(200, again).0, usize::from(USES_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn limits_are_followed_while_it_runs() {
        let mut stage = stage(2, 1000);
        assert_eq!(stage.enter(5, |_| None), (2, Some(Later::Full)));
        stage.settings.send_modify(|live| live.max_connections = 4);
        assert_eq!(stage.enter(5, |_| None), (2, Some(Later::Full)));
        stage.admission.drain();
        stage.seats.clear();
        assert_eq!(stage.enter_with_tickets(5), (0, Some(Later::Draining)));
    }

    #[test]
    fn whoever_is_admitted_beside_the_beginning_of_a_drain_is_seen_by_it() {
        let stage = stage(1_000_000, 1_000_000);
        for round in 0..2000 {
            stage.admission.welcome();
            let both = std::sync::Barrier::new(2);
            let (seat, seen) = std::thread::scope(|scope| {
                let entering = scope.spawn(|| {
                    both.wait();
                    stage.admission.admit(None)
                });
                both.wait();
                stage.admission.drain();
                let seen = stage.admission.registry.count();
                (entering.join().expect("it does not panic"), seen)
            });
            assert!(seen >= usize::from(seat.is_ok()), "round {round}: it came after everybody was counted");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn arrivals_beyond_a_multiple_of_the_rate_wait_to_be_accepted() {
        let stage = stage(10, 10);
        let accepted = async |arrival, time| {
            let (mut count, until) = (0, Instant::now() + time);
            while tokio::time::timeout_at(until, stage.admission.next_arrival(arrival)).await.is_ok() {
                count += 1;
            }
            count
        };
        assert_eq!(accepted(Arrival::Plain, Duration::ZERO).await, 100, "one second's worth at once");
        let later = accepted(Arrival::Plain, Duration::from_secs(2)).await;
        assert!((190..=200).contains(&later), "{later}");
        let over_tls = accepted(Arrival::Tls, Duration::from_secs(2)).await;
        assert!((38..=40).contains(&over_tls), "{over_tls}");
        assert!(stage.admission.metrics.arrivals_delayed.get() > 200);
    }

    #[tokio::test(start_paused = true)]
    async fn at_a_rate_of_zero_nobody_is_admitted_and_everybody_is_accepted() {
        let mut stage = stage(10, 500);
        stage.settings.send_modify(|live| live.accept_rate = 0);
        for _ in 0..150 {
            let next = stage.admission.next_arrival(Arrival::Plain);
            tokio::time::timeout(Duration::from_millis(50), next).await.expect("soon");
        }
        for _ in 0..2 {
            assert_eq!(stage.enter_with_tickets(10), (0, Some(Later::Rate)));
            tokio::time::advance(Duration::from_secs(60)).await;
        }
    }

    #[test]
    fn the_time_to_stay_away_is_drawn() {
        for later in [Later::Draining, Later::Rate, Later::Full] {
            let drawn: std::collections::BTreeSet<u32> = (0..200).map(|_| later.retry_after_s()).collect();
            assert!(drawn.len() > 2 && drawn.iter().all(|seconds| (1..=20).contains(seconds)), "{later:?}: {drawn:?}");
        }
    }
}
