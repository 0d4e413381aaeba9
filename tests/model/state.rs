//! What the nodes, Redis and the stream hold at a moment.

pub const IDS_MAX: usize = 2;

/// The number of a write in the order in which writes were made; 0 is none. What only the checker knows, no node: what nodes compare are
/// versions.
pub type Ordinal = u8;

/// The node of those writes that another program made, which has no versions and sends no events.
pub const FOREIGN: u8 = 9;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    pub id: u8,
    pub node: u8,
    pub deletes: bool,
    /// 0 where the write has none.
    pub version: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A put or a delete.
    Wrote {
        by: u8,
        write: Ordinal,
    },
    Want {
        by: u8,
        id: u8,
    },
}

/// How far a record has come on its way to Redis. Dirty are all but the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Progress {
    New,
    /// Named in the stream, but not carried out.
    Named,
    /// Carried out, not named since.
    Stored,
    Acknowledged,
    /// Acknowledged for so long that the replicas have it, if it was the master that acknowledged it.
    Ripe,
    Clean,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suspect {
    No,
    /// Events may have been missed, for less than the time that tombstones last.
    Recently,
    /// For longer.
    Long,
}

/// The newest record of an id in a node's journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    pub write: Ordinal,
    pub progress: Progress,
    /// Counts when it is clean.
    pub suspect: Suspect,
    /// It was dirty when the tombstone that is newer expired: it may come back.
    pub is_overdue: bool,
}

impl Record {
    pub fn new(write: Ordinal) -> Record {
        Record { write, progress: Progress::New, suspect: Suspect::No, is_overdue: false }
    }

    pub fn is_clean(&self) -> bool {
        self.progress == Progress::Clean
    }
}

/// A fetch under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flight {
    /// What Redis had.
    pub read: Option<Ordinal>,
    /// The highest version that an event named since it began.
    pub heard: u8,
    /// Events may have been missed since it began.
    pub is_stale: bool,
    /// It was fetched again already.
    pub is_repeated: bool,
    /// The first delete here since it began.
    pub deleted: Ordinal,
    /// The version of the delete that the node knew of until then.
    pub known: u8,
}

/// A parked get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Waiter {
    /// The last delete that had reached the node when the get began.
    pub since: Ordinal,
    pub is_registered: bool,
    /// Whether the node promised an answer: it deleted the object while it was about to fetch it for this waiter.
    pub is_owed: bool,
}

/// What a node has of an id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    pub record: Option<Record>,
    /// The last delete that the node knows of.
    pub tombstone: Ordinal,
    pub flight: Option<Flight>,
    pub waiter: Option<Waiter>,
    /// What is known of the id is to be pushed again.
    pub again: bool,
    /// A record that was dropped and that a restart would bring back; none while all rules hold.
    pub undead: Option<Record>,
    /// The last delete that has reached the node: for the checker.
    pub reached: Ordinal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    Up,
    /// Reconnected, but not everything is heard.
    Fresh,
    /// Broken, or to a master that was demoted, which the node has not noticed.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// What it writes into events.
    pub name: u8,
    pub places: [Place; IDS_MAX],
    pub link: Link,
    /// How many entries of the stream it has read.
    pub cursor: u8,
    /// The entry of the cursor is gone.
    pub has_lost_past: bool,
    /// The cursor is one that the node wrote or read, so that its loss can be noticed.
    pub has_cursor: bool,
    /// Out of step for longer than tombstones last.
    pub is_long_out: bool,
    pub epoch: u8,
    /// The highest clock seen.
    pub clock: u8,
}

/// What the replicas have: everything up to a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Replica {
    pub values: [Ordinal; IDS_MAX],
    pub entries: i8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Redis {
    /// By id: a put, or a delete as its tombstone.
    pub values: [Ordinal; IDS_MAX],
    pub stream: Vec<Event>,
    /// Cursors below this name an entry that was trimmed.
    pub trimmed: u8,
    pub epoch: u8,
    /// None where no failover is to come.
    pub replica: Option<Replica>,
}

/// How often something may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    pub puts: u8,
    pub deletes: u8,
    pub foreign: u8,
    pub gets: u8,
    /// Fetches that no waiter asked for.
    pub seeks: u8,
    /// Wants that nobody can answer.
    pub wants: u8,
    pub evictions: u8,
    pub restarts: u8,
    pub failovers: u8,
    pub breaks: u8,
    pub trims: u8,
    pub flushes: u8,
    pub lost_values: u8,
    pub expiries: u8,
    pub unreadable: u8,
}

