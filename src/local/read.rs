//! Reading: from an id to its record, its body and an object; checks what an earlier open wrote; lets damaged objects go.

use std::io::ErrorKind;
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::bodies::Stretch;
use super::disk::DiskFile;
use super::files::mapping::Mapping;
use super::files::readers::Session;
use super::index::liveness::Standing;
use super::journal::record::{HEADER_BYTES, InlineRecord, RECORD_BYTES_MAX};
use super::journal::{Flags, Header, Lsn, Segment, SegmentMap};
use super::tier::LocalTier;
use crate::error::Error;
use crate::fork;
use crate::object::Object;

/// Bodies up to this length are handed out as copies: a reference would keep a whole segment on disk for them.
const COPIED_BODY_BYTES_MAX: u64 = (16 << 10) - 1;

/// How often a get starts again because the object moved before it was checked. After that, a missing file is an error.
const MOVES_MAX: u32 = 8;

/// How much of a body is read at a time to check it.
const VERIFY_BYTES: usize = 1 << 20;

/// A deadline in the past, for an object that is hidden.
const PASSED_MS: u64 = 1;

/// A record as it stands in its segment.
pub(super) struct RecordAt {
    pub header: Header,
    pub mapping: Arc<Mapping>,
    pub lsn: Lsn,
    /// Set if the bytes come from an earlier open and have not been checked in this one.
    pub unverified: Option<Arc<Segment>>,
}

/// Why a record's bytes cannot be had.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// The bytes are not what was written: a checksum or the layout proves it.
    Damaged(&'static str),
    /// The bytes could not be read this time, which proves nothing about them.
    Failed(Error),
}

/// An id's record that cannot be served.
pub(super) struct Trouble {
    pub lsn: Lsn,
    /// What the record says, where that much of it is whole.
    pub header: Option<Box<Header>>,
    pub unreadable: Unreadable,
}

/// Where the bytes of an object are. They are not overwritten for as long as this is held.
pub(super) struct Located {
    /// The header of the id's own record.
    pub header: Header,
    /// The record that holds the body: the id's own, or the one whose payload it shares.
    pub holder: RecordAt,
    pub stretch: Option<Arc<Stretch>>,
}

impl RecordAt {
    pub fn id(&self) -> &[u8] {
        let at = u64::from(self.lsn.offset()) + HEADER_BYTES as u64;
        self.mapping.slice(at, u64::from(self.header.id_bytes)).unwrap_or_default()
    }

    /// The inline body: metadata, then data.
    pub fn body(&self) -> &[u8] {
        let at = u64::from(self.lsn.offset()) + self.header.body_offset() as u64;
        self.mapping.slice(at, self.header.body_bytes()).unwrap_or_default()
    }

    /// Checks the header's checksum, and an inline body's.
    pub fn verify(&self, segment: &Segment) -> Result<(), Unreadable> {
        let mut bytes = vec![0; self.header.record_bytes().min(RECORD_BYTES_MAX)];
        // With pread, so that a medium that fails is an error here and not a signal.
        read_piece(segment, &*open(segment)?, &mut bytes, u64::from(self.lsn.offset()))?;
        let (header, _) =
            Header::decode(&bytes, segment.nonce, self.lsn).ok_or(Unreadable::Damaged("its header is not valid"))?;
        if header.is_inline() {
            let body = bytes.get(header.body_offset()..header.record_bytes()).unwrap_or_default();
            if xxhash_rust::xxh3::xxh3_128(body) != header.body_hash {
                return Err(Unreadable::Damaged("its body's checksum is wrong"));
            }
        }
        Ok(())
    }
}

impl LocalTier {
    /// The object; a large one shares the journal's map instead of being copied.
    pub fn get(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        if let Some(object) = self.get_small(id) {
            return Ok(Some(object));
        }
        let mut tries = 0;
        loop {
            // Held until the bytes are handed out: after a close, another process may write where they stand.
            let _inside = self.gate.enter()?;
            match self.read_found(id, self.locate(id)) {
                // The segment was reclaimed before the object could be checked: the object has moved.
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound && tries < MOVES_MAX => {
                    tries += 1
                }
                found => return Ok(found?.map(|(_, object)| object)),
            }
        }
    }

