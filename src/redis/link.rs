//! A connection to Redis for one thread, the same for one server and for a cluster.

use redis::Cmd;

use super::cluster::Cluster;
use super::connection::Connection;
use super::keys::Keys;
use super::pipeline::{Lent, Reply, is_wrong_server, pipeline, receive_all, receive_all_or_refused, send, send_lent};
use super::target::Target;
use crate::error::Error;

/// A pipeline buffer larger than this is not kept for the next pipeline.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// A connection to Redis, whatever the topology. For one thread.
pub(crate) struct Link {
    target: Target,
    nodes: Nodes,
    packed: Vec<u8>,
    ahead: Ahead,
    /// Why the link cannot be used any more: after a failure, the next answer read could be that to another command.
    broken: Option<String>,
    /// It failed since this was the wrong server; and for all that was sent ahead.
    is_wrong_server: bool,
    is_refused: bool,
}

/// The commands given to `send_ahead` whose answers were not read yet.
#[derive(Default)]
struct Ahead {
    /// How many were sent and are not answered yet.
    sent: usize,
    /// On Cluster, where a command may have to be sent twice: those to be sent by `run`.
    kept: Vec<Cmd>,
}

/// The connection to the one server, or those to a cluster.
enum Nodes {
    One(Box<Connection>),
    Cluster(Box<Cluster>),
}

impl Link {
    pub(super) fn one(target: Target, connection: Connection) -> Link {
        Link::new(target, Nodes::One(Box::new(connection)))
    }

    pub(super) fn cluster(target: Target, cluster: Cluster) -> Link {
        Link::new(target, Nodes::Cluster(Box::new(cluster)))
    }

    fn new(target: Target, nodes: Nodes) -> Link {
        Link {
            target,
            nodes,
            packed: Vec::new(),
            ahead: Ahead::default(),
            broken: None,
            is_wrong_server: false,
            is_refused: false,
        }
    }

    /// The address of Redis, without user and password.
    pub fn address(&self) -> &str {
        self.target.address()
    }

    pub fn is_cluster(&self) -> bool {
        matches!(self.nodes, Nodes::Cluster(_))
    }

    /// Pipelines the commands; each has its own answer. Commands on one key are carried out in this order; on Cluster there is no
    /// order between different nodes. An error means that the link is of no use any more, and that some commands may have been
    /// carried out.
    pub fn run(&mut self, commands: &[Cmd]) -> Result<Vec<Reply>, Error> {
        let Ahead { sent, mut kept } = std::mem::take(&mut self.ahead);
        self.guarded(|nodes, packed| match nodes {
            Nodes::One(connection) => {
                let count = sent + send(connection, packed, commands.iter())?;
                receive_all(connection, count)
            }
            Nodes::Cluster(cluster) if kept.is_empty() => cluster.run(packed, commands),
            Nodes::Cluster(cluster) => {
                kept.extend_from_slice(commands);
                cluster.run(packed, &kept)
            }
        })
    }

    /// As `run`, but only at a master: a demoted server goes on answering reads, with stale values. On Cluster such a server redirects; otherwise
    /// a write that changes nothing is sent first, which it refuses, and that breaks the link.
    pub fn run_at_master(&mut self, keys: &Keys, mut commands: Vec<Cmd>) -> Result<Vec<Reply>, Error> {
        if self.is_cluster() {
            return self.run(&commands);
        }
        let mut guard = redis::cmd("DEL");
        guard.arg(keys.guard(0));
        commands.insert(0, guard);
        let mut replies = self.run(&commands)?;
        // A user without the permission to delete is not protected so: see `masters`.
        drop(replies.remove(0));
        Ok(replies)
    }

    /// Begins a pipeline, on which Redis works while the rest is prepared. `receive_ahead` reads the answers; otherwise they come in front of those of
    /// the next `run`.
    pub fn send_ahead(&mut self, commands: Vec<Cmd>) -> Result<(), Error> {
        if self.is_cluster() {
            self.ahead.kept.extend(commands);
            return Ok(());
        }
        let sent = self.guarded(|nodes, packed| match nodes {
            Nodes::One(connection) => send(connection, packed, commands.iter()),
            Nodes::Cluster(_) => Ok(0),
        })?;
        self.ahead.sent += sent;
        Ok(())
    }

    /// As `send_ahead` of one command, whose argument number `place` is empty and consists of these pieces instead: they are sent without a
    /// copy.
    pub fn send_lent_ahead(&mut self, command: &Cmd, place: usize, pieces: &[&[u8]]) -> Result<(), Error> {
        let lent = Lent { place, pieces };
        if self.is_cluster() {
            self.ahead.kept.push(lent.filled_in(command));
            return Ok(());
        }
        self.guarded(|nodes, packed| match nodes {
            Nodes::One(connection) => send_lent(connection, packed, command, &lent),
            Nodes::Cluster(_) => Ok(()),
        })?;
        self.ahead.sent += 1;
        Ok(())
    }

