//! `collab-operator`: `run` looks after CollabClusters, `crd` prints the CustomResourceDefinition, `plan` and `validate`
//! judge a file without a cluster. In: arguments and environment. Out: exit code 0, 2 for a bad file or argument, else 1.

use std::{io::Read, net::SocketAddr, path::Path, process::ExitCode, sync::Arc};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use collab_operator::{
    context::Context,
    controller, health,
    names::MANAGER,
    plan,
    validate::{Images, Platform},
};
use kube::{
    Client,
    runtime::events::{Recorder, Reporter},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Exit code for what the person can correct.
const BAD_INPUT: u8 = 2;

/// The operator of CollabClusters.
#[derive(Parser)]
#[command(name = "collab-operator", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Look after CollabClusters.
    Run(Run),
    /// Print the CustomResourceDefinition.
    Crd,
    /// Print the objects that a file would lead to.
    Plan(File),
    /// Say what is wrong with a file.
    Validate(File),
    /// Not in this version yet.
    Simulate {
        /// Ignored.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[derive(Args)]
struct Run {
    /// Namespaces to look at; all where none is named.
    #[arg(long, env = "COLLAB_WATCH_NAMESPACES", value_delimiter = ',')]
    watch_namespaces: Vec<String>,
    /// Look after CollabClusters labelled collabcluster.io/class with this value; empty = those without the label.
    #[arg(long, env = "COLLAB_CLASS", default_value = "")]
    class: String,
    /// Address of /livez, /readyz and /metrics.
    #[arg(long, env = "COLLAB_HEALTH_LISTEN", default_value = "[::]:8080")]
    health_listen: SocketAddr,
    /// Who this operator is, in the status of what it looks after.
    #[arg(long, env = "COLLAB_OPERATOR_ID", default_value = "collab-operator")]
    id: String,
    #[command(flatten)]
    images: ImageArguments,
}

#[derive(Args)]
struct File {
    /// A YAML file; - = standard input.
    #[arg(short = 'f', long = "file")]
    file: String,
    #[command(flatten)]
    images: ImageArguments,
}

#[derive(Args)]
struct ImageArguments {
    /// Image of gateways in new clusters.
    #[arg(long, env = "COLLAB_GATEWAY_IMAGE", default_value = concat!("collabcluster/gateway:", env!("CARGO_PKG_VERSION")))]
    gateway_image: String,
    /// Image of Redis in new clusters.
    #[arg(long, env = "COLLAB_REDIS_IMAGE", default_value = concat!("collabcluster/valkey:", env!("CARGO_PKG_VERSION")))]
    redis_image: String,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(run) => exit_code(start(run)),
        Command::Crd => exit_code(print_crd()),
        Command::Plan(file) => judge(&file, |cluster| plan::plan(cluster).map(|text| print!("{text}"))),
        Command::Validate(file) => judge(&file, |cluster| {
            for field in &cluster.ineffective {
                println!("{}: {field} has no effect in this version", cluster.names.cluster);
            }
            println!("{}: valid", cluster.names.cluster);
            Ok(())
        }),
        Command::Simulate { .. } => {
            eprintln!("simulate is not in this version yet");
            ExitCode::from(BAD_INPUT)
        }
    }
}

fn exit_code(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("collab-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print_crd() -> Result<()> {
    print!("{}", plan::crd()?);
    Ok(())
}

fn judge(file: &File, show: impl Fn(&collab_operator::validate::Cluster) -> Result<(), plan::Error>) -> ExitCode {
    let judged = read(&file.file).map_err(|error| format!("{error:#}")).and_then(|text| {
        let clusters = plan::read(&text, &file.images.images()).map_err(|error| error.to_string())?;
        clusters.iter().try_for_each(|cluster| show(cluster).map_err(|error| error.to_string()))
    });
    match judged {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(BAD_INPUT)
        }
    }
}

fn read(file: &str) -> Result<String> {
    if file != "-" {
        return std::fs::read_to_string(Path::new(file)).with_context(|| format!("cannot read {file}"));
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
    Ok(text)
}

#[tokio::main]
async fn start(run: Run) -> Result<()> {
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(
            tracing_subscriber::EnvFilter::builder()
                .with_default_directive(tracing_subscriber::filter::LevelFilter::INFO.into())
                .with_env_var("COLLAB_LOG")
                .from_env_lossy(),
        )
        .init();
    let client = Client::try_default().await.context("no way to the API server: set KUBECONFIG or run in a pod")?;
    let platform = platform(&client).await?;
    let reporter = Reporter { controller: MANAGER.to_owned(), instance: std::env::var("HOSTNAME").ok() };
    let recorder = Recorder::new(client.clone(), reporter);
    let images = run.images.images();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?images, ?platform, class = run.class, "operator starts");
    let context = Arc::new(Context::new(client, images, platform, run.class, run.id, recorder));
    let (stop, stopped) = watch::channel(false);
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let watching = controller::run(context.clone(), &run.watch_namespaces, stopped);
    tokio::pin!(watching);
    tokio::select! {
        served = health::serve(run.health_listen, context.clone()) => served.context("--health-listen")?,
        () = &mut watching => anyhow::bail!("the watches ended by themselves"),
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    tracing::info!("operator stops once its reconciles are done");
    stop.send_replace(true);
    watching.await;
    Ok(())
}

/// OpenShift assigns users and groups itself and refuses pods that choose their own.
async fn platform(client: &Client) -> Result<Platform> {
    let groups = client.list_api_groups().await.context("the API server does not list its groups")?;
    let is_openshift = groups.groups.iter().any(|group| group.name == "security.openshift.io");
    Ok(if is_openshift { Platform::OpenShift } else { Platform::Kubernetes })
}

impl ImageArguments {
    fn images(&self) -> Images {
        Images { gateway: self.gateway_image.clone(), redis: self.redis_image.clone() }
    }
}