/// What can no longer be promised of an id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Excused {
    /// Redis lost the object when no node had to hold it.
    pub is_lost: bool,
    /// Redis has lost it, and no node knows.
    pub is_missed: bool,
    /// The tombstone expired.
    pub is_expired: bool,
    /// An older put that was dirty until the tombstone expired has come back.
    pub may_return: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub writes: Vec<Write>,
    pub redis: Redis,
    pub nodes: Vec<Node>,
    pub left: Budget,
    pub excused: [Excused; IDS_MAX],
    /// The number of the invariant that the last step broke, 0 for none.
    pub broken: u8,
}

impl State {
    pub fn new(nodes: u8, same_names: bool, has_cursor: bool, left: Budget) -> State {
        let node = |number: u8| Node {
            name: if same_names { 0 } else { number },
            places: Default::default(),
            link: Link::Up,
            cursor: 0,
            has_lost_past: false,
            has_cursor,
            is_long_out: false,
            epoch: 0,
            clock: 0,
        };
        let replica = (left.failovers > 0).then_some(Replica { values: [0; IDS_MAX], entries: 0 });
        State {
            writes: Vec::new(),
            redis: Redis { values: [0; IDS_MAX], stream: Vec::new(), trimmed: 0, epoch: 0, replica },
            nodes: (0..nodes).map(node).collect(),
            left,
            excused: Default::default(),
            broken: 0,
        }
    }

    pub fn write(&self, ordinal: Ordinal) -> Write {
        self.writes[usize::from(ordinal) - 1]
    }

    pub fn version(&self, ordinal: Ordinal) -> u8 {
        if ordinal == 0 { 0 } else { self.write(ordinal).version }
    }

    pub fn is_put(&self, ordinal: Ordinal) -> bool {
        ordinal != 0 && !self.write(ordinal).deletes
    }

    pub fn is_delete(&self, ordinal: Ordinal) -> bool {
        ordinal != 0 && self.write(ordinal).deletes
    }

    pub fn place(&self, node: usize, id: usize) -> &Place {
        &self.nodes[node].places[id]
    }

    pub fn place_mut(&mut self, node: usize, id: usize) -> &mut Place {
        &mut self.nodes[node].places[id]
    }

    /// The object that a node holds.
    pub fn held(&self, node: usize, id: usize) -> Option<Record> {
        self.place(node, id).record.filter(|record| self.is_put(record.write))
    }

    /// Whether Redis has an object, not a tombstone.
    pub fn redis_has(&self, id: usize) -> bool {
        self.is_put(self.redis.values[id])
    }

    /// The write of an id with the highest version.
    pub fn top(&self, id: usize) -> Ordinal {
        let of_id = (1..=self.writes.len() as u8).filter(|ordinal| usize::from(self.write(*ordinal).id) == id);
        of_id.filter(|ordinal| self.write(*ordinal).node != FOREIGN).max_by_key(|it| self.version(*it)).unwrap_or(0)
    }

    pub fn has_heard_all(&self, node: usize) -> bool {
        let node = &self.nodes[node];
        usize::from(node.cursor) >= self.redis.stream.len() && !node.has_lost_past
    }

    /// Makes states the same that differ only in what nobody looks at any more.
    pub fn tidy(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].link == Link::Fresh && self.has_heard_all(node) {
                self.nodes[node].link = Link::Up;
            }
            if self.nodes[node].is_long_out && self.has_heard_all(node) {
                self.nodes[node].is_long_out = false;
            }
        }
        if self.left.failovers == 0 {
            self.redis.replica = None;
        }
        if self.left.restarts > 0 {
            return;
        }
        // No cursor goes back any more.
        self.redis.trimmed = 0;
        let read_by_all = self.nodes.iter().map(|node| node.cursor).min().unwrap_or(0);
        self.redis.stream.drain(..usize::from(read_by_all));
        self.nodes.iter_mut().for_each(|node| node.cursor -= read_by_all);
        if let Some(replica) = &mut self.redis.replica {
            replica.entries = (replica.entries - read_by_all as i8).max(-1);
        }
    }
}