    /// The common case, a small inline body that was checked before. None for everything else.
    #[inline]
    fn get_small(&self, id: &[u8]) -> Option<Object> {
        let index = self.index();
        let fingerprint = index.fingerprint(id);
        let table = index.shard(fingerprint).table.read();
        let lsn = table.find_fingerprint(fingerprint)?;
        // While the shard is locked, no segment that one of its places is in is removed.
        let segments = self.segments.load();
        let segment = segments.get(&lsn.segment())?;
        let mapping = segment.mapping();
        let mapping = mapping.as_deref()?;
        drop(table);
        if segment.needs_verification(lsn.offset()) {
            return None;
        }
        let offset = u64::from(lsn.offset());
        let record = InlineRecord::parse(|from, bytes| mapping.slice(offset + from, bytes))?;
        let is_small = (record.metadata.len() + record.data.len()) as u64 <= COPIED_BODY_BYTES_MAX;
        let is_over = self.journal.time().is_past(record.deadline_ms);
        if !is_small || record.id != id || is_over || self.is_hidden(lsn) {
            return None;
        }
        if self.outbox.is_some() {
            segment.set_read(lsn.offset());
        }
        Some(Object { data: copy(record.data), metadata: copy(record.metadata) })
    }

    /// The object that a writer has just entered, for its waiters; None if it cannot be read back, so that they wait on. The caller holds
    /// the id, so that damage is left to the next get.
    pub(super) fn get_locked(&self, id: &[u8]) -> Option<Object> {
        let _inside = self.gate.enter().ok()?;
        let found = self.locate(id).ok()??;
        self.verified(&found).ok()?;
        self.hand_out(found).ok()
    }

    /// Reads what `locate` has found for the id.
    pub(super) fn read_found(
        &self,
        id: &[u8],
        located: Result<Option<Located>, Trouble>,
    ) -> Result<Option<(Header, Object)>, Error> {
        match located {
            Ok(None) => Ok(None),
            Ok(Some(found)) => match self.verified(&found) {
                Ok(()) => Ok(Some((found.header, self.hand_out(found)?))),
                Err(unreadable) => {
                    let (lsn, header) = (found.header.lsn, Some(Box::new(found.header)));
                    self.unreadable(id, Trouble { lsn, header, unreadable }).map(|()| None)
                }
            },
            Err(trouble) => self.unreadable(id, trouble).map(|()| None),
        }
    }

    pub fn contains(&self, id: &[u8]) -> Result<bool, Error> {
        match self.locate(id) {
            Ok(found) => Ok(found.is_some()),
            Err(trouble) => self.unreadable(id, trouble).map(|()| false),
        }
    }

    /// Finds the id's record and its body, and counts it as read. The shard is locked only in here; what was found stays readable afterwards.
    pub(super) fn locate(&self, id: &[u8]) -> Result<Option<Located>, Trouble> {
        let located = self.locate_unread(id)?;
        if let Some(Located { header, .. }) = &located
            && self.outbox.is_some()
            && let Some(segment) = self.segments.load().get(&header.lsn.segment())
        {
            segment.set_read(header.lsn.offset());
        }
        Ok(located)
    }

    /// As `locate`, but it does not count as read.
    pub(super) fn locate_unread(&self, id: &[u8]) -> Result<Option<Located>, Trouble> {
        let fingerprint = self.index().fingerprint(id);
        let table = self.index().shard(fingerprint).table.read();
        let segments = self.segments.load();
        let lsns = (table.find_fingerprint(fingerprint), table.find_collision(id));
        let Some(record) = self.find_record(&segments, lsns, id)? else { return Ok(None) };
        if self.journal.is_over(&record.header) || self.is_hidden(record.lsn) {
            return Ok(None);
        }
        let (lsn, header) = (record.lsn, record.header);
        let found = self.with_body(&segments, record);
        found.map(Some).map_err(|unreadable| Trouble { lsn, header: Some(Box::new(header)), unreadable })
    }

