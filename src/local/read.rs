use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::bodies::Stretch;
use super::files::mapping::Mapping;
use super::journal::record::{HEADER_BYTES, InlineRecord, RECORD_BYTES_MAX, is_past};
use super::journal::{Flags, Header, Lsn, Segment, SegmentMap};
use super::tier::LocalTier;
use crate::error::Error;
use crate::object::{Object, ObjectId};

/// Shorter bodies are handed out as copies: a reference would keep a whole segment on disk for them.
const COPIED_BODY_BYTES_MAX: u64 = (16 << 10) - 1;

/// How much of a body is read at a time to check it.
const VERIFY_BYTES: usize = 1 << 20;

/// A record as it stands in its segment.
pub(super) struct RecordAt {
    pub header: Header,
    pub mapping: Arc<Mapping>,
    place: Lsn,
    /// Its bytes come from an earlier open, and were not checked since.
    pub unverified: Option<Arc<Segment>>,
}

/// Why a record's bytes cannot be had.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// They are not what was written.
    Damaged(&'static str),
    Failed(Error),
}

/// Where the bytes of an object are.
struct Found {
    /// The record of the id.
    place: Lsn,
    /// The record that holds the body: the same, or the one that it shares.
    holder: RecordAt,
    metadata_bytes: u64,
    stretch: Option<Arc<Stretch>>,
}

impl RecordAt {
    pub fn id(&self) -> &[u8] {
        let at = u64::from(self.place.offset()) + HEADER_BYTES as u64;
        self.mapping.slice(at, u64::from(self.header.id_bytes)).unwrap_or_default()
    }

    /// The inline body: metadata, then data.
    pub fn body(&self) -> &[u8] {
        let at = u64::from(self.place.offset()) + self.header.body_offset() as u64;
        self.mapping.slice(at, self.header.body_bytes()).unwrap_or_default()
    }

