//! A server is replaced by another process without its clients noticing: what the one leaves and the other goes on with.
//!
//! [`form`] puts that into bytes and descriptors, [`channel`] brings these over a unix socket, [`systemd`] leaves them with systemd over a
//! restart.

mod channel;
mod form;
mod server;
pub mod systemd;

pub use channel::{Predecessor, Successor};

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;

use bytes::BytesMut;
use rustix::fs::{MemfdFlags, memfd_create};

use super::address::Address;
use super::listener::Socket;
use super::reply_buffer::ReplyBufferParts;
use super::session::SessionParts;
use super::websocket::WebSocketParts;
use crate::wire::{Expected, RequestHeader};
use crate::{Error, ObjectStore, ObjectWriter};

/// What is copied at a time.
const COPIED_BYTES: usize = 256 << 10;

/// A server that is not served: its listening socket, its connections, and the waiting requests of its clients. Made by
/// [`Server::pause`](super::Server::pause); [`Server::resume`](super::Server::resume) goes on with it, in this process or in another one to which
/// it was [sent](Successor::hand_over) or [left](Self::leave_with_systemd). Dropping it closes the connections.
#[derive(Debug)]
pub struct Handover {
    pub(super) listener: OwnedFd,
    /// With the port that was really taken.
    pub(super) address: Address,
    /// In the order in which they were accepted.
    pub(super) connections: Vec<PausedConnection>,
    /// Each with the number of the connection that has its identity.
    pub(super) sessions: Vec<(SessionParts, Option<u64>)>,
}

impl fmt::Display for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waits: usize = self.sessions.iter().map(|(session, _)| session.waits.len()).sum();
        write!(f, "{} connections and {waits} waiting requests", self.connections.len())
    }
}

/// A connection that is not served.
#[derive(Debug)]
pub(super) struct PausedConnection {
    /// Later ones have higher numbers.
    pub number: u64,
    pub peer: String,
    pub socket: Socket,
    /// Where the stream is carried in WebSocket frames.
    pub web_socket: Option<WebSocketParts>,
    pub stage: Stage,
}

/// How far a connection is.
#[derive(Debug)]
pub(super) enum Stage {
    Greeting(Introduction),
    Requests(Requests),
}

/// A greeting under way.
#[derive(Debug, Default)]
pub(super) struct Introduction {
    /// What has arrived of it, or behind it.
    pub kept: BytesMut,
    /// Whether ours is sent.
    pub answered: bool,
}

/// A connection whose client has introduced itself.
#[derive(Debug)]
pub(super) struct Requests {
    /// What has arrived and is not carried out yet.
    pub kept: BytesMut,
    pub expected: Expected,
    pub arriving: Option<Arriving>,
    pub replies: ReplyBufferParts,
}

/// A set whose payload has come in part, which stands in a file without a name.
#[derive(Debug)]
pub(super) struct Arriving {
    pub header: RequestHeader,
    pub written: File,
}

impl Arriving {
    /// Copies what the store has of it. The error says why it cannot be.
    pub fn new(header: RequestHeader, writer: &ObjectWriter) -> Result<Self, String> {
        let mut written = nameless("set").map_err(|error| error.to_string())?;
        match writer.read_back(&mut written) {
            Ok(true) => Ok(Arriving { header, written }),
            Ok(false) => Err("this backend does not give back what was written".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Writes it to the store that is open now.
    pub fn resume(mut self, store: &ObjectStore) -> Result<(RequestHeader, ObjectWriter), Error> {
        let failed = |error| Error::io("read what has arrived of a set from", "the hand-over")(error);
        let mut writer = store.writer(&self.header.id, self.header.payload_length, b"")?;
        self.written.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut piece = vec![0; COPIED_BYTES];
        loop {
            match self.written.read(&mut piece).map_err(failed)? {
                0 => return Ok((self.header, writer)),
                bytes => writer.write(piece.get(..bytes).unwrap_or_default())?,
            }
        }
    }
}

/// A file in memory, which goes with its last descriptor.
fn nameless(name: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MemfdFlags::CLOEXEC)?))
}
