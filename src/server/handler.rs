//! Carries out the requests of one connection on the store, and queues their replies; parks what has to wait in the `session`.

use std::sync::Arc;

use bytes::Bytes;

use super::ServerState;
use super::control::{Control, Signal};
use super::outbox::{Outbox, Reply};
use super::session::{Due, Session, TooManyWaits};
use crate::wire::{Event, Malformed, ReplyType, RequestHeader, RequestType, WireId};
use crate::{Error, Object, ObjectWriter, Parked};

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

/// Carries out the requests of one connection, and queues the replies.
pub(super) struct Handler {
    shared: Arc<ServerState>,
    session: Arc<Session>,
    control: Arc<Control>,
    outbox: Outbox,
    /// The set whose payload is arriving in pieces.
    arriving: Option<(RequestHeader, ObjectWriter)>,
    requests: u64,
}

impl Handler {
    pub fn new(shared: Arc<ServerState>, session: Arc<Session>, control: Arc<Control>) -> Self {
        Handler { shared, session, control, outbox: Outbox::default(), arriving: None, requests: 0 }
    }

    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Whether replies must be written before another request is taken.
    pub fn is_full(&self) -> bool {
        self.outbox.len() >= self.shared.options.outbox_bytes_max || self.control.is_raised(Signal::Due)
    }

    /// Moves the session's due replies into the outbox, as far as there is room.
    pub fn collect(&mut self) -> Result<(), Refusal> {
        Ok(self.session.collect(&self.control, &mut self.outbox, self.shared.options.outbox_bytes_max)?)
    }

    /// Carries out a request, or takes in a piece of one.
    #[inline]
    pub fn handle(&mut self, event: Event<'_>) -> Result<(), Refusal> {
        match event {
            Event::Request(header) => match header.request_type {
                RequestType::Delete => self.delete(&header),
                RequestType::InfoGetTotal => self.info_get_total(&header),
                _ => self.get(&header),
            },
            Event::Set(header, payload) => {
                self.shared.store.put(&header.id, payload, b"")?;
                self.reply(&header, ReplyType::SetOk, Bytes::new())
            }
            Event::SetBegins(header) => {
                let writer = self.shared.store.writer(&header.id, header.payload_length, b"")?;
                self.arriving = Some((header, writer));
                Ok(())
            }
            Event::Piece(piece, is_last) => self.piece(piece, is_last),
            Event::Duplicate(header, original) => self.duplicate(&header, original),
        }
    }

    #[inline]
    fn get(&mut self, header: &RequestHeader) -> Result<(), Refusal> {
        match self.shared.store.get_here(&header.id)? {
            Some(object) => self.reply(header, ReplyType::GetOk, wanted(object, header)),
            None => self.wait_for(header),
        }
    }

    fn delete(&mut self, header: &RequestHeader) -> Result<(), Refusal> {
        let reply = |header: &RequestHeader, existed| {
            let reply_type = if existed { ReplyType::DelOk } else { ReplyType::DelNotExists };
            Reply::new(header.id, header.request_id, reply_type, Bytes::new())
        };
        let (session, late) = (Arc::clone(&self.session), *header);
        // Redis may have to be asked whether it existed. The store bounds how many such questions are under way, and for how long.
        let answer = move |existed| session.push(reply(&late, existed));
        match self.shared.store.delete_later(&header.id, answer)? {
            Some(existed) => self.push(reply(header, existed)),
            None => {
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
        let Some((_, writer)) = &mut self.arriving else { return Ok(()) };
        writer.write(piece)?;
        match self.arriving.take_if(|_| is_last) {
            Some((header, writer)) => {
                writer.commit()?;
                self.reply(&header, ReplyType::SetOk, Bytes::new())
            }
            None => Ok(()),
        }
    }

    fn duplicate(&mut self, header: &RequestHeader, original: WireId) -> Result<(), Refusal> {
        let store = &self.shared.store;
        if store.duplicate_here(&original, &header.id)? {
            return self.reply(header, ReplyType::DuplicateOk, Bytes::new());
        }
        let wait = self.begin_wait()?;
        let session = Arc::clone(&self.session);
        let RequestHeader { id, request_id, .. } = *header;
        let done = move |result: Result<(), Error>| {
            let reply = Reply::new(id, request_id, ReplyType::DuplicateOk, Bytes::new());
            session.come_due(wait, result.map_or_else(Due::Failed, |()| Due::Reply(reply)));
        };
        match store.duplicate_or_park(&original, &id, done) {
            Ok(Parked::Waiting(ticket)) => {
                self.session.parked(wait, ticket);
                self.requests += 1;
                Ok(())
            }
            Ok(Parked::Ready(())) => {
                self.session.end_wait(wait);
                self.reply(header, ReplyType::DuplicateOk, Bytes::new())
            }
            Err(error) => {
                self.session.end_wait(wait);
                Err(error.into())
            }
        }
    }

    /// Replies to a get when its object comes to exist.
    fn wait_for(&mut self, header: &RequestHeader) -> Result<(), Refusal> {
        let wait = self.begin_wait()?;
        let session = Arc::clone(&self.session);
        let header = *header;
        let answer = move |object| {
            let reply = Reply::new(header.id, header.request_id, ReplyType::GetOk, wanted(object, &header));
            session.come_due(wait, Due::Reply(reply));
        };
        match self.shared.store.get_or_park(&header.id, answer) {
            Ok(Parked::Waiting(ticket)) => {
                self.session.parked(wait, ticket);
                self.requests += 1;
                Ok(())
            }
            Ok(Parked::Ready(object)) => {
                self.session.end_wait(wait);
                self.reply(&header, ReplyType::GetOk, wanted(object, &header))
            }
            Err(error) => {
                self.session.end_wait(wait);
                Err(error.into())
            }
        }
    }

    fn begin_wait(&self) -> Result<u64, TooManyWaits> {
        let options = &self.shared.options;
        self.session.begin_wait(options.waits_max, options.waits_total_max)
    }

    /// Queues a reply, behind those that this very request made due, if it did.
    #[inline]
    fn reply(&mut self, header: &RequestHeader, reply_type: ReplyType, payload: Bytes) -> Result<(), Refusal> {
        self.push(Reply::new(header.id, header.request_id, reply_type, payload))
    }

    #[inline]
    fn push(&mut self, reply: Reply) -> Result<(), Refusal> {
        self.requests += 1;
        if self.control.is_raised(Signal::Due) {
            self.session.push(reply);
            return self.collect();
        }
        self.outbox.push(reply);
        Ok(())
    }
}

/// The first bytes of the object, as many as the client wants.
#[inline]
fn wanted(object: Object, header: &RequestHeader) -> Bytes {
    let mut data = object.data;
    data.truncate(usize::try_from(header.payload_length).unwrap_or(usize::MAX));
    data
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.shared.counters.requests.add(self.requests);
    }
}
