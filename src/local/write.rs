//! Writing: put, restore and duplicate, from a caller's bytes to the record in the journal and the index.

use super::bodies::{Reservation, Superseder};
use super::index::Index;
use super::index::liveness::Standing;
use super::index::payloads::EQUAL_BODY_BYTES_MIN;
use super::journal::record::{INLINE_BODY_BYTES_MAX, body_hash};
use super::journal::{AppendError, Flags, Header, Kind, Lsn, NewRecord, Purpose};
use super::options::Durability;
use super::sharing::outbox::Outbox;
use super::tier::{Kinds, LocalTier};
use crate::backend::{OnStored, Patience, Stored};
use crate::error::Error;
use crate::object::Object;
use crate::version::Version;

/// An object that is being stored, before its record is appended.
struct Incoming<'a> {
    data_bytes: u64,
    metadata_bytes: u32,
    body_hash: u128,
    body: IncomingBody<'a>,
    origin: Origin<'a>,
}

/// Why an object is stored.
#[derive(Clone, Copy)]
pub(super) enum Origin<'a> {
    /// A user of this node.
    Write,
    Fill(&'a Fill<'a>),
    Repeat(&'a RepeatedPut),
    Restore(&'a Restored),
}

impl Origin<'_> {
    /// Fills and repeated puts are written by threads that work for everybody, and so do not wait for room.
    fn patience(&self) -> Patience {
        match self {
            Origin::Write | Origin::Restore(_) => Patience::Caller,
            Origin::Fill(_) | Origin::Repeat(_) => Patience::Background,
        }
    }
}

/// What goes with a copy from Redis.
pub(crate) struct Fill<'a> {
    pub version: Version,
    pub deadline_ms: u64,
    /// Called under the id's lock: whether no event has named a newer version meanwhile.
    pub is_current: &'a dyn Fn() -> bool,
}

/// What goes with an object that had a version elsewhere, and is to have it here.
pub(crate) struct Restored {
    pub version: Version,
    pub deadline_ms: u64,
}

/// A put that is repeated with a version above `above`, for which Redis refused it, if its record still stands at `lsn`.
pub(crate) struct RepeatedPut {
    pub lsn: Lsn,
    pub above: Version,
    pub deadline_ms: u64,
}

/// Where the body of an object that is being stored is.
enum IncomingBody<'a> {
    Inline {
        metadata: &'a [u8],
        data: &'a [u8],
    },
    /// Written already to its stretch, which is kept when the record is appended.
    External(Option<Reservation>),
    /// An equal payload exists. A reference to it was taken, to be given back unless the record is appended.
    Equal {
        payload: Lsn,
    },
}

impl LocalTier {
    /// Stores an object: its body first where that is large, then its record, which makes it exist.
    pub fn put(&self, id: &[u8], data: &[u8], metadata: &[u8], stored: OnStored<'_>) -> Result<(), Error> {
        let bytes = data.len() as u64 + metadata.len() as u64;
        self.admit(id, bytes, Patience::Caller)?;
        self.hold_back(bytes, bytes <= INLINE_BODY_BYTES_MAX as u64);
        self.write_object(id, data, metadata, body_hash(metadata, data), Origin::Write, stored).map(drop)
    }

    /// As `put`, with the version that the object had elsewhere. False, with nothing changed, where this version or a later one stands, or where
    /// it is known that one was deleted.
    pub fn restore(
        &self,
        id: &[u8],
        object: &Object,
        restored: &Restored,
        stored: OnStored<'_>,
    ) -> Result<bool, Error> {
        self.journal.merge_clock(restored.version);
        let bytes = object.len() as u64;
        self.admit(id, bytes, Patience::Caller)?;
        self.hold_back(bytes, bytes <= INLINE_BODY_BYTES_MAX as u64);
        let (data, metadata) = (&object.data, &object.metadata);
        self.write_object(id, data, metadata, body_hash(metadata, data), Origin::Restore(restored), stored)
    }

    /// Stores the body where it belongs, then the record. False if a fill, a repeated or a restored put was overtaken, and so was not stored.
    pub(super) fn write_object(
        &self,
        id: &[u8],
        data: &[u8],
        metadata: &[u8],
        body_hash: u128,
        origin: Origin<'_>,
        stored: OnStored<'_>,
    ) -> Result<bool, Error> {
        let bytes = data.len() as u64 + metadata.len() as u64;
        let body = if let Some(payload) = self.find_equal(body_hash, metadata, data) {
            IncomingBody::Equal { payload }
        } else if bytes <= INLINE_BODY_BYTES_MAX as u64 {
            IncomingBody::Inline { metadata, data }
        } else {
            IncomingBody::External(Some(self.write_body(id, metadata, data, origin.patience())?))
        };
        let metadata_bytes = metadata.len() as u32;
        self.write_record(
            id,
            Incoming { data_bytes: data.len() as u64, metadata_bytes, body_hash, body, origin },
            stored,
        )
    }