    /// The id's record, at the place of its fingerprint or, if that is another id's, at its place among the collisions.
    fn find_record(
        &self,
        segments: &SegmentMap,
        (lsn, collision): (Option<Lsn>, Option<Lsn>),
        id: &[u8],
    ) -> Result<Option<RecordAt>, Trouble> {
        let read = |lsn| self.record_in(segments, lsn).map_err(|unreadable| Trouble { lsn, header: None, unreadable });
        let found = lsn.map(read).transpose();
        match (found, collision) {
            (Ok(Some(record)), _) if record.id() == id => Ok(Some(record)),
            (_, Some(collision)) => read(collision).map(Some),
            // The record is that of another id with the same fingerprint.
            (Ok(_), None) => Ok(None),
            // The record cannot be read, so only the fingerprint says that it is this id's.
            (Err(trouble), None) => Err(trouble),
        }
    }

    /// The record that counts for the id. A damaged one is let go, and then there is none. The caller holds the id.
    pub(super) fn standing(&self, fingerprint: u64, id: &[u8]) -> Result<Option<Standing>, Error> {
        let found = {
            let table = self.index().shard(fingerprint).table.read();
            let lsns = (table.find_fingerprint(fingerprint), table.find_collision(id));
            self.find_record(&self.segments.load(), lsns, id)
        };
        match found {
            Ok(found) => Ok(found.map(|RecordAt { lsn, mut header, .. }| {
                if self.is_hidden(lsn) {
                    header.deadline_ms = PASSED_MS;
                }
                Standing { lsn, header }
            })),
            Err(Trouble { unreadable: Unreadable::Failed(error), .. }) => Err(error),
            Err(Trouble { lsn, header, unreadable: Unreadable::Damaged(reason) }) => {
                self.lose(fingerprint, id, lsn, header.map(|header| *header), reason);
                Ok(None)
            }
        }
    }

    /// Adds to an id's record the place of its body.
    fn with_body(&self, segments: &SegmentMap, record: RecordAt) -> Result<Located, Unreadable> {
        let header = record.header;
        if !header.flags.has(Flags::SHARED) {
            let stretch = self.stretch_of(&record.header)?;
            return Ok(Located { header, holder: record, stretch });
        }
        if let Some(segment) = &record.unverified {
            record.verify(segment)?;
            segment.set_verified(record.lsn.offset());
        }
        // While the payload's holder is looked up, neither it nor its body is moved away.
        self.liveness.payloads().at_holder(header.payload, |holder| {
            let holder = holder.ok_or(Unreadable::Damaged("the payload that it shares is lost"))?;
            // The holder may have moved to a segment that is newer than `segments`.
            let holder = match segments.contains_key(&holder.segment()) {
                true => self.record_in(segments, holder)?,
                false => self.record_in(&self.segments.load(), holder)?,
            };
            let stretch = self.stretch_of(&holder.header)?;
            Ok(Located { header, holder, stretch })
        })
    }

    fn stretch_of(&self, header: &Header) -> Result<Option<Arc<Stretch>>, Unreadable> {
        if !header.flags.has(Flags::EXTERNAL) {
            return Ok(None);
        }
        self.bodies.find(header.body_place).map(Some).ok_or(Unreadable::Damaged("its body is lost"))
    }

    /// The header of the record at `lsn`, if its body has these bytes. The caller need not hold the place: the answer is about the bytes, even
    /// if the record has moved since.
    pub(super) fn holds(&self, lsn: Lsn, metadata: &[u8], data: &[u8]) -> Result<Option<Header>, Unreadable> {
        let segments = self.segments.load();
        let record = self.record_in(&segments, lsn)?;
        let header = record.header;
        if u64::from(header.metadata_bytes) != metadata.len() as u64 || header.data_bytes != data.len() as u64 {
            return Ok(None);
        }
        let found = self.with_body(&segments, record)?;
        self.verified(&found)?;
        let is_equal = |body: &[u8]| body.split_at_checked(metadata.len()).is_some_and(|it| it == (metadata, data));
        Ok(self.read_body(&found, is_equal)?.then_some(header))
    }

