//! Appending records: the active segment (`active`), the files that are prepared for the next ones, the clock that gives versions, and
//! (`syncing`) group commit.

mod active;
mod syncing;

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;
use parking_lot::{Mutex, RwLock};

use self::active::{Active, Appender};
use super::Lsn;
use super::new_record::{NewRecord, Purpose};
use super::record::{ALIGNMENT, Header, RECORD_BYTES_MAX};
use super::reserve::Reserve;
use super::segment::Segment;
use super::segment_header::Seal;
use super::segments::{NoFile, Segments, Spare};
use crate::clock::{Past, Reading, RedisTime};
use crate::error::Error;
use crate::local::files::disk::DiskFile;
use crate::version::{HybridClock, Version};

/// The first segment of an open; each further one is twice as large, up to the maximum. A small store stays small on disk.
const FIRST_SEGMENT_BYTES: u64 = 1 << 20;

/// Files prepared for puts, so that no put waits for a file to be preallocated.
const PREPARED_SEGMENTS: usize = 1;

/// A file is prepared only if there is room for this many.
const PREPARED_ROOM: u64 = 4;

/// The length to which each file of the reserve is cut when the store is closed.
const RESERVE_KEPT_BYTES: u64 = 1 << 20;

/// Bodies up to this length are copied behind their header, so that the record is written as one slice.
const COPIED_BODY_BYTES_MAX: usize = 4096;

/// A record that was appended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Appended {
    pub lsn: Lsn,
    /// The version that the record asked for, or the one that the journal gave.
    pub version: Version,
}

/// Why a record was not appended.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// No room for another file now, under the limit, or on the disk (then with the error). Reclaiming may make some.
    NoRoom(Option<Error>),
    Failed(Error),
}

impl From<Error> for AppendError {
    fn from(error: Error) -> Self {
        AppendError::Failed(error)
    }
}

impl From<NoFile> for AppendError {
    fn from(error: NoFile) -> Self {
        let is_disk_full = error.is_disk_full();
        match error {
            NoFile::NoRoom => AppendError::NoRoom(None),
            NoFile::Failed(error) if is_disk_full => AppendError::NoRoom(Some(error)),
            NoFile::Failed(error) => AppendError::Failed(error),
        }
    }
}

/// A segment that takes no more records and waits to be sealed, with what its seal will say.
pub(crate) struct Sealing {
    pub segment: Arc<Segment>,
    pub seal: Seal,
}

/// What appending needs to know, fixed while the store is open.
pub(crate) struct JournalOptions {
    pub segment_bytes_max: u64,
    /// Greatest clock of all records found at open.
    pub clock: u64,
    /// What the cursors tell of Redis's clock.
    pub past: Past,
    /// How long objects live, 0 for ever.
    pub object_ttl_ms: u64,
    /// Other nodes have the objects as well, so that versions count.
    pub is_shared: bool,
    /// 64 random bits drawn at this open.
    pub node: u64,
    /// Above every record that was found at open.
    pub end: Lsn,
    /// Every write is made durable before it is acknowledged.
    pub syncs_each: bool,
}

/// The appending side of the log: one record at a time, under one lock.
pub(crate) struct Journal {
    segments: Arc<Segments>,
    options: JournalOptions,
    append: Mutex<Append>,
    prepared: Mutex<Vec<Spare>>,
    reserve: Mutex<Reserve>,
    /// Every record below is durable. The lock is held while a sync runs, so that those who wait for it share the next sync.
    synced: Mutex<Lsn>,
    clock: HybridClock,
    /// The first failure to sync, after which nothing is written any more.
    failure: RwLock<Option<(String, Instant)>>,
    sealing: Sender<Sealing>,
}

/// The state under the append lock.
struct Append {
    active: Active,
    /// Just behind the last record.
    end: Lsn,
    next_bytes: u64,
    scratch: Vec<u8>,
    /// Segments with records that no sync has covered.
    unsynced: Vec<Unsynced>,
    /// What a failed write left and could not be cut off yet.
    torn: Option<Torn>,
    closed: bool,
}

/// A segment that the next sync has to cover.
struct Unsynced {
    segment: Arc<Segment>,
    /// Kept open with `disk` durability: the sync of an appended record must not fail for want of a descriptor.
    file: Option<Arc<dyn DiskFile>>,
}

/// A segment whose last write failed. What stands behind `end` must be cut off before anything else is appended: otherwise a later open
/// could find a record there that newer records do not supersede.
struct Torn {
    segment: Arc<Segment>,
    file: Arc<dyn DiskFile>,
    end: u64,
}

