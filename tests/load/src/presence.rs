//! What presence costs in one document that very many people have open.
//!
//! In: a kind of server, how many people. Out: CPU and bytes at rest, for each who comes and goes, for each cursor that
//! somebody sees. Two servers, one document. The rest is measured over a whole ping interval.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::Instant;

use crate::{
    drivers::{Driver, Happening, stamp, stamp_in},
    figures::{Row, write},
    frames,
    servers::{Kind, Programs, Servers},
    swarm::{Counts, Swarm},
};

const PODS: usize = 2;
/// Who come and go while the others rest.
const GUESTS: usize = 200;
/// Socket.IO's, which the gateway has too: in this time everybody is asked once.
const PING_INTERVAL: Duration = Duration::from_secs(25);
/// After coming, until everybody has heard of it: totals are told once a second.
const HEARD: Duration = Duration::from_secs(3);
/// After going: a lost transport is told after ten seconds.
const GONE: Duration = Duration::from_secs(13);
/// Deliveries of cursors a second.
const CURSOR_DELIVERIES: f64 = 5_000.0;
const CURSORS: Duration = Duration::from_secs(10);

/// What it cost.
#[derive(Debug, Clone)]
pub struct Presence {
    /// Who were there all the time.
    pub people: usize,
    /// Servers' CPU of each person and second at rest, and the store's.
    pub rest_us: (f64, f64),
    /// Bytes that each person got a second at rest.
    pub rest_bytes: f64,
    /// Servers' CPU of each who came, signing in and what all the others were told included; and the store's.
    pub come_ms: (f64, f64),
    /// Bytes that each of those who were there got for each who came.
    pub come_bytes: f64,
    /// Servers' CPU of each who went.
    pub go_ms: (f64, f64),
    /// Servers' CPU of each cursor that arrived at somebody.
    pub cursor_us: f64,
    /// Of these cursors, with the time they took.
    pub cursors: Counts,
}

/// Fills a document and measures.
///
/// # Errors
/// When a server does not start or refuses somebody.
pub async fn presence(kind: Kind, programs: &Programs, people: usize) -> Result<Presence> {
    ensure!(people > 1, "at least two people");
    let users = people + GUESTS;
    let servers = Servers::start(kind, programs, PODS, users, 1).await?;
    let mut swarm = Swarm::default();
    let took = swarm.join(clients(&servers, 0..people, users)?).await?;
    println!("{}: {people} people came into one document within {took:.1?}", kind.name());
    swarm.run(HEARD).await?;

    swarm.take();
    let usage = Usage::of(&servers)?;
    swarm.run(PING_INTERVAL).await?;
    let rest = usage.until(&servers)?;
    let person_seconds = people as f64 * rest.time.as_secs_f64();
    let (rest_us, rest_bytes) = (rest.each(person_seconds, 1e6), swarm.take().bytes as f64 / person_seconds);

    let mut guests = Swarm::numbered_from(people);
    let usage = Usage::of(&servers)?;
    // Those who are there read on.
    let coming = guests.join(clients(&servers, people..users, users)?);
    let (came, heard) = tokio::join!(coming, swarm.run(HEARD));
    came?;
    heard?;
    swarm.run(HEARD).await?;
    let come = usage.until(&servers)?.without(&rest);
    let come_bytes = swarm.take().bytes as f64 - rest_bytes * people as f64 * come.time.as_secs_f64();
    let come_bytes = come_bytes.max(0.0) / (people * GUESTS) as f64;

    let usage = Usage::of(&servers)?;
    drop(guests);
    swarm.run(GONE).await?;
    let go = usage.until(&servers)?.without(&rest);

    swarm.edits_per_second(CURSOR_DELIVERIES / (people - 1) as f64);
    swarm.run(HEARD).await?;
    swarm.take();
    let usage = Usage::of(&servers)?;
    swarm.run(CURSORS).await?;
    let moving = usage.until(&servers)?.without(&rest);
    let cursors = swarm.take();
    Ok(Presence {
        people,
        rest_us,
        rest_bytes,
        come_ms: come.each(GUESTS as f64, 1e3),
        come_bytes,
        go_ms: go.each(GUESTS as f64, 1e3),
        cursor_us: moving.each(cursors.deliveries.max(1) as f64, 1e6).0,
        cursors,
    })
}

