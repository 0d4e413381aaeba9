//! Where Redis is and how to log in, as the settings say it, and what was last known of a cluster. `connect` makes links from it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::ClientConfig;

use super::connection::{Connection, Login};
use super::options::RedisOptions;
use super::refusals::unusable;
use super::stream::Address;
use super::tls;
use super::url::{HostPort, Topology, Url};
use crate::error::Error;

/// The address of Redis with everything that is needed to log in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Target(Arc<Inner>);

struct Inner {
    topology: Topology,
    address: String,
    connect_timeout: Duration,
    login: Login,
    tls: Option<Arc<ClientConfig>>,
    /// The masters of the cluster as last seen: the nodes that the url names may be gone.
    masters: Mutex<Vec<HostPort>>,
}

impl Target {
    pub fn new(options: &RedisOptions) -> Result<Target, Error> {
        let url = Url::parse(&options.url).map_err(Error::Config)?;
        Ok(Target(Arc::new(Inner {
            address: url.address(),
            connect_timeout: Duration::from_millis(options.connect_timeout_ms.max(1)),
            tls: if url.tls { Some(tls::config(options)?) } else { None },
            topology: url.topology,
            login: Login { user: url.user, password: url.password, database: url.database },
            masters: Mutex::default(),
        })))
    }

    /// The url without user and password.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    pub fn is_cluster(&self) -> bool {
        matches!(self.topology(), Topology::Cluster(_))
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.0.topology
    }

    pub(super) fn login(&self) -> &Login {
        &self.0.login
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        self.0.connect_timeout
    }

    pub(super) fn unreachable(&self, reason: impl std::fmt::Display) -> Error {
        unusable(&self.0.address, &reason.to_string())
    }

    /// The masters of the cluster as last seen.
    pub(super) fn masters(&self) -> Vec<HostPort> {
        self.0.masters.lock().clone()
    }

    pub(super) fn set_masters(&self, masters: &[HostPort]) {
        *self.0.masters.lock() = masters.to_vec();
    }

    /// Connects to one node, and checks that it takes commands.
    pub(super) fn node(&self, node: &HostPort, response_timeout: Duration) -> Result<Connection, Error> {
        self.open(self.at(node), self.login(), response_timeout)
            .map_err(|reason| self.unreachable(format_args!("{node}: {reason}")))
    }

    pub(super) fn at<'a>(&'a self, node: &'a HostPort) -> Address<'a> {
        match &self.0.tls {
            Some(config) => Address::Tls(node, config),
            None => Address::Tcp(node),
        }
    }

    pub(super) fn open(
        &self,
        address: Address<'_>,
        login: &Login,
        response_timeout: Duration,
    ) -> Result<Connection, String> {
        Connection::open(address, login, self.connect_timeout(), response_timeout)
    }
}
