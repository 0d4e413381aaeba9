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
    /// Bit by bit, what else it has.
    pub extras: u64,
}

/// What not every world has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// Values in Redis are as the Python backend writes them.
    Python,
    /// The clocks of nodes are put wrong, where they are processes of their own.
    Clocks,
    /// A replica takes the master's place, which goes on as its replica; in place of being killed.
    Demotion,
    /// What nodes may do is taken away from them for a while.
    Rights,
    /// Nodes that are processes of their own have no descriptors left.
    Descriptors,
    /// ... get signals all the time.
    Signals,
}

impl Extra {
    const ALL: [Extra; 6] =
        [Extra::Python, Extra::Clocks, Extra::Demotion, Extra::Rights, Extra::Descriptors, Extra::Signals];

    /// Whether there are worlds that have it: all, unless `FAULTS` is a list of names.
    fn is_wanted(self) -> bool {
        let name = format!("{self:?}").to_lowercase();
        std::env::var(FAULTS).map_or(true, |names| names.split(',').any(|one| one == "all" || one == name))
    }
}

pub const FAULTS: &str = "FAULTS";

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

/// How many worlds have each of what not all have.
const EXTRA_PERCENT: u64 = 25;

impl Settings {
    pub fn choose(random: &mut u64) -> Settings {
        let nodes = 2 + splitmix(random) % 3;
        let size_mb = if splitmix(random).is_multiple_of(3) { CAPACITY_MB_MIN } else { ROOM_MB };
        let drain_ms = [0, 100, 1000][splitmix(random) as usize % 3];
        let mut settings = Settings {
            nodes,
            processes: splitmix(random) % (1 << nodes),
            size_mb,
            drain_ms,
            losses: LOSSES[splitmix(random) as usize % LOSSES.len()],
            extras: 0,
        };
        let process = splitmix(random) % nodes;
        for extra in Extra::ALL {
            if splitmix(random) % 100 < EXTRA_PERCENT && extra.is_wanted() {
                settings.extras |= 1 << extra as u64;
            }
        }
        if [Extra::Clocks, Extra::Descriptors, Extra::Signals].into_iter().any(|extra| settings.has(extra)) {
            settings.processes |= 1 << process;
        }
        if settings.has(Extra::Demotion) {
            settings.losses = Losses::Recent;
        }
        // Where values have no version, what is pushed again after a loss may undo what the node could not hear of.
        if settings.has(Extra::Python) {
            settings.losses = Losses::Nothing;
            settings.extras &= !(1 << Extra::Demotion as u64);
        }
        settings
    }

    pub fn has(&self, extra: Extra) -> bool {
        self.extras >> extra as u64 & 1 == 1
    }

    /// This node, or the next one that is a process of its own.
    pub fn process_from(&self, node: u64) -> u64 {
        (node..node + self.nodes).map(|node| node % self.nodes).find(|node| self.is_process(*node)).unwrap_or(node)
    }

    pub fn evicts(&self) -> bool {
        self.size_mb < ROOM_MB
    }

    pub fn is_process(&self, node: u64) -> bool {
        self.processes >> node & 1 == 1
    }

    pub fn encode(&self) -> String {
        let Settings { nodes, processes, size_mb, drain_ms, losses, extras } = self;
        format!("{nodes} {processes} {size_mb} {drain_ms} {} {extras}", *losses as u8)
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
            extras: next(),
        }
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { nodes, processes, size_mb, drain_ms, losses, .. } = self;
        write!(
            f,
            "{nodes} nodes (processes {processes:b}), {size_mb} MiB, drain {drain_ms} ms, Redis loses {losses:?}"
        )?;
        Extra::ALL.iter().filter(|extra| self.has(**extra)).try_for_each(|extra| write!(f, ", {extra:?}"))
    }
}
