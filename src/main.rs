//! The object storage server: see the README.

mod cli;
mod logging;

use std::env;
use std::io::Write;
use std::process::ExitCode;

use scaler_object_storage::config::{ServerConfig, misspelt_variables};
use scaler_object_storage::server::{Server, ServerOptions, TlsFiles};
use scaler_object_storage::{BackendKind, ObjectStore};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

/// With the `redis` backend, a thread waits for Redis on behalf of its connections: so many of them can do so at a time.
const WAITING_WORKER_THREADS: usize = 64;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let Err(failure) = serve() else { return ExitCode::SUCCESS };
    let reason = failure.to_string().replace('\n', "; ");
    let _ = writeln!(std::io::stderr(), "scaler_object_storage_server: {reason}");
    ExitCode::FAILURE
}

fn serve() -> Result<(), Failure> {
    let environment =
        || env::vars_os().filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()));
    let config = ServerConfig::load(&cli::parse(env::args_os()), environment())?;
    let options = options(&config)?;
    let _written_at_exit = logging::start(&config.logging_paths, config.logging_level)?;
    if let Some(file) = &config.logging_config_file {
        tracing::warn!(
            "the logging config file {} is ignored: it is in the format of Python's logging",
            file.display()
        );
    }
    for (name, meant) in misspelt_variables(environment().map(|(name, _)| name)) {
        tracing::warn!("the environment variable {name} means nothing: is it a misspelling of {meant}?");
    }
    // For signals and for accepting; the server serves connections on threads of its own.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(options, &config))
}

fn options(config: &ServerConfig) -> Result<ServerOptions, Failure> {
    let tls = config.tls_cert.clone().zip(config.tls_key.clone()).map(|(cert, key)| TlsFiles { cert, key });
    let identity = config.identity.clone().into_bytes();
    let mut options =
        ServerOptions { bind_address: config.bind_address.parse()?, identity, tls, ..ServerOptions::default() };
    if config.store.backend == BackendKind::Redis {
        options.worker_threads = WAITING_WORKER_THREADS;
    }
    Ok(options)
}

async fn run(options: ServerOptions, config: &ServerConfig) -> Result<(), Failure> {
    // Before the line that says that it listens: who reads that line may send a signal at once.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let store = ObjectStore::open(&config.store)?;
    let server = Server::bind(options, store.clone()).await?;
    let found = store.info();
    tracing::info!(
        "listening on {}; {} backend in {}, {} objects found",
        server.local_address(),
        found.backend,
        found.place,
        found.objects
    );
    let stopped = async {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!("{name}: finishing the replies in flight");
    };
    server.run(stopped).await;
    store.close()?;
    tracing::info!("stopped");
    Ok(())
}
