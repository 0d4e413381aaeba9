//! The status server: metrics, health and a page for people, over HTTP, on an address of its own.
//!
//! It runs on two threads of its own, so that it answers while the store is being opened or closed, and so that nothing that a client asks for here
//! waits for the store, or the store for it: [`sampling`] takes a snapshot each second, [`http`] hands out the last one, as text for Prometheus
//! ([`metrics`]), as JSON, or on the page.

mod address;
mod http;
mod metrics;
mod sampling;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

pub use address::{StatusAddress, StatusAddressError};
use sampling::{Board, Phase};

use super::error::ServerError;
use super::stats::ServerWatch;
use crate::ObjectStore;

/// Serves the numbers of a server and its store over HTTP: `/metrics`, `/healthz`, `/readyz`, `/status.json`, `/history.json`, and a page at `/`.
///
/// ```
/// use scaler_object_storage::ObjectStore;
/// use scaler_object_storage::server::{Server, ServerOptions, StatusServer};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// let status = StatusServer::listen(&"127.0.0.1:0".parse()?)?; // `/readyz` says "starting"
/// let store = ObjectStore::builder().memory().open()?;
/// let address = "tcp://127.0.0.1:0".parse()?;
/// let options = ServerOptions::default().with(|options| options.bind_address = address);
/// let server = Server::bind(options, store.clone()).await?;
/// status.serving(&store, server.watch()); // "ready"
/// server.run(async { status.stopping() }).await; // "stopping"
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct StatusServer {
    board: Arc<Board>,
    local_address: SocketAddr,
    /// Dropping these ends the threads.
    stop: Option<(oneshot::Sender<()>, Sender<()>)>,
    threads: Vec<JoinHandle<()>>,
}

impl StatusServer {
    /// Listens, and says from now on that the server is starting.
    ///
    /// # Errors
    ///
    /// [`ServerError::Status`] where the address is in use or not this machine's, [`ServerError::Threads`].
    pub fn listen(address: &StatusAddress) -> Result<StatusServer, ServerError> {
        let failed = |source: io::Error| ServerError::Status { address: address.to_string(), source };
        let listener = address.bind().map_err(failed)?;
        let local_address = listener.local_addr().map_err(failed)?;
        let board = Arc::new(Board::default());
        let (stop_http, stopped) = oneshot::channel();
        let runtime = Builder::new_current_thread().enable_io().enable_time().build().map_err(ServerError::Threads)?;
        let shown = Arc::clone(&board);
        let http = std::thread::Builder::new().name("status".to_owned()).spawn(move || {
            runtime.block_on(http::serve(listener, &shown, stopped));
            runtime.shutdown_background();
        });
        // Has room for one message: a second would say the same.
        let (wake, woken) = bounded(1);
        let to_fill = Arc::clone(&board);
        let http = http.map_err(ServerError::Threads)?;
        let sampler = std::thread::Builder::new()
            .name("status numbers".to_owned())
            .spawn(move || sampling::run(&to_fill, &woken))
            .map_err(ServerError::Threads)?;
        let stop = Some((stop_http, wake));
        Ok(StatusServer { board, local_address, stop, threads: vec![http, sampler] })
    }

    /// The address it listens on, with the port that was really taken.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// The store is open, and the server accepts clients.
    pub fn serving(&self, store: &ObjectStore, server: ServerWatch) {
        self.board.set_source(Some((store.clone(), server)));
        self.board.set_phase(Phase::Ready);
        if let Some((_, wake)) = &self.stop {
            // Full: it is woken already.
            let _ = wake.try_send(());
        }
    }

    /// The server is being stopped. The store may be closed from now on.
    pub fn stopping(&self) {
        self.board.set_phase(Phase::Stopping);
        self.board.set_source(None);
    }
}

impl Drop for StatusServer {
    fn drop(&mut self) {
        self.board.set_source(None);
        self.stop.take();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the status server panicked; the store is not concerned");
            }
        }
    }
}
