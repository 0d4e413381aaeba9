//! The addresses that a server can listen on, as text.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::config::without_password;

/// Where a server listens.
///
/// ```
/// use scaler_object_storage::server::Address;
///
/// let address: Address = "tcp://127.0.0.1:2346".parse()?;
/// assert_eq!(address.to_string(), "tcp://127.0.0.1:2346");
/// # Ok::<(), scaler_object_storage::server::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `tcp://host:port`
    Tcp(Endpoint),
    /// `tls://host:port`
    Tls(Endpoint),
    /// `ipc://path`, a unix socket.
    Ipc(PathBuf),
    /// `ws://host:port/path`: the same byte stream in binary WebSocket frames.
    Ws(Endpoint, String),
    /// `wss://host:port/path`, the same over TLS.
    Wss(Endpoint, String),
}

/// A host (an IPv4 address, an IPv6 address, or a name that resolves to one) and a port; port 0 means any free one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Without the brackets that surround an IPv6 address.
    pub host: String,
    /// 0 to 65535.
    pub port: u16,
}

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not an address: {reason}; write tcp://ip:port, tls://ip:port, ipc://path, ws://ip:port/path or wss://ip:port/path"
)]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

impl Address {
    /// Host and port, if the address has them.
    #[must_use]
    pub fn endpoint(&self) -> Option<&Endpoint> {
        match self {
            Address::Tcp(endpoint) | Address::Tls(endpoint) | Address::Ws(endpoint, _) | Address::Wss(endpoint, _) => {
                Some(endpoint)
            }
            Address::Ipc(_) => None,
        }
    }

    /// Whether connections are encrypted, so that a certificate is needed.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Address::Tls(_) | Address::Wss(..))
    }

    /// Whether who asks for this address gets what listens at `other`: the same one, or any port and that one is on the same host.
    #[must_use]
    pub fn is_served_at(&self, other: &Address) -> bool {
        match (self.endpoint(), other.endpoint()) {
            (Some(Endpoint { port: 0, .. }), Some(taken)) => self.with_port(taken.port) == *other,
            _ => self == other,
        }
    }

    /// The same address with the port that was really taken.
    pub(crate) fn with_port(&self, port: u16) -> Address {
        let mut address = self.clone();
        match &mut address {
            Address::Tcp(endpoint) | Address::Tls(endpoint) | Address::Ws(endpoint, _) | Address::Wss(endpoint, _) => {
                endpoint.port = port;
            }
            Address::Ipc(_) => {}
        }
        address
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        parse(text).map_err(|reason| AddressError { text: without_password(text), reason })
    }
}

fn parse(text: &str) -> Result<Address, &'static str> {
    let (scheme, rest) = text.split_once("://").ok_or("it names no transport")?;
    match scheme {
        "tcp" => endpoint(rest).map(Address::Tcp),
        "tls" => endpoint(rest).map(Address::Tls),
        "ipc" if rest.is_empty() => Err("it has no path"),
        "ipc" => Ok(Address::Ipc(rest.into())),
        "ws" => endpoint_and_path(rest).map(|(endpoint, path)| Address::Ws(endpoint, path)),
        "wss" => endpoint_and_path(rest).map(|(endpoint, path)| Address::Wss(endpoint, path)),
        _ => Err("its transport is not known"),
    }
}

fn endpoint_and_path(text: &str) -> Result<(Endpoint, String), &'static str> {
    let (authority, path) = text.split_at(text.find('/').unwrap_or(text.len()));
    let path = if path.is_empty() { "/" } else { path };
    Ok((endpoint(authority)?, path.to_owned()))
}

/// `host:port`, or what is wrong with it.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or("it has no port")?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or("its brackets do not match")?,
        None => host,
    };
    if host.is_empty() {
        return Err("it has no host");
    }
    if host.contains(['/', '[', ']', '@', ' ']) {
        return Err("its host is not valid");
    }
    let port = port.parse().map_err(|_| "its port is not a number from 0 to 65535")?;
    Ok(Endpoint { host: host.to_owned(), port })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(endpoint) => write!(f, "tcp://{endpoint}"),
            Address::Tls(endpoint) => write!(f, "tls://{endpoint}"),
            Address::Ipc(path) => write!(f, "ipc://{}", path.display()),
            Address::Ws(endpoint, path) => write!(f, "ws://{endpoint}{path}"),
            Address::Wss(endpoint, path) => write!(f, "wss://{endpoint}{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_displayed_as_it_was_written() {
        for text in [
            "tcp://127.0.0.1:2346",
            "tcp://[::1]:0",
            "tls://0.0.0.0:65535",
            "ipc:///run/scaler/object storage.sock",
            "ipc://relative.sock",
            "ws://10.0.0.1:80/",
            "ws://10.0.0.1:80/a/b?c=d",
            "wss://[fe80::1]:443/objects",
            "tcp://localhost:2346",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn stock_spellings_are_understood() {
        assert_eq!("tcp://::1:2346".parse::<Address>().unwrap(), "tcp://[::1]:2346".parse().unwrap());
        assert_eq!("ws://1.2.3.4:80".parse::<Address>().unwrap().to_string(), "ws://1.2.3.4:80/");
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "no transport"),
            ("127.0.0.1:2346", "no transport"),
            ("http://127.0.0.1:2346", "not known"),
            ("tcp://127.0.0.1", "no port"),
            ("tcp://:2346", "no host"),
            ("tcp://127.0.0.1:65536", "port is not"),
            ("tcp://127.0.0.1:-1", "port is not"),
            ("tcp://127.0.0.1:", "port is not"),
            ("tcp://[::1:2346", "brackets"),
            ("tcp://127.0.0.1:80/path", "port is not"),
            ("ipc://", "no path"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