    fn record_in(&self, segments: &SegmentMap, lsn: Lsn) -> Result<RecordAt, Unreadable> {
        let segment = segments.get(&lsn.segment()).ok_or(Unreadable::Damaged("its segment is missing"))?;
        let mapping = self.segments.mapping(segment).map_err(Unreadable::Failed)?;
        let offset = u64::from(lsn.offset());
        let unverified = segment.needs_verification(lsn.offset()).then(|| Arc::clone(segment));
        let header = mapping.slice(offset, HEADER_BYTES as u64).and_then(|fixed| {
            let bytes = mapping.slice(offset, HEADER_BYTES as u64 + Header::id_bytes(fixed)?)?;
            // What an earlier process wrote is checked first, as its lengths and places are acted upon.
            if unverified.is_some() { Header::decode(bytes, segment.nonce, lsn) } else { Header::parse(bytes) }
        });
        let Some((header, _)) = header else {
            return Err(Unreadable::Damaged("its header is not valid"));
        };
        Ok(RecordAt { header, mapping, lsn, unverified })
    }

    /// The record at `lsn`. The caller must know that its segment is not removed meanwhile.
    pub(super) fn record_at(&self, lsn: Lsn) -> Result<RecordAt, Unreadable> {
        self.record_in(&self.segments.load(), lsn)
    }

    /// Checks, once in this open, what an earlier open wrote.
    pub(super) fn verified(&self, found: &Located) -> Result<(), Unreadable> {
        if let Some(segment) = &found.holder.unverified {
            found.holder.verify(segment)?;
            segment.set_verified(found.holder.lsn.offset());
        }
        // Checked apart from its record, which may have been copied in this open.
        if let Some(stretch) = &found.stretch
            && stretch.segment.needs_verification(stretch.place.offset)
        {
            verify_body(&stretch.segment, u64::from(stretch.place.offset), &found.holder.header)?;
            stretch.segment.set_verified(stretch.place.offset);
        }
        Ok(())
    }

    /// The map that the body is in, and its offset there.
    fn body_in(&self, found: &Located) -> Result<(Arc<Mapping>, u64), Error> {
        let holder = &found.holder;
        Ok(match &found.stretch {
            None => {
                let offset = u64::from(holder.lsn.offset()) + holder.header.body_offset() as u64;
                (Arc::clone(&holder.mapping), offset)
            }
            Some(stretch) => (self.segments.mapping(&stretch.segment)?, u64::from(stretch.place.offset)),
        })
    }

    fn read_body<T>(&self, found: &Located, read: impl FnOnce(&[u8]) -> T) -> Result<T, Unreadable> {
        let (mapping, offset) = self.body_in(found).map_err(Unreadable::Failed)?;
        let body = mapping.slice(offset, found.holder.header.body_bytes());
        Ok(read(body.ok_or(Unreadable::Damaged("its body is cut short"))?))
    }