    /// Appends the record of an object whose external body, if any, is written; then acknowledges it.
    fn write_record(&self, id: &[u8], mut incoming: Incoming<'_>, stored: OnStored<'_>) -> Result<bool, Error> {
        let bytes = incoming.data_bytes + u64::from(incoming.metadata_bytes);
        let patience = incoming.origin.patience();
        let kind = if matches!(incoming.body, IncomingBody::External(_)) { Kinds::Body } else { Kinds::Files };
        let result = self.with_room_of(kind, id, bytes, patience, || self.append_record(id, &mut incoming, stored));
        if let (Err(_) | Ok(None), IncomingBody::Equal { payload }) = (&result, &incoming.body) {
            self.let_go(*payload);
        }
        let Some(lsn) = result? else { return Ok(false) };
        // A fill need not be durable or pushed: Redis has it.
        if !matches!(incoming.origin, Origin::Fill(_)) {
            self.acknowledge(lsn)?;
        }
        Ok(true)
    }

    /// To be called before a user's write returns: wakes the replicator, and makes the record at `lsn` as durable as the store promises.
    pub(super) fn acknowledge(&self, lsn: Lsn) -> Result<(), Error> {
        if let Some(outbox) = &self.outbox {
            outbox.wake();
        }
        self.make_durable(lsn)
    }

    /// Under the id's lock: checks what stands, appends the record, enters it, and hands the object to waiters. None if it was overtaken.
    fn append_record(
        &self,
        id: &[u8],
        incoming: &mut Incoming<'_>,
        stored: OnStored<'_>,
    ) -> Result<Option<Lsn>, AppendError> {
        let fingerprint = self.index().fingerprint(id);
        let _writing = self.index().shard(fingerprint).writing.lock();
        let old = self.standing(fingerprint, id)?;
        let known = self.known_version(fingerprint, id, old.as_ref());
        let losses = self.outbox.as_ref().map(Outbox::losses);
        if let Origin::Fill(fill) = incoming.origin
            && (known >= Some(fill.version) || !(fill.is_current)())
        {
            return Ok(None);
        }
        if let Origin::Restore(restored) = incoming.origin {
            // What is over stands in nobody's way.
            let standing = old.as_ref().filter(|old| !self.journal.is_over(&old.header));
            let is_newer = known.max(standing.map(|old| old.header.version)) < Some(restored.version);
            if !is_newer || self.journal.time().is_past(restored.deadline_ms) {
                return Ok(None);
            }
        }
        let mut above_clock = known.map_or(0, |known| known.clock);
        if let Origin::Repeat(again) = incoming.origin {
            if old.as_ref().is_none_or(|old| old.lsn != again.lsn) {
                return Ok(None);
            }
            above_clock = above_clock.max(again.above.clock);
        }
        let record = self.dated(incoming.record(id, old.as_ref()), incoming.origin, above_clock);
        let lsn = self.journal.append(&record, Purpose::Put)?.lsn;
        let header = record.header(lsn);
        let mut kept = None;
        if let IncomingBody::External(reservation) = &mut incoming.body
            && let Some(reservation) = reservation.take()
        {
            kept = reservation.keep_uncounted(lsn);
        }
        self.liveness.enter(fingerprint, id, old.as_ref(), &header, self.superseder(&header));
        if let Some(expiry) = &self.expiry {
            expiry.note(header.deadline_ms);
        }
        // Counted only after `enter` has released the old record's body: both together could exceed the limit.
        if let Some(kept) = kept {
            self.bodies.count(&kept);
        }
        // Events may have been missed since the copy was found to be current.
        if let (Origin::Fill(_), Some(outbox)) = (incoming.origin, &self.outbox)
            && losses != Some(outbox.losses())
        {
            outbox.suspect_moved(lsn, None);
        }
        stored(Stored::now(&|| self.get_locked(id)));
        Ok(Some(lsn))
    }

