//! What a child tells its parent, through a pipe: whole reports only, however it ends.

use std::fs::File;
use std::io::{Read, Write};

const REPORT_BYTES: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// The store is open; `value` objects are counted as damaged.
    Opened,
    /// An id's content right after opening.
    Found,
    /// An id that is not there right after opening.
    NotFound,
    /// Every id was looked at.
    Looked,
    StartedPut,
    StartedDelete,
    /// `value` is the original's id.
    StartedDuplicate,
    StartedFlush,
    /// Acknowledged.
    Done,
    /// It had no effect: no room for it, or nothing to duplicate.
    Refused,
    Closed,
}

const EVENTS: [Event; 11] = [
    Event::Opened,
    Event::Found,
    Event::NotFound,
    Event::Looked,
    Event::StartedPut,
    Event::StartedDelete,
    Event::StartedDuplicate,
    Event::StartedFlush,
    Event::Done,
    Event::Refused,
    Event::Closed,
];

#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub event: Event,
    pub id: u8,
    /// Tells which start an acknowledgement belongs to.
    pub operation: u64,
    pub value: u64,
}

impl Report {
    /// In one write of less than PIPE_BUF bytes, which no other thread's can come into.
    pub fn send(self, pipe: &File) {
        let mut bytes = [0; REPORT_BYTES];
        (bytes[0], bytes[1]) = (self.event as u8, self.id);
        bytes[8..16].copy_from_slice(&self.operation.to_le_bytes());
        bytes[16..].copy_from_slice(&self.value.to_le_bytes());
        let written = (&mut &*pipe).write(&bytes).unwrap();
        assert_eq!(written, REPORT_BYTES);
    }

    /// The next report; None when the child is gone.
    pub fn receive(pipe: &mut impl Read) -> Option<Self> {
        let mut bytes = [0; REPORT_BYTES];
        pipe.read_exact(&mut bytes).ok()?;
        Some(Report {
            event: EVENTS[usize::from(bytes[0])],
            id: bytes[1],
            operation: u64::from_le_bytes(bytes[8..16].try_into().unwrap()),
            value: u64::from_le_bytes(bytes[16..].try_into().unwrap()),
        })
    }
}
