//! The programs' common part: the server as a process, and the keeper that is started for attached processes.

pub mod cli;
mod logging;
mod serving;
mod signals;

use std::env;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use signals::Signals;
use tokio::runtime::Builder;
use tokio::time::sleep;

use crate::config::{CommandLine, ServerConfig, misspelt_variables};
use crate::keeper::{InheritedTurn, Keeper, inherit_turn};
use crate::server::{ServerOptions, TlsFiles};
use crate::store::BackendKind;

/// With the `redis` backend, a thread waits for Redis on behalf of its connections: so many of them can do so at a time.
const WAITING_WORKER_THREADS: usize = 64;

/// How often a keeper looks whether it is still needed.
const KEEPER_LOOK: Duration = Duration::from_millis(50);

type Failure = Box<dyn std::error::Error>;

/// The program `scaler_object_storage_server`: its arguments, with its name in front.
pub fn server(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    exit(
        "scaler_object_storage_server",
        match cli::keeper_descriptor(arguments.iter().cloned()) {
            Some(descriptor) => keeper(descriptor),
            None => serve(&cli::parse(arguments)),
        },
    )
}

/// The status with which a program ends; what it could not do is said on stderr, in a line.
pub fn exit(program: &str, result: Result<(), Failure>) -> ExitCode {
    let Err(failure) = result else { return ExitCode::SUCCESS };
    let reason = failure.to_string().replace('\n', "; ");
    let _ = writeln!(std::io::stderr(), "{program}: {reason}");
    ExitCode::FAILURE
}

/// The process's environment variables, as far as they are text.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    env::vars_os().filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()))
}

/// The keeper that an attached process has started with this descriptor.
pub fn keeper(descriptor: i32) -> Result<(), Failure> {
    keep(inherit_turn(descriptor)?)
}

/// Serves until a signal ends it.
pub fn serve(command_line: &CommandLine) -> Result<(), Failure> {
    let config = ServerConfig::load(command_line, environment())?;
    raise_descriptor_limit();
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
    for text in ServerConfig::without_effect(command_line, environment())? {
        tracing::warn!("{text}");
    }
    // For signals and for accepting; the server serves connections on threads of its own.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serving::run(options, &config, command_line.clear))
}

/// Every attached process takes some descriptors, and the limit that a process starts with is for programs with few.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // What cannot be raised stays as it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn options(config: &ServerConfig) -> Result<ServerOptions, Failure> {
    let tls = config.tls_cert.clone().zip(config.tls_key.clone()).map(|(cert, key)| TlsFiles { cert, key });
    let identity = config.identity.clone().into_bytes();
    let bind_address = config.bind_address.parse()?;
    let mut options = ServerOptions { bind_address, identity, tls, ..ServerOptions::default() };
    if config.store.backend == BackendKind::Redis {
        options.worker_threads = WAITING_WORKER_THREADS;
    }
    Ok(options)
}

/// Keeps a directory for processes that attach, without serving anybody else, as long as there are any.
fn keep(turn: InheritedTurn) -> Result<(), Failure> {
    let config = ServerConfig::load(&CommandLine::default(), environment())?;
    raise_descriptor_limit();
    let _written_at_exit = logging::start(&config.logging_paths, config.logging_level)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let (store, keeper) = Keeper::open_started(&config.store, turn)?;
        tracing::info!("keeping {} for the processes that attach", store.info().place);
        let idle = Duration::from_secs(config.store.local.keeper_idle_seconds);
        let reason = loop {
            tokio::select! {
                name = signals.next() => break name,
                () = sleep(KEEPER_LOOK) => {}
            }
            if keeper.is_asked_to_yield() {
                break "a server takes over";
            }
            if keeper.may_end(idle)? {
                break "nobody is attached any more";
            }
        };
        tracing::info!("ending: {reason}");
        keeper.close();
        store.close()?;
        Ok(())
    })
}
