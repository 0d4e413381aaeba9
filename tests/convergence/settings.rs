//! What a world of nodes is like.

use std::fmt;

use crate::common::{CAPACITY_MB_MIN, splitmix};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub nodes: u64,
    /// Bit by bit, which nodes are processes of their own.
    pub processes: u64,
    /// Room of each node, in MiB: little, and what Redis has is evicted.
    pub size_mb: u64,
    /// How long closing waits for Redis.
    pub drain_ms: u64,
    pub losses: Losses,
}

/// What Redis loses now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Losses {
    Nothing,
    /// What it has acknowledged shortly before, as in a failover.
    Recent,
    Everything,
}

const LOSSES: [Losses; 3] = [Losses::Nothing, Losses::Recent, Losses::Everything];

const ROOM_MB: u64 = 512;

impl Settings {
    pub fn choose(random: &mut u64) -> Settings {
        let nodes = 2 + splitmix(random) % 3;
        let size_mb = if splitmix(random).is_multiple_of(3) { CAPACITY_MB_MIN } else { ROOM_MB };
        let drain_ms = [0, 100, 1000][splitmix(random) as usize % 3];
        Settings {
            nodes,
            processes: splitmix(random) % (1 << nodes),
            size_mb,
            drain_ms,
            losses: LOSSES[splitmix(random) as usize % LOSSES.len()],
        }
    }

    pub fn evicts(&self) -> bool {
        self.size_mb < ROOM_MB
    }

    pub fn is_process(&self, node: u64) -> bool {
        self.processes >> node & 1 == 1
    }

    pub fn encode(&self) -> String {
        let Settings { nodes, processes, size_mb, drain_ms, losses } = self;
        format!("{nodes} {processes} {size_mb} {drain_ms} {}", *losses as u8)
    }

    pub fn decode(text: &str) -> Settings {
        let mut numbers = text.split(' ').map(|number| number.parse::<u64>().unwrap());
        let mut next = || numbers.next().unwrap();
        Settings {
            nodes: next(),
            processes: next(),
            size_mb: next(),
            drain_ms: next(),
            losses: LOSSES[next() as usize],
        }
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { nodes, processes, size_mb, drain_ms, losses } = self;
        write!(f, "{nodes} nodes (processes {processes:b}), {size_mb} MiB, drain {drain_ms} ms, Redis loses {losses:?}")
    }
}