impl Journal {
    pub fn new(segments: Arc<Segments>, options: JournalOptions, sealing: Sender<Sealing>) -> Self {
        let append = Append {
            active: Active::None,
            end: options.end,
            next_bytes: FIRST_SEGMENT_BYTES.min(options.segment_bytes_max),
            scratch: Vec::new(),
            unsynced: Vec::new(),
            torn: None,
            closed: false,
        };
        Journal {
            segments,
            append: Mutex::new(append),
            prepared: Mutex::new(Vec::new()),
            reserve: Mutex::default(),
            synced: Mutex::new(Lsn::NONE),
            clock: HybridClock::new(
                options.node,
                options.clock,
                options.past,
                options.object_ttl_ms,
                options.is_shared,
            ),
            options,
            failure: RwLock::new(None),
            sealing,
        }
    }

    /// Appends one record. When this returns, the record survives the death of the process, but not yet a power loss: see `sync_to`.
    pub fn append(&self, record: &NewRecord<'_>, purpose: Purpose) -> Result<Appended, AppendError> {
        self.check_writable()?;
        if record.version.is_none() && self.options.is_shared {
            self.time().wait();
        }
        let mut append = self.append.lock();
        if append.closed {
            return Err(Error::Closed.into());
        }
        self.mend_torn(&mut append)?;
        let mut scratch = std::mem::take(&mut append.scratch);
        let result = self.append_locked(&mut append, record, purpose, &mut scratch);
        append.scratch = scratch;
        result
    }

    fn append_locked(
        &self,
        append: &mut Append,
        record: &NewRecord<'_>,
        purpose: Purpose,
        scratch: &mut Vec<u8>,
    ) -> Result<Appended, AppendError> {
        let mut header = record.header(Lsn::NONE);
        let stride = header.stride() as u32;
        match purpose {
            Purpose::Put => self.make_way_for_put(append, stride)?,
            Purpose::Delete => self.make_way_for_delete(append, stride)?,
            Purpose::Copy => self.make_way_for_copy(append, stride)?,
        }
        header.version = record.version.unwrap_or_else(|| self.clock.next_above(record.above_clock));
        let Append { active, unsynced, end, .. } = append;
        let active = active.any_mut().ok_or(Error::Closed)?;
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
        if unsynced.last().is_none_or(|last| last.segment.number != active.segment.number) {
            let file = self.options.syncs_each.then(|| Arc::clone(&active.file));
            unsynced.push(Unsynced { segment: Arc::clone(&active.segment), file });
        }
        Ok(Appended { lsn: header.lsn, version: header.version })
    }

    /// After a failed write: ends the segment, and cuts off what was written of the record.
    fn cut_off(&self, append: &mut Append, error: io::Error) -> Error {
        let Some(Appender { segment, file, end, .. }) = append.active.any() else { return Error::Closed };
        let torn = Torn { segment: Arc::clone(segment), file: Arc::clone(file), end: u64::from(*end) };
        let failed = Error::io("write", torn.segment.path())(error);
        self.seal(append);
        append.torn = Some(torn);
        if let Err(error) = self.mend_torn(append) {
            tracing::warn!("{error}; nothing is written before that is done");
        }
        failed
    }

    fn mend_torn(&self, append: &mut Append) -> Result<(), Error> {
        let Some(Torn { segment, file, end }) = &append.torn else { return Ok(()) };
        segment.cut(&**file, *end).map_err(Error::io("cut off a failed write in", segment.path()))?;
        append.unsynced.push(Unsynced { segment: Arc::clone(segment), file: None });
        append.torn = None;
        Ok(())
    }

    /// Redis's clock, as far as it is known.
    #[inline]
    pub fn time(&self) -> &RedisTime {
        self.clock.time()
    }

    /// Takes a reading of Redis's clock.
    pub fn set_time(&self, reading: Reading) {
        self.clock.set_time(reading);
    }

    /// Takes a reading of this machine's clock, in place of Redis's. Versions go on as they are.
    pub fn set_time_here(&self) {
        let reading = Reading::of_this_machine();
        // A clock that stands before 1970 says nothing of what has passed.
        if reading.redis_ms > 0 || !self.time().is_known() {
            self.time().set(reading);
        }
    }

    /// Whether the deadline of this record's object has passed.
    #[inline]
    pub fn is_over(&self, header: &Header) -> bool {
        self.time().is_past(header.deadline_ms)
    }

