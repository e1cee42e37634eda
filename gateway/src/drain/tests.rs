//! Orders that meet, and a full pod's hints, on a server without sockets.

use std::sync::Barrier;

use futures_util::FutureExt;

use super::*;
use crate::{
    config::Config,
    registry::Seat,
    start::{self, Running},
};

/// Few enough for a test, enough for both threads to meet at every place.
const ROUNDS: usize = 2000;
/// What one pod admits unless told otherwise.
const FULL: usize = 15_000;
const HINTS_IN: Duration = Duration::from_secs(5);

/// A server, and what keeps it alive.
struct Stage {
    server: Arc<Server>,
    admin: admin::State,
    live: watch::Receiver<Live>,
    _settings: watch::Sender<Live>,
    _owned: start::Owned,
}

async fn stage() -> Stage {
    let config = Config::load(["collab-gateway", "--demo"].map(Into::into)).unwrap();
    let (settings, live) = watch::channel(config.live.clone());
    let Running { server, admin, owned } = start::start(&config, live.clone()).await.unwrap();
    Stage { server, admin, live, _settings: settings, _owned: owned }
}

impl Stage {
    fn drain(&self) -> Drain {
        Drain::new(self.server.clone(), self.admin.clone(), self.live.clone())
    }

    /// Connections that never answer anything.
    fn seats(&self, count: usize) -> Vec<Seat> {
        let seats: Vec<_> = (0..count).map(|_| self.server.pod().registry.admit(count).unwrap()).collect();
        seats.iter().for_each(|seat| seat.outbox().connected());
        seats
    }
}

fn slow(by: Duration) -> Order {
    Order { per_second: Some(1), by: Instant::now() + by }
}

/// Does both at the same time.
fn together<A: Send>(one: impl FnOnce() -> A + Send, other: impl FnOnce()) -> A {
    let both = Barrier::new(2);
    std::thread::scope(|scope| {
        let one = scope.spawn(|| {
            both.wait();
            one()
        });
        both.wait();
        other();
        one.join().unwrap()
    })
}

#[tokio::test]
async fn an_end_stands_whatever_is_called_off_at_the_same_time() {
    let stage = stage().await;
    let _seats = stage.seats(1);
    for round in 0..ROUNDS {
        let drain = stage.drain();
        let ending = drain.end(Duration::from_secs(60), Duration::ZERO);
        tokio::pin!(ending);
        let calling_off = || while drain.cancel().is_ok() {};
        together(calling_off, || assert!((&mut ending).now_or_never().is_none()));
        assert!(drain.status().ending && drain.status().draining, "round {round}: {:?}", drain.status());
    }
}

#[tokio::test]
async fn the_pod_refuses_whoever_comes_exactly_while_an_order_stands() {
    let stage = stage().await;
    let drain = stage.drain();
    for round in 0..ROUNDS {
        let ordering = || drain.order(slow(Duration::from_secs(60)), Readiness::Off);
        together(ordering, || drain.cancel().unwrap()).unwrap();
        let draining = drain.status().draining;
        assert_eq!(stage.server.pod().metrics.draining.get(), i64::from(draining), "round {round}");
        drain.cancel().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_pod_has_told_everybody_within_five_seconds_and_not_at_once() {
    let stage = stage().await;
    let seats = stage.seats(FULL);
    let drain = stage.drain();
    tokio::spawn(drain.clone().run());
    drain.order(slow(Duration::from_secs(600)), Readiness::Off).unwrap();
    let told = || seats.iter().filter(|seat| seat.outbox().waiting().must > 0).count();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!((FULL / 8..FULL / 2).contains(&told()), "{} after a second", told());
    tokio::time::sleep(HINTS_IN - Duration::from_secs(1)).await;
    assert_eq!(told(), FULL);
}

#[tokio::test(start_paused = true)]
async fn an_order_right_after_one_that_was_called_off_is_told_to_everybody_in_time() {
    let stage = stage().await;
    let seats = stage.seats(FULL);
    let drain = stage.drain();
    tokio::spawn(drain.clone().run());
    drain.order(slow(Duration::from_secs(60)), Readiness::Off).unwrap();
    tokio::time::sleep(HINTS_IN).await;
    drain.cancel().unwrap();
    // Whoever was asked to settle goes all the same.
    let staying: Vec<_> = seats.iter().map(Seat::outbox).filter(|outbox| !outbox.is_settling()).collect();
    let before: Vec<_> = staying.iter().map(|outbox| outbox.waiting().must).collect();
    assert!(staying.len() > FULL / 2 && staying.len() < FULL, "{} stay", staying.len());
    for pause in [Duration::ZERO, Duration::from_millis(100)] {
        tokio::time::sleep(pause).await;
        drain.order(slow(Duration::from_secs(600)), Readiness::Off).unwrap();
        drain.cancel().unwrap();
    }
    drain.order(slow(Duration::from_secs(600)), Readiness::Off).unwrap();
    tokio::time::sleep(HINTS_IN).await;
    let told = staying.iter().zip(&before).filter(|(outbox, before)| outbox.waiting().must > **before).count();
    assert_eq!(told, staying.len());
}
