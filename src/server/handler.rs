//! Carries out the requests of one connection on the store, and queues their replies; parks what has to wait in the `session`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::ServerState;
use super::control::{Control, Signal};
use super::latency::Operation;
use super::reply_buffer::{Reply, ReplyBuffer};
use super::session::{Due, Session, TooManyWaits, Wait};
use super::waiting::got;
use crate::wire::{Event, Malformed, ReplyType, RequestHeader, RequestType, WireId};
use crate::{Error, ObjectWriter};

/// Why a connection has to be closed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("it sent {0}")]
    Malformed(#[from] Malformed),
    #[error("a request cannot be carried out: {0}")]
    Store(#[from] Error),
    #[error("it has too many waiting requests")]
    TooManyWaits,
}

impl From<TooManyWaits> for Refusal {
    fn from(_: TooManyWaits) -> Self {
        Refusal::TooManyWaits
    }
}

/// The questions to Redis whose answers are still to come.
#[derive(Debug, Default)]
pub(super) struct Questions(Arc<AtomicUsize>);

/// One of them, until it is dropped.
struct Question(Arc<AtomicUsize>);

impl Questions {
    fn begin(&self) -> Question {
        self.0.fetch_add(1, Ordering::SeqCst);
        Question(Arc::clone(&self.0))
    }

    pub fn are_open(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Carries out the requests of one connection, and queues the replies.
pub(super) struct Handler {
    shared: Arc<ServerState>,
    session: Arc<Session>,
    control: Arc<Control>,
    replies: ReplyBuffer,
    /// The set whose payload is arriving in pieces.
    arriving: Option<Arriving>,
    requests: u64,
    /// Requests that were not answered at once.
    deferred: u64,
    /// When the present request was taken up.
    begun: Instant,
}

/// A set whose payload arrives in pieces.
struct Arriving {
    header: RequestHeader,
    writer: ObjectWriter,
    /// How long the pieces so far took to be written.
    spent: Duration,
}

impl Handler {
    pub fn new(shared: Arc<ServerState>, session: Arc<Session>, control: Arc<Control>) -> Self {
        let (replies, begun) = (ReplyBuffer::default(), Instant::now());
        Handler { shared, session, control, replies, arriving: None, requests: 0, deferred: 0, begun }
    }

    /// Goes on where another process has stopped.
    pub fn resume(mut self, replies: ReplyBuffer, arriving: Option<(RequestHeader, ObjectWriter)>) -> Self {
        self.replies = replies;
        self.arriving = arriving.map(|(header, writer)| Arriving { header, writer, spent: Duration::ZERO });
        self
    }

    /// The set whose payload is arriving in pieces.
    pub fn arriving(&self) -> Option<(RequestHeader, &ObjectWriter)> {
        self.arriving.as_ref().map(|arriving| (arriving.header, &arriving.writer))
    }

    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub fn replies(&mut self) -> &mut ReplyBuffer {
        &mut self.replies
    }

    /// Whether replies must be written before another request is taken.
    pub fn is_full(&self) -> bool {
        self.replies.len() >= self.shared.options.reply_bytes_max || self.control.is_raised(Signal::Due)
    }

    /// Moves the session's due replies into the buffer, as far as there is room.
    pub fn collect(&mut self) -> Result<(), Refusal> {
        Ok(self.session.collect(&self.control, &mut self.replies, self.shared.options.reply_bytes_max)?)
    }

    /// Carries out a request, or takes in a piece of one.
    #[inline]
    pub fn handle(&mut self, event: Event<'_>) -> Result<(), Refusal> {
        let timed = match &event {
            Event::Request(header) => Some(match header.request_type {
                RequestType::Delete => Operation::Delete,
                RequestType::InfoGetTotal => Operation::Info,
                _ => Operation::Get,
            }),
            Event::Set(..) => Some(Operation::Set),
            Event::Duplicate(..) => Some(Operation::Duplicate),
            Event::SetBegins(_) | Event::Piece(..) => None,
        };
        let deferred = self.deferred;
        self.begun = Instant::now();
        self.carry_out(event)?;
        if let Some(operation) = timed
            && self.deferred == deferred
        {
            self.shared.latencies.took(operation, self.begun.elapsed());
        }
        Ok(())
    }

    #[inline]
    fn carry_out(&mut self, event: Event<'_>) -> Result<(), Refusal> {
        match event {
            Event::Request(header) => match header.request_type {
                RequestType::Delete => self.delete(&header),
                RequestType::InfoGetTotal => self.info_get_total(&header),
                _ => self.get(&header),
            },
            Event::Set(header, payload) => {
                self.shared.store.put(&header.id, payload, b"")?;
                self.shared.latencies.received(payload.len() as u64);
                self.reply(&header, ReplyType::SetOk, Bytes::new())
            }
            Event::SetBegins(header) => {
                let writer = self.shared.store.writer(&header.id, header.payload_length, b"")?;
                self.arriving = Some(Arriving { header, writer, spent: self.begun.elapsed() });
                Ok(())
            }
            Event::Piece(piece, is_last) => self.piece(piece, is_last),
            Event::Duplicate(header, original) => self.duplicate(&header, original),
        }
    }

    #[inline]
    fn get(&mut self, header: &RequestHeader) -> Result<(), Refusal> {
        match self.shared.store.get_here(&header.id)? {
            Some(object) => self.push(got(&self.shared.latencies, header, object)),
            None => self.wait(Wait::Get(*header)),
        }
    }

    fn delete(&mut self, header: &RequestHeader) -> Result<(), Refusal> {
        let reply = |header: &RequestHeader, existed| {
            let reply_type = if existed { ReplyType::DelOk } else { ReplyType::DelNotExists };
            Reply::new(header.id, header.request_id, reply_type, Bytes::new())
        };
        let (session, late, question) = (Arc::clone(&self.session), *header, self.shared.questions.begin());
        let (latencies, begun) = (Arc::clone(&self.shared.latencies), self.begun);
        // Redis may have to be asked whether it existed. The store bounds how many such questions are under way, and for how long.
        let answer = move |existed| {
            latencies.took(Operation::Delete, begun.elapsed());
            session.push(Due::Reply(reply(&late, existed)));
            drop(question);
        };
        match self.shared.store.delete_later(&header.id, answer)? {
            Some(existed) => self.push(reply(header, existed)),
            None => {
                self.deferred += 1;
                self.requests += 1;
                Ok(())
            }
        }
    }

    fn info_get_total(&mut self, header: &RequestHeader) -> Result<(), Refusal> {
        let info = self.shared.store.info();
        let numbers = [
            info.objects,
            info.payloads,
            info.payload_bytes,
            info.waiting_requests,
            info.waiting_ids,
            info.oldest_wait.as_secs(),
        ];
        self.reply(header, ReplyType::InfoGetTotalOk, numbers.map(u64::to_le_bytes).concat().into())
    }

    fn piece(&mut self, piece: &[u8], is_last: bool) -> Result<(), Refusal> {
        let Some(arriving) = &mut self.arriving else { return Ok(()) };
        arriving.writer.write(piece)?;
        if !is_last {
            arriving.spent += self.begun.elapsed();
        }
        match self.arriving.take_if(|_| is_last) {
            Some(Arriving { header, writer, spent }) => {
                writer.commit()?;
                self.shared.latencies.received(header.payload_length);
                self.shared.latencies.took(Operation::Set, spent + self.begun.elapsed());
                self.reply(&header, ReplyType::SetOk, Bytes::new())
            }
            None => Ok(()),
        }
    }

    fn duplicate(&mut self, header: &RequestHeader, original: WireId) -> Result<(), Refusal> {
        if self.shared.store.duplicate_here(&original, &header.id)? {
            return self.reply(header, ReplyType::DuplicateOk, Bytes::new());
        }
        self.wait(Wait::Duplicate(*header, original))
    }

    /// Replies when an object comes to exist.
    fn wait(&mut self, wait: Wait) -> Result<(), Refusal> {
        let options = &self.shared.options;
        let number = self.session.begin_wait(wait, options.waits_max, options.waits_total_max)?;
        match wait.park(&self.shared, &self.session, number)? {
            Some(reply) => self.push(reply),
            None => {
                self.deferred += 1;
                self.requests += 1;
                Ok(())
            }
        }
    }

    /// Queues a reply, behind those that this very request made due, if it did.
    #[inline]
    fn reply(&mut self, header: &RequestHeader, reply_type: ReplyType, payload: Bytes) -> Result<(), Refusal> {
        if matches!(reply_type, ReplyType::GetOk) {
            self.shared.latencies.sent(payload.len());
        }
        self.push(Reply::new(header.id, header.request_id, reply_type, payload))
    }

    #[inline]
    fn push(&mut self, reply: Reply) -> Result<(), Refusal> {
        self.requests += 1;
        if self.control.is_raised(Signal::Due) {
            self.session.push(Due::Reply(reply));
            return self.collect();
        }
        self.replies.push(reply);
        Ok(())
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.shared.counters.requests.add(self.requests);
    }
}
