//! Connections to the masters of a Redis Cluster: which slot is where, and how redirects are followed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::thread::sleep;
use std::time::Duration;

use redis::{Arg, Cmd, Value};

use super::connection::Connection;
use super::pipeline::{Reply, ask, code, fail_if_wrong_server, receive, send};
use super::target::Target;
use super::url::HostPort;
use crate::error::Error;

/// Slots of a cluster, as Redis fixes it.
const SLOTS: usize = 16384;

/// Stretches of slots of which each has one of `keys_all_over`.
const STRETCHES: usize = 64;

/// How often a command follows a redirect or is tried again, in about half a second with the waits between. What lasts longer is a
/// failover, after which the caller connects anew.
const ATTEMPTS_MAX: u32 = 6;
/// Most names that are tried in order to find one on each master. A master with a single slot of 16 384 needs about as many tries.
const NAMES_MAX: u32 = 1 << 17;

/// The pause before a command is tried again.
const WAIT: Duration = Duration::from_millis(10);

/// Connections to the masters of a cluster, opened when needed, and which master holds which slot.
pub(super) struct Cluster {
    target: Target,
    response_timeout: Duration,
    masters: Vec<HostPort>,
    /// For each slot, the index in `masters` of its holder.
    slots: Vec<Option<u16>>,
    connections: HashMap<HostPort, Connection>,
    redirected: bool,
}

/// Where a redirect leads.
enum Redirect {
    Moved(u16, HostPort),
    Ask(HostPort),
    /// A command with several keys of a slot that is being moved: passes soon.
    TryAgain,
}

impl Cluster {
    pub fn connect(target: Target, nodes: &[HostPort], response_timeout: Duration) -> Result<Cluster, Error> {
        let mut cluster = Cluster {
            target,
            response_timeout,
            masters: Vec::new(),
            slots: Vec::new(),
            connections: HashMap::new(),
            redirected: false,
        };
        cluster.discover(nodes).map_err(|reason| cluster.target.unreachable(reason))?;
        Ok(cluster)
    }

    pub fn masters(&self) -> &[HostPort] {
        &self.masters
    }

    pub fn master(&mut self, index: usize) -> Result<&mut Connection, String> {
        let node = self.masters.get(index).cloned().ok_or("the cluster has fewer masters now")?;
        self.connection(&node)
    }

    /// The node that holds a key.
    pub fn holder(&mut self, key: &[u8]) -> Result<&mut Connection, String> {
        let node = self.node_of(slot_of(key))?;
        self.connection(&node)
    }

    /// See [`Link::key_on_each_master`](super::link::Link::key_on_each_master).
    pub fn key_on_each_master(&self, name: impl Fn(u32) -> String) -> Vec<(usize, String)> {
        let holders: BTreeSet<u16> = self.slots.iter().flatten().copied().collect();
        let mut keys = BTreeMap::new();
        for number in 0..NAMES_MAX {
            let key = name(number);
            if let Some(Some(holder)) = self.slots.get(usize::from(slot_of(key.as_bytes()))) {
                keys.entry(usize::from(*holder)).or_insert(key);
            }
            if keys.len() == holders.len() {
                break;
            }
        }
        keys.into_iter().collect()
    }

    /// See [`Link::keys_all_over`](super::link::Link::keys_all_over).
    pub fn keys_all_over(name: impl Fn(u32) -> String) -> Vec<String> {
        let mut keys = BTreeMap::new();
        for number in 0..STRETCHES as u32 * 64 {
            let key = name(number);
            keys.entry(usize::from(slot_of(key.as_bytes())) * STRETCHES / SLOTS).or_insert(key);
            if keys.len() == STRETCHES {
                break;
            }
        }
        keys.into_values().collect()
    }

    pub fn take_redirected(&mut self) -> bool {
        std::mem::take(&mut self.redirected)
    }

