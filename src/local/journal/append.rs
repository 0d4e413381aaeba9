use std::io::{self, IoSlice};
use std::sync::Arc;

use crossbeam_channel::Sender;
use parking_lot::{Mutex, RwLock};

use super::Lsn;
use super::record::{ALIGNMENT, BodyPlace, Flags, Header, Kind, RECORD_BYTES_MAX};
use super::segment::{SEGMENT_HEADER_BYTES, Seal, Segment, SegmentKind};
use super::segments::{NoFile, Segments, Spare};
use crate::error::Error;
use crate::local::files::disk::DiskFile;
use crate::version::{HybridClock, Version};

/// Preallocated segments kept for deletes, copies and marks: a full disk that cannot append a delete stays full.
const RESERVE_SEGMENTS: usize = 2;

/// The first segment of an open; each further one is twice as large, up to the maximum. A small store stays small on disk.
const FIRST_SEGMENT_BYTES: u64 = 1 << 20;

/// Shorter bodies are copied behind their header, so that the record goes out as one slice.
const COPIED_BODY_BYTES_MAX: usize = 4096;

/// Who may take the last preallocated segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Puts and duplicates: refused while others still get theirs.
    Ordinary,
    /// Deletes, and copies made by reclaiming.
    Reserved,
}

/// What is to be appended; the journal adds lsn and, where none is given, version.
pub(crate) struct NewRecord<'a> {
    pub id: &'a [u8],
    pub kind: Kind,
    pub flags: Flags,
    /// None: newer than everything that the journal has seen.
    pub version: Option<Version>,
    /// Where the journal gives the version: one whose clock is above this one.
    pub above_clock: u64,
    pub supersedes: Lsn,
    pub deadline_ms: u64,
    pub body_hash: u128,
    pub payload: Lsn,
    pub data_bytes: u64,
    pub metadata_bytes: u32,
    pub body_place: BodyPlace,
    /// The inline body's two parts; empty where the body is elsewhere.
    pub metadata: &'a [u8],
    pub data: &'a [u8],
}

impl<'a> NewRecord<'a> {
    /// A record without a body.
    pub fn bare(id: &'a [u8], kind: Kind, supersedes: Lsn) -> Self {
        NewRecord {
            id,
            kind,
            flags: Flags::NONE,
            version: None,
            above_clock: 0,
            supersedes,
            deadline_ms: 0,
            body_hash: 0,
            payload: Lsn::NONE,
            data_bytes: 0,
            metadata_bytes: 0,
            body_place: BodyPlace::default(),
            metadata: &[],
            data: &[],
        }
    }

    /// The header as it stands at `lsn`, but for the version where the journal gives one.
    pub fn header(&self, lsn: Lsn) -> Header {
        Header {
            lsn,
            version: self.version.unwrap_or_default(),
            supersedes: self.supersedes,
            deadline_ms: self.deadline_ms,
            body_hash: self.body_hash,
            payload: self.payload,
            data_bytes: self.data_bytes,
            metadata_bytes: self.metadata_bytes,
            id_bytes: self.id.len() as u16,
            kind: self.kind,
            flags: self.flags,
            body_place: self.body_place,
        }
    }
}

/// A record that was appended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Appended {
    pub lsn: Lsn,
    /// The one that was asked for, or that the journal gave.
    pub version: Version,
}

#[derive(Debug)]
pub(crate) enum AppendError {
    /// No room for another segment now; reclaiming may make some.
    NoRoom,
    Failed(Error),
}

impl From<Error> for AppendError {
    fn from(error: Error) -> Self {
        AppendError::Failed(error)
    }
}

/// A segment that takes no more records.
pub(crate) struct Sealing {
    pub segment: Arc<Segment>,
    pub seal: Seal,
}

pub(crate) struct JournalOptions {
    pub segment_bytes_max: u64,
    /// Greatest clock of all records found at open.
    pub clock: u64,
    /// 64 random bits drawn at this open.
    pub node: u64,
    /// Behind every record that was found.
    pub end: Lsn,
}

/// The appending side of the log: one record at a time, under one lock.
pub(crate) struct Journal {
    segments: Arc<Segments>,
    options: JournalOptions,
    append: Mutex<Append>,
    spares: Mutex<Vec<Spare>>,
    /// Everything below is on the disk. Held while a sync runs, so that those who wait share the next one.
    synced: Mutex<Lsn>,
    clock: HybridClock,
    /// The first failure to sync, after which nothing is written any more.
    failure: RwLock<Option<String>>,
    sealing: Sender<Sealing>,
}

struct Append {
    active: Option<Active>,
    /// Just behind the last record.
    end: Lsn,
    next_bytes: u64,
    scratch: Vec<u8>,
    /// Segments with records that no sync has covered.
    unsynced: Vec<Arc<Segment>>,
    closed: bool,
}

