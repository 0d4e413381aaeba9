//! What the processes of a round tell, through one pipe: whole reports only, however they end, in the order in which it happened.

use std::io::Read;

const REPORT_BYTES: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    StartedPut,
    StartedDelete,
    /// `value` is the original's id.
    StartedDuplicate,
    StartedGet,
    /// The write is acknowledged.
    Done,
    /// It has changed nothing, or has found out nothing.
    Refused,
    /// What the get has found.
    Found,
    NotFound,
    /// The object holds what nobody has written.
    Wrong,
    /// Bytes that are held are others than they were.
    Changed,
}

const EVENTS: [Event; 10] = [
    Event::StartedPut,
    Event::StartedDelete,
    Event::StartedDuplicate,
    Event::StartedGet,
    Event::Done,
    Event::Refused,
    Event::Found,
    Event::NotFound,
    Event::Wrong,
    Event::Changed,
];

#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub event: Event,
    pub id: u8,
    /// Of all processes' operations, the only one with this number.
    pub operation: u64,
    pub value: u64,
}

impl Report {
    /// In one write of less than PIPE_BUF bytes, which no other's can come into; without taking memory, as a forked child may call it.
    pub fn send(self, pipe: i32) {
        let mut bytes = [0; REPORT_BYTES];
        (bytes[0], bytes[1]) = (self.event as u8, self.id);
        bytes[8..16].copy_from_slice(&self.operation.to_le_bytes());
        bytes[16..].copy_from_slice(&self.value.to_le_bytes());
        loop {
            // Sound: writes these bytes.
            let written = unsafe { libc::write(pipe, bytes.as_ptr().cast(), REPORT_BYTES) };
            if written == REPORT_BYTES as isize {
                return;
            }
            assert!(written < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR));
        }
    }

    /// The next report; None when all who report are gone.
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
