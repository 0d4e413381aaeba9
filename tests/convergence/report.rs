//! What a node tells the test and what it is told, in whole messages of one size, however it ends.

use std::io::{Read, Write};
use std::time::UNIX_EPOCH;

const REPORT_BYTES: usize = 40;
const COMMAND_BYTES: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    Opened,
    StartedPut,
    StartedDelete,
    /// `value` is the original's id.
    StartedDuplicate,
    /// Acknowledged.
    Done,
    /// It had no effect.
    Refused,
    /// A get or a wait.
    StartedGet,
    Got,
    GotNothing,
    /// Nothing is known of how it ended, or would have.
    Failed,
    /// The workers have ended.
    Stopped,
    /// What an id holds now that it is quiet.
    Holds,
    HoldsNothing,
    /// It cannot be said at the moment.
    Unclear,
    /// Somebody still waits for this id.
    StillWaiting,
    /// Every id was looked at; `value` objects were found damaged.
    Looked,
    Closed,
}

const EVENTS: [Event; 17] = [
    Event::Opened,
    Event::StartedPut,
    Event::StartedDelete,
    Event::StartedDuplicate,
    Event::Done,
    Event::Refused,
    Event::StartedGet,
    Event::Got,
    Event::GotNothing,
    Event::Failed,
    Event::Stopped,
    Event::Holds,
    Event::HoldsNothing,
    Event::Unclear,
    Event::StillWaiting,
    Event::Looked,
    Event::Closed,
];

#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub event: Event,
    pub id: u16,
    /// Tells which start an end belongs to: of all nodes and their lives, the only one with this number.
    pub operation: u64,
    pub value: u64,
    /// Nanoseconds since 1970.
    pub at: u64,
}

impl Report {
    pub fn send(self, stream: &mut impl Write) -> std::io::Result<()> {
        let mut bytes = [0; REPORT_BYTES];
        bytes[0] = self.event as u8;
        bytes[2..4].copy_from_slice(&self.id.to_le_bytes());
        for (place, number) in bytes[8..].chunks_mut(8).zip([self.operation, self.value, self.at]) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        stream.write_all(&bytes)
    }

    /// The next report; None when the node is gone.
    pub fn receive(stream: &mut impl Read) -> Option<Self> {
        let mut bytes = [0; REPORT_BYTES];
        stream.read_exact(&mut bytes).ok()?;
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let id = u16::from_le_bytes([bytes[2], bytes[3]]);
        Some(Report {
            event: EVENTS[usize::from(bytes[0])],
            id,
            operation: number(8),
            value: number(16),
            at: number(24),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read and write the ids of a round, which began at this time, in nanoseconds since 1970.
    Begin {
        round: u64,
        seed: u64,
        began: u64,
    },
    Stop,
    /// Say what the round's ids hold.
    Look {
        ids: u64,
    },
    Close,
}

impl Command {
    pub fn send(self, stream: &mut impl Write) -> std::io::Result<()> {
        let numbers = match self {
            Command::Begin { round, seed, began } => [0, round, seed, began],
            Command::Stop => [1, 0, 0, 0],
            Command::Look { ids } => [2, ids, 0, 0],
            Command::Close => [3, 0, 0, 0],
        };
        stream.write_all(&numbers.map(u64::to_le_bytes).concat())
    }

    pub fn receive(stream: &mut impl Read) -> Option<Self> {
        let mut bytes = [0; COMMAND_BYTES];
        stream.read_exact(&mut bytes).ok()?;
        let number = |at: usize| u64::from_le_bytes(bytes[at * 8..at * 8 + 8].try_into().unwrap());
        Some(match number(0) {
            0 => Command::Begin { round: number(1), seed: number(2), began: number(3) },
            1 => Command::Stop,
            2 => Command::Look { ids: number(1) },
            _ => Command::Close,
        })
    }
}

pub fn nanoseconds() -> u64 {
    UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64
}
