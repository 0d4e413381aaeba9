//! Replies that are to be written to a client, and how they are written in few system calls without copying large payloads.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::TURN_BYTES_MAX;
use crate::wire::{ReplyHead, ReplyType, WireId};

/// Payloads up to this length are copied behind their header, which costs less than one more slice in the system call.
const PAYLOAD_BYTES_COPIED_MAX: usize = 4 << 10;

/// How much memory an empty one keeps: enough for the replies to a batch of small requests.
const EMPTY_BYTES_MAX: usize = 32 << 10;

/// Written bytes are removed from the front of the buffer once there are this many.
const WRITTEN_BYTES_MAX: usize = 64 << 10;

/// Most slices in one system call.
const PIECES_MAX: usize = 64;

/// A reply that is not in a reply buffer yet. Its payload shares the stored bytes.
#[derive(Debug)]
pub(super) struct Reply {
    id: WireId,
    response_id: u64,
    reply_type: ReplyType,
    payload: Bytes,
}

impl Reply {
    pub fn new(id: WireId, response_id: u64, reply_type: ReplyType, payload: Bytes) -> Self {
        Reply { id, response_id, reply_type, payload }
    }
}

/// Replies to be written to a client: headers and small payloads in one contiguous buffer, interleaved with large payloads that
/// share the stored bytes.
#[derive(Debug, Default)]
pub(super) struct ReplyBuffer {
    /// Starts with a reply's header.
    copied: Vec<u8>,
    copied_written: usize,
    shared: VecDeque<OutboxState>,
    unwritten: usize,
    unflushed: bool,
}

/// A shared payload, which is written after the first `at` bytes of `copied`.
#[derive(Debug)]
struct OutboxState {
    at: usize,
    bytes: Bytes,
}

/// A reply buffer as one process leaves it to another.
#[derive(Debug, Default)]
pub(super) struct ReplyBufferParts {
    /// The rest of a reply that is partly written.
    pub begun: Vec<Bytes>,
    /// Headers and small payloads of the replies behind it.
    pub copied: Vec<u8>,
    /// Large payloads: each goes behind so many bytes of `copied`.
    pub shared: Vec<(usize, Bytes)>,
}

impl ReplyBuffer {
    /// How many bytes are not written yet.
    pub fn len(&self) -> usize {
        self.unwritten
    }

    pub fn is_empty(&self) -> bool {
        self.unwritten == 0
    }

    #[inline]
    pub fn push(&mut self, reply: Reply) {
        let Reply { id, response_id, reply_type, payload } = reply;
        let head = ReplyHead { id, payload_length: payload.len() as u64, response_id, reply_type }.encode();
        if payload.is_empty() {
            let (head, _) = head.split_at(ReplyHead::BYTES);
            self.copied.extend_from_slice(head);
            self.unwritten += head.len();
            return;
        }
        self.unwritten += head.len() + payload.len();
        self.copied.extend_from_slice(&head);
        if payload.len() <= PAYLOAD_BYTES_COPIED_MAX {
            self.copied.extend_from_slice(&payload);
        } else {
            self.shared.push_back(OutboxState { at: self.copied.len(), bytes: payload });
        }
    }

    /// Appends the replies of another one, of which nothing is written yet.
    pub fn append(&mut self, other: ReplyBuffer) {
        let offset = self.copied.len();
        self.unwritten += other.unwritten;
        self.copied.extend_from_slice(&other.copied);
        self.shared.extend(other.shared.into_iter().map(|shared| OutboxState { at: shared.at + offset, ..shared }));
    }

    /// Takes it apart for another process.
    pub fn into_parts(mut self) -> ReplyBufferParts {
        // A reply that is partly written goes in front, as one piece of bytes.
        let start = self.reply_border(|border| border >= self.copied_written);
        let mut begun = Vec::new();
        let mut from = self.copied_written;
        while self.shared.front().is_some_and(|shared| shared.at <= start) {
            let Some(shared) = self.shared.pop_front() else { break };
            begun.push(Bytes::copy_from_slice(self.copied.get(from..shared.at).unwrap_or_default()));
            begun.push(shared.bytes);
            from = shared.at;
        }
        begun.push(Bytes::copy_from_slice(self.copied.get(from..start).unwrap_or_default()));
        begun.retain(|piece| !piece.is_empty());
        let shared = self.shared.into_iter().map(|shared| (shared.at - start, shared.bytes)).collect();
        self.copied.drain(..start);
        ReplyBufferParts { begun, copied: self.copied, shared }
    }

    /// Puts together what another process has taken apart. None where the parts do not fit.
    pub fn from_parts(parts: ReplyBufferParts) -> Option<ReplyBuffer> {
        let ReplyBufferParts { begun, copied, shared } = parts;
        let begun = begun.into_iter().map(|bytes| (0, bytes));
        let shared: VecDeque<_> = begun.chain(shared).map(|(at, bytes)| OutboxState { at, bytes }).collect();
        let fits = shared.iter().map(|shared| shared.at).is_sorted()
            && shared.iter().all(|shared| shared.at <= copied.len() && !shared.bytes.is_empty());
        let unwritten = copied.len() + shared.iter().map(|shared| shared.bytes.len()).sum::<usize>();
        fits.then_some(ReplyBuffer { copied, copied_written: 0, shared, unwritten, unflushed: unwritten > 0 })
    }

