//! Where the status server listens, as text.

use std::fmt;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::str::FromStr;

use crate::config::without_password;
use crate::server::address::{Endpoint, endpoint};

/// Where a status server listens: `PORT`, on loopback, or `HOST:PORT`; port 0 is any free one.
///
/// ```
/// use scaler_object_storage::server::StatusAddress;
///
/// assert_eq!("9100".parse::<StatusAddress>()?.to_string(), "127.0.0.1:9100");
/// assert_eq!("0.0.0.0:9100".parse::<StatusAddress>()?.to_string(), "0.0.0.0:9100");
/// assert_eq!("[::1]:9100".parse::<StatusAddress>()?.to_string(), "[::1]:9100");
/// assert!("everywhere".parse::<StatusAddress>().is_err());
/// # Ok::<(), scaler_object_storage::server::StatusAddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusAddress(Endpoint);

/// Why a text is no address for a status server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address: {reason}; write PORT, for this machine alone, or IP:PORT")]
pub struct StatusAddressError {
    text: String,
    reason: &'static str,
}

/// What a port alone means.
const LOOPBACK: &str = "127.0.0.1";

impl FromStr for StatusAddress {
    type Err = StatusAddressError;

    fn from_str(text: &str) -> Result<Self, StatusAddressError> {
        let text = text.trim();
        let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        if let Ok(port) = bare.parse::<u16>() {
            return Ok(StatusAddress(Endpoint { host: LOOPBACK.to_owned(), port }));
        }
        endpoint(bare).map(StatusAddress).map_err(|reason| StatusAddressError { text: without_password(text), reason })
    }
}

impl StatusAddress {
    pub(super) fn bind(&self) -> io::Result<TcpListener> {
        let Endpoint { host, port } = &self.0;
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in (host.as_str(), *port).to_socket_addrs()? {
            match TcpListener::bind(address) {
                Ok(listener) => {
                    listener.set_nonblocking(true)?;
                    return Ok(listener);
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

impl fmt::Display for StatusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
