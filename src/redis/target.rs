use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    Client, ClientTlsConfig, Connection, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo,
    RedisError, TlsCertificates,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::options::RedisOptions;
use super::pipeline::ask;
use super::url::{HostPort, Topology, Url};
use crate::error::Error;

/// Middleboxes drop flows that were idle for 350 s and more.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Where systems keep the certificate authorities that they trust, in one file.
const SYSTEM_CAS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where Redis is, and how to be let in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Target(Arc<Inner>);

struct Inner {
    url: Url,
    address: String,
    connect_timeout: Duration,
    login: RedisConnectionInfo,
    /// An address with the certificates to use, whose host and port are replaced.
    tls: Option<ConnectionAddr>,
    /// The masters of the cluster as last seen: the nodes that the url names may be gone.
    masters: Mutex<Vec<HostPort>>,
}

impl Target {
    pub fn new(options: &RedisOptions) -> Result<Target, Error> {
        let url = Url::parse(&options.url).map_err(Error::Config)?;
        let mut login = RedisConnectionInfo::default().set_db(url.database);
        if let Some(user) = &url.user {
            login = login.set_username(user);
        }
        if let Some(password) = &url.password {
            login = login.set_password(password);
        }
        let tls = if url.tls { Some(tls(options)?) } else { None };
        Ok(Target(Arc::new(Inner {
            address: url.address(),
            url,
            connect_timeout: Duration::from_millis(options.connect_timeout_ms.max(1)),
            login,
            tls,
            masters: Mutex::default(),
        })))
    }

    /// The url without user and password.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    pub fn is_cluster(&self) -> bool {
        matches!(self.0.url.topology, Topology::Cluster(_))
    }

    pub(super) fn unreachable(&self, reason: impl std::fmt::Display) -> Error {
        Error::Unreachable { address: self.0.address.clone(), reason: reason.to_string() }
    }

    /// A connection to one node that takes commands.
    pub(super) fn node(&self, node: &HostPort, response_timeout: Duration) -> Result<Connection, Error> {
        self.open(self.at(node), self.0.login.clone(), response_timeout)
            .map_err(|reason| self.unreachable(format_args!("{node}: {reason}")))
    }

    pub(super) fn learnt(&self, masters: &[HostPort]) {
        *self.0.masters.lock() = masters.to_vec();
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.0.url.topology
    }

    /// The masters of the cluster as last seen.
    pub(super) fn masters(&self) -> Vec<HostPort> {
        self.0.masters.lock().clone()
    }

    pub(super) fn login(&self) -> RedisConnectionInfo {
        self.0.login.clone()
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        self.0.connect_timeout
    }

    pub(super) fn at(&self, node: &HostPort) -> ConnectionAddr {
        let HostPort { host, port } = node.clone();
        match &self.0.tls {
            Some(ConnectionAddr::TcpTls { insecure, tls_params, .. }) => {
                ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
            }
            _ => ConnectionAddr::Tcp(host, port),
        }
    }

    pub(super) fn open(
        &self,
        address: ConnectionAddr,
        login: RedisConnectionInfo,
        response_timeout: Duration,
    ) -> Result<Connection, String> {
        let connected = || -> Result<Connection, RedisError> {
            let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
            let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
            let info = address.into_connection_info()?.set_redis_settings(login).set_tcp_settings(tcp);
            let connection = Client::open(info)?.get_connection_with_timeout(self.0.connect_timeout)?;
            connection.set_read_timeout(Some(response_timeout))?;
            connection.set_write_timeout(Some(response_timeout))?;
            Ok(connection)
        };
        let mut connection = connected().map_err(|error| error.to_string())?;
        // A server that is loading, or wants a password, takes the connection all the same.
        ask(&mut connection, &redis::cmd("PING"))??;
        Ok(connection)
    }
}

/// Reads the certificates, so that a bad file is found at once and not at some later connection.
fn tls(options: &RedisOptions) -> Result<ConnectionAddr, Error> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Fails where another thread was faster, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
    }
    let client_tls = match (&options.tls_cert, &options.tls_key) {
        (Some(cert), Some(key)) => Some(ClientTlsConfig {
            client_cert: pem_with::<CertificateDer>(cert, "certificate")?,
            client_key: pem_with::<PrivateKeyDer>(key, "private key")?,
        }),
        (None, None) => None,
        _ => return Err(Error::Config("tls_cert and tls_key are given together or not at all".into())),
    };
    let built = |root_cert: Option<Vec<u8>>| {
        let client_tls = client_tls
            .as_ref()
            .map(|tls| ClientTlsConfig { client_cert: tls.client_cert.clone(), client_key: tls.client_key.clone() });
        let address =
            ConnectionAddr::TcpTls { host: "localhost".into(), port: 6379, insecure: false, tls_params: None };
        let info: ConnectionInfo = address.into_connection_info()?;
        Ok::<_, RedisError>(
            Client::build_with_tls(info, TlsCertificates { client_tls, root_cert })?
                .get_connection_info()
                .addr()
                .clone(),
        )
    };
    let refused = |error: RedisError| Error::Config(format!("the certificates for Redis cannot be used: {error}"));
    if let Some(ca) = &options.tls_ca {
        return built(Some(pem_with::<CertificateDer>(ca, "certificate")?)).map_err(refused);
    }
    // Without a usable file of the system's, the authorities that are compiled in.
    let system = SYSTEM_CAS.iter().find_map(|path| std::fs::read(path).ok());
    system.and_then(|cas| built(Some(cas)).ok()).map_or_else(|| built(None).map_err(refused), Ok)
}

/// A file that holds at least one of these. One that does not would be taken for one that trusts or shows nothing.
fn pem_with<T: PemObject>(path: &Path, what: &str) -> Result<Vec<u8>, Error> {
    let pem = std::fs::read(path).map_err(Error::io("read", path))?;
    T::from_pem_slice(&pem).map_err(|_| Error::Config(format!("{} holds no {what} in PEM", path.display())))?;
    Ok(pem)
}