    /// Makes an object of what was located: a copy of a small body, or bytes that hold the map.
    pub(super) fn hand_out(&self, found: Located) -> Result<Object, Error> {
        let body_bytes = found.holder.header.body_bytes();
        let metadata_bytes = found.header.metadata_bytes as usize;
        let (mapping, offset) = self.body_in(&found)?;
        let copied = |mapping: &Mapping| {
            let body = mapping.slice(offset, body_bytes).unwrap_or_default();
            let (metadata, data) = body.split_at_checked(metadata_bytes).unwrap_or_default();
            Object { data: copy(data), metadata: copy(metadata) }
        };
        let is_small = found.stretch.is_none() && body_bytes <= COPIED_BODY_BYTES_MAX;
        if is_small || self.space.is_pinned_down() {
            return Ok(copied(&mapping));
        }
        let hold = match found.stretch {
            None => None,
            Some(stretch) => match self.readers.session(fork::count()) {
                Some(session) => Some(Hold { stretch, session }),
                None => return Ok(copied(&mapping)),
            },
        };
        let body =
            Body { mapping: Arc::clone(&mapping), offset, bytes: body_bytes, hold, generation: fork::generation() };
        // If a fork has begun meanwhile, the child may or may not have the session.
        if body.hold.as_ref().is_some_and(|hold| !hold.session.is_current()) {
            return Ok(copied(&mapping));
        }
        let mut metadata = Bytes::from_owner(body);
        let data = metadata.split_off(metadata_bytes);
        Ok(Object { data, metadata: copy(&metadata) })
    }

    /// Deals with a record that cannot be served. One that could not be read is an error. A damaged one is let go, and is a miss, with a line
    /// in the log and one on the counter.
    fn unreadable(&self, id: &[u8], trouble: Trouble) -> Result<(), Error> {
        let Trouble { lsn, header, unreadable } = trouble;
        let reason = match unreadable {
            Unreadable::Failed(error) => return Err(error),
            Unreadable::Damaged(reason) => reason,
        };
        let fingerprint = self.index().fingerprint(id);
        let shard = self.index().shard(fingerprint);
        let _writing = shard.writing.lock();
        let stands = shard.table.read().stands_at(fingerprint, id, lsn);
        if stands {
            self.lose(fingerprint, id, lsn, header.map(|header| *header), reason);
        }
        Ok(())
    }
}

/// Keeps the bytes of a large body from being overwritten.
struct Hold {
    stretch: Arc<Stretch>,
    session: Arc<Session>,
}

/// A body in a map: the owner of handed-out `Bytes`.
struct Body {
    mapping: Arc<Mapping>,
    offset: u64,
    bytes: u64,
    hold: Option<Hold>,
    /// The fork generation of the process that handed it out.
    generation: u64,
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        self.mapping.slice(self.offset, self.bytes).unwrap_or_default()
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let Some(Hold { stretch, session }) = self.hold.take() else { return };
        if self.generation != fork::generation() {
            // In a forked child nothing here is its own, and the parent's threads may have left any lock taken.
            std::mem::forget((stretch, session, Arc::clone(&self.mapping)));
        } else if !session.is_current() {
            session.withhold(Box::new(stretch));
        }
    }
}

fn copy(bytes: &[u8]) -> Bytes {
    if bytes.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(bytes) }
}

fn open(segment: &Segment) -> Result<Arc<dyn DiskFile>, Unreadable> {
    segment.file().map_err(|error| Unreadable::Failed(Error::io("open", segment.path())(error)))
}

/// Reads bytes that must be there: an end of the file is damage; any other error proves nothing about them.
fn read_piece(segment: &Segment, file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> Result<(), Unreadable> {
    match file.read_exact_at(buffer, offset) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(Unreadable::Damaged("it is cut short")),
        Err(error) => Err(Unreadable::Failed(Error::io("read", segment.path())(error))),
    }
}

/// Checks a body that stands in a body segment.
pub(super) fn verify_body(segment: &Segment, mut offset: u64, header: &Header) -> Result<(), Unreadable> {
    let file = open(segment)?;
    let mut hasher = Xxh3::new();
    let mut buffer = vec![0; VERIFY_BYTES.min(header.body_bytes() as usize)];
    let end = offset.saturating_add(header.body_bytes());
    while offset < end {
        let length = buffer.len().min((end - offset) as usize);
        let piece = buffer.get_mut(..length).unwrap_or_default();
        read_piece(segment, &*file, piece, offset)?;
        hasher.update(piece);
        offset += length as u64;
    }
    if hasher.digest128() == header.body_hash {
        Ok(())
    } else {
        Err(Unreadable::Damaged("its body's checksum is wrong"))
    }
}

#[cfg(test)]
mod tests;