    /// What has to be durable before the body that this record supersedes may be overwritten: the record, and the external body that it refers
    /// to, its own or a shared one. Without that body the record would not count after a power loss, and the superseded one would.
    fn superseder(&self, header: &Header) -> Superseder {
        let body = if header.flags.has(Flags::SHARED) {
            self.liveness.payloads().weight(header.payload).and_then(|weight| weight.body)
        } else {
            header.flags.has(Flags::EXTERNAL).then_some(header.body_place)
        };
        Superseder { gone: None, lsn: header.lsn, body: body.and_then(|body| self.segments.get(body.segment)) }
    }

    /// Sets the version, deadline and flags that its origin asks for.
    fn dated<'r>(&self, record: NewRecord<'r>, origin: Origin<'_>, above_clock: u64) -> NewRecord<'r> {
        match (origin, &self.outbox) {
            (Origin::Write, None) => NewRecord { deadline_ms: self.journal.deadline(), ..record },
            (Origin::Write, Some(_)) => NewRecord { deadline_ms: self.journal.deadline(), above_clock, ..record },
            (Origin::Repeat(again), _) => NewRecord { deadline_ms: again.deadline_ms, above_clock, ..record },
            (Origin::Restore(restored), _) => {
                NewRecord { version: Some(restored.version), deadline_ms: restored.deadline_ms, ..record }
            }
            (Origin::Fill(fill), _) => NewRecord {
                kind: Kind::Fill,
                flags: record.flags.with(Flags::CLEAN),
                version: Some(fill.version),
                deadline_ms: fill.deadline_ms,
                ..record
            },
        }
    }

    /// The greatest version known of an id, from its record and its tombstone. The caller holds the id.
    pub(super) fn known_version(&self, fingerprint: u64, id: &[u8], standing: Option<&Standing>) -> Option<Version> {
        self.outbox.as_ref()?;
        let tombstone = self.index().shard(fingerprint).table.read().tombstones.get(id).map(|it| it.version);
        tombstone.max(standing.map(|standing| standing.header.version))
    }

    /// Appends a record for `new` that shares the payload of `original`.
    pub fn duplicate(&self, original: &[u8], new: &[u8], stored: OnStored<'_>) -> Result<bool, Error> {
        self.admit(new, 0, Patience::Caller)?;
        let lsn = self.with_room(new, 0, Patience::Caller, || self.append_duplicate(original, new, stored))?;
        match lsn {
            None => Ok(false),
            Some(lsn) => self.acknowledge(lsn).map(|()| true),
        }
    }

    fn append_duplicate(&self, original: &[u8], new: &[u8], stored: OnStored<'_>) -> Result<Option<Lsn>, AppendError> {
        let original_fingerprint = self.index().fingerprint(original);
        let fingerprint = self.index().fingerprint(new);
        let numbers = [Index::shard_number(original_fingerprint), Index::shard_number(fingerprint)];
        let (first, second) = if numbers[0] <= numbers[1] {
            (original_fingerprint, fingerprint)
        } else {
            (fingerprint, original_fingerprint)
        };
        let _first = self.index().shard(first).writing.lock();
        let _second = (numbers[0] != numbers[1]).then(|| self.index().shard(second).writing.lock());

        let Some(source) = self.standing(original_fingerprint, original)? else { return Ok(None) };
        if self.journal.is_over(&source.header) {
            return Ok(None);
        }
        let old = self.standing(fingerprint, new)?;
        let payload = source.header.payload_name();
        if !source.header.flags.has(Flags::SHARED) {
            self.liveness.payloads().acquire_owned(payload, source.lsn, (&source.header).into());
        } else if !self.liveness.payloads().acquire_shared(payload) {
            // The payload is lost to damage, which the next read of the original reports.
            return Ok(None);
        }
        let record = NewRecord {
            flags: Flags::SHARED,
            body_hash: source.header.body_hash,
            payload,
            data_bytes: source.header.data_bytes,
            metadata_bytes: source.header.metadata_bytes,
            ..NewRecord::bare(new, Kind::Duplicate, old.map_or(Lsn::NONE, |old| old.lsn))
        };
        let above_clock = self.known_version(fingerprint, new, old.as_ref()).map_or(0, |known| known.clock);
        let record = self.dated(record, Origin::Write, above_clock);
        let lsn = self.journal.append(&record, Purpose::Put).inspect_err(|_| self.let_go(payload))?.lsn;
        let header = record.header(lsn);
        self.liveness.enter(fingerprint, new, old.as_ref(), &header, self.superseder(&header));
        if let Some(expiry) = &self.expiry {
            expiry.note(header.deadline_ms);
        }
        stored(Stored::now(&|| self.get_locked(new)));
        Ok(Some(lsn))
    }