    /// Keeps only the replies of which no byte is written. One that is half written is lost with its connection.
    pub fn into_unstarted(mut self) -> ReplyBuffer {
        let start = self.reply_border(|border| border >= self.copied_written);
        self.copied.drain(..start);
        self.shared.retain_mut(|shared| {
            // A shared payload at the border itself belongs to the reply before it.
            let keep = shared.at > start;
            shared.at = shared.at.saturating_sub(start);
            keep
        });
        let unwritten = self.copied.len() + self.shared.iter().map(|shared| shared.bytes.len()).sum::<usize>();
        ReplyBuffer { copied_written: 0, unwritten, unflushed: false, ..self }
    }

    /// Writes as much as the transport takes, or a turn's worth; ready when all of it is written and flushed.
    pub fn poll_write_all(
        &mut self,
        mut transport: Pin<&mut (impl AsyncWrite + ?Sized)>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut written_in_turn = 0;
        while !self.is_empty() {
            if written_in_turn >= TURN_BYTES_MAX {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let written = ready!(self.poll_write_some(transport.as_mut(), context))?;
            written_in_turn += written;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.advance(written);
        }
        if self.unflushed {
            ready!(transport.poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn poll_write_some(
        &self,
        transport: Pin<&mut (impl AsyncWrite + ?Sized)>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.shared.is_empty() {
            return transport.poll_write(context, self.copied.get(self.copied_written..).unwrap_or_default());
        }
        let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
        transport.poll_write_vectored(context, self.pieces(&mut pieces))
    }

    fn pieces<'a, 'b>(&'a self, pieces: &'b mut [IoSlice<'a>; PIECES_MAX]) -> &'b [IoSlice<'a>] {
        let mut filled = 0;
        let mut add = |bytes: &'a [u8]| {
            if let Some(piece) = pieces.get_mut(filled).filter(|_| !bytes.is_empty()) {
                *piece = IoSlice::new(bytes);
                filled += 1;
            }
        };
        let mut from = self.copied_written;
        for shared in self.shared.iter().take(PIECES_MAX / 2) {
            add(self.copied.get(from..shared.at).unwrap_or_default());
            add(&shared.bytes);
            from = shared.at;
        }
        let to = self.shared.get(PIECES_MAX / 2).map_or(self.copied.len(), |shared| shared.at);
        add(self.copied.get(from..to).unwrap_or_default());
        pieces.get(..filled).unwrap_or_default()
    }

    fn advance(&mut self, mut written: usize) {
        self.unwritten = self.unwritten.saturating_sub(written);
        while written > 0 {
            let until = self.shared.front().map_or(self.copied.len(), |shared| shared.at);
            let copied = written.min(until - self.copied_written);
            self.copied_written += copied;
            written -= copied;
            if written > 0 {
                let Some(shared) = self.shared.front_mut() else { break };
                let length = written.min(shared.bytes.len());
                shared.bytes.advance(length);
                written -= length;
                if shared.bytes.is_empty() {
                    self.shared.pop_front();
                }
            }
        }
        if self.is_empty() {
            self.copied.clear();
            self.copied.shrink_to(EMPTY_BYTES_MAX);
            self.copied_written = 0;
        } else if self.copied_written >= WRITTEN_BYTES_MAX {
            self.drop_written();
        }
    }

    /// Removes the replies that are completely written.
    fn drop_written(&mut self) {
        // All copied bytes of the current reply may be written while its shared payload is not.
        let limit = self
            .shared
            .front()
            .map_or(self.copied_written, |shared| self.copied_written.min(shared.at.saturating_sub(1)));
        let mut last = 0;
        self.reply_border(|border| {
            if border <= limit {
                last = border;
            }
            border >= limit
        });
        self.copied.drain(..last);
        self.copied_written -= last;
        for shared in &mut self.shared {
            shared.at -= last;
        }
    }

    /// The first border between two replies, as an offset in `copied`, for which `is_it`; or the end.
    fn reply_border(&self, mut is_it: impl FnMut(usize) -> bool) -> usize {
        let mut border = 0;
        while border < self.copied.len() && !is_it(border) {
            let payload = self.copied.get(border..).and_then(ReplyHead::payload_length).unwrap_or(u64::MAX);
            border += match usize::try_from(payload) {
                Ok(0) => ReplyHead::BYTES,
                Ok(length) if length <= PAYLOAD_BYTES_COPIED_MAX => ReplyHead::BYTES_BEFORE_PAYLOAD + length,
                _ => ReplyHead::BYTES_BEFORE_PAYLOAD,
            };
        }
        border.min(self.copied.len())
    }
}

#[cfg(test)]
mod tests;