    /// Runs the commands, each on the node that holds its key, and follows redirects.
    pub fn run(&mut self, packed: &mut Vec<u8>, commands: &[Cmd]) -> Result<Vec<Reply>, String> {
        let mut replies: Vec<Option<Reply>> = commands.iter().map(|_| None).collect();
        let mut redirects: HashMap<usize, HostPort> = HashMap::new();
        for attempt in 0..ATTEMPTS_MAX {
            let asked = self.round(packed, commands, &redirects, &mut replies)?;
            redirects.clear();
            let mut moved = Vec::new();
            for (index, redirect) in &asked {
                match redirect {
                    Redirect::Moved(slot, node) => moved.push((*slot, node.clone())),
                    Redirect::Ask(node) => drop(redirects.insert(*index, node.clone())),
                    Redirect::TryAgain => {}
                }
            }
            if asked.is_empty() {
                return Ok(replies.into_iter().map(|reply| reply.unwrap_or_else(|| Err("no answer".into()))).collect());
            }
            if attempt > 0 {
                sleep(WAIT * (1 << attempt));
            }
            self.follow(moved)?;
        }
        Err("redirected from node to node".into())
    }

    /// Sends the commands that have no answer yet, and collects answers and redirects.
    fn round(
        &mut self,
        packed: &mut Vec<u8>,
        commands: &[Cmd],
        redirects: &HashMap<usize, HostPort>,
        replies: &mut [Option<Reply>],
    ) -> Result<Vec<(usize, Redirect)>, String> {
        let asking = redis::cmd("ASKING");
        let mut groups: BTreeMap<HostPort, Vec<(usize, &Cmd)>> = BTreeMap::new();
        for (index, command) in commands.iter().enumerate() {
            if replies.get(index).is_some_and(Option::is_some) {
                continue;
            }
            let node = match (redirects.get(&index), key_of(command)) {
                (Some(node), _) => node.clone(),
                (None, Some(key)) => self.node_of(slot_of(key))?,
                (None, None) => self.masters.first().cloned().ok_or("the cluster has no masters")?,
            };
            groups.entry(node).or_default().push((index, command));
        }
        for (node, group) in &groups {
            let ordered = group.iter().flat_map(|(index, command)| {
                redirects.contains_key(index).then_some(&asking).into_iter().chain(std::iter::once(*command))
            });
            send(self.connection(node)?, packed, ordered)?;
        }
        let mut asked = Vec::new();
        for (node, group) in &groups {
            for (index, _) in group {
                let connection = self.connection(node)?;
                if redirects.contains_key(index) {
                    drop(receive(connection)?); // the answer to ASKING
                }
                let reply = fail_if_wrong_server(receive(connection)?)?;
                match reply.as_ref().err().and_then(|refusal| redirect(refusal, node)) {
                    Some(redirect) => asked.push((*index, redirect)),
                    None => {
                        if let Some(place) = replies.get_mut(*index) {
                            *place = Some(reply);
                        }
                    }
                }
            }
        }
        Ok(asked)
    }

    /// Takes note of slots that have moved. They may have moved because their master failed, so `redirected` is set. Not so for ASK: there a
    /// living master has migrated the key.
    fn follow(&mut self, moved: Vec<(u16, HostPort)>) -> Result<(), String> {
        if moved.is_empty() {
            return Ok(());
        }
        self.redirected = true;
        let mut nodes: Vec<HostPort> = moved.iter().map(|(_, node)| node.clone()).collect();
        nodes.extend(self.masters.iter().cloned());
        self.discover(&nodes)?;
        // The node that was asked for the layout may not know of the move yet.
        for (slot, node) in moved {
            let master = self.masters.iter().position(|known| *known == node).unwrap_or_else(|| {
                self.masters.push(node);
                self.masters.len() - 1
            });
            if let Some(place) = self.slots.get_mut(usize::from(slot)) {
                *place = u16::try_from(master).ok();
            }
        }
        Ok(())
    }