    /// Receives answers to what was sent ahead until no more than `left` are missing: a bound on what is in flight.
    pub fn receive_ahead(&mut self, left: usize) -> Result<Vec<Reply>, Error> {
        if self.is_cluster() {
            return if self.ahead.kept.len() > left { self.run(&[]) } else { Ok(Vec::new()) };
        }
        let count = self.ahead.sent.saturating_sub(left);
        self.ahead.sent -= count;
        let mut is_refused = false;
        let received = self.guarded(|nodes, _| match nodes {
            Nodes::One(connection) => receive_all_or_refused(connection, count, &mut is_refused),
            Nodes::Cluster(_) => Ok(Vec::new()),
        });
        self.is_refused = is_refused && self.ahead.sent == 0;
        received
    }

    /// Whether the link failed since this was the wrong server (READONLY, LOADING and the like), which says nothing of what was sent.
    pub fn is_to_wrong_server(&self) -> bool {
        self.is_wrong_server
    }

    /// Whether the link failed since this was the wrong server for all that was sent ahead last: none of that was carried out.
    pub fn has_refused_all(&self) -> bool {
        self.is_refused
    }

    /// Whether the connection has ended, as far as is known here already. Always false on Cluster.
    pub fn has_ended(&self) -> bool {
        match &self.nodes {
            Nodes::One(connection) => connection.has_ended(),
            Nodes::Cluster(_) => false,
        }
    }

    /// The error of a link whose connection has ended.
    pub fn ended(&self) -> Error {
        self.target.unreachable("the connection has ended")
    }

    /// As `run`, on the node that holds `key`: for commands that name no key.
    pub fn run_beside(&mut self, key: &[u8], commands: &[Cmd]) -> Result<Vec<Reply>, Error> {
        self.guarded(|nodes, packed| match nodes {
            Nodes::One(connection) => pipeline(connection, packed, commands.iter()),
            Nodes::Cluster(cluster) => pipeline(cluster.holder(key)?, packed, commands.iter()),
        })
    }

    /// As `run`, on every master in turn: for commands about a server.
    pub fn run_everywhere(&mut self, commands: &[Cmd]) -> Result<Vec<Vec<Reply>>, Error> {
        (0..self.masters()).map(|master| self.run_on(master, commands)).collect()
    }

    /// How many masters there are.
    pub fn masters(&self) -> usize {
        match &self.nodes {
            Nodes::One(_) => 1,
            Nodes::Cluster(cluster) => cluster.masters().len(),
        }
    }

    /// As `run`, on one of the masters.
    pub fn run_on(&mut self, master: usize, commands: &[Cmd]) -> Result<Vec<Reply>, Error> {
        self.guarded(|nodes, packed| match nodes {
            Nodes::One(connection) => pipeline(connection, packed, commands.iter()),
            Nodes::Cluster(cluster) => pipeline(cluster.master(master)?, packed, commands.iter()),
        })
    }

    /// For each master that holds any slots, its number and one of the names made by `name` that it holds.
    pub fn key_on_each_master(&self, name: impl Fn(u32) -> String) -> Vec<(usize, String)> {
        match &self.nodes {
            Nodes::One(_) => vec![(0, name(0))],
            Nodes::Cluster(cluster) => cluster.key_on_each_master(name),
        }
    }

    /// Names made by `name`, the same ones whoever asks: in a cluster one in each 64th of the slots, so that every master has one that holds twice as
    /// many in a row; otherwise a single one. Fewer if all names are in few slots, as those with a hash tag are.
    pub fn keys_all_over(&self, name: impl Fn(u32) -> String) -> Vec<String> {
        match &self.nodes {
            Nodes::One(_) => vec![name(0)],
            Nodes::Cluster(_) => Cluster::keys_all_over(name),
        }
    }

    /// Runs one command.
    pub fn run_one(&mut self, command: Cmd) -> Result<Reply, Error> {
        let replies = self.run(&[command])?;
        Ok(replies.into_iter().next().unwrap_or_else(|| Err("no answer".into())))
    }

    /// Whether a key had moved to another node since the last call. That may be a failover, which can lose what was acknowledged shortly
    /// before.
    pub fn take_redirected(&mut self) -> bool {
        match &mut self.nodes {
            Nodes::One(_) => false,
            Nodes::Cluster(cluster) => cluster.take_redirected(),
        }
    }

    fn guarded<T>(&mut self, run: impl FnOnce(&mut Nodes, &mut Vec<u8>) -> Result<T, String>) -> Result<T, Error> {
        if let Some(reason) = &self.broken {
            return Err(self.target.unreachable(reason));
        }
        let ran = run(&mut self.nodes, &mut self.packed);
        self.packed.clear();
        self.packed.shrink_to(KEPT_BYTES_MAX);
        ran.map_err(|reason| {
            let error = self.target.unreachable(&reason);
            self.is_wrong_server = is_wrong_server(&reason);
            self.broken = Some(reason);
            error
        })
    }
}

#[cfg(test)]
mod tests;
