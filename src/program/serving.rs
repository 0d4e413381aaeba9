//! A server as a process: from opening the store, or taking over from the process that has served, to a signal or to the next process that does.

use std::io;
use std::os::unix::net::UnixStream;

use crate::config::ServerConfig;
use crate::keeper::Keeper;
use crate::server::{Address, Handover, Predecessor, Server, ServerOptions, StatusServer, Successor, systemd};
use crate::store::{BackendKind, ObjectStore};
use tokio::sync::mpsc;

use super::Failure;
use super::signals::Signals;

/// A server, its store, and the keeper that lets other processes attach to that, where it has a directory.
struct Running {
    server: Server,
    store: ObjectStore,
    keeper: Option<Keeper>,
    status: Option<StatusServer>,
}

/// Why a server ends.
enum Ending {
    /// A signal of this name.
    Signal(&'static str),
    /// Another process is to go on.
    Replaced(UnixStream),
}

/// Serves until it is ended.
pub async fn run(options: ServerOptions, config: &ServerConfig, clear: bool) -> Result<(), Failure> {
    // Before the line that says that it listens: who reads that line may send a signal at once.
    let mut signals = Signals::listen()?;
    let (handover, predecessor) = take_over(&options, config)?;
    // It answers already while the store is being opened.
    let status = status_server(config)?;
    let mut running = open(&options, config, status, handover, clear).await?;
    if let Some(predecessor) = predecessor
        && let Err(error) = predecessor.serving()
    {
        tracing::warn!("the process that has served until now has ended in the meantime: {error}");
    }
    systemd::notify_ready();
    let (ask, mut asked) = mpsc::channel(1);
    loop {
        running.let_replace(ask.clone());
        let found = running.store.info();
        tracing::info!(
            "listening on {}{}; {} backend in {}, {} objects found",
            running.server.local_address(),
            running.server.resolved_address().map(|address| format!(" ({address})")).unwrap_or_default(),
            found.backend,
            found.place,
            found.objects
        );
        let ended = async {
            tokio::select! {
                name = signals.next() => Ending::Signal(name),
                Some(stream) = asked.recv() => Ending::Replaced(stream),
            }
        };
        running = match running.server.serve_until(ended).await {
            Ending::Signal(name) => return running.end(name, config.store.backend).await,
            Ending::Replaced(stream) => {
                match running.give_way(&options, config, &mut signals, &Successor::new(stream)).await? {
                    Some(running) => running,
                    None => return Ok(()),
                }
            }
        };
    }
}

/// What the process that has served until now leaves: with systemd, or by itself, as one that keeps the directory at the same address.
fn take_over(
    options: &ServerOptions,
    config: &ServerConfig,
) -> Result<(Option<Handover>, Option<Predecessor>), Failure> {
    match Handover::take_from_systemd() {
        Ok(Some(handover)) => {
            tracing::info!("going on with {handover}, which systemd has kept");
            return Ok((Some(handover), None));
        }
        Ok(None) => {}
        Err(error) => tracing::error!("what systemd has kept of the server before cannot be gone on with: {error}"),
    }
    let config = &config.store;
    if !matches!(config.backend, BackendKind::Local | BackendKind::Tiered) {
        return Ok((None, None));
    }
    let Some(stream) = Keeper::ask_to_replace(config, &options.bind_address.to_string())? else {
        return Ok((None, None));
    };
    let predecessor = Predecessor::new(stream);
    let failed = |error: io::Error| format!("cannot take over from the server that runs, which goes on: {error}");
    let handover = predecessor.receive().map_err(failed)?;
    predecessor.until_closed().map_err(failed)?;
    tracing::info!("going on with {handover}, from the server that has run until now");
    Ok((Some(handover), Some(predecessor)))
}

/// Opens the store, and serves there, or goes on where another server has paused.
async fn open(
    options: &ServerOptions,
    config: &ServerConfig,
    status: Option<StatusServer>,
    handover: Option<Handover>,
    clear: bool,
) -> Result<Running, Failure> {
    let config = &config.store;
    let mut resumed = None;
    let mut cleared = Ok(());
    let resume = |store: &ObjectStore| {
        if clear {
            cleared = store.clear();
        }
        resumed = handover.map(|handover| Server::resume(options.clone(), store.clone(), handover));
    };
    let (store, keeper) = match config.backend {
        BackendKind::Local | BackendKind::Tiered => {
            // What waits for an object waits before any other process can store it.
            Keeper::open_then(config, resume).map(|(store, keeper)| (store, Some(keeper)))?
        }
        _ => {
            let store = ObjectStore::open(config)?;
            resume(&store);
            (store, None)
        }
    };
    cleared?;
    let server = match resumed {
        Some(server) => server?,
        None => Server::bind(options.clone(), store.clone()).await?,
    };
    if let Some(status) = &status {
        status.serving(&store, server.watch());
    }
    Ok(Running { server, store, keeper, status })
}

/// Serves metrics, health and the status page where that is wanted.
fn status_server(config: &ServerConfig) -> Result<Option<StatusServer>, Failure> {
    let Some(address) = config.metrics_address.as_ref().filter(|address| !address.is_empty()) else { return Ok(None) };
    let address = address.parse().map_err(|error| format!("metrics_address: {error}"))?;
    let status = StatusServer::listen(&address)?;
    tracing::info!("metrics and the status page are on http://{}/", status.local_address());
    Ok(Some(status))
}

impl Running {
    /// Lets a process that starts on the same directory and address take over.
    fn let_replace(&self, ask: mpsc::Sender<UnixStream>) {
        let Some(keeper) = &self.keeper else { return };
        let own = self.server.local_address().clone();
        let accepts = move |address: &str| address.parse::<Address>().is_ok_and(|address| address == own);
        // One at a time: whoever comes while another process is taking over sees its connection end.
        keeper.let_replace(accepts, move |stream| drop(ask.try_send(stream)));
    }

