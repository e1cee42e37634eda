//! The command of the test cluster: `cluster up`, `down`, `status` and so on; `cluster help` lists them.
//!
//! In: arguments, and `KUBECONFIG`. Out: a cluster; what a program wants on standard output, progress on standard error.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Parser, Subcommand};
use cluster::{ApiServer, Cluster, background, foreign_kubeconfig, forward, images, local, programs};

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
    /// Make image archives known to every node; without arguments, all that `images` built
    LoadImage { archives: Vec<PathBuf> },
    /// Build the project's images: gateway, operator, valkey, or those that are named
    Images { names: Vec<String> },
    /// Copy logs of pods and components into a folder
    Logs { folder: PathBuf },
    /// Lead connections of a local address to ready pods, each new connection to the next one
    Forward {
        #[arg(long, default_value = "default")]
        namespace: String,
        /// Labels of the pods, such as app=gateway
        #[arg(long)]
        selector: String,
        /// The port in the pods
        #[arg(long)]
        port: u16,
        #[arg(long, default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
        /// Go on in the background, until `down`
        #[arg(long)]
        background: bool,
    },
    /// Start only an API server and its etcd, until interrupted; prints its kubeconfig's path
    Apiserver,
    /// Run kubectl against the cluster
    #[command(disable_help_flag = true)]
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run Helm against the cluster
    #[command(disable_help_flag = true)]
    Helm {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Build the programs of the cluster into the cache
    Build,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    match Arguments::parse().command {
        Command::Up => match foreign_kubeconfig() {
            Some(kubeconfig) => say_foreign(&kubeconfig),
            None => {
                let was_up = local::up().await?;
                eprintln!("cluster: {}", if was_up { "was up already" } else { "is up" });
                println!("export KUBECONFIG={}", local::kubeconfig().display());
            }
        },
        Command::Down => {
            if background::stop_all()? {
                eprintln!("cluster: ended the forwarder");
            }
            match foreign_kubeconfig() {
                Some(kubeconfig) => say_foreign(&kubeconfig),
                None => local::down()?,
            }
        }
        Command::Status => match foreign_kubeconfig() {
            Some(kubeconfig) => {
                say_foreign(&kubeconfig);
                println!("{}", Cluster::get().await?.kubectl(&["get", "nodes"])?);
            }
            None => local::status().await?.iter().for_each(|line| println!("{line}")),
        },
        Command::Kubeconfig => println!("{}", foreign_kubeconfig().unwrap_or_else(local::kubeconfig).display()),
        Command::LoadImage { archives } => load(archives).await?,
        Command::Images { names } => {
            for built in images::build(&names)? {
                let size = built.bytes as f64 / f64::from(1 << 20);
                println!("{}  {size:.1} MiB  {}  {}", built.name, built.digest, built.archive.display());
            }
        }
        Command::Logs { folder } => Cluster::get().await?.collect_logs(&folder).await?,
        Command::Forward { namespace, selector, port, listen, background } => {
            if background {
                background::start(listen, &namespace, &selector, port)?;
            } else {
                let target = forward::Target { namespace, pods: forward::Pods::InTurn(selector), port };
                forward::serve(Cluster::get().await?.client(), listen, target).await?;
            }
        }
        Command::Apiserver => {
            let server = ApiServer::start().await?;
            println!("export KUBECONFIG={}", server.kubeconfig().display());
            tokio::signal::ctrl_c().await?;
        }
        Command::Kubectl { arguments } => tool("kubectl", &arguments)?,
        Command::Helm { arguments } => tool("helm", &arguments)?,
        Command::Build => println!("{}", programs::ensure()?.display()),
    }
    Ok(())
}

fn say_foreign(kubeconfig: &Path) {
    eprintln!(
        "cluster: KUBECONFIG names a cluster ({}), which is used as it is; unset it for one on this machine",
        kubeconfig.display()
    );
}

async fn load(archives: Vec<PathBuf>) -> Result<()> {
    let cluster = Cluster::get().await?;
    if !cluster.is_ours() {
        eprintln!("cluster: KUBECONFIG names somebody else's cluster; load images there with its own tools");
        return Ok(());
    }
    let archives = if archives.is_empty() {
        ["gateway", "operator", "valkey"].iter().map(|what| images::archive(what)).collect::<Result<_>>()?
    } else {
        archives
    };
    archives.iter().try_for_each(|archive| cluster.load_image(archive))
}

/// Hands over to a tool, so that a person sees its output as it comes.
fn tool(name: &str, arguments: &[String]) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let mut command = std::process::Command::new(programs::ensure()?.join(name));
    match foreign_kubeconfig() {
        Some(kubeconfig) => command.env("KUBECONFIG", kubeconfig),
        None => {
            local::isolate(&mut command);
            command.env("KUBECONFIG", local::kubeconfig())
        }
    };
    Err(command.args(arguments).exec().into())
}
