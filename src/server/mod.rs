//! The object storage server: Scaler's wire protocol over an [`ObjectStore`].
//!
//! A request takes the path of the files: `listener` accepts, `workers` gives the connection a thread, `transport` makes a byte
//! stream of it, `greeting` learns who the client is, `connection` takes the stream apart into requests, `handler` carries them out and
//! puts the replies into the `reply_buffer`, from where `connection` writes them. `session` is what belongs to a client's identity and
//! survives its connection; `waiting` parks a request whose object does not exist yet. `handover` is how another process goes on with all of it.

mod address;
mod connection;
mod control;
mod counters;
mod error;
mod greeting;
mod handler;
mod handover;
mod latency;
mod listener;
mod open;
mod options;
mod reply_buffer;
mod session;
mod stats;
mod status;
mod tls;
mod transport;
mod waiting;
mod websocket;
mod workers;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

pub use address::{Address, AddressError, Endpoint};
pub use counters::{Counter, ServerCounters};
pub use error::ServerError;
use handler::Questions;
use handover::PausedConnection;
pub use handover::{Handover, Predecessor, Successor, systemd};
use latency::Latencies;
pub use latency::Latency;
use listener::Listener;
use open::{Open, OpenConnections};
pub use options::{ServerOptions, TlsFiles};
use session::Sessions;
pub use stats::{ServerStats, ServerWatch};
pub use status::{StatusAddress, StatusAddressError, StatusServer};
use workers::Workers;

use crate::ObjectStore;
pub use crate::wire::IDENTITY_BYTES_MAX;

/// How long accepting rests when the process has no file descriptors or memory left for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a connection may read, and write, before the others on its thread have their turn: a fraction of a millisecond.
const TURN_BYTES_MAX: usize = 1 << 20;

/// A server that listens but does not serve yet. Made by [`Server::bind`].
///
/// ```
/// use scaler_object_storage::ObjectStore;
/// use scaler_object_storage::server::{Server, ServerOptions};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// let store = ObjectStore::builder().memory().open()?;
/// let address = "tcp://127.0.0.1:0".parse()?;
/// let options = ServerOptions::default().with(|options| options.bind_address = address);
/// let server = Server::bind(options, store).await?;
/// println!("listening on {}", server.local_address());
/// server.run(async { /* until it is time to stop */ }).await;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Server {
    listener: Listener,
    workers: Workers,
    shared: Arc<ServerState>,
}

/// What all connections share.
struct ServerState {
    options: ServerOptions,
    store: ObjectStore,
    protocol: Protocol,
    sessions: Sessions,
    counters: Arc<ServerCounters>,
    latencies: Arc<Latencies>,
    open: Arc<OpenConnections>,
    /// Where it listens, with the port that was really taken.
    address: Address,
    /// Deletes whose answers are still to come.
    questions: Questions,
    /// Connections that are not served any more, for another process.
    paused: Mutex<Vec<PausedConnection>>,
}

/// What carries the byte stream over a TCP connection.
enum Protocol {
    Plain,
    Tls(TlsAcceptor),
    Ws,
    Wss(TlsAcceptor),
}

impl Server {
    /// Listens, so that clients can connect from now on; they are served by [`run`](Self::run). Everything that can fail does so
    /// here. To be called within a tokio runtime whose I/O and time drivers are enabled.
    ///
    /// # Errors
    ///
    /// [`ServerError::Listen`] where the address is in use or not this machine's; otherwise what is wrong with the options.
    #[expect(clippy::unused_async, reason = "it needs a runtime, which only a future is sure to have")]
    pub async fn bind(options: ServerOptions, store: ObjectStore) -> Result<Server, ServerError> {
        Self::begin(options, store, |address| {
            Listener::bind(address).map_err(|source| ServerError::Listen { address: address.clone(), source })
        })
    }

    /// A server whose listening socket `listen` makes, or has.
    fn begin(
        options: ServerOptions,
        store: ObjectStore,
        listen: impl FnOnce(&Address) -> Result<(Listener, Address), ServerError>,
    ) -> Result<Server, ServerError> {
        if options.identity.len() > IDENTITY_BYTES_MAX {
            return Err(ServerError::Identity { bytes: options.identity.len() });
        }
        let protocol = Protocol::new(&options)?;
        let workers = Workers::start(options.worker_threads).map_err(ServerError::Threads)?;
        let (listener, address) = listen(&options.bind_address)?;
        let shared = ServerState {
            options,
            store,
            protocol,
            sessions: Sessions::default(),
            counters: Arc::default(),
            latencies: Arc::default(),
            open: Arc::default(),
            address,
            questions: Questions::default(),
            paused: Mutex::default(),
        };
        Ok(Server { listener, workers, shared: Arc::new(shared) })
    }