/// Prints what was found, the gateway's beside the others'.
///
/// # Errors
/// When the rows cannot be written.
pub fn report(all: &[(Kind, Presence)]) -> Result<()> {
    let peers = |figure: &dyn Fn(&Presence) -> String| {
        let others = all.iter().filter(|(kind, _)| *kind != Kind::Gateway);
        let each = others.map(|(kind, found)| {
            format!("{}, {} people: {}", kind.name().split(' ').next().unwrap_or_default(), found.people, figure(found))
        });
        each.collect::<Vec<_>>().join("; ")
    };
    let mut rows = Vec::new();
    for (_, found) in all.iter().filter(|(kind, _)| *kind == Kind::Gateway) {
        let mut row = |what: &str, figure: &dyn Fn(&Presence) -> String| {
            rows.push(Row {
                what: format!("presence of {} in one document: {what}", found.people),
                figure: figure(found),
                target: String::new(),
                peers: peers(figure),
                is_met: None,
            });
        };
        row("at rest, CPU per person and second (+ Redis), bytes to each", &|found| {
            let (servers, redis) = found.rest_us;
            format!("{servers:.2} µs (+ {redis:.2}), {:.1} B/s", found.rest_bytes)
        });
        row("one comes, all told, CPU (+ Redis), bytes to each other", &|found| {
            format!("{:.2} ms (+ {:.2}), {:.1} B", found.come_ms.0, found.come_ms.1, found.come_bytes)
        });
        row("one goes, all told, CPU (+ Redis)", &|found| format!("{:.2} ms (+ {:.2})", found.go_ms.0, found.go_ms.1));
        row("CPU per delivered cursor, p50 / p99", &|found| {
            let ms = |share| found.cursors.latency.quantile(share) as f64 / 1e3;
            let per_second = found.cursors.deliveries as f64 / CURSORS.as_secs_f64();
            format!("{:.1} µs, {:.1} / {:.1} ms at {per_second:.0}/s", found.cursor_us, ms(0.5), ms(0.99))
        });
    }
    write(&rows)
}

type Clients = Vec<(std::net::SocketAddr, Box<dyn Driver>)>;

fn clients(servers: &Servers, range: std::ops::Range<usize>, users: usize) -> Result<Clients> {
    let with_cursor =
        |(address, client)| (address, Box::new(WithCursor { client, document_id: "d0".into() }) as Box<dyn Driver>);
    Ok(servers.clients(range, users)?.into_iter().map(with_cursor).collect())
}

/// A client of the Socket.IO servers that moves its cursor instead of editing. The position is not a range: nobody moves
/// it, and it carries the time.
struct WithCursor {
    client: Box<dyn Driver>,
    document_id: String,
}

impl Driver for WithCursor {
    fn request(&self) -> Option<String> {
        self.client.request()
    }

    fn opened(&mut self, out: &mut Vec<u8>) {
        self.client.opened(out);
    }

    fn received(&mut self, text: &str, out: &mut Vec<u8>) -> Result<Happening> {
        if text.starts_with(r#"42["cursor-update","#) {
            return Ok(stamp_in(text).map_or(Happening::Other, Happening::Delivered));
        }
        self.client.received(text, out)
    }

    fn edit(&mut self, out: &mut Vec<u8>) -> bool {
        let (document_id, stamp) = (&self.document_id, stamp());
        frames::text(
            out,
            &format!(r#"42["cursor-position",{{"documentId":"{document_id}","position":{{"at":"{stamp}"}}}}]"#),
        );
        true
    }
}

/// CPU of the servers and of the store.
struct Usage {
    from: Instant,
    cpu: Duration,
    redis_cpu: Duration,
}

/// The same in a time, in seconds.
struct Used {
    time: Duration,
    cpu_s: f64,
    redis_cpu_s: f64,
}

impl Usage {
    fn of(servers: &Servers) -> Result<Usage> {
        Ok(Usage { from: Instant::now(), cpu: servers.cpu()?, redis_cpu: servers.redis_cpu()? })
    }

    fn until(&self, servers: &Servers) -> Result<Used> {
        let now = Usage::of(servers)?;
        Ok(Used {
            time: now.from - self.from,
            cpu_s: (now.cpu - self.cpu).as_secs_f64(),
            redis_cpu_s: (now.redis_cpu - self.redis_cpu).as_secs_f64(),
        })
    }
}

impl Used {
    /// What is more than at rest.
    fn without(self, rest: &Used) -> Used {
        let share = self.time.as_secs_f64() / rest.time.as_secs_f64();
        Used {
            time: self.time,
            cpu_s: (self.cpu_s - rest.cpu_s * share).max(0.0),
            redis_cpu_s: (self.redis_cpu_s - rest.redis_cpu_s * share).max(0.0),
        }
    }

    fn each(&self, count: f64, unit: f64) -> (f64, f64) {
        (self.cpu_s * unit / count, self.redis_cpu_s * unit / count)
    }
}
