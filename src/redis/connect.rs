//! Connecting a [`Link`] to a [`Target`]: to the one node, to the master that the sentinels name, or to a cluster.

use std::time::Duration;

use super::cluster::Cluster;
use super::connection::{Connection, Login};
use super::link::Link;
use super::pipeline::ask;
use super::stream::Address;
use super::target::Target;
use super::url::{HostPort, Topology};
use crate::error::Error;

impl Target {
    /// Connects to the node, to the master of that moment, or to the cluster. `response_timeout` holds for every read and write.
    pub fn connect(&self, response_timeout: Duration) -> Result<Link, Error> {
        let response_timeout = response_timeout.max(Duration::from_millis(1));
        match self.topology() {
            Topology::One(node) => Ok(Link::one(self.clone(), self.node(node, response_timeout)?)),
            Topology::Unix(path) => {
                let connection = self.open(Address::Unix(path), self.login(), response_timeout);
                Ok(Link::one(self.clone(), connection.map_err(|reason| self.unreachable(reason))?))
            }
            Topology::Sentinel(sentinels, name) => {
                Ok(Link::one(self.clone(), self.master(sentinels, name, response_timeout)?))
            }
            Topology::Cluster(seeds) => {
                let mut candidates = seeds.clone();
                candidates.extend(self.masters().into_iter().filter(|node| !seeds.contains(node)));
                Ok(Link::cluster(self.clone(), Cluster::connect(self.clone(), &candidates, response_timeout)?))
            }
        }
    }

    /// Asks one sentinel after the other for the master. A server that turns out to be a master no more is not taken.
    fn master(&self, sentinels: &[HostPort], name: &str, response_timeout: Duration) -> Result<Connection, Error> {
        let mut reasons = Vec::new();
        for sentinel in sentinels {
            match self.master_by(sentinel, name, response_timeout) {
                Ok(connection) => return Ok(connection),
                Err(reason) => reasons.push(format!("sentinel {sentinel}: {reason}")),
            }
        }
        Err(self.unreachable(reasons.join("; ")))
    }

    fn master_by(&self, sentinel: &HostPort, name: &str, response_timeout: Duration) -> Result<Connection, String> {
        let mut asked = redis::cmd("SENTINEL");
        asked.arg("get-master-addr-by-name").arg(name);
        // A sentinel has users and passwords of its own, mostly none: tried without a login first, then with that of Redis.
        let asked_as = |login: &Login| self.open(self.at(sentinel), login, self.connect_timeout());
        let ours = Login { database: 0, ..self.login().clone() };
        let mut connection = asked_as(&Login::default()).or_else(|_| asked_as(&ours))?;
        let answer = ask(&mut connection, &asked)??;
        let (host, port): (String, u16) =
            redis::from_redis_value(answer).map_err(|_| format!("knows no master named {name}"))?;
        let master = HostPort { host, port };
        let mut connection = self.node(&master, response_timeout).map_err(|error| error.to_string())?;
        let role = ask(&mut connection, &redis::cmd("ROLE"))??;
        match role.as_sequence().and_then(|parts| parts.first()) {
            Some(redis::Value::BulkString(role)) if role == b"master" => Ok(connection),
            _ => Err(format!("{master} is no master (any more)")),
        }
    }
}

#[cfg(test)]
mod tests;