    /// The address it listens on, with the port that was really taken.
    #[must_use]
    pub fn local_address(&self) -> &Address {
        &self.shared.address
    }

    /// Where its numbers come from while it runs.
    #[must_use]
    pub fn watch(&self) -> ServerWatch {
        ServerWatch(Arc::clone(&self.shared))
    }

    /// The one address, of those that the host's name may stand for, at which it listens; None where the host is no name.
    #[must_use]
    pub fn resolved_address(&self) -> Option<SocketAddr> {
        let host = &self.local_address().endpoint()?.host;
        if host.parse::<IpAddr>().is_ok() { None } else { self.listener.socket_address() }
    }

    /// Counters of what the server sees while it runs.
    #[must_use]
    pub fn counters(&self) -> Arc<ServerCounters> {
        Arc::clone(&self.shared.counters)
    }

    /// Serves until `shutdown` completes; then stops accepting, finishes replies in flight, at most for
    /// [`closing_time_max`](ServerOptions::closing_time_max), and returns. The store stays open.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        self.serve_until(shutdown).await;
        self.stop().await;
    }

    /// Accepts connections until `ended` completes, and returns what that has returned. Until the server is [stopped](Self::stop) or
    /// [paused](Self::pause), the connections that are open are still served.
    pub async fn serve_until<T>(&self, ended: impl Future<Output = T>) -> T {
        tokio::select! {
            ended = pin!(ended) => ended,
            never = accept_all(&self.listener, &self.workers, &self.shared) => match never {},
        }
    }

    /// Finishes replies in flight, at most for [`closing_time_max`](ServerOptions::closing_time_max), and closes all connections. The store stays
    /// open.
    pub async fn stop(self) {
        let Server { listener, shared, .. } = self;
        let open = Arc::clone(&shared.open);
        drop(listener);
        open.stop();
        if timeout(shared.options.closing_time_max, open.until_empty()).await.is_err() {
            tracing::warn!("{} connections closed before their replies were read", open.len());
        }
        shared.sessions.end_all();
        tracing::debug!("served {}", shared.counters);
    }
}

async fn accept_all(listener: &Listener, workers: &Workers, shared: &Arc<ServerState>) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                let name = peer.clone();
                begin_on(workers, shared, &name, None, |shared, open| async move {
                    connection::serve(shared, socket, peer, &open).await;
                    open
                });
            }
            Err(error) if is_about_one_connection(&error) => tracing::debug!("a connection was not accepted: {error}"),
            Err(error) => {
                tracing::warn!("connections cannot be accepted: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Has a connection served on one of the threads; one that another process has served keeps its number.
fn begin_on<F: Future<Output = Open> + Send + 'static>(
    workers: &Workers,
    shared: &Arc<ServerState>,
    peer: &str,
    number: Option<u64>,
    serve: impl FnOnce(Arc<ServerState>, Open) -> F,
) {
    let connections_max = shared.options.connections_max;
    let Some((open, (worker, place))) = shared.open.open(number, connections_max).zip(workers.place()) else {
        shared.counters.connections_refused.add(1);
        return tracing::warn!("{peer} was turned away: {connections_max} connections are open, the limit");
    };
    shared.counters.connections.add(1);
    let serving = serve(Arc::clone(shared), open);
    worker.spawn(async move {
        let open = serving.await;
        drop((open, place));
    });
}

/// Whether only one client is concerned, so that the next may be accepted at once.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

impl Protocol {
    fn new(options: &ServerOptions) -> Result<Self, ServerError> {
        let acceptor = || match &options.tls {
            Some(files) => tls::acceptor(files),
            None => Err(ServerError::CertificateMissing { address: options.bind_address.clone() }),
        };
        Ok(match options.bind_address {
            Address::Tcp(_) | Address::Ipc(_) => Protocol::Plain,
            Address::Tls(_) => Protocol::Tls(acceptor()?),
            Address::Ws(..) => Protocol::Ws,
            Address::Wss(..) => Protocol::Wss(acceptor()?),
        })
    }
}