    /// Checks the header's checksum, and an inline body's.
    pub fn verify(&self, segment: &Segment) -> Result<(), Unreadable> {
        let mut bytes = vec![0; self.header.record_bytes().min(RECORD_BYTES_MAX)];
        // With pread, so that a medium that fails is an error here and not a signal.
        let read = segment.file().and_then(|file| file.read_exact_at(&mut bytes, u64::from(self.place.offset())));
        read.map_err(|_| Unreadable::Damaged("the disk cannot read it"))?;
        let (header, _) =
            Header::decode(&bytes, segment.nonce, self.place).ok_or(Unreadable::Damaged("its header is not valid"))?;
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
    /// The object, sharing the journal's bytes where that is worth it.
    pub fn get(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        if let Some(object) = self.get_small(id) {
            return Ok(Some(object));
        }
        match self.locate(id) {
            Ok(None) => Ok(None),
            Ok(Some(found)) => match self.verified(&found) {
                Ok(()) => self.hand_out(found).map(Some),
                Err(unreadable) => self.unreadable(id, found.place, unreadable).map(|()| None),
            },
            Err((place, unreadable)) => self.unreadable(id, place, unreadable).map(|()| None),
        }
    }

    /// The common case in one go: a small body that stands in its record, checked before. None for everything else.
    #[inline]
    fn get_small(&self, id: &[u8]) -> Option<Object> {
        let fingerprint = self.index.fingerprint(id);
        let table = self.index.shard(fingerprint).table.read();
        let place = table.find_fingerprint(fingerprint)?;
        // While the shard is locked, the segment of one of its places is not removed.
        let segments = self.segments.load();
        let segment = segments.get(&place.segment())?;
        let mapping = segment.mapping();
        let mapping = mapping.as_deref()?;
        drop(table);
        if segment.needs_verification(place.offset()) {
            return None;
        }
        let offset = u64::from(place.offset());
        let record = InlineRecord::parse(|from, bytes| mapping.slice(offset + from, bytes))?;
        let is_small = (record.metadata.len() + record.data.len()) as u64 <= COPIED_BODY_BYTES_MAX;
        if !is_small || record.id != id || is_past(record.deadline_ms) {
            return None;
        }
        if self.outbox.is_some() {
            segment.set_read(place.offset());
        }
        Some(Object { data: copy(record.data), metadata: copy(record.metadata) })
    }

    /// The object that a writer has just entered, for those who waited for it. The caller holds the id's shard, so damage is left for
    /// the next get to deal with.
    pub(super) fn get_locked(&self, id: &[u8]) -> Option<Object> {
        let found = self.locate(id).ok()??;
        self.verified(&found).ok()?;
        self.hand_out(found).ok()
    }

    /// The record at `place` and its object, for pushing it; None where it cannot be read. The next get deals with damage.
    pub(super) fn object_at(&self, place: Lsn) -> Option<(Header, Object)> {
        let record = self.record_at(place).ok()?;
        let header = record.header;
        let found = self.with_body(&self.segments.load(), record).ok()?;
        self.verified(&found).ok()?;
        Some((header, self.hand_out(found).ok()?))
    }

    pub fn contains(&self, id: &[u8]) -> Result<bool, Error> {
        match self.locate(id) {
            Ok(found) => Ok(found.is_some()),
            Err((place, unreadable)) => self.unreadable(id, place, unreadable).map(|()| false),
        }
    }

    /// Finds the id's record and its body. The shard is locked only here; what is found stays readable afterwards.
    fn locate(&self, id: &[u8]) -> Result<Option<Found>, (Lsn, Unreadable)> {
        let fingerprint = self.index.fingerprint(id);
        let table = self.index.shard(fingerprint).table.read();
        let segments = self.segments.load();
        let (mut found, mut damaged) = (None, None);
        if let Some(place) = table.find_fingerprint(fingerprint) {
            match self.record_in(&segments, place) {
                Ok(record) if record.id() == id => found = Some(record),
                // Another id with this fingerprint; unless the id itself is what is damaged.
                Ok(RecordAt { unverified: None, .. }) => {}
                Ok(record) => {
                    let unreadable = record.unverified.as_ref().and_then(|segment| record.verify(segment).err());
                    damaged = unreadable.map(|unreadable| (place, unreadable));
                }
                Err(unreadable) => damaged = Some((place, unreadable)),
            }
        }
        if found.is_none()
            && let Some(place) = table.find_collision(id)
        {
            found = Some(self.record_in(&segments, place).map_err(|unreadable| (place, unreadable))?);
        }
        let Some(record) = found else { return damaged.map_or(Ok(None), Err) };
        if record.header.is_expired() {
            return Ok(None);
        }
        let place = record.place;
        if self.outbox.is_some()
            && let Some(segment) = segments.get(&place.segment())
        {
            segment.set_read(place.offset());
        }
        self.with_body(&segments, record).map(Some).map_err(|unreadable| (place, unreadable))
    }

    /// Goes from an id's record to where its body is.
    fn with_body(&self, segments: &SegmentMap, record: RecordAt) -> Result<Found, Unreadable> {
        let place = record.place;
        let metadata_bytes = u64::from(record.header.metadata_bytes);
        let holder = if record.header.flags.has(Flags::SHARED) {
            if let Some(segment) = &record.unverified {
                record.verify(segment)?;
                segment.set_verified(place.offset());
            }
            // The table is held until the holder's record is found: it may not move in between.
            let places = self.payloads.places();
            let holder =
                places.place(record.header.payload).ok_or(Unreadable::Damaged("the payload that it shares is lost"))?;
            self.record_in(segments, holder).or_else(|_| self.record_at(holder))?
        } else {
            record
        };
        let stretch = if holder.header.flags.has(Flags::EXTERNAL) {
            Some(self.bodies.find(holder.header.body_place).ok_or(Unreadable::Damaged("its body is lost"))?)
        } else {
            None
        };
        Ok(Found { place, holder, metadata_bytes, stretch })
    }

    /// Whether the body of the record at `place` is these bytes; None where it cannot be read.
    pub(super) fn holds(&self, place: Lsn, metadata: &[u8], data: &[u8]) -> Option<bool> {
        let record = self.record_at(place).ok()?;
        let header = record.header;
        if u64::from(header.metadata_bytes) != metadata.len() as u64 || header.data_bytes != data.len() as u64 {
            return Some(false);
        }
        let found = self.with_body(&self.segments.load(), record).ok()?;
        self.verified(&found).ok()?;
        let object = self.hand_out(found).ok()?;
        Some(object.metadata == metadata && object.data == data)
    }

    /// Reads a record's header where the index, or the payload table, says that there is one.
    pub(super) fn record_at(&self, place: Lsn) -> Result<RecordAt, Unreadable> {
        self.record_in(&self.segments.load(), place)
    }

    fn record_in(&self, segments: &SegmentMap, place: Lsn) -> Result<RecordAt, Unreadable> {
        let segment = segments.get(&place.segment()).ok_or(Unreadable::Damaged("its segment is missing"))?;
        let mapping = self.segments.mapping(segment).map_err(Unreadable::Failed)?;
        let offset = u64::from(place.offset());
        let unverified = segment.needs_verification(place.offset()).then(|| Arc::clone(segment));
        let header = mapping.slice(offset, HEADER_BYTES as u64 + 1).and_then(|fixed| {
            let bytes = mapping.slice(offset, HEADER_BYTES as u64 + Header::id_bytes(fixed)?)?;
            // What an earlier process wrote is not believed unchecked: its lengths and places are acted upon.
            if unverified.is_some() { Header::decode(bytes, segment.nonce, place) } else { Header::parse(bytes) }
        });
        let Some((header, _)) = header else {
            return Err(Unreadable::Damaged("its header is not valid"));
        };
        Ok(RecordAt { header, mapping, place, unverified })
    }

    /// Checks, once in this open, what an earlier one wrote.
    fn verified(&self, found: &Found) -> Result<(), Unreadable> {
        let Some(segment) = &found.holder.unverified else { return Ok(()) };
        found.holder.verify(segment)?;
        if let Some(stretch) = &found.stretch {
            verify_body(&stretch.segment, u64::from(stretch.place.offset), &found.holder.header)?;
        }
        segment.set_verified(found.holder.place.offset());
        Ok(())
    }

    fn hand_out(&self, found: Found) -> Result<Object, Error> {
        let Found { holder, metadata_bytes, stretch, .. } = found;
        let body_bytes = holder.header.body_bytes();
        if stretch.is_none() && body_bytes <= COPIED_BODY_BYTES_MAX {
            let (metadata, data) = holder.body().split_at_checked(metadata_bytes as usize).unwrap_or_default();
            return Ok(Object { data: copy(data), metadata: copy(metadata) });
        }
        let (mapping, offset) = match &stretch {
            None => (holder.mapping, u64::from(holder.place.offset()) + holder.header.body_offset() as u64),
            Some(stretch) => (self.segments.mapping(&stretch.segment)?, u64::from(stretch.place.offset)),
        };
        let body = Bytes::from_owner(Body { mapping, offset, bytes: body_bytes, _stretch: stretch });
        if self.space.is_pinned_down() {
            let (metadata, data) = body.split_at_checked(metadata_bytes as usize).unwrap_or_default();
            return Ok(Object { data: copy(data), metadata: copy(metadata) });
        }
        let mut metadata = body;
        let data = metadata.split_off(metadata_bytes as usize);
        Ok(Object { data, metadata: copy(&metadata) })
    }

    /// A record that cannot be served: a miss, one line in the log and one on the counter, and the id is forgotten. What is
    /// merely out of reach at the moment is an error instead.
    fn unreadable(&self, id: &[u8], place: Lsn, unreadable: Unreadable) -> Result<(), Error> {
        let reason = match unreadable {
            Unreadable::Failed(error) => return Err(error),
            Unreadable::Damaged(reason) => reason,
        };
        let fingerprint = self.index.fingerprint(id);
        let shard = self.index.shard(fingerprint);
        let writing = shard.writing.lock();
        let mut table = shard.table.write();
        if table.find_fingerprint(fingerprint) != Some(place) && table.find_collision(id) != Some(place) {
            return Ok(());
        }
        table.remove(fingerprint, id, place);
        self.totals.count_damaged(1);
        drop(table);
        // A disk that fails for a while must not bring it back beside what is written meanwhile.
        let dropped = self.append_drop(id, place);
        drop(writing);
        tracing::error!("object {} at {place} is damaged: {reason}; it is treated as missing", ObjectId::new(id));
        if let Err(error) = dropped {
            tracing::warn!("{error}; the damaged object will be found again by the next open");
        }
        Ok(())
    }
}

/// A body in a map, for as long as somebody holds it.
struct Body {
    mapping: Arc<Mapping>,
    offset: u64,
    bytes: u64,
    _stretch: Option<Arc<Stretch>>,
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        self.mapping.slice(self.offset, self.bytes).unwrap_or_default()
    }
}

fn copy(bytes: &[u8]) -> Bytes {
    if bytes.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(bytes) }
}

/// Checks a body that stands in a body segment.
pub(super) fn verify_body(segment: &Segment, mut offset: u64, header: &Header) -> Result<(), Unreadable> {
    let file = segment.file().map_err(|error| Unreadable::Failed(Error::io("open", segment.path())(error)))?;
    let mut hasher = Xxh3::new();
    let mut buffer = vec![0; VERIFY_BYTES.min(header.body_bytes() as usize)];
    let end = offset.saturating_add(header.body_bytes());
    while offset < end {
        let length = buffer.len().min((end - offset) as usize);
        let piece = buffer.get_mut(..length).unwrap_or_default();
        match file.read_exact_at(piece, offset) {
            Ok(()) => hasher.update(piece),
            Err(_) => return Err(Unreadable::Damaged("the disk cannot read its body")),
        }
        offset += length as u64;
    }
    if hasher.digest128() == header.body_hash {
        Ok(())
    } else {
        Err(Unreadable::Damaged("its body's checksum is wrong"))
    }
}