    /// A payload with the same bytes, to which a reference was taken. None also if that cannot be told: the bytes are stored once more.
    fn find_equal(&self, body_hash: u128, metadata: &[u8], data: &[u8]) -> Option<Lsn> {
        if ((metadata.len() + data.len()) as u64) < EQUAL_BODY_BYTES_MIN {
            return None;
        }
        let payloads = self.liveness.payloads();
        let (payload, holder) = payloads.find_equal(body_hash)?;
        // The bytes do not change while they are compared, but the payload may go meanwhile: taking the reference tells.
        let header = self.holds(holder, metadata, data).ok()??;
        payloads.acquire_equal(body_hash, payload, holder, (&header).into()).then_some(payload)
    }

    /// Gives back a reference that no record uses.
    fn let_go(&self, payload: Lsn) {
        // If the payload's own id went meanwhile, the record that superseded it is below the journal's end.
        self.liveness.let_go(payload, self.journal.latest().into());
    }

    /// As `find_equal`, for a body that is written already.
    fn find_equal_written(
        &self,
        body_hash: u128,
        metadata_bytes: usize,
        bytes: u64,
        body: &Reservation,
    ) -> Option<Lsn> {
        self.liveness.payloads().find_equal(body_hash)?;
        let (segment, offset) = body.location()?;
        let mapping = self.segments.mapping(segment).ok()?;
        let (metadata, data) = mapping.slice(offset, bytes)?.split_at_checked(metadata_bytes)?;
        self.find_equal(body_hash, metadata, data)
    }

    /// Stores an object whose body, of these lengths, is already written to the reservation.
    pub(super) fn store_written(
        &self,
        id: &[u8],
        reservation: Reservation,
        (data_bytes, metadata_bytes): (u64, u32),
        body_hash: u128,
        stored: OnStored<'_>,
    ) -> Result<(), Error> {
        let bytes = data_bytes + u64::from(metadata_bytes);
        let equal = self.find_equal_written(body_hash, metadata_bytes as usize, bytes, &reservation);
        let body = if let Some(payload) = equal {
            IncomingBody::Equal { payload }
        } else {
            self.sync_body(&reservation)?;
            IncomingBody::External(Some(reservation))
        };
        let origin = Origin::Write;
        self.write_record(id, Incoming { data_bytes, metadata_bytes, body_hash, body, origin }, stored).map(drop)
    }

    /// Reserves a place for a large body and writes it there.
    fn write_body(&self, id: &[u8], metadata: &[u8], data: &[u8], patience: Patience) -> Result<Reservation, Error> {
        let bytes = (metadata.len() + data.len()) as u64;
        let mut reservation = self.with_room(id, bytes, patience, || Ok(self.bodies.reserve(bytes)?))?;
        for piece in [metadata, data] {
            self.with_room_of(Kinds::Body, id, bytes, patience, || Ok(reservation.write(piece)?))?;
        }
        self.sync_body(&reservation)?;
        Ok(reservation)
    }

    /// With `disk` durability, makes the body durable, before the record that refers to it is appended.
    fn sync_body(&self, reservation: &Reservation) -> Result<(), Error> {
        match self.durability {
            Durability::Process => Ok(()),
            Durability::Disk => {
                self.journal.check_writable()?;
                reservation.sync().map_err(|error| self.sync_failed(error))?;
                self.journal.sync_names()
            }
        }
    }
}

impl<'a> Incoming<'a> {
    fn record<'r>(&'r self, id: &'r [u8], old: Option<&Standing>) -> NewRecord<'r>
    where
        'a: 'r,
    {
        let record = NewRecord {
            body_hash: self.body_hash,
            data_bytes: self.data_bytes,
            metadata_bytes: self.metadata_bytes,
            ..NewRecord::bare(id, Kind::Put, old.map_or(Lsn::NONE, |old| old.lsn))
        };
        match &self.body {
            IncomingBody::Inline { metadata, data } => NewRecord { metadata, data, ..record },
            IncomingBody::External(reservation) => NewRecord {
                flags: Flags::EXTERNAL,
                body_place: reservation.as_ref().map(Reservation::place).unwrap_or_default(),
                ..record
            },
            IncomingBody::Equal { payload } => NewRecord { flags: Flags::SHARED, payload: *payload, ..record },
        }
    }
}
