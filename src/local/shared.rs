//! Bodies that attached processes read and write themselves, in the files of body segments. Used by the keeper.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use bytes::Bytes;

use super::bodies::Reservation;
use super::disk::DiskFile;
use super::journal::record::INLINE_BODY_BYTES_MAX;
use super::tier::{Kinds, LocalTier};
use crate::backend::{OnStored, Patience};
use crate::error::Error;

/// Bodies up to this length stand in their records, in segments that attached processes do not map.
pub(crate) const UNSHARED_BYTES_MAX: u64 = INLINE_BODY_BYTES_MAX as u64;

/// A place in a body segment. It does not hold the bytes: whoever asked for it does.
pub(crate) struct Placed {
    pub segment: u32,
    pub offset: u64,
    /// Length of the segment's file.
    pub file_bytes: u64,
    file: Arc<dyn DiskFile>,
}

impl AsFd for Placed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.file().as_fd()
    }
}

/// A stretch for a body that an attached process writes: metadata, then data. Dropping it gives the stretch back, which is allowed once
/// that process has ended or has said that it writes no more.
pub(crate) struct Reserved {
    tier: Arc<LocalTier>,
    reservation: Reservation,
    id: Box<[u8]>,
    data_bytes: u64,
    metadata_bytes: u32,
    /// Where the body goes.
    pub place: Placed,
}

impl LocalTier {
    /// The place of these bytes, if they are in a body segment. An error if its file cannot be opened now.
    pub fn placed(&self, data: &Bytes) -> Result<Option<Placed>, Error> {
        let Some((segment, offset)) = self.segments.find_body(data) else { return Ok(None) };
        let file = segment.file().map_err(Error::io("open", segment.path()))?;
        Ok(Some(Placed { segment: segment.number, offset, file_bytes: segment.bytes(), file }))
    }

    /// Whether an attached process may remember what it is told of an object: not if it has a lifetime, nor while this node does not hear, nor if
    /// events about it may have been missed since it was last the newest for certain. False also if that cannot be read.
    ///
    /// A dirty object of which events may have been missed becomes suspect when it has been sent, and no counter tells of that.
    pub fn may_remember(&self, id: &[u8]) -> bool {
        if self.journal.has_lifetimes() {
            return false;
        }
        let Ok(_inside) = self.gate.enter() else { return false };
        let Ok(Some(found)) = self.locate_unread(id) else { return false };
        let is_doubtful = |outbox| self.is_doubtful(outbox, found.header.lsn);
        found.header.deadline_ms == 0 && !self.outbox.as_ref().is_some_and(is_doubtful)
    }

    /// Reserves a stretch for a body of these lengths.
    pub fn reserve(self: &Arc<Self>, id: &[u8], data_bytes: u64, metadata_bytes: u32) -> Result<Reserved, Error> {
        let _inside = self.gate.enter()?;
        let bytes = data_bytes.saturating_add(u64::from(metadata_bytes));
        self.admit(id, bytes, Patience::Caller)?;
        self.hold_back(bytes, false);
        let mut reservation = self.with_room(id, bytes, Patience::Caller, || Ok(self.bodies.reserve(bytes)?))?;
        self.with_room_of(Kinds::Body, id, bytes, Patience::Caller, || Ok(reservation.grow_whole()?))?;
        reservation.set_blocks_waiters(false);
        let (segment, offset) = reservation.location().ok_or(Error::Closed)?;
        let file = Arc::clone(reservation.file().ok_or(Error::Closed)?);
        let place = Placed { segment: segment.number, offset, file_bytes: segment.bytes(), file };
        Ok(Reserved { tier: Arc::clone(self), reservation, id: id.into(), data_bytes, metadata_bytes, place })
    }
}

impl Reserved {
    pub fn id(&self) -> &[u8] {
        &self.id
    }

    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Stores the object whose body the other process has written. `body_hash` is the xxh3-128 of metadata and data.
    pub fn commit(self, body_hash: u128, stored: OnStored<'_>) -> Result<(), Error> {
        let Reserved { tier, mut reservation, id, data_bytes, metadata_bytes, .. } = self;
        let _inside = tier.gate.enter()?;
        reservation.set_blocks_waiters(true);
        reservation.set_written(data_bytes + u64::from(metadata_bytes));
        tier.store_written(&id, reservation, (data_bytes, metadata_bytes), body_hash, stored)
    }
}
