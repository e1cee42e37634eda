//! Configure, bind, serve, drain.

use std::{io::IsTerminal, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use collab_gateway::{
    admin,
    config::{Config, Loading, Mistake},
    control,
    drain::{Drain, Outcome},
    live::{self, Live},
    log::{self, Bound, Short},
    open_files,
    start::{self, Running},
    telemetry::{self, Telemetry},
};
use tokio::{net::TcpListener, signal::unix::SignalKind, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{Layer, reload, util::SubscriberInitExt};

/// Every failure of `--config` and the flags, and a store that cannot keep what they promise.
const BAD_CONFIGURATION: u8 = 2;

/// The grace of people whose transport was closed, and a little more.
const DOCUMENTS_CLOSING: Duration = Duration::from_secs(12);
/// Nothing outlives a process that runs alone.
const DOCUMENTS_CLOSING_ALONE: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let config = match Config::load(std::env::args_os()) {
        Ok(config) => config,
        Err(Loading::Asked(answer)) => {
            // Help and version; a closed pipe is the reader's choice.
            let _ = answer.print();
            return ExitCode::SUCCESS;
        }
        Err(Loading::Mistake(mistake)) => return refuse(&mistake),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("collab-gateway: no threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(mistake) = runtime.block_on(start::check_promise(&config)) {
        return refuse(&mistake);
    }
    match runtime.block_on(run(config)) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn refuse(mistake: &Mistake) -> ExitCode {
    eprintln!("collab-gateway: {mistake}");
    ExitCode::from(BAD_CONFIGURATION)
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let (settings, live) = watch::channel(config.live.clone());
    let telemetry = follow_settings(&config, settings, live.clone())?;
    open_files::warn_if_few(open_files::raise_limit(), config.live.max_connections);
    let mut terminate = tokio::signal::unix::signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = tokio::signal::unix::signal(SignalKind::interrupt()).context("SIGINT")?;

    let public = TcpListener::bind(config.listen).await.with_context(|| format!("--listen {}", config.listen))?;
    let private = TcpListener::bind(config.admin_listen)
        .await
        .with_context(|| format!("--admin-listen {}", config.admin_listen))?;
    let control = match &config.control_socket {
        None => None,
        Some(path) => Some(control::bind(path).with_context(|| format!("--control-socket {}", path.display()))?),
    };
    let Running { server, admin, owned } = start::start(&config, live.clone()).await?;
    tracing::info!(listen = %public.local_addr()?, admin = %private.local_addr()?, "ready for connections");

    let stop = CancellationToken::new();
    let serving = tokio::spawn(Arc::clone(&server).serve(public, stop.clone()));
    let probes = tokio::spawn(admin::serve(private, admin.clone(), stop.clone().cancelled_owned()));

    let drain = Drain::new(server, admin, live);
    let moving = tokio::spawn(drain.clone().run());
    let agent = control.map(|listener| {
        tokio::spawn(control::serve(listener, drain.clone(), config.drain_deadline, stop.clone().cancelled_owned()))
    });

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let closing = if config.redis.is_some() { DOCUMENTS_CLOSING } else { DOCUMENTS_CLOSING_ALONE };
    let ending = drain.end(config.drain_deadline, closing);
    tokio::pin!(ending);
    let outcome = loop {
        tokio::select! {
            outcome = &mut ending => break outcome,
            _ = terminate.recv() => drain.hurry(),
            _ = interrupt.recv() => drain.hurry(),
        }
    };
    stop.cancel();
    moving.abort();
    owned.stop().await;
    for task in [Some(serving), Some(probes), agent].into_iter().flatten() {
        // All end with `stop`.
        let _ = tokio::time::timeout(Duration::from_secs(1), task).await;
    }
    if let Some(path) = &config.control_socket {
        // The next process replaces one that is left.
        let _ = std::fs::remove_file(path);
    }
    if let Some(telemetry) = telemetry {
        telemetry.flush().await;
    }
    let Outcome { connections_left, documents_unsettled } = outcome;
    if outcome.is_clean() {
        tracing::info!("drained");
        Ok(ExitCode::SUCCESS)
    } else {
        tracing::error!(connections_left, documents_unsettled, "not all that was under way could be finished");
        Ok(ExitCode::FAILURE)
    }
}

/// Starts the log and the traces, and follows the file of live settings, the log's level among them.
fn follow_settings(
    config: &Config,
    settings: watch::Sender<Live>,
    mut live: watch::Receiver<Live>,
) -> anyhow::Result<Option<Telemetry>> {
    let (level, handle) = reload::Layer::new(log::filter(config.live.log_level));
    // Lines and colours are for people; a cluster's log is read by machines.
    let is_watched = std::io::stderr().is_terminal();
    let lines = is_watched.then(|| tracing_subscriber::fmt::layer().with_writer(std::io::stderr));
    let json = (!is_watched)
        .then(|| tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(Short(std::io::stderr)));
    let bound = Bound::default();
    tokio::spawn(bound.clone().tell());
    let lines = bound.and_then(lines).and_then(json).with_filter(level);
    let (telemetry, trouble) = match config.otlp_traces.as_ref().map(Telemetry::start).transpose() {
        Ok(telemetry) => (telemetry, config.otlp_trouble.clone()),
        Err(trouble) => (None, Some(trouble.to_string())),
    };
    telemetry::subscriber(lines, telemetry.as_ref()).try_init().context("the log")?;
    if let Some(trouble) = trouble {
        // The environment is often everybody's: no reason not to serve.
        tracing::warn!(%trouble, "there will be no traces");
    }
    if let Some(file) = &config.live_file {
        tokio::spawn(live::follow(file.clone(), settings));
        tokio::spawn(async move {
            while live.changed().await.is_ok() {
                let next = log::filter(live.borrow().log_level);
                if handle.reload(next).is_err() {
                    return;
                }
            }
        });
    }
    Ok(telemetry)
}
