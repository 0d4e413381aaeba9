use redis::Cmd;

use super::cluster::Cluster;
use super::connection::Connection;
use super::keys::Keys;
use super::pipeline::{Lent, Reply, pipeline, receive_all, send, send_lent};
use super::target::Target;
use crate::error::Error;

/// A packed pipeline larger than this is not kept for the next one.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// A connection to Redis, whatever the topology. For one thread.
pub(crate) struct Link {
    target: Target,
    nodes: Nodes,
    packed: Vec<u8>,
    ahead: Ahead,
    /// Why it is of no use any more: what is read after a failure could be the answer to another question.
    broken: Option<String>,
}

/// What `send_ahead` was given since the last `run`.
#[derive(Default)]
struct Ahead {
    /// Commands that were sent and not answered yet.
    sent: usize,
    /// On Cluster, where a command may have to be sent twice: commands that are to be sent.
    kept: Vec<Cmd>,
}

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
        Link { target, nodes, packed: Vec::new(), ahead: Ahead::default(), broken: None }
    }

    /// Where it leads, without user and password.
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

    /// As `run`, of a master: a server that was one goes on to answer what is read, with what it has and others have changed since. On Cluster
    /// it redirects; otherwise a write that changes nothing makes it say so, and breaks the link.
    pub fn run_at_master(&mut self, keys: &Keys, mut commands: Vec<Cmd>) -> Result<Vec<Reply>, Error> {
        if self.is_cluster() {
            return self.run(&commands);
        }
        let mut guard = redis::cmd("DEL");
        guard.arg(keys.guard(0));
        commands.insert(0, guard);
        let mut replies = self.run(&commands)?;
        // Who may not delete is not told: see `masters`.
        drop(replies.remove(0));
        Ok(replies)
    }

    /// Begins a pipeline: the answers come in front of those of the next call, which has to be `run`. While that is prepared, Redis is at
    /// work.
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

    /// As `send_ahead` of one command, whose argument number `place`, empty in it, consists of these pieces: they are sent from where they
    /// stand.
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

    /// Takes in answers to what was sent ahead, until no more than `left` are missing: so much is on its way at a time.
    pub fn receive_ahead(&mut self, left: usize) -> Result<Vec<Reply>, Error> {
        if self.is_cluster() {
            return if self.ahead.kept.len() > left { self.run(&[]) } else { Ok(Vec::new()) };
        }
        let count = self.ahead.sent.saturating_sub(left);
        self.ahead.sent -= count;
        self.guarded(|nodes, _| match nodes {
            Nodes::One(connection) => receive_all(connection, count),
            Nodes::Cluster(_) => Ok(Vec::new()),
        })
    }

    /// As `run`, on the node that holds `key`: for commands that name no key.
    pub fn run_beside(&mut self, key: &[u8], commands: &[Cmd]) -> Result<Vec<Reply>, Error> {
        self.guarded(|nodes, packed| match nodes {
            Nodes::One(connection) => pipeline(connection, packed, commands.iter()),
            Nodes::Cluster(cluster) => pipeline(cluster.holder(key)?, packed, commands.iter()),
        })
    }

    /// As `run`, on every master one after the other: for commands that concern a server.
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

    /// For each master that holds some keys, its number and the name of a key that it holds, out of those that `name` gives.
    pub fn key_on_each_master(&self, name: impl Fn(u32) -> String) -> Vec<(usize, String)> {
        match &self.nodes {
            Nodes::One(_) => vec![(0, name(0))],
            Nodes::Cluster(cluster) => cluster.key_on_each_master(name),
        }
    }

    /// Runs one command.
    pub fn run_one(&mut self, command: Cmd) -> Result<Reply, Error> {
        let replies = self.run(&[command])?;
        Ok(replies.into_iter().next().unwrap_or_else(|| Err("no answer".into())))
    }

    /// Whether a key was found on another node than before, since the last call: after a failover, what Redis had acknowledged
    /// shortly before may be lost.
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
            self.broken = Some(reason);
            error
        })
    }
}

#[cfg(test)]
mod tests;
