//! Large objects, which an attached process writes to their place by itself; the keeper makes the place, and the record. Without a slot for the
//! place, they are sent.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use xxhash_rust::xxh3::Xxh3;

use super::attached::{Attached, Call, Called, ROOM_WAIT_MAX, no_slot};
use super::holding::Slot;
use super::messages::{Reply, Request, SLICE};
use super::sending::Sending;
use super::session::Session;
use crate::backend::{Backend, OnStored, Writer};
use crate::error::Error;
use crate::id::ObjectId;
use crate::local::UNSHARED_BYTES_MAX;

impl Attached {
    /// An object that arrives in pieces; refused at once where there is no room for so much.
    pub(super) fn begin_writing(&self, id: &[u8], data_bytes: u64, metadata: &[u8]) -> Result<Box<dyn Writer>, Error> {
        let bytes = data_bytes.saturating_add(metadata.len() as u64);
        if bytes > UNSHARED_BYTES_MAX {
            let called = self.call(&Call::new("writer"), no_slot, |_| Request::Admit { id, bytes })?;
            self.done("writer", called, &mut |_| {})?;
        }
        Ok(Box::new(AttachedWriter {
            attached: self.this()?,
            id: id.into(),
            data_bytes,
            metadata: metadata.into(),
            gathered: Vec::new(),
            body: None,
        }))
    }

    /// Writes a large object to its place, and has the keeper store it.
    pub(super) fn put_large(&self, id: &[u8], data: &[u8], metadata: &[u8], stored: OnStored<'_>) -> Result<(), Error> {
        let mut body_hash = None;
        loop {
            let is_stored = match self.begin_body("put", id, data.len() as u64, metadata)? {
                Begun::Room(room) => {
                    room.write(metadata, 0)?;
                    room.write(data, metadata.len() as u64)?;
                    let body_hash = *body_hash.get_or_insert_with(|| {
                        let mut hasher = Xxh3::new();
                        hasher.update(metadata);
                        hasher.update(data);
                        hasher.digest128()
                    });
                    self.commit(room, "put", body_hash, stored)?
                }
                Begun::Sending(mut sending) => sending.send(data)? && sending.finish("put", stored)?,
            };
            if is_stored {
                return Ok(());
            }
        }
    }

    /// Room for the body where the keeper has reserved some, in a slot; without a slot, it is sent.
    fn begin_body(&self, action: &'static str, id: &[u8], data_bytes: u64, metadata: &[u8]) -> Result<Begun, Error> {
        let call = Call { wait: ROOM_WAIT_MAX, ..Call::new(action) };
        let metadata_bytes = metadata.len() as u32;
        let keeper_limit = self.keeper_limit();
        loop {
            let session = self.session(keeper_limit)?;
            self.ask_for_slots(&session)?;
            let begun = match session.holding.slot_to_write() {
                Some(slot) => {
                    let request = Request::Reserve { ticket: slot.ticket, id, data_bytes, metadata_bytes };
                    let asked = self.ask_once(&session, &call, &request, Some(&slot))?;
                    asked
                        .map(|answered| self.room(Called { session, slot: Some(slot), answered }, action, id))
                        .transpose()?
                }
                None => self.begin_sending(&session, action, (id, data_bytes, metadata))?.map(Begun::Sending),
            };
            match begun {
                Some(begun) => return Ok(begun),
                None if Instant::now() >= keeper_limit => return Err(self.detached("its keeper cannot take the call")),
                None => self.rest(SLICE / 10)?,
            }
        }
    }

    fn room(&self, called: Called, action: &'static str, id: &[u8]) -> Result<Begun, Error> {
        let Called { session, slot, answered } = called;
        let reply = answered.reply().map_err(|malformed| self.unanswered(action, &malformed.into()))?;
        let (Reply::Reserved { offset, .. }, Some(slot)) = (reply, slot) else { return self.nonsense(action) };
        let file = answered.frame.files.into_iter().next().ok_or_else(|| Error::WriteFailed {
            id: ObjectId::new(id),
            reason: "no descriptor is left for the file that it goes to".to_owned(),
        })?;
        Ok(Begun::Room(Room { session, slot, file, offset, id: id.into(), directory: self.directory.clone() }))
    }

