//! `load run`: the gateway, its peers and the bare cost of sending, side by side. `load soak`: memory over time.
//! `load presence`: very many people in one document.
//! `load bare`: the loop that only sends, which `run` starts by itself.

use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use load::{
    bare::{self, Bare},
    figures::Figures,
    presence, scenarios,
    servers::{Kind, Programs},
};

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Connections at rest and edits, of each kind of server.
    Run(Run),
    /// Edits for a long time.
    Soak {
        #[command(flatten)]
        programs: Programs,
        /// How long.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// Deliveries a second.
        #[arg(long, default_value_t = 7600.0)]
        rate: f64,
    },
    /// Very many people in one document.
    Presence {
        #[command(flatten)]
        programs: Programs,
        /// Whom to measure.
        #[arg(long, value_enum, value_delimiter = ',', default_value = "gateway,socket-io")]
        kinds: Vec<Kind>,
        /// How many people of the gateway; a peer that tells everybody of everybody gets a tenth.
        #[arg(long, default_value_t = 10_000)]
        people: usize,
    },
    /// The loop that only sends.
    Bare(Bare),
}

#[derive(Debug, clap::Args)]
struct Run {
    #[command(flatten)]
    programs: Programs,
    /// Whom to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "gateway,socket-io,centrifugo,share-db")]
    kinds: Vec<Kind>,
    /// Connections at rest of the gateway; peers get a third. 0 leaves this part out.
    #[arg(long, default_value_t = 15_000)]
    idle: usize,
    /// Deliveries a second; 0 leaves this part out.
    #[arg(long, value_delimiter = ',', default_value = "7600,15200,30400")]
    rates: Vec<f64>,
    /// Connections that edit.
    #[arg(long, default_value_t = 400)]
    editors: usize,
    /// How long each rate is counted.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Arguments::parse().what {
        What::Run(run) => measure(&run).await,
        What::Bare(bare) => bare::run(&bare),
        What::Presence { programs, kinds, people } => {
            let mut all = Vec::new();
            for kind in kinds {
                let people = if kind == Kind::Gateway { people } else { people / 10 };
                all.push((kind, presence::presence(kind, &programs, people).await?));
            }
            presence::report(&all)
        }
        What::Soak { programs, seconds, rate } => {
            let samples = 20;
            let every = Duration::from_secs_f64(seconds as f64 / samples as f64);
            let bytes = scenarios::soak(&programs, 400, rate, samples, every).await?;
            Figures::default().soak(&bytes, every)
        }
    }
}

async fn measure(run: &Run) -> Result<()> {
    let time = Duration::from_secs(run.seconds);
    let mut figures = Figures::default();
    let is_here = |kind: &&Kind| {
        let is_here = **kind != Kind::Centrifugo || run.programs.centrifuge.is_some();
        if !is_here {
            println!("SKIPPED {}: its program is not here", kind.name());
        }
        is_here
    };
    let kinds: Vec<Kind> = run.kinds.iter().filter(is_here).copied().collect();
    if run.rates.iter().all(|rate| *rate > 0.0) {
        // The gateway first: its frames say what size the bare loop sends.
        let mut bytes = 230;
        for kind in &kinds {
            let edits = scenarios::edits(*kind, &run.programs, run.editors, &run.rates, time).await?;
            if *kind == Kind::Gateway {
                bytes = edits.first().map_or(bytes, |edits| edits.bytes as u16);
            }
            figures.edits(kind.name(), &run.rates, edits);
            if *kind == Kind::Gateway {
                figures.bare(&run.rates, scenarios::bare(run.editors, &run.rates, bytes, time).await?);
            }
        }
    }
    if run.idle > 0 {
        for kind in &kinds {
            let connections = if *kind == Kind::Gateway { run.idle } else { run.idle / 3 };
            let connections = connections / scenarios::PER_DOCUMENT * scenarios::PER_DOCUMENT;
            figures.idle(kind.name(), scenarios::idle(*kind, &run.programs, connections).await?);
        }
    }
    figures.finish()
}