    /// The deadline of an object that is stored now; 0 for ever.
    #[inline]
    pub fn deadline(&self) -> u64 {
        let lifetime_ms = self.options.object_ttl_ms;
        if lifetime_ms == 0 {
            return 0;
        }
        if !self.options.is_shared {
            return self.time().deadline_here(lifetime_ms);
        }
        self.time().wait();
        self.time().deadline(lifetime_ms)
    }

    /// Whether what is stored now expires.
    pub fn has_lifetimes(&self) -> bool {
        self.options.object_ttl_ms > 0
    }

    /// Whether the version lies so far ahead that no clock in step with Redis's can have given it.
    pub fn is_too_far_ahead(&self, version: Version) -> bool {
        self.clock.is_too_far_ahead(version)
    }

    /// Takes note of a version from elsewhere: versions given from now on are above it, unless it is too far ahead to be believed.
    pub fn merge_clock(&self, version: Version) {
        self.clock.merge_clock(version);
    }

    /// The node part of the versions that this open gives.
    pub fn node(&self) -> u64 {
        self.clock.node()
    }

    /// Ends the active segment though it is not full, so that what is in it can be reclaimed. False if it has no records.
    pub fn seal_active(&self) -> bool {
        let mut append = self.append.lock();
        let has_records = append.active.any().is_some_and(|appender| appender.record_count > 0);
        if has_records {
            self.seal(&mut append);
        }
        has_records
    }

    /// Hands the active segment over to the sealer. The channel is unbounded in form, but holds at most one entry for each segment on disk,
    /// which the space limit bounds.
    fn seal(&self, append: &mut Append) {
        let active = std::mem::replace(&mut append.active, Active::None);
        if let Active::Ordinary(appender) | Active::Reserved(appender) = active {
            self.hand_over(appender);
        }
    }

    fn hand_over(&self, Appender { segment, end, record_count, .. }: Appender) {
        segment.set_records_end(u64::from(end));
        let seal = Seal { end: u64::from(end), record_count };
        if self.sealing.send(Sealing { segment, seal }).is_err() {
            tracing::debug!("the sealer has ended; the next open seals what is left");
        }
    }

    /// Takes the files that an earlier open preallocated into the reserve.
    pub fn adopt_spares(&self, spares: Vec<Spare>) {
        self.reserve.lock().adopt(&self.segments, spares);
    }

    /// Makes the reserve whole. Files that cannot be made now are tried again later.
    pub fn refill_reserve(&self) -> Result<(), Error> {
        let next_bytes = self.append.lock().next_bytes;
        self.make_reserve_whole(next_bytes)
    }

    fn make_reserve_whole(&self, next_bytes: u64) -> Result<(), Error> {
        // Large enough for the copies out of any one segment.
        let bytes = file_bytes(next_bytes).max(self.segments.largest_live_bytes(self.options.segment_bytes_max));
        self.reserve.lock().refill(&self.segments, bytes)
    }

    /// Prepares a file for puts, if there is room for several.
    pub fn prepare(&self) -> Result<(), Error> {
        let bytes = file_bytes(self.append.lock().next_bytes);
        while self.prepared.lock().len() < PREPARED_SEGMENTS && self.segments.has_room(PREPARED_ROOM * bytes) {
            match self.segments.create_spare(bytes) {
                Ok(spare) => self.prepared.lock().push(spare),
                Err(NoFile::NoRoom) => break,
                Err(NoFile::Failed(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes the files that are prepared for puts. Returns whether that freed room.
    pub fn drop_prepared(&self) -> bool {
        let prepared = std::mem::take(&mut *self.prepared.lock());
        let mut is_freed = false;
        for spare in prepared {
            match self.segments.remove_spare(&spare) {
                Ok(()) => is_freed = true,
                Err(error) => {
                    tracing::debug!("{error}; it stays prepared");
                    self.prepared.lock().push(spare);
                }
            }
        }
        is_freed
    }

    /// Just behind the last record.
    pub fn end(&self) -> Lsn {
        self.append.lock().end
    }

    /// Ends appending: seals the active segment and removes the spare files.
    pub fn close(&self) {
        let mut append = self.append.lock();
        append.closed = true;
        self.seal(&mut append);
        drop(append);
        self.drop_prepared();
        self.reserve.lock().close(&self.segments, RESERVE_KEPT_BYTES);
    }
}

/// The smallest file for records: it holds two of the longest.
pub(crate) const FILE_BYTES_MIN: u64 = RECORD_BYTES_MAX as u64 * 2;

fn file_bytes(bytes: u64) -> u64 {
    bytes.max(FILE_BYTES_MIN)
}

#[cfg(test)]
mod tests;