struct Active {
    segment: Arc<Segment>,
    file: Arc<dyn DiskFile>,
    end: u32,
    capacity: u32,
    record_count: u64,
}

impl Journal {
    pub fn new(segments: Arc<Segments>, options: JournalOptions, sealing: Sender<Sealing>) -> Self {
        let append = Append {
            active: None,
            end: options.end,
            next_bytes: FIRST_SEGMENT_BYTES.min(options.segment_bytes_max),
            scratch: Vec::new(),
            unsynced: Vec::new(),
            closed: false,
        };
        Journal {
            segments,
            append: Mutex::new(append),
            spares: Mutex::new(Vec::new()),
            synced: Mutex::new(Lsn::NONE),
            clock: HybridClock::new(options.node, options.clock),
            options,
            failure: RwLock::new(None),
            sealing,
        }
    }

    /// Appends one record; it exists when this returns. Survives the process, not yet a power loss: see `sync_to`.
    pub fn append(&self, record: &NewRecord<'_>, room: Room) -> Result<Appended, AppendError> {
        self.check_writable()?;
        let mut append = self.append.lock();
        if append.closed {
            return Err(Error::Closed.into());
        }
        let mut scratch = std::mem::take(&mut append.scratch);
        let result = self.append_locked(&mut append, record, room, &mut scratch);
        append.scratch = scratch;
        result
    }

    fn append_locked(
        &self,
        append: &mut Append,
        record: &NewRecord<'_>,
        room: Room,
        scratch: &mut Vec<u8>,
    ) -> Result<Appended, AppendError> {
        let mut header = record.header(Lsn::NONE);
        header.version = record.version.unwrap_or_else(|| self.clock.next_above(record.above_clock));
        let stride = header.stride() as u32;
        let fits = append.active.as_ref().is_some_and(|active| active.capacity - active.end >= stride);
        if !fits {
            self.roll(append, room)?;
        }
        let Append { active: Some(active), unsynced, end, .. } = append else {
            return Err(Error::Closed.into());
        };
        header.lsn = Lsn::new(active.segment.number, active.end);

        scratch.clear();
        header.encode(active.segment.nonce, record.id, scratch);
        let body_bytes = record.metadata.len() + record.data.len();
        let padding = [0; ALIGNMENT];
        let padding = padding.get(..stride as usize - scratch.len() - body_bytes).unwrap_or_default();
        let offset = u64::from(active.end);
        let written = if body_bytes <= COPIED_BODY_BYTES_MAX {
            scratch.extend_from_slice(record.metadata);
            scratch.extend_from_slice(record.data);
            scratch.extend_from_slice(padding);
            active.file.write_all_at(&mut [IoSlice::new(scratch)], offset)
        } else {
            let mut slices = [scratch, record.metadata, record.data, padding].map(IoSlice::new);
            active.file.write_all_at(&mut slices, offset)
        };
        if let Err(error) = written {
            return Err(self.cut_off(append, error).into());
        }
        active.end += stride;
        active.record_count += 1;
        *end = Lsn::new(active.segment.number, active.end);
        if unsynced.last().is_none_or(|last| last.number != active.segment.number) {
            unsynced.push(Arc::clone(&active.segment));
        }
        Ok(Appended { lsn: header.lsn, version: header.version })
    }

    /// After a write that failed: the segment takes no more, and what was written of the record must not be found by a later open, in
    /// which records that do not know of it may have followed.
    fn cut_off(&self, append: &mut Append, error: io::Error) -> Error {
        let Some(Active { segment, end, .. }) = &append.active else { return Error::Closed };
        let (segment, end) = (Arc::clone(segment), u64::from(*end));
        self.seal(append);
        if let Err(error) = segment.trim(end) {
            return self.fail(Error::io("cut off a failed write in", segment.path())(error));
        }
        let failed = Error::io("write", segment.path())(error);
        append.unsynced.push(segment);
        failed
    }

