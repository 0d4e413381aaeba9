//! Large objects, which an attached process writes to their place by itself; the keeper makes the place, and the record.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use super::attached::{Attached, Call, Called, ROOM_WAIT_MAX, no_slot};
use super::holding::{Holding, Slot};
use super::messages::{Reply, Request};
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
            placed: None,
        }))
    }

    /// Writes a large object to its place, and has the keeper store it.
    pub(super) fn put_large(&self, id: &[u8], data: &[u8], metadata: &[u8], stored: OnStored<'_>) -> Result<(), Error> {
        let mut hasher = Xxh3::new();
        hasher.update(metadata);
        hasher.update(data);
        let body_hash = hasher.digest128();
        loop {
            let room = self.reserve_room("put", id, data.len() as u64, metadata.len() as u32)?;
            room.write(metadata, 0)?;
            room.write(data, metadata.len() as u64)?;
            if self.commit(room, "put", body_hash, stored)? {
                return Ok(());
            }
        }
    }

    fn reserve_room(
        &self,
        action: &'static str,
        id: &[u8],
        data_bytes: u64,
        metadata_bytes: u32,
    ) -> Result<Room, Error> {
        let call = Call { wait: ROOM_WAIT_MAX, ..Call::new(action) };
        let build = |ticket| Request::Reserve { ticket, id, data_bytes, metadata_bytes };
        let Called { session, slot, answered } = self.call(&call, Holding::slot_to_write, build)?;
        let failed = |reason: &str| Error::WriteFailed { id: ObjectId::new(id), reason: reason.to_owned() };
        let reply = answered.reply().map_err(|malformed| self.unanswered(action, &malformed.into()))?;
        let Reply::Reserved { offset, .. } = reply else { return self.nonsense(action) };
        let slot = slot.ok_or_else(|| failed("this process writes too many objects at the same time"))?;
        let file = answered
            .frame
            .files
            .into_iter()
            .next()
            .ok_or_else(|| failed("no descriptor is left for the file that it goes to"))?;
        Ok(Room { session, slot, file, offset, id: id.into(), directory: self.directory.clone() })
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
        let asked = self.ask_this(&session, &call, &request, Some(&room.slot))?;
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

/// An object whose data arrives in pieces: gathered while it may be sent at the end, from then on written to its place.
struct AttachedWriter {
    attached: Arc<Attached>,
    id: Box<[u8]>,
    data_bytes: u64,
    metadata: Box<[u8]>,
    gathered: Vec<u8>,
    placed: Option<PlacedWriter>,
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

impl Writer for AttachedWriter {
    fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        if let Some(placed) = &mut self.placed {
            return placed.write(piece);
        }
        let bytes = (self.metadata.len() + self.gathered.len() + piece.len()) as u64;
        if bytes <= UNSHARED_BYTES_MAX {
            self.gathered.extend_from_slice(piece);
            return Ok(());
        }
        let room = self.attached.reserve_room("writer", &self.id, self.data_bytes, self.metadata.len() as u32)?;
        let mut placed = PlacedWriter { room, at: 0, hasher: Box::default() };
        placed.write(&self.metadata)?;
        placed.write(&std::mem::take(&mut self.gathered))?;
        placed.write(piece)?;
        self.placed = Some(placed);
        Ok(())
    }

    fn commit(self: Box<Self>, stored: OnStored<'_>) -> Result<(), Error> {
        let AttachedWriter { attached, id, metadata, gathered, placed, .. } = *self;
        let Some(PlacedWriter { room, hasher, .. }) = placed else {
            return attached.put(&id, &gathered, &metadata, stored);
        };
        match attached.commit(room, "commit", hasher.digest128(), stored)? {
            true => Ok(()),
            false => {
                let reason = "its keeper has ended meanwhile".to_owned();
                Err(Error::WriteFailed { id: ObjectId::new(&id), reason })
            }
        }
    }
}