    /// Ends it: its clients' connections are closed, unless systemd keeps them for the process that it starts next.
    async fn end(self, signal: &str, backend: BackendKind) -> Result<(), Failure> {
        systemd::notify_stopping();
        let Running { server, store, keeper, status } = self;
        if let Some(status) = &status {
            status.stopping();
        }
        // What waits in a store that keeps nothing is waited for in vain.
        let is_kept = systemd::is_kept_by_systemd() && backend != BackendKind::Memory;
        let left = if is_kept {
            tracing::info!("{signal}: leaving the connections with systemd");
            let handover = server.pause().await?;
            if let Err(error) = handover.leave_with_systemd() {
                tracing::warn!("the connections are closed: systemd does not take them: {error}");
            }
            Some(handover)
        } else {
            tracing::info!("{signal}: finishing the replies in flight");
            server.stop().await;
            None
        };
        if let Some(keeper) = keeper {
            keeper.close();
        }
        if left.is_some() {
            store.close_undrained()?;
            if let Err(error) = systemd::wait_until_read() {
                tracing::warn!("systemd may not have taken the connections: {error}");
            }
        } else {
            store.close()?;
        }
        drop(left);
        tracing::info!("stopped");
        Ok(())
    }

    /// Hands over to another process. Returns a server that goes on where that process has failed to; None where it serves, or a signal has come.
    async fn give_way(
        self,
        options: &ServerOptions,
        config: &ServerConfig,
        signals: &mut Signals,
        successor: &Successor,
    ) -> Result<Option<Running>, Failure> {
        let Running { server, store, keeper, status } = self;
        if let Err(error) = successor.until_ready() {
            tracing::warn!("a process that wanted to take over is not ready to: {error}");
            return Ok(Some(Running { server, store, keeper, status }));
        }
        let handover = server.pause().await?;
        if let Err(error) = successor.hand_over(&handover) {
            tracing::warn!("going on, since a process that wanted to take over cannot: {error}");
            let server = Server::resume(options.clone(), store.clone(), handover)?;
            if let Some(status) = &status {
                status.serving(&store, server.watch());
            }
            return Ok(Some(Running { server, store, keeper, status }));
        }
        tracing::info!("another process takes over {handover}");
        // Its address is the other one's from now on.
        drop(status);
        if let Some(keeper) = keeper {
            keeper.close();
        }
        if let Err(error) = store.close_undrained() {
            tracing::error!("closing the store for the process that takes over: {error}");
        }
        let served = tokio::select! {
            served = successor.closed() => served,
            name = signals.next() => {
                tracing::warn!("{name}: ending before the process that takes over has said that it serves");
                return Ok(None);
            }
        };
        match served {
            Ok(()) => {
                tracing::info!("stopped: the process that has taken over serves");
                Ok(None)
            }
            Err(error) => {
                tracing::error!(
                    "going on, since the process that was to take over has ended before it served: {error}"
                );
                // What that process has had open may still be closing, and clients matter more than numbers.
                let status = status_server(config).unwrap_or_else(|error| {
                    tracing::warn!("going on without metrics: {error}");
                    None
                });
                open(options, config, status, Some(handover), false).await.map(Some)
            }
        }
    }
}