    /// Whether the object is stored now; false where the keeper that had the room is gone, which has changed nothing.
    fn commit(&self, room: Room, action: &'static str, body_hash: u128, stored: OnStored<'_>) -> Result<bool, Error> {
        let session = Arc::clone(&room.session);
        if !session.is_current() {
            return Ok(false);
        }
        self.announce(&room.id);
        let call = Call { is_repeatable: false, wait: ROOM_WAIT_MAX, ..Call::new(action) };
        let request = Request::Commit { body_hash };
        let asked = self.ask_while_current(&session, &call, &request, Some(&room.slot))?;
        let Some(answered) = asked else { return Ok(false) };
        self.done(action, Called { session, slot: Some(room.slot), answered }, stored)
    }
}

/// A place in a segment that this process writes to. The slot goes last: until then the keeper lets nobody else have the place.
struct Room {
    session: Arc<Session>,
    file: File,
    offset: u64,
    id: Box<[u8]>,
    directory: PathBuf,
    slot: Slot,
}

impl Room {
    fn write(&self, piece: &[u8], at: u64) -> Result<(), Error> {
        let written = self.file.write_all_at(piece, self.offset + at);
        written.map_err(Error::io("write a body in", &self.directory))
    }
}

/// How a large object gets to where it belongs.
enum Begun {
    Room(Room),
    Sending(Sending),
}

/// An object whose data arrives in pieces: gathered while it may be sent in one at the end, from then on written to its place, or sent.
struct AttachedWriter {
    attached: Arc<Attached>,
    id: Box<[u8]>,
    data_bytes: u64,
    metadata: Box<[u8]>,
    gathered: Vec<u8>,
    body: Option<Body>,
}

enum Body {
    Placed(PlacedWriter),
    Sent(Sending),
}

struct PlacedWriter {
    room: Room,
    at: u64,
    hasher: Box<Xxh3>,
}

impl PlacedWriter {
    fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.room.write(piece, self.at)?;
        self.hasher.update(piece);
        self.at += piece.len() as u64;
        Ok(())
    }
}

impl AttachedWriter {
    fn begin_body(&self) -> Result<Body, Error> {
        let begun = self.attached.begin_body("writer", &self.id, self.data_bytes, &self.metadata)?;
        Ok(match begun {
            Begun::Room(room) => {
                let mut placed = PlacedWriter { room, at: 0, hasher: Box::default() };
                placed.write(&self.metadata)?;
                Body::Placed(placed)
            }
            Begun::Sending(sending) => Body::Sent(sending),
        })
    }

    fn keeper_has_ended(id: &[u8]) -> Error {
        Error::WriteFailed { id: ObjectId::new(id), reason: "its keeper has ended meanwhile".to_owned() }
    }
}

impl Body {
    fn write(&mut self, id: &[u8], piece: &[u8]) -> Result<(), Error> {
        match self {
            Body::Placed(placed) => placed.write(piece),
            Body::Sent(sending) => match sending.send(piece)? {
                true => Ok(()),
                false => Err(AttachedWriter::keeper_has_ended(id)),
            },
        }
    }
}

impl Writer for AttachedWriter {
    fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        if let Some(body) = &mut self.body {
            return body.write(&self.id, piece);
        }
        let bytes = (self.metadata.len() + self.gathered.len() + piece.len()) as u64;
        if bytes <= UNSHARED_BYTES_MAX {
            self.gathered.extend_from_slice(piece);
            return Ok(());
        }
        let mut body = self.begin_body()?;
        body.write(&self.id, &std::mem::take(&mut self.gathered))?;
        body.write(&self.id, piece)?;
        self.body = Some(body);
        Ok(())
    }

    fn commit(self: Box<Self>, stored: OnStored<'_>) -> Result<(), Error> {
        let AttachedWriter { attached, id, metadata, gathered, body, .. } = *self;
        let is_stored = match body {
            None => return attached.put(&id, &gathered, &metadata, stored),
            Some(Body::Placed(PlacedWriter { room, hasher, .. })) => {
                attached.commit(room, "commit", hasher.digest128(), stored)?
            }
            Some(Body::Sent(sending)) => sending.finish("commit", stored)?,
        };
        if is_stored { Ok(()) } else { Err(AttachedWriter::keeper_has_ended(&id)) }
    }
}