    /// Asks the first of these nodes that answers which node holds which slots.
    fn discover(&mut self, nodes: &[HostPort]) -> Result<(), String> {
        let mut reasons = Vec::new();
        let mut slots = redis::cmd("CLUSTER");
        slots.arg("SLOTS");
        for node in nodes {
            let answer = self.connection(node).and_then(|connection| ask(connection, &slots)).and_then(|reply| reply);
            match answer.map(|answer| layout(&answer, node)) {
                Ok(Some((masters, slots))) => {
                    (self.masters, self.slots) = (masters, slots);
                    let masters = &self.masters;
                    self.connections.retain(|node, _| masters.contains(node));
                    self.target.set_masters(masters);
                    return Ok(());
                }
                Ok(None) => reasons.push(format!("{node}: no slots are assigned")),
                Err(reason) => {
                    self.connections.remove(node);
                    reasons.push(reason);
                }
            }
        }
        Err(reasons.join("; "))
    }

    fn node_of(&self, slot: u16) -> Result<HostPort, String> {
        let master = self.slots.get(usize::from(slot)).copied().flatten();
        let node = master.and_then(|master| self.masters.get(usize::from(master)));
        node.cloned().ok_or_else(|| format!("no node of the cluster holds slot {slot}"))
    }

    fn connection(&mut self, node: &HostPort) -> Result<&mut Connection, String> {
        if !self.connections.contains_key(node) {
            let connection = self.target.node(node, self.response_timeout).map_err(|error| match error {
                Error::Unreachable { reason, .. } | Error::Denied { reason, .. } => reason,
                error => error.to_string(),
            })?;
            self.connections.insert(node.clone(), connection);
        }
        self.connections.get_mut(node).ok_or_else(|| "no connection".into())
    }
}

/// The key that decides which node a command goes to.
fn key_of(command: &Cmd) -> Option<&[u8]> {
    let argument = |index: usize| match command.args_iter().nth(index) {
        Some(Arg::Simple(argument)) => Some(argument),
        _ => None,
    };
    match argument(0)? {
        b"EVAL" | b"EVALSHA" => argument(3),
        b"XREAD" => {
            let streams = command.args_iter().position(|argument| matches!(argument, Arg::Simple(b"STREAMS")))?;
            argument(streams + 1)
        }
        b"PING" | b"TIME" | b"INFO" | b"CONFIG" | b"SCAN" | b"SCRIPT" | b"WAIT" | b"CLUSTER" => None,
        _ => argument(1),
    }
}

/// The slot of a key: a hash of the part between the first `{` and the next `}` if there is one, otherwise of the whole key.
fn slot_of(key: &[u8]) -> u16 {
    let tag = || {
        let (_, rest) = key.split_at_checked(key.iter().position(|byte| *byte == b'{')? + 1)?;
        let tag = rest.get(..rest.iter().position(|byte| *byte == b'}')?)?;
        (!tag.is_empty()).then_some(tag)
    };
    crc16::State::<crc16::XMODEM>::calculate(tag().unwrap_or(key)) % SLOTS as u16
}

/// Parses `MOVED 3999 127.0.0.1:6381`, `ASK ...`, `TRYAGAIN`. A missing host means that of the answering node.
fn redirect(refusal: &str, from: &HostPort) -> Option<Redirect> {
    let mut words = refusal.split(' ');
    let kind = words.next()?;
    if kind == "TRYAGAIN" {
        return Some(Redirect::TryAgain);
    }
    if kind != "MOVED" && kind != "ASK" {
        return None;
    }
    debug_assert_eq!(code(refusal), kind);
    let slot: u16 = words.next()?.parse().ok()?;
    let (host, port) = words.next()?.rsplit_once(':')?;
    let host = if host.is_empty() || host == "?" { from.host.clone() } else { host.to_owned() };
    let node = HostPort { host, port: port.parse().ok()? };
    Some(if kind == "MOVED" { Redirect::Moved(slot, node) } else { Redirect::Ask(node) })
}

