//! The command of the test cluster: `cluster up`, `down`, `status` and so on; `cluster help` lists them.
//!
//! In: arguments, and `KUBECONFIG`. Out: a cluster; what a program wants on standard output, progress on standard error.

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cluster", about = "A real two-node Kubernetes for tests, on this machine")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the cluster, or leave it alone when it runs
    Up,
    /// Take the cluster away with everything that it left, and end forwarders
    Down,
    /// Tell how the cluster is
    Status,
    /// Print the path of its kubeconfig
    Kubeconfig,
    /// Build the programs of the cluster into the cache
    Build,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Up => {
            let was_up = cluster::local::up().await?;
            eprintln!("cluster: {}", if was_up { "was up already" } else { "is up" });
            println!("export KUBECONFIG={}", cluster::local::kubeconfig().display());
        }
        Command::Down => cluster::local::down()?,
        Command::Status => cluster::local::status().await?.iter().for_each(|line| println!("{line}")),
        Command::Kubeconfig => println!("{}", cluster::local::kubeconfig().display()),
        Command::Build => println!("{}", cluster::programs::ensure()?.display()),
    }
    Ok(())
}
