use redis::Value;

use crate::until;
use crate::{RedisServer, Settings};

const SLOTS: usize = 16_384;

/// Three masters that share the slots.
pub struct Cluster {
    nodes: Vec<RedisServer>,
}

impl Cluster {
    pub fn start() -> Cluster {
        Self::start_with(&RedisServer::settings())
    }

    /// Nodes that have what they had when they come back.
    pub fn start_persistent() -> Cluster {
        Self::start_with(&RedisServer::settings().persistent())
    }

    fn start_with(settings: &Settings) -> Cluster {
        let nodes: Vec<_> = (0..3).map(|_| node(settings.clone())).collect();
        for (number, node) in nodes.iter().enumerate() {
            let first = SLOTS * number / 3;
            let last = SLOTS * (number + 1) / 3 - 1;
            node.cli(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            node.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
            node.cli(&["CLUSTER", "MEET", "127.0.0.1", &nodes[0].port().to_string()]);
        }
        let cluster = Cluster { nodes };
        cluster.until_well();
        cluster
    }

    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    pub fn url(&self) -> String {
        let nodes: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis+cluster://{}", nodes.join(","))
    }

    /// The slot of a key.
    pub fn slot(&self, key: &[u8]) -> u16 {
        self.nodes[0].command(&[b"CLUSTER".as_slice(), b"KEYSLOT", key])
    }

    /// The node that has the slot now.
    pub fn node_of(&self, slot: u16) -> usize {
        let owner = |node: &RedisServer| {
            let nodes = node.cli(&["CLUSTER", "NODES"]);
            let mine = nodes.lines().find(|line| line.contains("myself")).unwrap_or_default().to_string();
            mine.split_whitespace().skip(8).any(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let number = |text: &str| text.parse::<u16>().ok();
                number(first).zip(number(last)).is_some_and(|(first, last)| (first..=last).contains(&slot))
            })
        };
        self.nodes.iter().position(owner).unwrap()
    }

    /// Moves a slot with its keys to the next node, as resharding does; `between` runs while half of it is under way: ASK
    /// answers for keys that are gone, TRYAGAIN and MOVED.
    pub fn move_slot(&self, slot: u16, between: impl FnOnce()) {
        let from = self.node_of(slot);
        let to = (from + 1) % self.nodes.len();
        let id = |number: usize| self.nodes[number].cli(&["CLUSTER", "MYID"]);
        let (from_id, to_id, slot) = (id(from), id(to), slot.to_string());
        self.nodes[to].cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
        self.nodes[from].cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
        let keys: Vec<Vec<u8>> = self.nodes[from].command(&["CLUSTER", "GETKEYSINSLOT", &slot, "1000000"]);
        self.migrate(from, to, &keys[..keys.len() / 2]);
        between();
        loop {
            let keys: Vec<Vec<u8>> = self.nodes[from].command(&["CLUSTER", "GETKEYSINSLOT", &slot, "1000"]);
            if keys.is_empty() {
                break;
            }
            self.migrate(from, to, &keys);
        }
        for number in [to, from, 3 - from - to] {
            self.nodes[number].cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
        }
    }

    /// Kills a node and starts it again after `meanwhile`, with what it had if it is persistent; returns when all see each other.
    pub fn restart_node(&mut self, number: usize, meanwhile: impl FnOnce()) {
        self.nodes[number].kill();
        meanwhile();
        self.nodes[number].restart();
        self.until_well();
    }

    fn migrate(&self, from: usize, to: usize, keys: &[Vec<u8>]) {
        let port = self.nodes[to].port().to_string();
        for key in keys {
            let words: [&[u8]; 6] = [b"MIGRATE", b"127.0.0.1", port.as_bytes(), key, b"0", b"60000"];
            let _: Value = self.nodes[from].command(&words);
        }
    }

    fn until_well(&self) {
        until("the cluster is well", || {
            self.nodes.iter().all(|node| {
                let info = node.cli(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            })
        });
    }
}

fn node(mut settings: Settings) -> RedisServer {
    settings.bus = true;
    settings.line("cluster-enabled yes").line("cluster-node-timeout 2000").start()
}
