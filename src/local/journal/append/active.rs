//! The active segment: what may be appended to it, and which file comes after it.

use std::sync::Arc;

use super::{Append, AppendError, Journal, file_bytes};
use crate::error::Error;
use crate::local::files::disk::DiskFile;
use crate::local::journal::reserve::ReservedSpare;
use crate::local::journal::segment::Segment;
use crate::local::journal::segment_header::{SEGMENT_HEADER_BYTES, SegmentKind};
use crate::local::journal::segments::{NoFile, Spare};

/// The segment that records are appended to.
pub(super) enum Active {
    None,
    Ordinary(Appender),
    /// A segment of the reserve, to which puts may not append: a put begins a new one.
    Reserved(Appender),
}

/// The segment that is appended to, with its end and capacity.
pub(super) struct Appender {
    pub segment: Arc<Segment>,
    pub file: Arc<dyn DiskFile>,
    pub end: u32,
    pub capacity: u32,
    pub record_count: u64,
}

impl Active {
    pub fn any(&self) -> Option<&Appender> {
        match self {
            Active::None => None,
            Active::Ordinary(appender) | Active::Reserved(appender) => Some(appender),
        }
    }

    pub fn any_mut(&mut self) -> Option<&mut Appender> {
        match self {
            Active::None => None,
            Active::Ordinary(appender) | Active::Reserved(appender) => Some(appender),
        }
    }
}

impl Appender {
    pub fn fits(&self, stride: u32) -> bool {
        self.capacity - self.end >= stride
    }
}

impl Journal {
    /// Makes an ordinary segment with room for the record the active one.
    pub(super) fn make_way_for_put(&self, append: &mut Append, stride: u32) -> Result<(), AppendError> {
        match &append.active {
            Active::Ordinary(appender) if appender.fits(stride) => Ok(()),
            _ => {
                // What deletes and copies may need comes first when a disk that was full has room again.
                if !self.reserve.lock().is_whole() {
                    self.make_reserve_whole(append.next_bytes).map_err(|error| AppendError::NoRoom(Some(error)))?;
                }
                Ok(self.roll_ordinary(append)?)
            }
        }
    }

    /// Makes any segment with room for the record the active one. In the reserve, deletes must leave what copies need.
    pub(super) fn make_way_for_delete(&self, append: &mut Append, stride: u32) -> Result<(), AppendError> {
        match &append.active {
            Active::Ordinary(appender) if appender.fits(stride) => return Ok(()),
            Active::Reserved(appender) if appender.fits(stride) => {
                if self.reserve.lock().admit_delete(u64::from(stride)) {
                    return Ok(());
                }
                return Err(AppendError::NoRoom(None));
            }
            _ => {}
        }
        let refused = match self.roll_ordinary(append) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        let spare = {
            let mut reserve = self.reserve.lock();
            if !reserve.admit_delete(u64::from(stride)) {
                return Err(refused.into());
            }
            reserve.take_for_delete(&self.segments)
        };
        match spare {
            Some(spare) => Ok(self.roll_reserved(append, spare)?),
            None => Err(refused.into()),
        }
    }

    /// Makes any segment with room for the record the active one, beyond the reserve and the limit if need be.
    pub(super) fn make_way_for_copy(&self, append: &mut Append, stride: u32) -> Result<(), AppendError> {
        if append.active.any().is_some_and(|appender| appender.fits(stride)) || self.roll_ordinary(append).is_ok() {
            return Ok(());
        }
        let spare = self.reserve.lock().take_for_copy(&self.segments, file_bytes(append.next_bytes))?;
        Ok(self.roll_reserved(append, spare)?)
    }

    /// Seals the active segment and begins the next, for records of all kinds.
    fn roll_ordinary(&self, append: &mut Append) -> Result<(), NoFile> {
        let prepared = self.prepared.lock().pop();
        let spare = match prepared {
            Some(spare) => spare,
            None => self.segments.create_spare(file_bytes(append.next_bytes))?,
        };
        let appender = self.roll(append, spare)?;
        append.active = Active::Ordinary(appender);
        Ok(())
    }

    /// As `roll_ordinary`, with a segment for deletes, copies and marks alone.
    fn roll_reserved(&self, append: &mut Append, spare: ReservedSpare) -> Result<(), NoFile> {
        let appender = self.roll(append, spare.into_spare())?;
        append.active = Active::Reserved(appender);
        Ok(())
    }

    fn roll(&self, append: &mut Append, spare: Spare) -> Result<Appender, NoFile> {
        let segment = self.segments.activate(spare, SegmentKind::Records).map_err(NoFile::Failed)?;
        let file = segment.file().map_err(Error::io("open", segment.path())).map_err(NoFile::Failed)?;
        if self.options.syncs_each
            && let Err(error) = self.sync_names()
        {
            // It is empty and takes no records: the sealer removes it.
            let empty = Appender { segment, file, end: SEGMENT_HEADER_BYTES as u32, capacity: 0, record_count: 0 };
            self.hand_over(empty);
            return Err(NoFile::Failed(error));
        }
        self.seal(append);
        append.next_bytes = (append.next_bytes * 2).min(self.options.segment_bytes_max);
        Ok(Appender {
            capacity: segment.bytes().min(u64::from(u32::MAX)) as u32,
            end: SEGMENT_HEADER_BYTES as u32,
            record_count: 0,
            segment,
            file,
        })
    }
}