    /// Milliseconds since 1970, on Redis's clock where it is known.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    pub fn set_clock_offset_ms(&self, offset_ms: i64) {
        self.clock.set_offset_ms(offset_ms);
    }

    /// Versions given from now on are above this one from elsewhere, unless it is too far ahead to be believed.
    pub fn observe(&self, version: Version) {
        self.clock.observe(version);
    }

    /// This open's part of the versions that it gives.
    pub fn node(&self) -> u64 {
        self.clock.node()
    }

    /// Seals the active segment and begins the next.
    fn roll(&self, append: &mut Append, room: Room) -> Result<(), AppendError> {
        let spare = self.take_spare(append.next_bytes, room)?;
        let segment = self.segments.activate(spare, SegmentKind::Records)?;
        let file = segment.file().map_err(Error::io("open", segment.path()))?;
        self.seal(append);
        append.next_bytes = (append.next_bytes * 2).min(self.options.segment_bytes_max);
        append.active = Some(Active {
            capacity: segment.bytes().min(u64::from(u32::MAX)) as u32,
            end: SEGMENT_HEADER_BYTES as u32,
            record_count: 0,
            segment,
            file,
        });
        Ok(())
    }

    fn take_spare(&self, bytes: u64, room: Room) -> Result<Spare, AppendError> {
        let kept = if room == Room::Reserved { 0 } else { RESERVE_SEGMENTS };
        {
            let mut spares = self.spares.lock();
            if spares.len() > kept
                && let Some(spare) = spares.pop()
            {
                return Ok(spare);
            }
        }
        match self.segments.create_spare(bytes.max(RECORD_BYTES_MAX as u64 * 2)) {
            Ok(spare) => Ok(spare),
            Err(NoFile::NoRoom) => Err(AppendError::NoRoom),
            Err(NoFile::Failed(error)) => Err(AppendError::Failed(error)),
        }
    }

    /// Seals the active segment though it is not full, so that what is in it can be reclaimed; false where there is none.
    pub fn seal_active(&self) -> bool {
        let mut append = self.append.lock();
        let has_records = append.active.as_ref().is_some_and(|active| active.record_count > 0);
        if has_records {
            self.seal(&mut append);
        }
        has_records
    }

    /// Hands the active segment over to be sealed. The channel is unbounded in form, but holds at most one entry for each segment
    /// on disk, which the space limit bounds.
    fn seal(&self, append: &mut Append) {
        if let Some(Active { segment, end, record_count, .. }) = append.active.take() {
            segment.set_records_end(u64::from(end));
            let seal = Seal { end: u64::from(end), record_count };
            if self.sealing.send(Sealing { segment, seal }).is_err() {
                tracing::debug!("the sealer has ended; the next open seals what is left");
            }
        }
    }

    /// Prepares files ahead, so that appends and deletes find them. What cannot be prepared now is tried again later.
    pub fn refill_spares(&self) -> Result<(), Error> {
        let bytes = self.append.lock().next_bytes;
        loop {
            if self.spares.lock().len() > RESERVE_SEGMENTS {
                return Ok(());
            }
            match self.segments.create_spare(bytes.max(RECORD_BYTES_MAX as u64 * 2)) {
                Ok(spare) => self.spares.lock().push(spare),
                Err(NoFile::NoRoom) => return Ok(()),
                Err(NoFile::Failed(error)) => return Err(error),
            }
        }
    }

    /// Makes the record at `lsn`, and every one before it, durable. Callers that come while a sync runs share the next one.
    pub fn sync_to(&self, lsn: Lsn) -> Result<(), Error> {
        self.sync_unless(|synced| synced > lsn)
    }

    /// Makes everything durable that is not, unless what is, all below the lsn that `is_enough` is told, will do.
    fn sync_unless(&self, is_enough: impl FnOnce(Lsn) -> bool) -> Result<(), Error> {
        let mut synced = self.synced.lock();
        if is_enough(*synced) {
            return Ok(());
        }
        self.check_writable()?;
        let (segments, end) = {
            let mut append = self.append.lock();
            (std::mem::take(&mut append.unsynced), append.end)
        };
        for segment in &segments {
            segment.sync().map_err(|error| self.fail(Error::io("sync", segment.path())(error)))?;
        }
        if !segments.is_empty() {
            let directory = self.segments.directory();
            self.segments.sync_directory().map_err(|error| self.fail(Error::io("sync", directory)(error)))?;
        }
        *synced = end;
        Ok(())
    }

    /// Just behind the last record.
    pub fn end(&self) -> Lsn {
        self.append.lock().end
    }

    /// Makes every record appended so far durable: all those below the lsn that it returns.
    pub fn sync(&self) -> Result<Lsn, Error> {
        let end = self.end();
        self.sync_unless(|synced| synced >= end)?;
        Ok(end)
    }

    /// A failed sync is never tried again: the kernel has dropped the pages, and the next try would succeed without them.
    pub fn fail(&self, error: Error) -> Error {
        tracing::error!("{error}; the store takes no more writes until it is opened anew");
        self.failure.write().get_or_insert_with(|| error.to_string());
        error
    }

    pub fn check_writable(&self) -> Result<(), Error> {
        match &*self.failure.read() {
            None => Ok(()),
            Some(cause) => {
                Err(Error::WritesRefused { path: self.segments.directory().to_path_buf(), cause: cause.clone() })
            }
        }
    }

    /// Ends appending: seals the active segment and removes the spare files.
    pub fn close(&self) {
        let mut append = self.append.lock();
        append.closed = true;
        self.seal(&mut append);
        drop(append);
        for spare in self.spares.lock().drain(..) {
            if let Err(error) = self.segments.remove_spare(&spare) {
                tracing::warn!("{error}; the next open removes it");
            }
        }
    }
}
