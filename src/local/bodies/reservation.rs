//! A stretch of a body segment that is being written, before a record refers to it.

use std::io::{IoSlice, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Bodies, GROWTH_BYTES, LiveBody, Stretch};
use crate::error::Error;
use crate::local::disk::DiskFile;
use crate::local::journal::{BodyPlace, Lsn, NoFile, Segment, SyncError};

/// What is copied at a time.
const READ_BACK_BYTES: usize = 256 << 10;

/// A stretch for a body that is being written. No record refers to it yet; dropping it gives the stretch back.
pub(crate) struct Reservation {
    bodies: Arc<Bodies>,
    stretch: Option<Arc<Stretch>>,
    file: Option<Arc<dyn DiskFile>>,
    written: u64,
    /// Whether others who need room may wait for this write to end.
    blocks_waiters: bool,
}

impl Reservation {
    pub(super) fn new(bodies: &Arc<Bodies>, stretch: Stretch) -> Result<Self, NoFile> {
        stretch.segment.body_came();
        stretch.segment.stretch_came();
        bodies.reservations.fetch_add(1, Ordering::SeqCst);
        let segment = Arc::clone(&stretch.segment);
        let (bodies, stretch) = (Arc::clone(bodies), Some(Arc::new(stretch)));
        // Made first, so that its drop undoes what was counted if anything below fails.
        let mut reservation = Reservation { bodies, stretch, file: None, written: 0, blocks_waiters: true };
        // The file stays open until the end: a write must not fail half-way for want of a descriptor.
        let file = segment.file().map_err(|error| NoFile::Failed(Error::io("open", segment.path())(error)))?;
        reservation.file = Some(file);
        Ok(reservation)
    }

    /// Says whether others may wait for this write to end. They may not while an attached process writes: it may be stopped for ever.
    pub fn set_blocks_waiters(&mut self, blocks_waiters: bool) {
        if std::mem::replace(&mut self.blocks_waiters, blocks_waiters) != blocks_waiters {
            if blocks_waiters {
                self.bodies.reservations.fetch_add(1, Ordering::SeqCst);
            } else {
                self.bodies.reservations.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    fn stretch(&self) -> Result<&Arc<Stretch>, Error> {
        self.stretch.as_ref().ok_or(Error::Closed)
    }

    pub fn place(&self) -> BodyPlace {
        self.stretch.as_ref().map(|stretch| stretch.place).unwrap_or_default()
    }

    /// Grows the file to hold the whole body, before another process writes it.
    pub fn grow_whole(&self) -> Result<(), NoFile> {
        let stretch = self.stretch().map_err(NoFile::Failed)?;
        self.grow_to(u64::from(stretch.place.offset) + stretch.bytes)
    }

    /// Another process has written so many bytes of the body. To be called before the record is appended, for the reason in `write`.
    pub fn set_written(&mut self, bytes: u64) {
        let Some(stretch) = &self.stretch else { return };
        self.written = bytes;
        let segment = &stretch.segment;
        self.bodies.written.lock().entry(segment.number).or_insert_with(|| Arc::clone(segment));
    }

    /// The file, to which another process may write within the stretch.
    pub fn file(&self) -> Option<&Arc<dyn DiskFile>> {
        self.file.as_ref()
    }

    /// Lengthens the file, where it is shorter.
    fn grow_to(&self, bytes: u64) -> Result<(), NoFile> {
        let stretch = self.stretch().map_err(NoFile::Failed)?;
        let file = self.file.as_ref().ok_or(NoFile::Failed(Error::Closed))?;
        let segment = &stretch.segment;
        let present = segment.bytes();
        if bytes <= present {
            return Ok(());
        }
        if !segment.lease().grow(bytes) {
            return Err(NoFile::NoRoom);
        }
        if let Err(error) = file.grow(bytes) {
            segment.lease().shrink(present);
            return Err(NoFile::Failed(Error::io("grow", segment.path())(error)));
        }
        Ok(())
    }

    /// Appends a piece of the body. One that fails may be written again.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), NoFile> {
        let stretch = Arc::clone(self.stretch().map_err(NoFile::Failed)?);
        let file = self.file.as_ref().ok_or(NoFile::Failed(Error::Closed))?;
        let segment = &stretch.segment;
        let offset = u64::from(stretch.place.offset) + self.written;
        let end = offset + piece.len() as u64;
        if end > segment.bytes() {
            let whole = u64::from(stretch.place.offset) + stretch.bytes;
            self.grow_to((end + GROWTH_BYTES).min(whole).max(end))?;
        }
        let written = file.write_all_at(&mut [IoSlice::new(piece)], offset);
        written.map_err(|error| NoFile::Failed(Error::io("write", segment.path())(error)))?;
        self.written = self.written.saturating_add(piece.len() as u64);
        // Noted before the record is appended: whoever makes records durable syncs the `written` segments first.
        self.bodies.written.lock().entry(segment.number).or_insert_with(|| Arc::clone(segment));
        Ok(())
    }

    /// Copies what has been written, but for its first `skipped` bytes, into `to`.
    pub fn read_back(&self, skipped: u64, to: &mut dyn Write) -> Result<(), Error> {
        let stretch = self.stretch()?;
        let path = stretch.segment.path();
        let file = self.file.as_ref().ok_or(Error::Closed)?;
        let mut piece = vec![0; READ_BACK_BYTES];
        let mut at = skipped;
        while at < self.written {
            let bytes = (self.written - at).min(READ_BACK_BYTES as u64);
            let piece = piece.get_mut(..bytes as usize).unwrap_or_default();
            file.read_exact_at(piece, u64::from(stretch.place.offset) + at).map_err(Error::io("read", path))?;
            to.write_all(piece).map_err(Error::io("copy a body from", path))?;
            at += bytes;
        }
        Ok(())
    }

    /// The segment that it is in, and where its bytes begin there.
    pub fn location(&self) -> Option<(&Arc<Segment>, u64)> {
        self.stretch.as_ref().map(|stretch| (&stretch.segment, u64::from(stretch.place.offset)))
    }

    /// Makes the bytes durable.
    pub fn sync(&self) -> Result<(), SyncError> {
        let stretch = self.stretch().map_err(SyncError::NotTried)?;
        stretch.segment.sync_through(self.file.as_deref())
    }

    /// The record at `lsn` refers to the body now, which lives until that record is superseded.
    pub fn keep(self, lsn: Lsn) {
        let bodies = Arc::clone(&self.bodies);
        if let Some(stretch) = self.keep_uncounted(lsn) {
            bodies.count(&stretch);
        }
    }

    /// As `keep`, but the caller counts the bytes as live (`Bodies::count`), once what the record supersedes is no longer counted.
    pub fn keep_uncounted(mut self, lsn: Lsn) -> Option<Arc<Stretch>> {
        let stretch = self.stretch.take()?;
        // Written by this process: nothing to check at its first read.
        stretch.segment.set_verified(stretch.place.offset);
        let body = LiveBody { stretch: Arc::clone(&stretch), body_bytes: self.written, record: lsn };
        self.bodies.stretches.lock().live.insert(stretch.place, body);
        Some(stretch)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.set_blocks_waiters(false);
        let Some(stretch) = self.stretch.take() else { return };
        stretch.segment.body_went();
        let kept = self.bodies.empty_segments_kept();
        let emptied = self.bodies.stretches.lock().give_back(&stretch, kept);
        if let Some(segment) = emptied
            && let Err(error) = self.bodies.remove(&segment)
        {
            tracing::warn!("{error}; tried again later");
        }
    }
}
