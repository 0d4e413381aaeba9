//! A handover over a unix socket, from the process that serves to the one that is to go on.
//!
//! ```text
//! from the one that goes on:   BEGIN       it waits for what follows
//! from the one that serves:    descriptors: u64le   then for every 200 of these or fewer one byte, with which they come
//! from the one that goes on:   RECEIVED
//! from the one that serves:    CLOSED      its store is closed
//! from the one that goes on:   SERVING     it serves; until then the other one can still go on itself
//! ```

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::AsyncReadExt;

use super::{Handover, form};

/// Descriptors in one message: the kernel takes 253.
const DESCRIPTORS_MAX: usize = 200;

/// More than any process may have open.
const DESCRIPTORS_TOTAL_MAX: u64 = 1 << 20;

const BEGIN: u8 = b'B';
const RECEIVED: u8 = b'R';
const CLOSED: u8 = b'C';
const SERVING: u8 = b'S';

/// How long the other process may take for each step that needs no more than memory.
const STEP_MAX: Duration = Duration::from_secs(10);

/// How long closing a store may take.
const CLOSING_MAX: Duration = Duration::from_secs(120);

/// The process that is to go on.
#[derive(Debug)]
pub struct Successor(UnixStream);

/// The process that has served until now.
#[derive(Debug)]
pub struct Predecessor(UnixStream);

impl Successor {
    /// The process at the other end.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Successor(stream)
    }

    /// Waits until it is ready to receive.
    ///
    /// # Errors
    ///
    /// As [`hand_over`](Self::hand_over).
    pub fn until_ready(&self) -> io::Result<()> {
        self.0.set_nonblocking(false)?;
        self.0.set_read_timeout(Some(STEP_MAX))?;
        expect(&self.0, BEGIN)
    }

    /// Sends it everything, and returns once it has said that it has it.
    ///
    /// # Errors
    ///
    /// The operating system's; or the process has ended, or does not answer within ten seconds. Then the server is still this process's.
    pub fn hand_over(&self, handover: &Handover) -> io::Result<()> {
        let descriptors = form::encode(handover)?;
        self.0.set_write_timeout(Some(STEP_MAX))?;
        self.0.set_read_timeout(Some(STEP_MAX))?;
        (&self.0).write_all(&(descriptors.len() as u64).to_le_bytes())?;
        for some in descriptors.chunks(DESCRIPTORS_MAX) {
            let some: Vec<_> = some.iter().map(AsFd::as_fd).collect();
            send(&self.0, &some)?;
        }
        expect(&self.0, RECEIVED)
    }

    /// Says that the store is closed, and waits until the process serves.
    ///
    /// # Errors
    ///
    /// As [`hand_over`](Self::hand_over), without a limit in time: the process has ended before it served.
    pub async fn closed(&self) -> io::Result<()> {
        (&self.0).write_all(&[CLOSED])?;
        let stream = self.0.try_clone()?;
        stream.set_nonblocking(true)?;
        match tokio::net::UnixStream::from_std(stream)?.read_u8().await? {
            SERVING => Ok(()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl Predecessor {
    /// The process at the other end.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Predecessor(stream)
    }

    /// Receives everything.
    ///
    /// # Errors
    ///
    /// The operating system's; or the process has ended, sends nothing for ten seconds, or sends what this version does not understand. Then the
    /// server is still that process's.
    pub fn receive(&self) -> io::Result<Handover> {
        self.0.set_nonblocking(false)?;
        // It first lets the calls that are under way come to their end.
        self.0.set_read_timeout(Some(CLOSING_MAX))?;
        self.0.set_write_timeout(Some(STEP_MAX))?;
        (&self.0).write_all(&[BEGIN])?;
        let mut count = [0; 8];
        (&self.0).read_exact(&mut count)?;
        let count = u64::from_le_bytes(count);
        if count > DESCRIPTORS_TOTAL_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.0.set_read_timeout(Some(STEP_MAX))?;
        let mut descriptors = Vec::new();
        while (descriptors.len() as u64) < count {
            receive(&self.0, &mut descriptors)?;
        }
        let handover = form::decode(descriptors.into_iter().map(Some).collect())?;
        (&self.0).write_all(&[RECEIVED])?;
        Ok(handover)
    }

    /// Waits until its store is closed.
    ///
    /// # Errors
    ///
    /// The operating system's; or the process does not close it within two minutes.
    pub fn until_closed(&self) -> io::Result<()> {
        self.0.set_read_timeout(Some(CLOSING_MAX))?;
        expect(&self.0, CLOSED)
    }

    /// Tells it that this process serves now.
    ///
    /// # Errors
    ///
    /// The operating system's: the process has ended, which changes nothing.
    pub fn serving(&self) -> io::Result<()> {
        (&self.0).write_all(&[SERVING])
    }
}

fn expect(mut stream: &UnixStream, expected: u8) -> io::Result<()> {
    let mut said = [0];
    stream.read_exact(&mut said)?;
    if said == [expected] { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn send(stream: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(descriptors));
    loop {
        match sendmsg(stream, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one message. Each is read by itself: descriptors come with the byte that they were sent with.
fn receive(stream: &UnixStream, to: &mut Vec<OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = loop {
        match recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let before = to.len();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            to.extend(descriptors);
        }
    }
    if to.len() == before {
        let reason = "descriptors have not come over: this process has too many open (ulimit -n)";
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    Ok(())
}
