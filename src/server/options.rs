//! The settings of a server.

use std::path::PathBuf;
use std::time::Duration;

use super::address::{Address, Endpoint};

/// Everything that decides how a [`Server`](super::Server) serves. Start from the defaults:
///
/// ```
/// use scaler_object_storage::server::ServerOptions;
///
/// let address = "tcp://127.0.0.1:0".parse()?;
/// let options = ServerOptions::default().with(|options| options.bind_address = address);
/// assert_eq!(options.identity, b"ObjectStorageServer");
/// # Ok::<(), scaler_object_storage::server::AddressError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Where to listen. Default: `tcp://127.0.0.1:2346`.
    pub bind_address: Address,
    /// What the server calls itself towards clients. Default: `ObjectStorageServer`.
    pub identity: Vec<u8>,
    /// Certificate and key, for `tls://` and `wss://`. Default: none.
    pub tls: Option<TlsFiles>,
    /// Threads that serve connections. Default: one for each core, four at most.
    pub worker_threads: usize,
    /// Largest object that a set may store, in bytes; one that announces more closes its connection. Default: no limit but the
    /// store's capacity.
    pub object_bytes_max: u64,
    /// Most connections at a time; further ones are closed at once. Default: 16 384, within the usual limit of open files.
    pub connections_max: usize,
    /// Most bytes of replies queued for one connection before it is no longer read from. Default: 4 MiB, several times what a
    /// socket takes at once, so that the bound never slows a client that reads.
    pub reply_bytes_max: usize,
    /// Most requests that one identity may have waiting; one more closes its connection. Default: 131 072, more than a
    /// scheduler with a hundred thousand tasks under way has.
    pub waits_max: usize,
    /// Most requests waiting in all; one more closes the connection it came on. Default: 1 048 576, a few hundred MiB.
    pub waits_total_max: usize,
    /// Most identities whose waits are kept while they are not connected; those of one more are dropped. Default: 16 384.
    pub absent_identities_max: usize,
    /// How long the waits of an identity survive after its connection was lost. Default: 60 s, longer than Scaler's clients
    /// try to reconnect.
    pub lost_hold: Duration,
    /// How long the waits of an identity survive after its connection was closed in good order. Default: 2 s.
    pub closed_hold: Duration,
    /// How long a new connection may take to introduce itself (TLS, WebSocket, magic, identity). Default: 30 s.
    pub greeting_time_max: Duration,
    /// How long replies in flight may take once a connection is to close, or the server to stop. Default: 5 s.
    pub closing_time_max: Duration,
}

/// The files that identify a server towards TLS clients, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, the server's own certificate first.
    pub cert: PathBuf,
    /// Its private key (PKCS #8, PKCS #1 or SEC 1).
    pub key: PathBuf,
}

impl ServerOptions {
    /// These options, changed.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut ServerOptions)) -> Self {
        change(&mut self);
        self
    }
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            bind_address: Address::Tcp(Endpoint { host: "127.0.0.1".to_owned(), port: 2346 }),
            identity: b"ObjectStorageServer".to_vec(),
            tls: None,
            worker_threads: std::thread::available_parallelism().map_or(1, usize::from).min(4),
            object_bytes_max: u64::MAX,
            connections_max: 16_384,
            reply_bytes_max: 4 << 20,
            waits_max: 131_072,
            waits_total_max: 1 << 20,
            absent_identities_max: 16_384,
            lost_hold: Duration::from_secs(60),
            closed_hold: Duration::from_secs(2),
            greeting_time_max: Duration::from_secs(30),
            closing_time_max: Duration::from_secs(5),
        }
    }
}