/// Masters and slots out of the answer to CLUSTER SLOTS: `[[first, last, [host, port, ...], replicas...], ...]`.
fn layout(answer: &Value, from: &HostPort) -> Option<(Vec<HostPort>, Vec<Option<u16>>)> {
    let mut masters: Vec<HostPort> = Vec::new();
    let mut slots = vec![None; SLOTS];
    for range in answer.as_sequence()? {
        let [Value::Int(first), Value::Int(last), master, ..] = range.as_sequence()? else { return None };
        let [host, Value::Int(port), ..] = master.as_sequence()? else { return None };
        let host = match host {
            Value::BulkString(host) if !host.is_empty() && host != b"?" => String::from_utf8(host.clone()).ok()?,
            _ => from.host.clone(),
        };
        let node = HostPort { host, port: u16::try_from(*port).ok()? };
        let index = masters.iter().position(|known| *known == node).unwrap_or_else(|| {
            masters.push(node);
            masters.len() - 1
        });
        let range = usize::try_from(*first).ok()?..=usize::try_from(*last).ok()?;
        slots.get_mut(range)?.fill(Some(u16::try_from(index).ok()?));
    }
    (!masters.is_empty()).then_some((masters, slots))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_goes_to_the_holder_of_its_key() {
        let key = |command: &mut Cmd| key_of(command).map(<[u8]>::to_vec);
        assert_eq!(key(redis::cmd("GETRANGE").arg("k").arg(0).arg(63)), Some(b"k".to_vec()));
        assert_eq!(key(redis::cmd("EVALSHA").arg("sha").arg(1).arg("k").arg("v")), Some(b"k".to_vec()));
        let mut read = redis::cmd("XREAD");
        assert_eq!(key(read.arg("COUNT").arg(9).arg("STREAMS").arg("k").arg("0-0")), Some(b"k".to_vec()));
        assert_eq!(key(&mut redis::cmd("TIME")), None);
    }

    #[test]
    fn keys_have_the_slots_that_redis_gives_them() {
        assert_eq!(slot_of(b"123456789"), 0x31c3);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_ne!(slot_of(b"foo{}{bar}"), slot_of(b"bar"));
        assert_ne!(slot_of(b"foo{bar"), slot_of(b"bar"));
    }

    #[test]
    fn keys_all_over_are_in_all_stretches_of_slots_unless_they_share_a_slot() {
        let keys = Cluster::keys_all_over(|number| format!("scaler:obj:_epoch:{number}"));
        let stretches: Vec<_> =
            keys.iter().map(|key| usize::from(slot_of(key.as_bytes())) * STRETCHES / SLOTS).collect();
        assert_eq!(stretches, (0..STRETCHES).collect::<Vec<_>>());
        assert_eq!(Cluster::keys_all_over(|number| format!("{{tag}}:{number}")), ["{tag}:0"]);
    }

    #[test]
    fn redirects_are_understood() {
        let from = HostPort { host: "a".into(), port: 1 };
        let node = |redirect| match redirect {
            Some(Redirect::Moved(slot, node)) => (Some(slot), node.to_string()),
            Some(Redirect::Ask(node)) => (None, node.to_string()),
            _ => (None, String::new()),
        };
        assert_eq!(node(redirect("MOVED 3999 b:6381", &from)), (Some(3999), "b:6381".into()));
        assert_eq!(node(redirect("MOVED 1 :7", &from)), (Some(1), "a:7".into()));
        assert_eq!(node(redirect("ASK 1 b:7", &from)), (None, "b:7".into()));
        assert_eq!(node(redirect("MOVED 1 ::1:7", &from)), (Some(1), "[::1]:7".into()));
        for malformed in ["MOVED", "MOVED x b:1", "MOVED 1 b", "ASK 1 b:70000", "ERR MOVED 1 b:1"] {
            assert!(redirect(malformed, &from).is_none(), "{malformed}");
        }
    }
}
