//! The segments that belong to deletes, copies and marks.

use super::segments::{NoFile, Segments, Spare};
use crate::error::Error;
use crate::local::files::space::RESERVE_SEGMENTS;

/// Of them, those that only copies may take: an evacuation can always be finished, and gives room back.
const COPIES_SEGMENTS: usize = 2;

/// A preallocated file of the reserve. Only the reserve makes one, and only a segment for reserved records is made of it, so that no put
/// can come to stand in it.
pub(super) struct ReservedSpare(Spare);

impl ReservedSpare {
    pub fn into_spare(self) -> Spare {
        self.0
    }
}

/// Preallocated files for deletes, copies and marks. A full disk that cannot append a delete stays full, and a store that cannot copy
/// what is live out of a segment cannot free what is dead in it.
#[derive(Default)]
pub(super) struct Reserve {
    spares: Vec<ReservedSpare>,
    /// Bytes that deletes may yet append to reserved segments before the reserve is made whole again: so many more than an evacuation
    /// copies may come between its copies.
    delete_bytes: u64,
}

impl Reserve {
    /// A file for deletes.
    pub fn take_for_delete(&mut self, segments: &Segments) -> Option<ReservedSpare> {
        if self.spares.len() <= COPIES_SEGMENTS {
            return None;
        }
        self.pop(segments)
    }

    /// A file for copies: beyond the reserve where that is used up, since a copy gives back more room than it takes.
    pub fn take_for_copy(&mut self, segments: &Segments, bytes: u64) -> Result<ReservedSpare, NoFile> {
        match self.pop(segments) {
            Some(spare) => Ok(spare),
            None => segments.create_reserved_spare(bytes).map(ReservedSpare),
        }
    }

    fn pop(&mut self, segments: &Segments) -> Option<ReservedSpare> {
        let spare = self.spares.pop();
        self.account(segments);
        spare
    }

    /// Whether a delete of this length may be appended to a reserved segment; if so, it is counted.
    pub fn admit_delete(&mut self, bytes: u64) -> bool {
        match self.delete_bytes.checked_sub(bytes) {
            Some(left) => {
                self.delete_bytes = left;
                true
            }
            None => false,
        }
    }

    /// Files of an earlier open, to be used instead of new ones.
    pub fn adopt(&mut self, segments: &Segments, spares: Vec<Spare>) {
        self.spares.extend(spares.into_iter().map(ReservedSpare));
        self.delete_bytes =
            if self.is_whole() { self.spares.iter().map(|it| it.0.bytes()).min().unwrap_or(0) } else { 0 };
        self.account(segments);
    }

    fn is_whole(&self) -> bool {
        self.spares.len() >= RESERVE_SEGMENTS
    }

    /// Makes the reserve whole, with files of this length.
    pub fn refill(&mut self, segments: &Segments, bytes: u64) -> Result<(), Error> {
        while !self.is_whole() {
            match segments.create_reserved_spare(bytes) {
                Ok(spare) => self.spares.push(ReservedSpare(spare)),
                Err(NoFile::NoRoom) => break,
                Err(NoFile::Failed(error)) => return Err(error),
            }
            self.account(segments);
        }
        if self.is_whole() {
            self.delete_bytes = bytes;
        }
        Ok(())
    }

    fn account(&self, segments: &Segments) {
        segments.set_reserved_bytes(self.spares.iter().map(|spare| spare.0.bytes()).sum());
    }

    /// At close: what is kept is there for the next open, which may find the disk full.
    pub fn close(&mut self, segments: &Segments, bytes_kept: u64) {
        for (number, ReservedSpare(spare)) in std::mem::take(&mut self.spares).into_iter().enumerate() {
            let result = match number < RESERVE_SEGMENTS {
                true => spare.shorten(bytes_kept).map_err(Error::io("shorten", spare.path())),
                false => segments.remove_spare(&spare),
            };
            if let Err(error) = result {
                tracing::warn!("{error}; the next open uses or removes it");
            }
        }
        self.account(segments);
    }
}
