//! What a node tells the test and what it is told, in whole messages of one size, however it ends.

use std::io::{Read, Write};

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
    /// In nanoseconds, on a clock that all nodes share.
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
    /// Read and write the ids of a round, which began at this time.
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
    /// This process's time of day is so many seconds ahead.
    Clock {
        ahead: i64,
    },
    /// This process may open so many descriptors more, or as many as ever.
    Descriptors {
        more: Option<u64>,
    },
    /// This process's threads get signals, or none.
    Signals {
        are_sent: bool,
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
            Command::Clock { ahead } => [4, ahead as u64, 0, 0],
            Command::Descriptors { more } => [5, more.unwrap_or(u64::MAX), 0, 0],
            Command::Signals { are_sent } => [6, u64::from(are_sent), 0, 0],
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
            3 => Command::Close,
            4 => Command::Clock { ahead: number(1) as i64 },
            5 => Command::Descriptors { more: Some(number(1)).filter(|more| *more < u64::MAX) },
            _ => Command::Signals { are_sent: number(1) == 1 },
        })
    }
}
